"""One task of an open file, and what tasks share, as the tensors they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.errors import FormatError
from tvcodec.file.archive import Archive, called
from tvcodec.file.index import (
    ROWS,
    Entry,
    Extent,
    Kept,
    Mask,
    RotatedLargest,
    RotatedUniform,
    Rows,
    Section,
    Small,
)
from tvcodec.maths import quantize
from tvcodec.parameter import codec
from tvcodec.parameter.parts import Basis, Parts


class StoredTask:
    """Reads the sections of one task, each when it is first needed.

    A tied parameter has the task vector, the dtype and the extra rows of another one: `stored_as`
    names it, and all that is said here of a parameter is said of that one.
    """

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive = archive
        self.name = name
        self.index = archive.index(name)
        self.missing = frozenset(self.index.missing)
        self._aliases = dict(self.index.aliases)
        self._dtypes = dict(self.index.dtypes)
        self._at: dict[int | str, tuple[Entry | Kept, int]] = {}
        self._rows: dict[int, tuple[Rows, int]] = {}
        self._small: tuple[Small, int] | None = None
        for section, offset in archive.sections(name):
            match section:
                case Small():
                    self._small = section, offset
                case Rows():
                    self._rows[section.parameter] = section, offset
                case _:
                    self._at[section.parameter] = section, offset
        self._members: dict[int, Parts] | None = None
        self._changed = {entry.parameter for entry in self.index.entries}
        if self.index.small:
            self._changed.update(member.parameter for member in self.index.small.members)

    def stored_as(self, number: int) -> int:
        """The parameter whose task vector, rotation and basis are those of `number`."""
        return self._aliases.get(number, number)

    def dtype(self, number: int) -> str:
        """The fine-tune's dtype of a parameter."""
        number = self.stored_as(number)
        return self._dtypes.get(number) or self.archive.root.base_model[number].dtype

    def replaced(self, number: int) -> Kept | None:
        """The record of a parameter that is kept whole in place of the base model's."""
        section = self._at.get(number, (None, 0))[0]
        return section if isinstance(section, Kept) else None

    def dims(self, number: int) -> tuple[int, ...]:
        """The fine-tune's dimensions of a parameter, extra rows included."""
        dims, number = self.archive.root.base_model[number].dims, self.stored_as(number)
        if number in self._rows:
            return (dims[0] + self._rows[number][0].count, *dims[1:])
        return dims

    def changed(self, number: int) -> bool:
        """Whether there is a task vector for the parameter."""
        return self.stored_as(number) in self._changed

    def norm(self, number: int) -> float:
        """The norm that a parameter's task vector had before it was coded."""
        number = self.stored_as(number)
        section = self._at.get(number, (None, 0))[0]
        if isinstance(section, Entry):
            return section.norm
        members = self.index.small.members if self.index.small else ()
        return next((item.norm for item in members if item.parameter == number), 0.0)

    def noise(self, number: int) -> float:
        """What of the energy that a parameter's task vector came back with is not along it, as a
        multiple of its own energy; 0.0 where the parameter has no section of its own."""
        section = self._at.get(self.stored_as(number), (None, 0))[0]
        if not isinstance(section, Entry):
            return 0.0
        return max(section.error**2 - (1 - section.gain) ** 2, 0.0)

    def lost_energy(self, number: int) -> float:
        """The energy that a parameter's task vector had and does not come back with; 0.0 where the
        parameter has no section of its own."""
        section = self._at.get(self.stored_as(number), (None, 0))[0]
        if not isinstance(section, Entry):
            return 0.0
        return section.norm**2 * max(2 - 2 * section.gain - section.error**2, 0.0)

    def rotated(self, number: int) -> bool:
        """Whether a part of a parameter's task vector is coded in a rotated frame."""
        section = self._at.get(self.stored_as(number), (None, 0))[0]
        return isinstance(section, Entry) and _rotated(section)

    def parts(self, number: int) -> Parts | None:
        """The stored parts of a parameter's task vector; None where it is zero."""
        number = self.stored_as(number)
        section, offset = self._at.get(number, (None, 0))
        if isinstance(section, Entry):
            return load_entry(self.archive, self.name, section, offset)
        return self._small_members.get(number)

    def whole(self, record: Kept) -> Tensor:
        """A parameter that is kept whole, in its own dtype."""
        _, offset = self._at[record.parameter]
        return self._elements(record, offset, record.dims, record.dtype)

    def rows(self, number: int) -> Tensor | None:
        """The extra rows of a parameter, in the fine-tune's dtype; None where there are none."""
        number = self.stored_as(number)
        if number not in self._rows:
            return None
        record, offset = self._rows[number]
        shape = (record.count, *self.archive.root.base_model[number].dims[1:])
        return self._elements(record, offset, shape, self.dtype(number))

    def _elements(
        self, record: Kept | Rows, offset: int, shape: tuple[int, ...], dtype: str
    ) -> Tensor:
        data = memoryview(self.archive.read(self.name, record, offset))
        with _naming(self.archive, self.name, record):
            return codec.load_elements(record.values, data, shape, TORCH_DTYPES[dtype])

    @property
    def _small_members(self) -> dict[int, Parts]:
        """The small parameters by number."""
        if self._members is None:
            self._members = self._load_small(*self._small) if self._small else {}
        return self._members

    def _load_small(self, record: Small, offset: int) -> dict[int, Parts]:
        data = self.archive.read(self.name, record, offset)
        parameters = self.archive.root.base_model
        extents = [parameters[member.parameter].extent for member in record.members]
        counts = [extent.count for extent in extents]
        with _naming(self.archive, self.name, record):
            codes = codec.load_stream(record.symbols, memoryview(data), sum(counts))
        pieces = torch.split(codes, counts)
        return {
            member.parameter: Parts((quantize.Stage(piece, member.scale),), extent)
            for member, piece, extent in zip(record.members, pieces, extents, strict=True)
        }


class SharedBasis:
    """The vectors that the tasks of a file share, of one parameter at a time: the last one asked
    for is kept, so that many tasks of it cost one reading."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._at: dict[int, list[tuple[Entry, int]]] = {}
        for section, offset in archive.sections(None) if archive.vectors else ():
            assert isinstance(section, Entry)
            self._at.setdefault(section.parameter, []).append((section, offset))
        self._last: tuple[int, Basis | None] = (-1, None)

    def of(self, number: int) -> Basis | None:
        """The basis of a parameter; None where tasks share nothing of it."""
        last, basis = self._last
        if last != number:
            basis = self._load(number) if number in self._at else None
            self._last = number, basis
        return basis

    def rotated(self, number: int) -> bool:
        """Whether a part of a vector of the parameter is coded in a rotated frame."""
        return any(_rotated(entry) for entry, _ in self._at.get(number, ()))

    def _load(self, number: int) -> Basis:
        vectors = [load_entry(self.archive, None, *found) for found in self._at[number]]
        return Basis(vectors, self.archive.root.base_model[number].extent, number)


def _rotated(entry: Entry) -> bool:
    return any(isinstance(part, RotatedLargest | RotatedUniform) for part in entry.parts)


def load_entry(archive: Archive, task: str | None, entry: Entry, offset: int) -> Parts:
    """The parts of an entry of a task (None: of the shared basis), whose section is at `offset`."""
    data = archive.read(task, entry, offset)
    parameter, vectors = archive.root.base_model[entry.parameter], archive.vectors[entry.parameter]
    extent = entry.extent(parameter.dims)
    with _naming(archive, task, entry):
        section = codec.Section(data)
        kept = _kept(entry.mask, section, parameter.extent) if entry.mask else None
        contents = tuple(codec.load(part, section, extent, vectors) for part in entry.parts)
    return Parts(contents, extent, kept, entry.mask is None or entry.mask.kind == ROWS)


def _kept(mask: Mask, section: codec.Section, extent: Extent) -> Tensor:
    """The numbers of the rows, or the flat positions, that a mask keeps."""
    bits = section.take(mask.bits, extent.rows if mask.kind == ROWS else extent.count)
    kept = bits.nonzero()[:, 0]
    if len(kept) != mask.kept:
        raise FormatError(f"a mask keeps {len(kept)}, its record says {mask.kept}")
    return kept


@contextmanager
def _naming(archive: Archive, task: str | None, section: Section) -> Iterator[None]:
    """Says where in the file a FormatError comes from."""
    try:
        yield
    except FormatError as error:
        where = f"{archive.path}: {called(task)}, {archive.describe(section)}"
        raise FormatError(f"{where}: {error}", error.hint) from None
