"""What an encode says of what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvcodec import html
from tvcodec.encoding.difference import TaskSurvey
from tvcodec.encoding.survey import Survey
from tvcodec.file.index import BaseParameter


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What became of one task: `bytes` in the file with its index; with its share of what tasks
    share, bits per parameter of the base model, and how many times smaller than the checkpoint as
    stored; error relative to the norm of the task vector, and notes on what is more than that."""

    name: str
    bytes: int
    bits_per_parameter: float
    times_smaller: float
    error: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What `encode` wrote: the file's size and root digest (hexadecimal), and each task."""

    path: str
    bytes: int
    root: str
    tasks: tuple[TaskSummary, ...]

    def _repr_html_(self) -> str:
        rows = [
            (task.name, f"{task.bits_per_parameter:.3f}", f"{task.error:.1%}", f"{task.bytes:,}")
            for task in self.tasks
        ]
        headers = ("task", "bits per parameter", "error", "bytes")
        return html.table(f"{self.path}: {self.bytes:,} bytes", headers, rows)


def of_task(found: Survey, task: TaskSurvey, error: float, size: int, share: float) -> TaskSummary:
    """That of a task which takes `size` bytes, and `share` of those that tasks have in common."""
    return TaskSummary(
        task.name,
        size,
        8 * (size + share) / found.values if found.values else 0.0,
        task.checkpoint.stored_bytes / (size + share),
        error,
        (*_changes(task, found.base_model), *task.companions.notes),
    )


def _changes(task: TaskSurvey, base_model: tuple[BaseParameter, ...]) -> Iterator[str]:
    """One line for each change that is more than a task vector, for people to read."""
    checkpoint = task.checkpoint
    for number, count in task.rows.items():
        yield f"{base_model[number].name}: {count} extra rows"
    for number in task.reshaped:
        parameter = base_model[number]
        found = f"{checkpoint.dtype(parameter.name)} {list(checkpoint.shape(parameter.name))}"
        before = f"{parameter.dtype} {list(parameter.dims)}"
        yield f"{parameter.name}: {before} became {found}, kept whole, left out of merges"
    for number in sorted(set(task.kept) - set(task.reshaped)):
        yield f"{base_model[number].name}: other values, kept whole, left out of merges"
    if not any((task.energies, task.rows, task.kept, task.missing, task.added)):
        yield "no value differs from the base model's: is it the right checkpoint?"
    for name in task.added:
        yield f"{name}: not in the base model, kept whole, left out of merges"
    for number in task.missing:
        yield f"{base_model[number].name}: missing from the fine-tune"
