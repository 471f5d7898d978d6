"""The encoded sections of one task until it is their turn in the file."""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import IO

import torch
from torch import Tensor

from tvcodec.encoding.difference import TaskSurvey
from tvcodec.encoding.survey import Survey
from tvcodec.file import entropy, similarity
from tvcodec.file.container import Writer, aligned
from tvcodec.file.index import (
    BaseParameter,
    Entry,
    Group,
    Kept,
    Rows,
    Small,
    SmallMember,
    TaskIndex,
    pack_task,
    single,
)
from tvcodec.maths.sketch import Sketch
from tvcodec.parameter import codec
from tvcodec.parameter.one_task import Coded

RETAINED = "energy_retained"  # key of metadata of the shared index
WORDS = 2000  # that one text of metadata has room for
Put = Callable[[bytes], tuple[int, int]]  # takes a section; its length and CRC-32
IN_MEMORY = 4 << 20  # bytes of sections per task before they go to disk


def _spooled() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(IN_MEMORY)


@dataclass(frozen=True, slots=True)
class Whole:
    """What a task keeps as it is, whatever the step: parameters in place of the base model's, and
    the rows and parameters that the base model lacks."""

    replaced: tuple[Kept, ...]
    rows: tuple[Rows, ...]
    added: tuple[Kept, ...]


def put_whole(put: Put, found: Survey, task: TaskSurvey) -> Whole:
    """Puts the sections of what a task keeps as it is, in file order; their records."""
    parameters = found.base_model
    return Whole(
        tuple(_keep(put, number, task, parameters[number].name) for number in task.kept),
        tuple(_rows(put, n, count, task, parameters[n]) for n, count in sorted(task.rows.items())),
        tuple(_keep(put, name, task, name) for name in task.added),
    )


def measured(section: bytes) -> tuple[int, int]:
    """A `Put` that keeps nothing."""
    return len(section), zlib.crc32(section)


@dataclass(slots=True)
class Spool:
    """The sections of one task until it is their turn in the file."""

    found: Survey
    task: TaskSurvey
    sections: IO[bytes] = field(default_factory=_spooled)
    entries: list[Entry] = field(default_factory=list)
    members: list[SmallMember] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)
    lost: float = 0.0
    sketch: Sketch = field(init=False)

    def __post_init__(self) -> None:
        self.sketch = Sketch(similarity.bits(self.found.values))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.sections.close()

    @property
    def error(self) -> float:
        """Of the whole task so far, relative to the norm of its task vector."""
        return math.sqrt(self.lost) / self.task.norm if self.task.norm else 0.0

    @property
    def known(self) -> similarity.Known:
        """What the file says of the whole task vector; one that is zero has no sketch."""
        norm = single(self.task.norm)
        return similarity.Known(norm, self.sketch.packed().tobytes() if norm else None)

    def put(self, coded: Coded | None, keep_sections: bool = True) -> None:
        """Takes the next parameter in order; None for one that has not changed."""
        if coded is None:
            return
        self.lost += coded.lost
        if coded.sums is not None:
            self.sketch.take(coded.sums)
        if coded.entry:
            length, crc = measured(coded.section)
            self.entries.append(replace(coded.entry, length=length, crc=crc))
            if keep_sections:
                self.sections.write(coded.section)
        if coded.member and coded.codes is not None:
            self.members.append(coded.member)
            self.codes.append(coded.codes)

    def finished_bytes(self, metadata: Mapping[str, str], whole: Whole) -> int:
        """What the task takes in the file with its index."""
        unknown = bytes(similarity.bits(self.found.values) // 8) if self.task.norm else None
        index = self._index(self._put_small(measured), whole, metadata, unknown)
        return index.sections_length + aligned(len(pack_task(index)))

    def write(self, writer: Writer, metadata: Mapping[str, str]) -> TaskIndex:
        """Puts all sections of the task in file order; their index."""
        small = self._put_small(writer.put)
        self.sections.seek(0)
        for entry in self.entries:
            writer.put(self.sections.read(entry.length))
        whole = put_whole(writer.put, self.found, self.task)
        index = self._index(small, whole, metadata, self.known.sketch)
        return replace(index, digest=writer.end_group())

    def _put_small(self, put: Put) -> Small | None:
        """Puts the codes of all small parameters as one section; its record."""
        if not self.codes:
            return None
        stream, data = codec.store_stream(torch.cat(self.codes), entropy.THOROUGH)
        return Small(*put(data), stream, tuple(self.members))

    def _index(
        self, small: Small | None, whole: Whole, metadata: Mapping[str, str], sketch: bytes | None
    ) -> TaskIndex:
        """The index of the task, but for the digest of its sections."""
        return TaskIndex(
            added=whole.added,
            aliases=tuple(sorted(self.task.aliases.items())),
            digest=bytes(32),
            dtypes=tuple(sorted(self.task.dtypes.items())),
            entries=tuple(self.entries),
            files=self.task.companions.files,
            metadata={**metadata, **similarity.as_metadata(sketch)},
            missing=tuple(self.task.missing),
            replaced=whole.replaced,
            rows=whole.rows,
            small=small,
            weights=self.task.companions.weights,
        )


@dataclass(slots=True)
class SharedSpool:
    """The vectors that tasks share, in order of the parameters, until they are written."""

    sections: IO[bytes] = field(default_factory=_spooled)
    entries: list[Entry] = field(default_factory=list)
    bases: dict[int, tuple[int, float]] = field(default_factory=dict)

    def __enter__(self) -> SharedSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.sections.close()

    def put(self, coded: Coded) -> None:
        """Takes the next vector."""
        assert coded.entry is not None
        length, crc = measured(coded.section)
        self.entries.append(replace(coded.entry, length=length, crc=crc))
        self.sections.write(coded.section)

    def describe(self, number: int, basis: tuple[int, float] | None) -> None:
        """Notes the rank of a parameter's basis and the share of the energy that it keeps."""
        if basis is not None:
            self.bases[number] = basis

    def write(self, writer: Writer) -> Group | None:
        """Puts all vectors and their index; nothing, where nothing is shared."""
        if not self.entries:
            return None
        start = writer.offset
        self.sections.seek(0)
        for entry in self.entries:
            writer.put(self.sections.read(entry.length))
        index = TaskIndex(
            digest=writer.end_group(), entries=tuple(self.entries), metadata=self._metadata()
        )
        sections_length = writer.offset - start
        return Group(sections_length, *writer.put_index(pack_task(index)))

    def _metadata(self) -> dict[str, str]:
        """number:rank:energy of each parameter, in as many texts as it takes."""
        words = [f"{number}:{rank}:{kept:.6g}" for number, (rank, kept) in self.bases.items()]
        return {
            f"{RETAINED}.{at // WORDS:03}": " ".join(words[at : at + WORDS])
            for at in range(0, len(words), WORDS)
        }


def _keep(put: Put, key: int | str, task: TaskSurvey, name: str) -> Kept:
    tensor = task.checkpoint.tensor(name)
    stream, data = codec.store_elements(tensor)
    dtype = task.checkpoint.dtype(name)
    return Kept(key, dtype, tuple(tensor.shape), *put(data), stream)


def _rows(put: Put, number: int, count: int, task: TaskSurvey, base: BaseParameter) -> Rows:
    tensor = task.checkpoint.rows(base.name, base.dims[0], base.dims[0] + count)
    stream, data = codec.store_elements(tensor)
    return Rows(number, count, *put(data), stream)
