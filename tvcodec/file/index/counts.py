"""How many numbers each stream of a section holds: what the shapes say, since streams do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tvcodec.file.index.parts import (
    Coefficients,
    Exact,
    Factors,
    GroupedStage,
    Part,
    RotatedLargest,
    RotatedUniform,
    Stage,
    Values,
)
from tvcodec.file.index.records import BaseParameter, Entry, Kept, Rows, Section, Small, whole
from tvcodec.file.index.streams import ROWS, Extent, Stream


def counted_streams(
    section: Section, base_model: Sequence[BaseParameter], vectors: int
) -> Iterator[tuple[Stream, int]]:
    """The streams of a section, in the order in which they lie in it, each with its numbers;
    `vectors` is how many the shared basis of an entry's parameter has."""
    match section:
        case Small():
            yield section.symbols, sum(base_model[m.parameter].count for m in section.members)
        case Kept():
            yield section.values, math.prod(section.dims)
        case Rows():
            columns = whole(base_model[section.parameter].dims).columns
            yield section.values, section.count * columns
        case Entry():
            dims = base_model[section.parameter].dims
            if section.mask:
                full = whole(dims)
                flags = full.rows if section.mask.kind == ROWS else full.count
                yield section.mask.bits, flags
            for part in section.parts:
                counts = _counts(part, section.extent(dims), vectors)
                yield from zip(part.streams(), counts, strict=True)


def _counts(part: Part, extent: Extent, vectors: int) -> tuple[int, ...]:
    match part:
        case Factors():
            return part.rank * extent.rows, part.rank * extent.columns, part.rank
        case RotatedLargest():
            blocks = -(-extent.count >> part.block_log2)
            return blocks, blocks << part.block_log2 - part.run_log2
        case RotatedUniform():
            blocks = -(-extent.count >> part.block_log2)
            return blocks, blocks << part.block_log2
        case GroupedStage():
            groups = -(-extent.count // part.group) if part.group else 1
            return groups, groups, extent.count
        case Coefficients():
            return (vectors,)
        case Stage() | Values() | Exact():
            return (extent.count,)
