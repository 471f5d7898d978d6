"""Which module may know which, what the package shows, and that README tells the truth."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from refresh_readme import README, refreshed

import tvcodec

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "tvcodec"
MOST_LINES = 300

# Rooms of the house (a module or a package of tvcodec) and the rooms each imports: no others, and
# none of them without need.
IMPORTS = {
    # what everything may know
    "errors": "",
    "threads": "",
    "html": "",
    # bytes, which know no tensors
    "source": "errors",
    "memory": "errors",
    "leftovers": "",
    "exchange": "",
    "durable": "errors exchange leftovers",
    "container": "durable errors memory source",
    "index": "container errors",
    "similarity": "",
    "archive": "container errors index similarity source",
    "assembly": "archive container errors index similarity",
    "locking": "errors",
    "editing": "archive assembly container errors locking",
    "salvaging": "archive assembly container errors index source",
    # numbers, which know no bytes
    "quantize": "dense",
    "dense": "",
    "lowrank": "quantize",
    "rotated": "quantize",
    "sketch": "rotated",
    "basis": "",
    "merge": "dense errors",
    # numpy arrays <-> bytes
    "entropy": "errors",
    "content": "archive entropy errors index",
    # where maths meets bytes: one parameter
    "codec": "basis dense entropy errors index lowrank quantize rotated",
    "parts": "basis codec dense index rotated",
    "auto": "codec dense entropy index lowrank quantize rotated",
    "recipes": "auto",
    "rate": "errors",
    "parameter": "auto codec dense index quantize recipes",
    # models in and out
    "checkpoint": "durable errors index threads",
    "device": "errors",
    "model": "checkpoint device errors html memory threads",
    # one parameter of all tasks
    "masks": "checkpoint errors",
    "family": "basis codec dense entropy index masks parameter",
    "published": "auto codec dense errors family lowrank merge quantize",
    # the two walks, which never meet
    "survey": "checkpoint dense errors index",
    "spool": "codec container entropy index parameter similarity sketch survey",
    "sharing": "auto dense family index parameter recipes",
    "joint": "dense family masks parameter recipes sharing spool survey",
    "encoder": "checkpoint container errors html index joint locking masks parameter published rate"
    " recipes similarity spool survey threads",
    "base_model": "archive checkpoint errors",
    "stored_task": "archive checkpoint codec errors index parts quantize",
    "fine_tune": "base_model checkpoint dense parts stored_task",
    "task_vector": "base_model checkpoint dense errors parts stored_task",
    "merging": "base_model checkpoint dense errors index lowrank merge model parts stored_task"
    " task_vector",
    "decoder": "archive base_model checkpoint device errors fine_tune html merging model"
    " stored_task task_vector",
    "remeasure": "checkpoint decoder dense index model survey",
    "adding": "archive assembly base_model checkpoint container decoder durable editing encoder"
    " errors locking published rate recipes similarity sketch survey",
    # what people touch
    "__init__": "errors",
    "__main__": "cli",
    "cli": "__init__ adding archive checkpoint container content decoder editing encoder errors"
    " index merge published rate recipes remeasure salvaging",
}
BYTES = {"source", "memory", "leftovers", "durable", "container", "index", "archive"} | {
    *("exchange", "similarity", "assembly", "locking", "editing", "salvaging"),
}
MATHS = {"quantize", "dense", "lowrank", "rotated", "sketch", "basis", "merge"}
LIGHT = {
    *BYTES,
    "errors",
    "entropy",
    "content",
    "html",
    "__init__",
}  # import no torch, nor what does

HOMES = {
    "zstandard": {"entropy"},
    "msgpack": {"index"},
    "safetensors": {"checkpoint"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "tabulate": {"cli"},
    "omegaconf": {"cli"},
    "sklearn": {"merge"},
}

PUBLIC = [
    "EXACT",
    "QUALITIES",
    "Bank",
    "BaseModelMismatch",
    "CheckpointError",
    "FormatError",
    "Goal",
    "Model",
    "Recipe",
    "Summary",
    "TvqError",
    "UnknownTaskError",
    "UnsupportedError",
    "add",
    "encode",
    "open",
    "remove",
    "salvage",
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(node: ast.AST, lazily: bool = True) -> Iterator[str]:
    """Full names of what the code under `node` imports when it runs; without `lazily`, only what it
    imports when it is itself imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef) and not lazily:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imported(child, lazily)


def rooms_of(names: set[str]) -> set[str]:
    """Those of tvcodec that full names of imports lead to."""
    inside = [name.split(".")[1] for name in names if name.startswith("tvcodec.")]
    return {name if name in IMPORTS else "__init__" for name in inside}


def gathered(lazily: bool = True) -> dict[str, set[str]]:
    """All imports, room by room."""
    found: dict[str, set[str]] = {}
    for path in modules():
        found.setdefault(room(path), set()).update(imported(ast.parse(path.read_text()), lazily))
    return found


def test_every_room_imports_what_the_table_says():
    found = {name: " ".join(sorted(rooms_of(names) - {name})) for name, names in gathered().items()}
    assert found == IMPORTS


def test_bytes_and_maths_never_meet_outside_codec():
    for name in MATHS:
        assert not set(IMPORTS[name].split()) & BYTES, name
    for name in BYTES:
        assert not set(IMPORTS[name].split()) & MATHS, name
        assert not {item for item in gathered()[name] if item.split(".")[0] == "torch"}, name


def test_encoder_and_decoder_never_know_each_other():
    assert "decoder" not in reached("encoder")
    assert "encoder" not in reached("decoder")


def reached(name: str) -> set[str]:
    """All rooms that `name` imports, directly or through others."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for other in set(IMPORTS[waiting.pop()].split()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def test_light_rooms_import_neither_torch_nor_what_does():
    found = gathered(lazily=False)
    for name in [*LIGHT, "cli"]:
        assert rooms_of(found[name]) <= {*LIGHT, "cli", "merge"}, name
        assert not [item for item in found[name] if item.split(".")[0] == "torch"], name


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library):
    users = {
        name
        for name, names in gathered().items()
        if any(item.split(".")[0] == library for item in names)
    }
    assert users == HOMES[library]


def test_public_names():
    assert tvcodec.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(tvcodec, name)
    with pytest.raises(AttributeError, match="'tvcodec' has no attribute 'nothing'"):
        tvcodec.nothing  # noqa: B018


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(TOP)))
def test_a_module_is_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    "code",
    [
        "import tvcodec",
        "run('--help')",
        "run('encode', '--help')",
        "run('merge', '--help')",
        "run('info', 'tools/sample/fine-tunes.tvq')",
        "run('info', 'tools/sample/fine-tunes.tvq', '--parameters', '--json')",
        "run('info', 'tools/sample/fine-tunes.tvq', '--diagnostics')",
    ],
)
def test_torch_is_not_imported_by(code):
    prepare = "from tvcodec.cli import main\ndef run(*a): main(a, standalone_mode=False)\n"
    program = (
        f"{prepare if 'run' in code else ''}{code}\nimport sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=TOP, stdout=subprocess.DEVNULL)


def test_readme_examples_run_and_print_what_is_shown(tmp_path):
    """Word for word, and figures as figures; tools/refresh_readme.py brings README up to date."""
    text = README.read_text()
    assert text.count("```python") >= 1
    assert text.count("\n$ tvcodec ") >= 5
    assert loosened(refreshed(text, tmp_path)) == loosened(text)


def loosened(text: str) -> list[str]:
    """Lines without figures, digests and the widths that depend on them."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "#", text)
    text = re.sub(r"[\d,]*\d(\.\d+)?", "#", text)
    return re.sub(r"[ -]+", " ", text).splitlines()
