"""What the file says about models, tasks and parameters, and where in it everything lies.

A record's fields stand in the order of its msgpack array, those of an index in the order of its
sorted keys. A *parameter number* is a position in `Root.base_model`. Only lengths are stored;
`Root.starts` and `TaskIndex.sections` turn them into offsets, for everybody.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tvcodec.file.container import PROLOGUE_SIZE, aligned
from tvcodec.file.index.companions import KEPT, File, WeightFile
from tvcodec.file.index.parts import Part
from tvcodec.file.index.streams import ENTRIES, Extent, Mask, Stream

OPTIONAL = ("companions", "files", "weights")  # keys that are there where there is such a thing

DTYPES = {  # name -> bytes of a value
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, slots=True)
class BaseParameter:
    """One parameter of the base model; `sha256` identifies its content, `crc32` checks quickly."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    sha256: bytes
    crc32: int

    @property
    def count(self) -> int:
        return math.prod(self.dims)

    @property
    def extent(self) -> Extent:
        """The parameter as a matrix: its first dimension by all others."""
        return whole(self.dims)


@dataclass(frozen=True, slots=True)
class Group:
    """Sections that belong together, and the index behind them: a task, or the shared basis.
    `sections_length` counts padding, `index_length` does not."""

    sections_length: int
    index_length: int
    index_sha256: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole group in the file."""
        return self.sections_length + aligned(self.index_length)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task, as a root index has it: `norm` = ||tau||, `error` = ||tau_hat - tau|| / ||tau||."""

    name: str
    sections_length: int
    index_length: int
    index_sha256: bytes
    norm: float
    error: float

    @property
    def group(self) -> Group:
        return Group(self.sections_length, self.index_length, self.index_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The root index. `gram_length` is 0 or that of the float32 lower triangle of tasks x tasks
    inner products."""

    base_model: tuple[BaseParameter, ...]
    companions: Group | None = None
    gram_length: int = 0
    gram_sha256: bytes = bytes(32)
    metadata: Mapping[str, str] = field(default_factory=dict)
    shared: Group | None = None
    tasks: tuple[TaskRecord, ...]

    def starts(self) -> dict[str, int]:
        """The offset of each task's first section; its index lies `sections_length` behind that.
        The shared group, if there is one, starts at PROLOGUE_SIZE."""
        starts = {}
        offset = PROLOGUE_SIZE + (self.shared.length if self.shared else 0)
        for task in self.tasks:
            starts[task.name] = offset
            offset += task.group.length
        return starts

    @property
    def companions_offset(self) -> int:
        groups = [task.group for task in self.tasks]
        if self.shared:
            groups.append(self.shared)
        return PROLOGUE_SIZE + sum(group.length for group in groups)

    @property
    def gram_offset(self) -> int:
        return self.companions_offset + (self.companions.length if self.companions else 0)

    @property
    def offset(self) -> int:
        """Where the root index itself has to lie."""
        return self.gram_offset + aligned(self.gram_length)


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter's task vector, in a section of its own: the sum of `parts`, under `mask`.
    `gain` is that of the reconstruction along the true task vector."""

    parameter: int
    norm: float
    error: float
    gain: float
    mask: Mask | None
    parts: tuple[Part, ...]
    length: int
    crc: int

    def streams(self) -> tuple[Stream, ...]:
        """All streams in the order in which they lie in the section, without gaps."""
        mask = (self.mask.bits,) if self.mask else ()
        return mask + tuple(stream for part in self.parts for stream in part.streams())

    def extent(self, dims: tuple[int, ...]) -> Extent:
        """What the mask leaves of a parameter of shape `dims`."""
        return kept(dims, self.mask)


@dataclass(frozen=True, slots=True)
class SmallMember:
    """A parameter whose values are scale * (symbol - (alphabet - 1) / 2)."""

    parameter: int
    norm: float
    error: float
    gain: float
    scale: float


@dataclass(frozen=True, slots=True)
class Small:
    """The small parameters of a task in one section: their symbols one after another."""

    length: int
    crc: int
    symbols: Stream
    members: tuple[SmallMember, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A parameter kept whole; `parameter` is its number where it replaces one of the base model,
    its name where the base model has none of that name."""

    parameter: int | str
    dtype: str
    dims: tuple[int, ...]
    length: int
    crc: int
    values: Stream


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows behind those that the base model's parameter has."""

    parameter: int
    count: int
    length: int
    crc: int
    values: Stream


Section = Small | Entry | Kept | Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskIndex:
    """A task, or the shared basis. `aliases` are pairs (p, of): parameter p of this task equals its
    parameter `of`. `dtypes` names the parameters whose dtype is not the base model's. `digest` is
    the SHA-256 of the sections with their padding. What is not mentioned has not changed. `files`
    are those of the fine-tune's directory, None where it had none; `weights` those of its weights,
    None where nobody needs them as they were."""

    added: tuple[Kept, ...] = ()
    aliases: tuple[tuple[int, int], ...] = ()
    digest: bytes
    dtypes: tuple[tuple[int, str], ...] = ()
    entries: tuple[Entry, ...] = ()
    files: tuple[File, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    replaced: tuple[Kept, ...] = ()
    rows: tuple[Rows, ...] = ()
    small: Small | None = None
    weights: tuple[WeightFile, ...] | None = None

    def sections(self, start: int) -> Iterator[tuple[Section, int]]:
        """Every section with its offset, in file order, for a group that starts at `start`."""
        small = (self.small,) if self.small else ()
        for section in (*small, *self.entries, *self.replaced, *self.rows, *self.added):
            yield section, start
            start += aligned(section.length)

    @property
    def sections_length(self) -> int:
        """Bytes of all sections with their padding."""
        return sum(aligned(section.length) for section, _ in self.sections(0))

    def blobs(self) -> list[bytes]:
        """SHA-256 of what files of the task take from the companions, once for each file."""
        kept = [file.sha256 for file in self.files or () if file.source == KEPT]
        return kept + [file.header for file in self.weights or ()]

    def vectors(self) -> Counter[int]:
        """How many vectors each parameter's basis has; for a shared index."""
        return Counter(entry.parameter for entry in self.entries)


@functools.lru_cache(4096)
def whole(dims: tuple[int, ...]) -> Extent:
    """A parameter of shape `dims` as a matrix: [first dimension, product of the rest]."""
    rows, columns = (dims[0], math.prod(dims[1:])) if dims else (1, 1)
    return Extent(rows, columns, rows * columns)


def kept(dims: tuple[int, ...], mask: Mask | None) -> Extent:
    """What `mask` leaves of a parameter of shape `dims`."""
    full = whole(dims)
    if mask is None:
        return full
    if mask.kind == ENTRIES:
        return Extent(full.rows, full.columns, mask.kept)
    return Extent(mask.kept, full.columns, mask.kept * full.columns)
