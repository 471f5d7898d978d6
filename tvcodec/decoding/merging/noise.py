"""Tasks that methods which look at single values or directions cannot use."""

from __future__ import annotations

from collections.abc import Callable

from tvcodec.decoding.merging.values import Tasks
from tvcodec.decoding.stored_task import StoredTask
from tvcodec.errors import TvqError
from tvcodec.file import index
from tvcodec.file.index import Entry

MOST = 0.5  # share of a task vector's energy that may be left out


def refuse_noise(tasks: Tasks, method: str, looked_at: Callable[[int], bool]) -> None:
    """TvqError where most of a task, of the parameters that the method looks at, is coded in a
    rotated frame alone: unbiased in a sum, noise to whoever looks at a value or a direction."""
    for task in (term.task for term in tasks.terms):
        entries = [entry for entry in task.index.entries if looked_at(entry.parameter)]
        noisy = [entry for entry in entries if _is_noise(entry)]
        if _energy(noisy) > MOST * _energy(entries):
            raise _refusal(task, method, len(noisy), len(entries))


def _refusal(task: StoredTask, method: str, noisy: int, count: int) -> TvqError:
    return TvqError(
        f"{task.archive.path}: task {task.name!r}: {method} looks at directions or single values,"
        f" which {noisy} of {count} parameters do not have: they are coded in a rotated frame",
        hint="encode again with --quality high or a --step, or merge with --method weighted",
    )


def _is_noise(entry: Entry) -> bool:
    return all(
        isinstance(part, index.RotatedLargest | index.RotatedUniform) for part in entry.parts
    )


def _energy(entries: list[Entry]) -> float:
    return sum(entry.norm**2 for entry in entries)
