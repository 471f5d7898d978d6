"""Are all checks of the reader needed, and does a stored file prove each? Every check is switched
off in turn, and some vector must then get another verdict.

A check is a raise under an `if`, or one of several conditions there; a call of a function that only
checks; or the bounds of a number. It is switched off by putting other code under its function.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import tvcodec
from faults.outcome import VECTORS, Tally, everything
from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive

MODULES = [
    "file.container",
    "file.archive",
    "file.entropy",
    "parameter.codec",
    "decoding.stored_task",
    "decoding.base_model",
    "file.index",
    "file.index.fields",
    "file.index.parts",
    "file.index.records",
    "file.index.root_rules",
    "file.index.streams",
    "file.index.task_rules",
]
ERRORS = {"FormatError", "UnsupportedError", "Malformed", "expected", "_damaged"}
CHECKERS = {"increasing", "check_prologue"}  # and what is called _check_... or _refuse
CHECKERS |= {"verify", "verify_group", "_verify_digest", "read", "gram"}  # where nobody asks what
TYPED = {"size": "real", "digest": None, "parameter_name": None, "task_name": None}
TYPED |= {"dimensions": None, "metadata": None, "one_of": None, "real": None}
SECONDS = 20
CHANGED, BROKEN = 7, 9  # exit codes
SHOWN = 45  # characters of a check that name it


# Checks that no small file can prove, each with what stands behind it.
_TOO_LONG = "needs a file of more than 64 MiB"
_LONG_STREAM = "needs a stream of more than one frame, 8 MiB (tests/test_entropy.py has it)"
_BACKED = "another check refuses it too, later or less clearly: "
GUARDS = {
    "file.container:Container._open if: if length > INDEX_MAX:": _TOO_LONG,
    "file.index.root_rules:_group most: integer(value[1], '.index_length', INDEX_MAX,": _TOO_LONG,
    "file.index.root_rules:_group most: integer(value[0], '.sections_length', DIMENSI": (
        _BACKED + "the place of the root index"
    ),
    "file.index.root_rules:_group type: digest(value[2], '.index_sha256')": _BACKED + "is compared",
    "file.index.fields:dimensions most: integer(dim, '', DIMENSION_MAX)": _BACKED + "the product",
    "file.index.parts:_rotated_largest most: integer(raw_run_log2, '.run_log2', block_log2": (
        _BACKED + "a negative shift is a ValueError"
    ),
    "file.index.parts:_grouped_stage least: integer(raw_group, '.group', COUNT_MAX)": (
        _BACKED + "no stream holds a negative number of values"
    ),
    "file.index.streams:read_stream condition 1: if type(value) is not list or len(value) not ": (
        _BACKED + "so many values are not unpacked, a ValueError"
    ),
    "file.entropy:_only_frame if: if len(packed) != length:": _BACKED + "libzstd",
    "file.entropy:_frame condition 0: if not decoder.eof or filled != len(out):": _LONG_STREAM,
    "file.entropy:_frame condition 1: if not decoder.eof or filled != len(out):": _BACKED
    + "libzstd",
    "file.entropy:_frame if: if filled + len(piece) > len(out):": _BACKED + "libzstd",
}


@dataclass(frozen=True)
class Case:
    """A file that is opened, and how it is used: None stands for its checksums, then all of it."""

    open: Callable[[], Archive]
    use: Callable[[Archive], object] | None = None


@dataclass(frozen=True)
class Place:
    """Where a check is in the source, and `what` is to be switched off there."""

    module: str
    function: str
    tree: ast.Module
    node: ast.AST
    what: str

    @property
    def key(self) -> str:
        """What GUARDS calls it: the function, and the check without its line."""
        return f"{self.module}:{self.function} {self.what}: {_shown(self.node)}"


@dataclass(frozen=True)
class Check:
    """A check at a line, and its function's code without it."""

    where: str
    key: str
    function: str
    code: types.CodeType


def places() -> Iterator[Place]:
    """All checks, and how each is switched off."""
    for name in MODULES:
        tree = ast.parse(inspect.getsource(importlib.import_module(f"tvcodec.{name}")))
        for node in ast.walk(tree):
            for what in _switches(node):
                function = _function_at(tree, node.lineno)  # type: ignore[attr-defined]
                if function is not None:
                    yield Place(name, function, tree, node, what)


def without(place: Place) -> Check:
    """The check at a place, with the code that does not have it."""
    module = importlib.import_module(f"tvcodec.{place.module}")
    file = Path(module.__file__ or "").as_posix()
    changed = copy.deepcopy(place.tree)
    _switch_off(next(node for node in ast.walk(changed) if _same(node, place.node)), place.what)
    code = _code_of(compile(ast.fix_missing_locations(changed), file, "exec"), place.function)
    line = place.node.lineno  # type: ignore[attr-defined]
    where = f"{file.rpartition('tvcodec/')[2]}:{line}"
    return Check(where, place.key, f"{place.module}:{place.function}", code)


def _same(one: ast.AST, other: ast.AST) -> bool:
    return type(one) is type(other) and all(
        getattr(one, at, None) == getattr(other, at, None)
        for at in ("lineno", "col_offset", "end_lineno", "end_col_offset")
    )


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:SHOWN]


def _switches(node: ast.AST) -> list[str]:
    """The ways in which a node can be switched off."""
    if isinstance(node, ast.If) and _raises(node.body):
        return ["if", *(f"condition {n}" for n in range(len(_conditions(node.test))))]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = _called(node.value)
        return ["call"] if name in CHECKERS or name.startswith(("_check", "_refuse")) else []
    if isinstance(node, ast.Call) and _called(node) == "integer":
        return ["most", "least"]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TYPED:
        return ["type"]
    return []


def _raises(body: list[ast.stmt]) -> bool:
    for statement in body:
        if isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Call):
            return _called(statement.exc) in ERRORS
    return False


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _conditions(test: ast.expr) -> list[tuple[str, ast.expr, int]]:
    """What can be taken out of a condition so that it refuses less: a term of `or`, a term of
    `not (... and ...)`, a link of a chain of comparisons that must hold."""
    match test:
        case ast.BoolOp(op=ast.Or(), values=values):
            whole = [("term", test, n) for n in range(len(values))]
            return whole + [item for value in values for item in _conditions(value)]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _required(operand)
    return []


def _required(test: ast.expr) -> list[tuple[str, ast.expr, int]]:
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            whole = [("term", test, n) for n in range(len(values))]
            return whole + [item for value in values for item in _required(value)]
        case ast.Compare(ops=ops) if len(ops) == 2:
            return [("link", test, 0), ("link", test, 1)]
    return []


def _switch_off(node: ast.AST, what: str) -> None:
    """Changes the node in place."""
    if isinstance(node, ast.If) and what == "if":
        node.test = ast.Constant(False)
    elif isinstance(node, ast.If):
        kind, place, number = _conditions(node.test)[int(what.split()[1])]
        if kind == "term" and isinstance(place, ast.BoolOp):
            place.values[number] = ast.Constant(isinstance(place.op, ast.And))
        elif isinstance(place, ast.Compare):
            if number == 0:
                place.left, place.ops, place.comparators = (
                    place.comparators[0],
                    place.ops[1:],
                    place.comparators[1:],
                )
            else:
                place.ops, place.comparators = place.ops[:1], place.comparators[:1]
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Call):
        _widen(node, what)


def _widen(call: ast.Call, what: str) -> None:
    far = ast.Constant(2**66)
    if what == "most":
        call.args[2] = far
    elif what == "least":
        call.args[3:] = []
        call.keywords = [ast.keyword("least", ast.UnaryOp(ast.USub(), far))]
    elif what == "type" and (simpler := TYPED[_called(call)]):
        call.func = ast.Name(simpler, ast.Load())
    elif what == "type":
        call.func = ast.Lambda(
            ast.arguments([ast.arg("value")], [], ast.arg("rest"), [], [], None, []),
            ast.Name("value", ast.Load()),
        )


def _function_at(tree: ast.Module, line: int) -> str | None:
    """The outermost function around a line, with its class."""
    for node in tree.body:
        inside = [node] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.ClassDef):
            inside = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        for function in inside:
            if function.lineno <= line <= (function.end_lineno or 0):
                prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                return prefix + function.name
    return None


def _code_of(code: types.CodeType, name: str) -> types.CodeType:
    for part in name.split("."):
        code = next(c for c in code.co_consts if inspect.iscode(c) and c.co_name == part)
    return code


def install(check: Check) -> None:
    """Puts the code without the check in the place of the one with it, in this process."""
    module_name, name = check.function.split(":")
    found: Any = importlib.import_module(f"tvcodec.{module_name}")
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "fget", None) or getattr(found, "func", found)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    found.__code__ = check.code


def verdict(case: Case) -> str:
    """Where a file is refused: when it is opened, by an index, by a checksum, by what it holds; or
    what was read, or what else it ended with."""
    stages = ["opening"]
    try:
        return _read(case, stages)
    except TvqError:
        return f"refused: {stages[-1]}"
    except BaseException as error:
        return f"{stages[-1]}: {type(error).__name__}"


def _read(case: Case, stages: list[str]) -> str:
    archive = case.open()
    stages.append("indexes")
    for task in archive.groups:
        archive.index(task)
    stages.append("checksums")
    if case.use is not None:
        case.use(archive)
        return "used"
    archive.verify()
    stages.append("content")
    return everything(Path(archive.path)) if Path(archive.path).exists() else "read"


def cases() -> dict[str, Case]:
    """The vectors, small ones first; a file that was not the pinned one; one cut under a reader;
    one of which a task is damaged and its section is not, pinned and read, and copied."""
    paths = sorted(VECTORS.glob("*.tvq"), key=lambda path: (path.name[0], path.stat().st_size))
    found = {path.name: Case(partial(Archive, path)) for path in paths}
    whole = VECTORS / "y_smallest.tvq"
    found["pinned"] = Case(partial(Archive, whole, expected_root="0" * 64))
    found["cut under a reader"] = Case(lambda: Archive("cut", source=_Cut(whole.read_bytes())))
    damaged = VECTORS / "n_group_digest.tvq"
    root = Archive(damaged).container.root_digest.hex()
    found["pinned, one section"] = Case(
        partial(Archive, damaged, expected_root=root), _read_one_section
    )
    found["copied"] = Case(partial(Archive, damaged), _copied)
    found["loaded on another base model"] = Case(partial(Archive, whole), _loaded_elsewhere)
    return found


def _read_one_section(archive: Archive) -> None:
    task = archive.tasks[0]
    archive.read(task, *next(archive.sections(task)))


def _copied(archive: Archive) -> None:
    for task in archive.groups:
        b"".join(archive.raw_group(task))


def _loaded_elsewhere(archive: Archive) -> None:
    base = {name: tensor + 1 for name, tensor in load_file(VECTORS / "base.safetensors").items()}
    with tvcodec.open(archive.path) as bank:
        bank.decode(archive.tasks[0], base).load()


class _Cut:
    """A file of which the last bytes went while it was opened."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data[:-8], len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        pass

    def close(self) -> None:
        pass


def raised_at(case: Case) -> set[str]:
    """The lines that a refusal passed through, and a few before each."""
    found: set[str] = set()
    try:
        _read(case, [])
    except (TvqError, OSError) as error:
        chain: BaseException | None = error
        while chain is not None:
            trace = chain.__traceback__
            while trace is not None:
                name = trace.tb_frame.f_code.co_filename.partition("tvcodec/")[2]
                found |= {
                    f"{name}:{line}" for line in range(trace.tb_lineno - 4, trace.tb_lineno + 1)
                }
                trace = trace.tb_next
            chain = chain.__context__
    return found


def survivors(scratch: Path, amount: int) -> Tally:
    """Every `amount`-th check switched off; wrong are those that no case proves and GUARDS does not
    know, and those that it knows and a case proves."""
    tally, tried = Tally(), cases()
    right = {name: verdict(case) for name, case in tried.items()}
    lines = {name: raised_at(case) for name, case in tried.items()}
    every = list(places())
    for key in GUARDS.keys() - {place.key for place in every}:
        tally.add(key, "no check any more")
    for check in map(without, every[::amount]):
        near = [name for name in tried if check.where in lines[name]]
        order = near + [name for name in tried if name not in near]
        found, known = _changes(check, [(tried[n], right[n]) for n in order]), check.key in GUARDS
        problem = None if found != known else "a guard no more" if found else "no file proves it"
        tally.add(f"{check.where} {check.key}", problem)
    return tally


def _changes(check: Check, order: list[tuple[Case, str]]) -> bool:
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)  # a loop without end is another verdict too
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            install(check)
            os._exit(CHANGED if any(verdict(case) != right for case, right in order) else 0)
        finally:
            os._exit(BROKEN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == BROKEN:
        raise RuntimeError(f"{check.where}: {check.key}: could not be switched off")
    return code != 0
