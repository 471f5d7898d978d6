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

from tvcodec import codec, entropy
from tvcodec.container import Writer, aligned
from tvcodec.index import (
    BaseParameter,
    Entry,
    Kept,
    Rows,
    Small,
    SmallMember,
    TaskIndex,
    pack_task,
)
from tvcodec.parameter import Coded
from tvcodec.survey import Survey, TaskSurvey

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

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.sections.close()

    @property
    def error(self) -> float:
        """Of the whole task so far, relative to the norm of its task vector."""
        return math.sqrt(self.lost) / self.task.norm if self.task.norm else 0.0

    def put(self, coded: Coded | None, keep_sections: bool = True) -> None:
        """Takes the next parameter in order; None for one that has not changed."""
        if coded is None:
            return
        self.lost += coded.lost
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
        index = self._index(self._put_small(measured), whole, metadata)
        return index.sections_length + aligned(len(pack_task(index)))

    def write(self, writer: Writer, metadata: Mapping[str, str]) -> TaskIndex:
        """Puts all sections of the task in file order; their index."""
        small = self._put_small(writer.put)
        self.sections.seek(0)
        for entry in self.entries:
            writer.put(self.sections.read(entry.length))
        whole = put_whole(writer.put, self.found, self.task)
        return replace(self._index(small, whole, metadata), digest=writer.end_group())

    def _put_small(self, put: Put) -> Small | None:
        """Puts the codes of all small parameters as one section; its record."""
        if not self.codes:
            return None
        stream, data = codec.store_stream(torch.cat(self.codes), entropy.THOROUGH)
        return Small(*put(data), stream, tuple(self.members))

    def _index(self, small: Small | None, whole: Whole, metadata: Mapping[str, str]) -> TaskIndex:
        """The index of the task, but for the digest of its sections."""
        return TaskIndex(
            added=whole.added,
            aliases=tuple(sorted(self.task.aliases.items())),
            digest=bytes(32),
            dtypes=tuple(sorted(self.task.dtypes.items())),
            entries=tuple(self.entries),
            metadata=metadata,
            missing=tuple(self.task.missing),
            replaced=whole.replaced,
            rows=whole.rows,
            small=small,
        )


def _keep(put: Put, key: int | str, task: TaskSurvey, name: str) -> Kept:
    tensor = task.checkpoint.tensor(name)
    stream, data = codec.store_elements(tensor)
    dtype = task.checkpoint.dtype(name)
    return Kept(key, dtype, tuple(tensor.shape), *put(data), stream)


def _rows(put: Put, number: int, count: int, task: TaskSurvey, base: BaseParameter) -> Rows:
    tensor = task.checkpoint.rows(base.name, base.dims[0], base.dims[0] + count)
    stream, data = codec.store_elements(tensor)
    return Rows(number, count, *put(data), stream)
