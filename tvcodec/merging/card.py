"""The model card of a merge, as Hugging Face lays it out: what it was made of, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

CARD = "README.md"


def card(
    metadata: Mapping[str, str], base_model: str, archives: Mapping[str, str], command: str | None
) -> str:
    """README.md of a merge that `metadata` tells of: front matter, and the same facts to read.

    `base_model` is what the base model is called, `archives` are root digests by file name, and
    `command` is the command line, if there was one.
    """
    facts = _facts(metadata)
    front = {
        "base_model": base_model,
        "tags": ["merge", "tvcodec"],
        "tvcodec": {**facts, "archives": dict(archives), **({"command": command} if command else {})},
    }
    tasks, weights = facts["tasks"], facts.get("weights", {})
    rows = [f"| {task} | {weights[task]:.6g} |" if weights else f"| {task} |" for task in tasks]
    head = ["| task | weight |", "|---|--:|"] if weights else ["| task |", "|---|"]
    roots = [f"- `{name}`, root digest `{root}`" for name, root in archives.items()]
    lines = [
        "---",
        *_yaml(front),
        "---",
        "",
        f"# A merge of {len(tasks)} fine-tunes",
        "",
        f"Method `{facts['method']}`, scaling {json.dumps(facts['scaling'])}, of the base model"
        f" {_code(base_model)}.",
        "",
        *head,
        *rows,
        "",
        "Made with tvcodec of",
        "",
        *roots,
    ]
    if command:
        lines += ["", "```", *command.replace("`", "'").splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _facts(metadata: Mapping[str, str]) -> dict[str, object | dict[str, float] | list[str]]:
    """What the metadata of a merge says, by its own names."""
    told = {name.removeprefix("tvcodec."): text for name, text in metadata.items()}
    method = told.pop("merge")
    return {"method": method, **{name: json.loads(text) for name, text in told.items()}}


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _yaml(value: Mapping[str, object], indent: str = "") -> list[str]:
    """A mapping in block style; what is in it as JSON, which is YAML too."""
    lines: list[str] = []
    for key, held in value.items():
        if isinstance(held, dict) and held:
            lines += [f"{indent}{json.dumps(key)}:", *_yaml(held, indent + "  ")]
        else:
            lines.append(f"{indent}{json.dumps(key)}: {json.dumps(held)}")
    return lines
