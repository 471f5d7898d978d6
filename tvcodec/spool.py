"""The encoded sections of one task until it is their turn in the file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO

import torch
from torch import Tensor

from tvcodec import codec, entropy
from tvcodec.container import Writer, aligned
from tvcodec.index import (
    BaseParameter,
    Entry,
    Group,
    Kept,
    Rows,
    Small,
    SmallMember,
    Stream,
    TaskIndex,
    pack_task,
)
from tvcodec.parameter import Coded
from tvcodec.survey import Survey, TaskSurvey

UNKNOWN_CRC = 2**32 - 1  # at its longest
RETAINED = "energy_retained"  # key of metadata of the shared index
WORDS = 2000  # that one text of metadata has room for
IN_MEMORY = 4 << 20  # bytes of sections per task before they go to disk


def _spooled() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(IN_MEMORY)


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
            self.entries.append(coded.entry)
            if keep_sections:
                self.sections.write(coded.section)
        if coded.member and coded.codes is not None:
            self.members.append(coded.member)
            self.codes.append(coded.codes)

    def small(self) -> tuple[Stream, bytes]:
        """The codes of all small parameters as one stream."""
        return codec.store_stream(torch.cat(self.codes), entropy.THOROUGH)

    def finished_bytes(self, metadata: Mapping[str, str]) -> int:
        """What the task takes in the file with its index, whole parameters and rows apart."""
        small, length = None, sum(aligned(entry.length) for entry in self.entries)
        if self.codes:
            stream, data = self.small()
            small = Small(len(data), UNKNOWN_CRC, stream, tuple(self.members))
            length += aligned(len(data))
        entries = tuple(replace(entry, crc=UNKNOWN_CRC) for entry in self.entries)
        index = TaskIndex(digest=bytes(32), entries=entries, metadata=metadata, small=small)
        return length + aligned(len(pack_task(index)))

    def write(self, writer: Writer, metadata: Mapping[str, str]) -> TaskIndex:
        """Puts all sections of the task in file order; their index."""
        small = None
        if self.codes:
            stream, data = self.small()
            small = Small(*writer.put(data), stream, tuple(self.members))
        self.sections.seek(0)
        entries = []
        for entry in self.entries:
            length, crc = writer.put(self.sections.read(entry.length))
            entries.append(replace(entry, length=length, crc=crc))
        task, parameters = self.task, self.found.base_model
        replaced = tuple(_keep(writer, n, task, parameters[n].name) for n in task.kept)
        rows = tuple(
            _rows(writer, n, count, task, parameters[n]) for n, count in sorted(task.rows.items())
        )
        added = tuple(_keep(writer, name, task, name) for name in task.added)
        return TaskIndex(
            added=added,
            aliases=tuple(sorted(task.aliases.items())),
            digest=writer.end_group(),
            dtypes=tuple(sorted(task.dtypes.items())),
            entries=tuple(entries),
            metadata=metadata,
            missing=tuple(task.missing),
            replaced=replaced,
            rows=rows,
            small=small,
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
        self.entries.append(coded.entry)
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
        entries = []
        for entry in self.entries:
            length, crc = writer.put(self.sections.read(entry.length))
            entries.append(replace(entry, length=length, crc=crc))
        index = TaskIndex(
            digest=writer.end_group(), entries=tuple(entries), metadata=self._metadata()
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


def _keep(writer: Writer, key: int | str, task: TaskSurvey, name: str) -> Kept:
    tensor = task.checkpoint.tensor(name)
    stream, data = codec.store_elements(tensor)
    dtype = task.checkpoint.dtype(name)
    return Kept(key, dtype, tuple(tensor.shape), *writer.put(data), stream)


def _rows(writer: Writer, number: int, count: int, task: TaskSurvey, base: BaseParameter) -> Rows:
    tensor = task.checkpoint.rows(base.name, base.dims[0], base.dims[0] + count)
    stream, data = codec.store_elements(tensor)
    return Rows(number, count, *writer.put(data), stream)
