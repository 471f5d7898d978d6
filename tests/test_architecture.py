"""Which module may know which, what the package shows, and that README tells the truth."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from refresh_readme import README, refreshed

import tvcodec

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "tvcodec"
MOST_LINES = 300

# Floors of the house (packages of tvcodec that hold rooms, or are one) and those each may import.
FLOORS = {
    "file": "",
    "maths": "",
    "parameter": "file maths",
    "checkpoint": "file maths",
    "encoding": "file maths parameter checkpoint",
    "decoding": "file maths parameter checkpoint",
    "tuning": "file parameter checkpoint encoding decoding",
    "report": "file maths decoding tuning",
}
# Rooms (a module or a package of a floor, or of tvcodec itself) and the rooms each imports: no
# others, and none of them without need.
IMPORTS = {
    # what everything may know
    "errors": "",
    "threads": "",
    "wording": "",
    "html": "",
    "device": "errors",
    "modules": "errors",
    # bytes, which know no tensors
    "location": "errors",
    "source": "errors location remote",
    "remote": "errors location",
    "memory": "errors",
    "leftovers": "",
    "exchange": "",
    "durable": "errors exchange leftovers location",
    "container": "durable errors location memory source",
    "index": "container errors",
    "similarity": "",
    "stored_files": "container entropy errors index",
    "archive": "container errors index location similarity source stored_files wording",
    "assembly": "archive container errors index similarity stored_files",
    "locking": "errors",
    "editing": "archive assembly container errors location locking",
    "salvaging": "archive assembly container errors index location source",
    "copying": "archive assembly container durable errors location remote source",
    "carrier": "archive container durable errors index location source",
    # numbers, which know no bytes
    "quantize": "dense",
    "dense": "",
    "product": "",
    "lowrank": "product quantize spectrum",
    "spectrum": "product",
    "rotated": "dense quantize scratch",
    "scratch": "",
    "sketch": "product rotated",
    "basis": "",
    "merge": "dense errors wording",
    # numpy arrays <-> bytes
    "entropy": "errors",
    "content": "archive entropy errors index",
    # where maths meets bytes: one parameter
    "summands": "basis dense index lowrank quantize rotated scratch",
    "codec": "basis dense entropy errors index lowrank quantize rotated summands",
    "parts": "basis dense index rotated scratch summands",
    "judging": "summands",
    "shrinking": "codec dense judging lowrank quantize spectrum",
    "unbiased": "codec dense judging lowrank quantize rotated shrinking spectrum summands",
    "auto": "codec dense entropy index judging lowrank product quantize shrinking spectrum summands"
    " unbiased",
    "recipes": "judging",
    "rate": "errors",
    "one_task": "auto codec dense entropy index lowrank product quantize recipes summands",
    # models in and out
    "checkpoint": "dense durable errors index location product threads",
    "model": "checkpoint device errors html memory threads",
    # one parameter of all tasks
    "masks": "checkpoint errors",
    "family": "basis codec dense entropy index masks one_task summands",
    "published": "auto dense errors family judging lowrank merge quantize summands",
    "companions": "checkpoint entropy errors index",
    # the two walks, which never meet
    "difference": "checkpoint companions dense errors index",
    "survey": "checkpoint difference errors index",
    "spool": "codec container difference entropy index one_task similarity sketch survey",
    "sharing": "auto dense family index judging one_task recipes shrinking",
    "joint": "family masks one_task piece recipes sharing sketch",
    "piece": "checkpoint dense index product survey",
    "coding": "joint masks one_task piece published recipes sketch survey",
    "workers": "checkpoint errors threads",
    "cluster": "errors",
    "summary": "difference html index survey",
    "encoder": "checkpoint coding companions container errors index locking masks piece published"
    " rate recipes similarity spool stored_files summary survey threads workers",
    "base_model": "archive checkpoint errors threads",
    "stored_task": "archive checkpoint codec errors index parts quantize",
    "fine_tune": "base_model checkpoint dense parts scratch stored_task",
    "live_module": "base_model checkpoint errors fine_tune threads",
    "task_vector": "base_model checkpoint dense errors parts stored_task",
    "merging": "base_model checkpoint dense errors index lowrank merge model parts stored_task"
    " task_vector wording",
    "several": "checkpoint durable model",
    "restoring": "archive checkpoint errors index",
    "decoder": "archive base_model checkpoint device errors fine_tune html live_module merging"
    " model restoring stored_task task_vector",
    "lora": "base_model checkpoint decoder dense durable errors lowrank modules parts product"
    " spectrum stored_task",
    "remeasure": "checkpoint decoder dense index model survey",
    "adding": "archive assembly base_model checkpoint container decoder durable editing encoder"
    " errors location locking published rate recipes similarity sketch summary survey",
    # files of tasks coded one by one, by the user's own measure
    "curve": "",
    "ledger": "errors",
    "search": "recipes",
    "evaluating": "durable errors model",
    "trials": "checkpoint curve decoder encoder errors ledger model recipes search summary",
    "tune": "__init__ adding archive assembly checkpoint container curve durable encoder ledger"
    " locking search summary trials",
    "report": "__init__ archive curve errors index lowrank stored_task wording",
    # what people touch
    "__init__": "errors",
    "__main__": "cli",
    "cli": "__init__ adding archive carrier checkpoint cluster container content copying curve"
    " decoder durable editing encoder errors evaluating index location lora merge model published"
    " rate recipes remeasure report salvaging several tune wording",
}
BYTES = {"source", "memory", "leftovers", "durable", "container", "index", "archive"} | {
    *("exchange", "similarity", "assembly", "locking", "editing", "salvaging"),
    *("location", "remote", "copying", "carrier", "curve", "stored_files"),
}
MATHS = {
    "spectrum",
    "quantize",
    "dense",
    "product",
    "lowrank",
    "rotated",
    "sketch",
    "basis",
    "merge",
    "scratch",
}
LIGHT = {
    *BYTES,
    "errors",
    "modules",
    "wording",
    "html",
    "entropy",
    "content",
    "__init__",
}  # import no torch, nor what does

HOMES = {
    "zstandard": {"entropy"},
    "msgpack": {"index"},
    "safetensors": {"checkpoint"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "tabulate": {"cli"},
    "distributed": {"cluster"},
    "omegaconf": {"cli"},
    "matplotlib": {"report"},
    "scipy": {"report"},
    "sklearn": {"merge"},
    "fsspec": {"remote"},
    "aiohttp": {"remote"},
}

OF_TABULATE = {"html", "email", "tempfile"}  # which imports them
SLOW = {"asyncio", *OF_TABULATE}

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
    "tune",
]


def room(parts: Sequence[str]) -> str:
    """Where in the house a path inside the package leads to: a floor itself has no name."""
    inside = parts[1:] if parts[0] in FLOORS.keys() - IMPORTS.keys() else parts
    return inside[0] if inside and inside[0] in IMPORTS else "__init__"


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
    return {room(name.split(".")[1:]) for name in names if name.startswith("tvcodec.")}


@functools.cache
def gathered(lazily: bool = True) -> dict[str, set[str]]:
    """All imports, room by room."""
    found: dict[str, set[str]] = {}
    for path in modules():
        place = room(path.relative_to(PACKAGE).with_suffix("").parts)
        found.setdefault(place, set()).update(imported(ast.parse(path.read_text()), lazily))
    return found


def test_every_room_imports_what_the_table_says():
    found = {name: " ".join(sorted(rooms_of(names) - {name})) for name, names in gathered().items()}
    assert found == IMPORTS


def test_floors_import_only_what_lies_below_them():
    for floor, below in FLOORS.items():
        names: set[str] = set()
        for path in (PACKAGE / floor).rglob("*.py"):
            names |= set(imported(ast.parse(path.read_text())))
        met = {name.split(".")[1] for name in names if name.startswith("tvcodec.")}
        assert met & set(FLOORS) <= {floor, *below.split()}, floor


def test_bytes_and_maths_never_meet_below_codec():
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
    assert set(PUBLIC) <= set(dir(tvcodec))
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
        "run('report', '--help')",
        "run('tune', 'nowhere', 'a=nowhere', '-o', 'b.tvq', '--evaluate', 'true {model}')",
    ],
)
def test_torch_is_not_imported_by(code):
    prepare = "from tvcodec.cli import main\ndef run(*a): main(a, standalone_mode=False)\n"
    program = (
        f"{prepare if 'run' in code else ''}{code}\nimport sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=TOP, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--help"], set()),
        (["info", "tools/sample/fine-tunes.tvq"], {"msgpack", "tabulate", *OF_TABULATE}),
    ],
)
def test_quick_commands_import_no_more_than_they_need(words, more):
    """What is not Python's own takes longest to import, and after that what SLOW names."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"from tvcodec.cli import main\nmain({words}, standalone_mode=False)\n"
        "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"print(*tops - (sys.stdlib_module_names - {SLOW}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=TOP, capture_output=True, text=True
    )
    found = {name for name in done.stderr.split() if "cython" not in name}  # a part of msgpack
    assert found == {"click", "tvcodec", *more}


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
