"""The model card of a merge, as Hugging Face lays it out: what it was made of, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CARD = "README.md"
_OWN = "tvcodec."  # what metadata of other names say is anybody's, and no JSON
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_HUB = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def write_card(directory: Path, metadata: Mapping[str, str]) -> None:
    """Writes README.md of a merge that `metadata` tells of, with front matter in YAML."""
    text = card(metadata)  # a path in the command may be no Unicode
    (directory / _CARD).write_text(text, encoding="utf-8", errors="backslashreplace")


def card(metadata: Mapping[str, str]) -> str:
    """The text of the card: base model, tasks and their weights, method, scaling and settings, the
    archives' root digests, and the command, where there was one."""
    told = {
        name.removeprefix(_OWN): text for name, text in metadata.items() if name.startswith(_OWN)
    }
    method = told.pop("merge")
    facts: dict[str, Any] = {name: json.loads(text) for name, text in told.items()}
    base_model, command = facts.pop("base_model", None), facts.get("command")
    front = {} if base_model is None else {"base_model": base_model}
    front |= {"tags": ["merge", "tvcodec"], "tvcodec": {"method": method, **facts}}
    of_base = "" if base_model is None else f" and the base model {_code(base_model)}"
    lines = ["---", *_yaml(front), "---", "", f"# Merge of {', '.join(facts['tasks'])}", ""]
    lines += [f"Made by tvcodec of fine-tunes{of_base}: method `{method}`, scaling"]
    lines[-1] += f" {_code(json.dumps(facts['scaling']))}."
    clusters = facts.get("clusters", ())
    lines += ["", *_table(facts["tasks"], facts.get("weights"), clusters), ""]
    for name, root in facts.get("archives", {}).items():
        lines.append(f"- {_code(name)}, root digest `{root}`")
    if command:
        lines += ["", *(f"    {line}" for line in command.splitlines())]
    return "\n".join(lines) + "\n"


def called(path: Path) -> str:
    """What a card calls the base model at `path`: its name on the hub, if it lies in the hub's
    cache or its config.json has one, or else that of its directory or file."""
    for step in path.absolute().parts:
        if cached := _CACHED.fullmatch(step):
            return f"{cached[1]}/{cached[2]}"
    if (name := _configured(path / "config.json")) is not None:
        return name
    return path.absolute().stem if path.suffix == ".safetensors" else path.absolute().name


def _configured(config: Path) -> str | None:
    """The name that transformers noted when it saved the model, unless it is a local path."""
    try:
        name = json.loads(config.read_bytes())["_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    known = isinstance(name, str) and _HUB.fullmatch(name) and not Path(name).exists()
    return name if known else None


def _table(
    tasks: list[str], weights: Mapping[str, float] | None, clusters: Sequence[Sequence[str]]
) -> list[str]:
    if weights is None:
        return ["| task |", "|---|", *(f"| {task} |" for task in tasks)]
    if clusters:
        of = {task: number for number, group in enumerate(clusters, 1) for task in group}
        rows = [f"| {task} | {weights[task]:.6g} | {of[task]} |" for task in tasks]
        return ["| task | weight | cluster |", "|---|--:|--:|", *rows]
    rows = [f"| {task} | {weights[task]:.6g} |" for task in tasks]
    return ["| task | weight |", "|---|--:|", *rows]


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """A mapping in block style; what is in it is JSON, which is YAML too."""
    lines: list[str] = []
    for key, held in value.items():
        if isinstance(held, dict) and held:
            lines += [f"{indent}{_key(key)}:", *_yaml(held, indent + "  ")]
        else:
            lines.append(f"{indent}{_key(key)}: {_json(held)}")
    return lines


def _json(value: object) -> str:
    """JSON that is YAML too: no surrogates, which YAML does not join, and no control characters."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _key(text: str) -> str:
    return text if re.fullmatch(r"[a-z_]+", text) else _json(text)
