"""What a page tells of a file, gathered from its indexes: sizes, errors and where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvcodec.file.archive import Archive
from tvcodec.file.index import Entry, Kept, Rows, Small, SmallMember, TaskIndex
from tvcodec.report.layers import layer, natural
from tvcodec.tuning.curve import Curve, from_metadata

Matrix = npt.NDArray[np.float64]
Progress = Callable[[int], None]
REST = "index and padding"


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """One task: its bytes, by kind too; bits per parameter, its share of what tasks share included;
    error relative to the norm of the task vector."""

    name: str
    bytes: int
    kinds: Mapping[str, int]
    bits: float
    error: float
    recipe: str | None
    curve: Curve | None


@dataclass(frozen=True, slots=True)
class Depth:
    """Relative errors and bits per value [tasks, layers], layers in the natural order of their
    names; NaN where a task stores nothing that has an error."""

    layers: tuple[str, ...]
    errors: Matrix
    bits: Matrix


@dataclass(frozen=True, slots=True)
class Facts:
    """The file, its tasks in order, and the same along the depth of the network."""

    name: str
    bytes: int
    root: str
    base_model: str
    parameters: int
    values: int
    kinds: Mapping[str, int]
    tasks: tuple[TaskFacts, ...]
    depth: Depth

    @property
    def bits(self) -> float:
        """Bits of the whole file per parameter of the base model and task."""
        known = self.values * len(self.tasks)
        return 8 * self.bytes / known if known else 0.0


def gather(archive: Archive, name: str, progress: Progress) -> Facts:
    """The facts of an open file that is called `name`; `progress` is told of each task read.
    FormatError where an index is damaged."""
    base_model = archive.root.base_model
    layers = _Layers(archive)
    tasks, errors, bits = [], [], []
    shared = archive.container.size - sum(task.group.length for task in archive.root.tasks)
    for record in archive.root.tasks:
        index = archive.index(record.name)
        whole = record.group.length + shared / len(archive.tasks)
        kinds = dict(archive.section_bytes(record.name))
        kinds[REST] = record.group.length - sum(kinds.values())
        per_parameter = 8 * whole / archive.values if archive.values else 0.0
        recipe, curve = index.metadata.get("recipe"), from_metadata(index.metadata)
        tasks.append(
            TaskFacts(
                record.name, record.group.length, kinds, per_parameter, record.error, recipe, curve
            )
        )
        errors.append(layers.errors(index))
        bits.append(layers.bits(index))
        progress(1)
    shape = (len(tasks), len(layers.names))
    return Facts(
        name=name,
        bytes=archive.container.size,
        root=archive.container.root_digest.hex(),
        base_model=archive.base_model_digest.hex(),
        parameters=len(base_model),
        values=archive.values,
        kinds=dict(archive.bytes_by_kind()),
        tasks=tuple(tasks),
        depth=Depth(layers.names, np.array(errors).reshape(shape), np.array(bits).reshape(shape)),
    )


class _Layers:
    """The layers of a base model, and what a task says of each of them."""

    def __init__(self, archive: Archive) -> None:
        self._base_model = archive.root.base_model
        of = [layer(parameter.name) for parameter in self._base_model]
        self.names = tuple(sorted(set(of), key=natural))
        at = {name: number for number, name in enumerate(self.names)}
        self._at = [at[name] for name in of]
        self._values = [0] * len(self.names)
        for number, parameter in enumerate(self._base_model):
            self._values[self._at[number]] += parameter.count

    def errors(self, index: TaskIndex) -> list[float]:
        """Norm of the error over norm of the task vector, of each layer's parameters together."""
        energy, lost = [0.0] * len(self.names), [0.0] * len(self.names)
        for said in _said(index):
            energy[self._at[said.parameter]] += said.norm**2
            lost[self._at[said.parameter]] += (said.norm * said.error) ** 2
        return [math.sqrt(b / a) if a else math.nan for a, b in zip(energy, lost, strict=True)]

    def bits(self, index: TaskIndex) -> list[float]:
        """Bits of each layer's sections per value that the base model has there."""
        lengths = [0.0] * len(self.names)
        for number, length in self._lengths(index):
            lengths[self._at[number]] += length
        return [
            8 * length / values if values else 0.0
            for length, values in zip(lengths, self._values, strict=True)
        ]

    def _lengths(self, index: TaskIndex) -> Iterator[tuple[int, float]]:
        """Bytes by parameter of the base model; a common section is shared out by values."""
        sections: tuple[Entry | Kept | Rows, ...] = (*index.entries, *index.replaced, *index.rows)
        for section in sections:
            if isinstance(section.parameter, int):
                yield section.parameter, section.length
        yield from self._small(index.small) if index.small else ()

    def _small(self, small: Small) -> Iterator[tuple[int, float]]:
        counts = [self._base_model[member.parameter].count for member in small.members]
        for member, count in zip(small.members, counts, strict=True):
            yield member.parameter, small.length * count / sum(counts)


def _said(index: TaskIndex) -> Sequence[Entry | SmallMember]:
    """Every parameter that has a task vector."""
    return (*index.entries, *(index.small.members if index.small else ()))
