"""One task of an open file, as the tensors it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvcodec import codec, dense
from tvcodec.archive import Archive
from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.errors import FormatError, TvqError
from tvcodec.index import ROWS, Entry, Extent, Kept, Mask, Rows, Small


@dataclass(frozen=True, slots=True)
class Parts:
    """A parameter's task vector before it is summed: parts over what `kept` (row numbers, or flat
    positions where `by_row` is false) leaves of the parameter; None keeps all."""

    contents: tuple[codec.Content, ...]
    extent: Extent
    kept: Tensor | None = None
    by_row: bool = True

    @property
    def exact(self) -> dense.Exact | None:
        """The bit-exact difference, where that is what is stored."""
        return self.contents[0] if isinstance(self.contents[0], dense.Exact) else None


class StoredTask:
    """Reads the sections of one task, each when it is first needed."""

    def __init__(self, archive: Archive, name: str) -> None:
        self.archive = archive
        self.name = name
        self.index = archive.index(name)
        self.aliases = dict(self.index.aliases)
        self.dtypes = dict(self.index.dtypes)
        self.missing = frozenset(self.index.missing)
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
        self._members: dict[int, Tensor] | None = None

    def dtype(self, number: int) -> str:
        """The fine-tune's dtype of a parameter."""
        return self.dtypes.get(number) or self.archive.root.base_model[number].dtype

    def replaced(self, number: int) -> Kept | None:
        """The record of a parameter that is kept whole in place of the base model's."""
        section = self._at.get(number, (None, 0))[0]
        return section if isinstance(section, Kept) else None

    def extra_rows(self, number: int) -> int:
        """How many rows the fine-tune has behind those of the base model."""
        return self._rows[number][0].count if number in self._rows else 0

    def changed(self, number: int) -> bool:
        """Whether there is a task vector for the parameter."""
        number = self.aliases.get(number, number)
        return isinstance(self._at.get(number, (None,))[0], Entry) or number in self._small_members

    def parts(self, number: int) -> Parts | None:
        """The stored parts of a parameter's task vector; None where it is zero."""
        number = self.aliases.get(number, number)
        dims = self.archive.root.base_model[number].dims
        section, offset = self._at.get(number, (None, 0))
        if isinstance(section, Entry):
            return self._entry(section, offset, dims)
        values = self._small_members.get(number)
        if values is None:
            return None
        return Parts((dense.Values(values),), Extent(1, len(values), len(values)))

    def whole(self, record: Kept) -> Tensor:
        """A parameter that is kept whole, in its own dtype."""
        section, offset = self._at[record.parameter]
        data = self.archive.read(self.name, section, offset)
        with self._naming(record):
            return codec.load_elements(
                record.values, memoryview(data), record.dims, TORCH_DTYPES[record.dtype]
            )

    def rows(self, number: int) -> Tensor | None:
        """The extra rows of a parameter, in the fine-tune's dtype; None where there are none."""
        if number not in self._rows:
            return None
        record, offset = self._rows[number]
        data = self.archive.read(self.name, record, offset)
        shape = (record.count, *self.archive.root.base_model[number].dims[1:])
        with self._naming(record):
            return codec.load_elements(
                record.values, memoryview(data), shape, TORCH_DTYPES[self.dtype(number)]
            )

    def _entry(self, entry: Entry, offset: int, dims: tuple[int, ...]) -> Parts:
        data = self.archive.read(self.name, entry, offset)
        extent = entry.extent(dims)
        with self._naming(entry):
            section = codec.Section(data)
            kept = self._kept(entry.mask, section, dims) if entry.mask else None
            contents = tuple(codec.load(part, section, extent) for part in entry.parts)
        return Parts(contents, extent, kept, entry.mask is None or entry.mask.kind == ROWS)

    def _kept(self, mask: Mask, section: codec.Section, dims: tuple[int, ...]) -> Tensor:
        count = dims[0] if mask.kind == ROWS else int(torch.Size(dims).numel())
        kept = section.take(mask.bits, count).nonzero()[:, 0]
        if len(kept) != mask.kept:
            raise FormatError(f"a mask keeps {len(kept)}, its record says {mask.kept}")
        return kept

    @property
    def _small_members(self) -> dict[int, Tensor]:
        """Values of the small parameters, flat float32, by number."""
        if self._members is None:
            self._members = self._load_small() if self._small else {}
        return self._members

    def _load_small(self) -> dict[int, Tensor]:
        assert self._small is not None
        record, offset = self._small
        base_model = self.archive.root.base_model
        data = self.archive.read(self.name, record, offset)
        counts = [base_model[member.parameter].count for member in record.members]
        with self._naming(record):
            codes = codec.load_stream(record.symbols, memoryview(data), sum(counts))
        return {
            member.parameter: piece * member.scale
            for member, piece in zip(record.members, codes.split(counts), strict=True)
        }

    def _naming(self, section: Small | Entry | Kept | Rows) -> _Naming:
        where = f"{self.archive.path}: task {self.name!r}, {self.archive.describe(section)}"
        return _Naming(where)


class _Naming:
    """Says where in the file a FormatError comes from."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FormatError):
            raise FormatError(f"{self.where}: {error}", error.hint) from None


def task_vector(parts: Parts, shape: tuple[int, ...], seed: int) -> Tensor:
    """The sum of the parts, float32 of `shape`; parts must not be exact."""
    return merged([(1.0, parts)], shape, seed)


def merged(weighted: list[tuple[float, Parts]], shape: tuple[int, ...], seed: int) -> Tensor:
    """The weighted sum of several tasks' parts of one parameter, float32 of `shape`, summed as
    parts: whatever is not masked shares one product, and one inverse rotation."""
    whole = [(weight, parts) for weight, parts in weighted if parts.kept is None]
    contents = [_scaled(content, weight) for weight, parts in whole for content in parts.contents]
    if whole:
        total = codec.expand(contents, whole[0][1].extent, seed).view(shape)
    else:
        total = torch.zeros(shape)
    for weight, parts in weighted:
        if parts.kept is not None:
            scaled = [_scaled(content, weight) for content in parts.contents]
            values = codec.expand(scaled, parts.extent, seed)
            if parts.by_row:
                total.view(shape[0], -1).index_add_(0, parts.kept, values)
            else:
                total.view(-1).index_add_(0, parts.kept, values.view(-1))
    return total


def _scaled(content: codec.Content, weight: float) -> codec.Content:
    if isinstance(content, dense.Exact):
        raise TvqError("exact differences need the base model", hint="give --base-model")
    return content if weight == 1 else content.scaled(weight)
