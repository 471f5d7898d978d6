"""An open .tvq file as records and bytes: what `info` and `verify` need, without tensors."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from tvcodec.errors import FormatError, UnknownTaskError
from tvcodec.file.container import PROLOGUE_SIZE, Container, aligned
from tvcodec.file.index import (
    Entry,
    Group,
    Kept,
    Root,
    Rows,
    Section,
    Small,
    TaskIndex,
    TaskRecord,
    unpack_root,
    unpack_shared,
    unpack_task,
)
from tvcodec.file.location import is_url
from tvcodec.file.similarity import deviation, from_metadata
from tvcodec.file.source import Source
from tvcodec.file.stored_files import StoredFiles
from tvcodec.wording import meant


class Archive:
    """The indexes and sections of one file; every byte is checked when it is read.

    FormatError and UnsupportedError as `Container`; `expected_root` (hexadecimal) pins its content:
    then, and where `path` is a URL, a group's SHA-256 is checked before the first of its sections
    is given to anybody.

    Where a task is asked for, None stands for the group that all tasks share.
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
        self._starts: dict[str | None, int] = {None: PROLOGUE_SIZE}
        self._starts.update(self.root.starts())
        self._records = {task.name: task for task in self.root.tasks}
        self._indexes: dict[str | None, TaskIndex] = {}
        self.pinned = expected_root is not None
        self._digests_first = self.pinned or is_url(path)
        self._verified: set[str | None] = set()
        self.companions = StoredFiles(self.container, self.root, self.pinned)

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
            hint = f"{meant(task, self.tasks)}it holds {known}"
            raise UnknownTaskError(f"no task {task!r} in {self.path}", hint)
        return self._records[task]

    @cached_property
    def values(self) -> int:
        """How many values the base model has."""
        return sum(parameter.count for parameter in self.root.base_model)

    @property
    def groups(self) -> tuple[str | None, ...]:
        """The tasks, and before them None if they share anything."""
        return self.tasks if self.root.shared is None else (None, *self.tasks)

    def group(self, task: str | None) -> Group:
        """Where the root index says that a group ends and its index lies."""
        if task is not None:
            return self.record(task).group
        assert self.root.shared is not None
        return self.root.shared

    def index(self, task: str | None) -> TaskIndex:
        """The index of a task, read at its first use."""
        if task not in self._indexes:
            group, what = self.group(task), called(task)
            at = self._starts[task] + group.sections_length
            data = self.container.read_apart(at, group.index_length, group.index_sha256, what)
            where = f"{self.path}: {what}"
            if task is None:
                index = unpack_shared(data, self.root, where, group=group)
            else:
                index = unpack_task(data, self.root, where, group=group, vectors=self.vectors)
            self._indexes[task] = index
        return self._indexes[task]

    def prefetch_indexes(self) -> None:
        """Told that the indexes of all tasks will be read."""
        groups = [(self._starts[task], self.group(task)) for task in self.groups]
        places = [(at + group.sections_length, group.index_length) for at, group in groups]
        self.container.prefetch(places)

    @cached_property
    def vectors(self) -> Counter[int]:
        """How many vectors the tasks share of each parameter."""
        return Counter() if self.root.shared is None else self.index(None).vectors()

    def sections(self, task: str | None) -> Iterator[tuple[Section, int]]:
        """Every section of a task and its offset."""
        return self.index(task).sections(self._starts[task])

    def read(self, task: str | None, section: Section, offset: int) -> bytes:
        """The bytes of a section of a task."""
        if self._digests_first:
            self.ensure_group(task)
        return self._section(task, section, offset)

    def _section(self, task: str | None, section: Section, offset: int) -> bytes:
        what = f"{called(task)}, {self.describe(section)}"
        return self.container.read(offset, section.length, section.crc, what)

    def describe(self, section: Section) -> str:
        """What messages call a section."""
        if isinstance(section, Small):
            return "small parameters"
        name = section.parameter
        return f"parameter {name if isinstance(name, str) else self.root.base_model[name].name!r}"

    @property
    def base_model_digest(self) -> bytes:
        """SHA-256 over the digests of the base model's parameters, in name order: its identity."""
        digests = (parameter.sha256 for parameter in self.root.base_model)
        return hashlib.sha256(b"".join(digests)).digest()

    def verify(self) -> None:
        """FormatError unless every checksum in the file holds."""
        for task in self.groups:
            self.verify_group(task)
        self.verify_apart()

    def verify_apart(self) -> None:
        """FormatError unless every checksum holds of what is no task's: companion files and
        similarity."""
        self.companions.verify({task: self.index(task) for task in self.tasks})
        self.gram()

    def verify_group(self, task: str | None) -> None:
        """FormatError unless every checksum of a task holds."""
        self.container.prefetch([(self._starts[task], self.group(task).sections_length)])
        for section, offset in self.sections(task):
            self._section(task, section, offset)
        self._verify_digest(task)

    def raw_group(self, task: str | None) -> Iterator[bytes]:
        """All bytes of a task, as they lie in the file; FormatError behind the last of them where
        these bytes are not what the indexes say, even if the file changes meanwhile."""
        group, what = self.group(task), called(task)
        digest, start = self.index(task).digest, self._starts[task]
        yield from self.container.pieces(start, group.sections_length, digest, what)
        at = start + group.sections_length
        index = self.container.read_apart(at, group.index_length, group.index_sha256, what)
        yield index + bytes(aligned(len(index)) - len(index))

    def ensure_group(self, task: str | None) -> None:
        """FormatError unless the sections of a group are what its index says; looks once."""
        if task not in self._verified:
            self._verify_digest(task)

    def _verify_digest(self, task: str | None) -> None:
        """FormatError unless the sections of a group have the SHA-256 that its index says."""
        length, digest = self.group(task).sections_length, self.index(task).digest
        self.container.verify(self._starts[task], length, digest, called(task))
        self._verified.add(task)

    def gram(self) -> list[list[float]] | None:
        """Inner products of all pairs of task vectors, tasks in order; None where the file does not
        say, as it does not of one task."""
        lower = self._gram_triangle()
        return mirrored(lower) if lower else None

    def similarity(self) -> list[list[float]]:
        """Cosines between the task vectors: row n has those of task n with tasks 0 to n. A task
        that changed nothing has none but 0; empty where the file does not say."""
        lower = self._gram_triangle() or [[1.0]] * (len(self.tasks) == 1)
        scales = [row[-1] ** -0.5 if row[-1] > 0 else 0.0 for row in lower]
        return [
            [value * scale * other for value, other in zip(row, scales, strict=False)]
            for row, scale in zip(lower, scales, strict=True)
        ]

    def similarity_deviation(self) -> float | None:
        """Standard deviation of cosines near 0, where they are estimated from sketches."""
        if not self.tasks:
            return None
        sketch = from_metadata(self.index(self.tasks[0]).metadata, self.values)
        return deviation(sketch) if sketch else None

    def _gram_triangle(self) -> list[list[float]]:
        root = self.root
        if not root.gram_length:
            return []
        data = self.container.read_apart(
            root.gram_offset, root.gram_length, root.gram_sha256, "similarity of tasks"
        )
        flat = struct.unpack(f"<{root.gram_length // 4}f", data)
        starts = [row * (row + 1) // 2 for row in range(len(root.tasks) + 1)]
        lower = [list(flat[start:end]) for start, end in itertools.pairwise(starts)]
        if not all(map(math.isfinite, flat)) or any(row[-1] < 0 for row in lower):
            wanted = "expected finite numbers, and squared norms from 0"
            raise FormatError(f"{self.path}: similarity of tasks: {wanted}")
        return lower

    def bytes_by_kind(self, read_tasks: bool = True) -> Counter[str]:
        """Bytes of the file by what they are for; they add up to its size. Without `read_tasks`,
        which costs about a millisecond each, the tasks' sections are one kind."""
        kinds: Counter[str] = Counter()
        if self.root.shared:
            kinds["shared basis"] = self.root.shared.length
        for task in self.tasks:
            record = self.record(task)
            kinds["task indexes"] += record.index_length
            if not read_tasks:
                kinds["sections"] += record.sections_length
                continue
            kinds.update(self.section_bytes(task))
        if self.root.companions:
            kinds["companion files"] = self.root.companions.length
        kinds["similarity"] = self.root.gram_length
        kinds["root index"] = len(self.container.root)
        kinds["frame and padding"] = self.container.size - kinds.total()
        return kinds

    def section_bytes(self, task: str) -> Counter[str]:
        """Bytes of a task's sections by what they are for, without padding."""
        kinds: Counter[str] = Counter()
        for section, _ in self.sections(task):
            for kind, length in _kinds(section):
                kinds[kind] += length
        return kinds

    def close(self) -> None:
        """Closes the file."""
        self.container.close()


def called(task: str | None) -> str:
    """What messages call a group."""
    return "shared basis" if task is None else f"task {task!r}"


def mirrored(lower: list[list[float]]) -> list[list[float]]:
    """A symmetric matrix from its lower triangle."""
    return [row + [below[n] for below in lower[n + 1 :]] for n, row in enumerate(lower)]


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
