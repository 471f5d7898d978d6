"""Outputs that would cost an input are refused: by then nobody could make them again."""

import os
from collections.abc import Iterable
from pathlib import Path

from tvcodec.errors import TvqError


def refuse_inputs(output: str | os.PathLike[str], inputs: Iterable[Path]) -> None:
    """TvqError where `output` is one of the files and directories `inputs`, lies within such a
    directory, or is a directory around one of them; links are followed."""
    for path in sorted(inputs):
        relation = _relation(Path(output), path)
        if relation:
            raise TvqError(
                f"{os.fspath(output)}: expected an output apart from all inputs,"
                f" got {relation} {path}",
                hint="choose another output",
            )


def _relation(output: Path, path: Path) -> str | None:
    if output.exists() and path.exists() and output.samefile(path):
        return "the same file as" if path.is_file() else "the same directory as"
    for inside in _places(output):
        for other in _places(path):
            if other in inside.parents and path.is_dir():
                return "one within"
            if inside in other.parents:
                return "a directory around"
    return None


def _places(path: Path) -> set[Path]:
    """Where a path lies by its name and, all links followed, in fact."""
    return {Path(os.path.abspath(path)), path.resolve()}
