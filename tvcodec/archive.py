"""An open .tvq file as records and bytes: what `info` and `verify` need, without tensors."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from tvcodec.container import Container
from tvcodec.errors import UnknownTaskError
from tvcodec.index import (
    Entry,
    Kept,
    Root,
    Rows,
    Section,
    Small,
    TaskIndex,
    TaskRecord,
    unpack_root,
    unpack_task,
)
from tvcodec.source import Source


class Archive:
    """The indexes and sections of one file; every byte is checked when it is read.

    FormatError and UnsupportedError as `Container`; `expected_root` (hexadecimal) pins its content.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        expected_root: str | None = None,
        source: Source | None = None,
    ) -> None:
        self.container = Container(path, expected_root=expected_root, source=source)
        try:
            where = f"{self.path}: root index"
            self.root: Root = unpack_root(self.container.root, where, self.container.root_offset)
        except BaseException:
            self.container.close()
            raise
        self._starts = self.root.starts()
        self._records = {task.name: task for task in self.root.tasks}
        self._indexes: dict[str, TaskIndex] = {}

    @property
    def path(self) -> str:
        return self.container.path

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in order."""
        return tuple(self._records)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Parameter numbers by name."""
        return {parameter.name: n for n, parameter in enumerate(self.root.base_model)}

    def record(self, task: str) -> TaskRecord:
        """What the root index says of a task; UnknownTaskError where there is none."""
        if task not in self._records:
            known = ", ".join(self.tasks[:20]) or "no task"
            raise UnknownTaskError(f"no task {task!r} in {self.path}", hint=f"it holds {known}")
        return self._records[task]

    def index(self, task: str) -> TaskIndex:
        """The index of a task, read at its first use."""
        if task not in self._indexes:
            record, what = self.record(task), f"task {task!r}"
            at = self._starts[task] + record.sections_length
            data = self.container.read_index(at, record.index_length, record.index_sha256, what)
            where = f"{self.path}: {what}"
            self._indexes[task] = unpack_task(data, self.root, where, group=record.group)
        return self._indexes[task]

    def sections(self, task: str) -> Iterator[tuple[Section, int]]:
        """Every section of a task and its offset."""
        return self.index(task).sections(self._starts[task])

    def read(self, task: str, section: Section, offset: int) -> bytes:
        """The bytes of a section of a task."""
        what = f"task {task!r}, {self.describe(section)}"
        return self.container.read(offset, section.length, section.crc, what)

    def describe(self, section: Section) -> str:
        """What messages call a section."""
        if isinstance(section, Small):
            return "small parameters"
        name = section.parameter
        return f"parameter {name if isinstance(name, str) else self.root.base_model[name].name!r}"

    def verify(self) -> None:
        """FormatError unless every checksum in the file holds."""
        for task in self.tasks:
            record = self.record(task)
            start = self._starts[task]
            digest = self.index(task).digest
            self.container.verify(start, record.sections_length, digest, f"task {task!r}")
            for section, offset in self.sections(task):
                self.read(task, section, offset)
        self.gram()

    def gram(self) -> list[list[float]] | None:
        """Inner products of all pairs of task vectors, tasks in order; None where there is one
        task only."""
        root = self.root
        if not root.gram_length:
            return None
        data = self.container.read(
            root.gram_offset, root.gram_length, root.gram_crc, "similarity of tasks"
        )
        flat = iter(struct.unpack(f"<{root.gram_length // 4}f", data))
        lower = [[next(flat) for _ in range(row + 1)] for row in range(len(root.tasks))]
        return [[lower[max(i, j)][min(i, j)] for j in range(len(lower))] for i in range(len(lower))]

    def bytes_by_kind(self) -> Counter[str]:
        """Bytes of the file by what they are for; they add up to its size."""
        kinds: Counter[str] = Counter()
        for task in self.tasks:
            record = self.record(task)
            for section, _ in self.sections(task):
                for kind, length in _kinds(section):
                    kinds[kind] += length
            kinds["task indexes"] += record.index_length
        kinds["similarity"] = self.root.gram_length
        kinds["root index"] = len(self.container.root)
        kinds["frame and padding"] = self.container.size - kinds.total()
        return kinds

    def close(self) -> None:
        """Closes the file."""
        self.container.close()


def _kinds(section: Section) -> Iterator[tuple[str, int]]:
    match section:
        case Small():
            yield "small parameters", section.length
        case Entry():
            if section.mask:
                yield "masks", section.mask.bits.length
            for part in section.parts:
                yield part.label, sum(stream.length for stream in part.streams())
        case Kept() | Rows():
            yield "kept whole", section.length
