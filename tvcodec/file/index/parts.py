"""The parts that one parameter's task vector is the sum of, and the streams of each.

    tau ~ mask * ( coefficients . basis  +  factors  +  rotated  +  stages )        or exact

A record's fields stand in the order of its msgpack array, which begins with the part's `kind`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tvcodec.file.index.fields import COUNT_MAX, Malformed, array, integer, real
from tvcodec.file.index.streams import (
    FLOAT16,
    FLOATS,
    INTEGERS,
    SYMBOLS,
    UNSIGNED,
    Extent,
    Stream,
    read_stream,
)

_FACTOR = (*FLOATS, SYMBOLS, INTEGERS)
_CODES = (SYMBOLS, INTEGERS)


@dataclass(frozen=True, slots=True)
class Factors:
    """sum over j of scales[j] * left[:, j] right[:, j]^T, component after component."""

    kind: ClassVar[int] = 1
    label: ClassVar[str] = "factors"
    rank: int
    left: Stream
    right: Stream
    scales: Stream

    def streams(self) -> tuple[Stream, ...]:
        return self.left, self.right, self.scales


@dataclass(frozen=True, slots=True)
class RotatedLargest:
    """Of each run of 2^run_log2 rotated values the place and sign of the largest."""

    kind: ClassVar[int] = 2
    label: ClassVar[str] = "rotated"
    block_log2: int
    run_log2: int
    gain: float
    scales: Stream
    codes: Stream

    def streams(self) -> tuple[Stream, ...]:
        return self.scales, self.codes


@dataclass(frozen=True, slots=True)
class RotatedUniform:
    """gain * scale of the block * code, in the rotated frame; the last block is padded."""

    kind: ClassVar[int] = 3
    label: ClassVar[str] = "rotated"
    block_log2: int
    gain: float
    scales: Stream
    codes: Stream

    def streams(self) -> tuple[Stream, ...]:
        return self.scales, self.codes


@dataclass(frozen=True, slots=True)
class Stage:
    """scale * code."""

    kind: ClassVar[int] = 4
    label: ClassVar[str] = "stages"
    scale: float
    codes: Stream

    def streams(self) -> tuple[Stream, ...]:
        return (self.codes,)


@dataclass(frozen=True, slots=True)
class GroupedStage:
    """scale * symbol + minimum, a scale and a minimum per `group` values (0: for all of them)."""

    kind: ClassVar[int] = 5
    label: ClassVar[str] = "stages"
    group: int
    scales: Stream
    minimums: Stream
    codes: Stream

    def streams(self) -> tuple[Stream, ...]:
        return self.scales, self.minimums, self.codes


@dataclass(frozen=True, slots=True)
class Values:
    """The values themselves, as floats."""

    kind: ClassVar[int] = 6
    label: ClassVar[str] = "values"
    values: Stream

    def streams(self) -> tuple[Stream, ...]:
        return (self.values,)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One coefficient per vector of the parameter's shared basis."""

    kind: ClassVar[int] = 7
    label: ClassVar[str] = "coefficients"
    coefficients: Stream

    def streams(self) -> tuple[Stream, ...]:
        return (self.coefficients,)


@dataclass(frozen=True, slots=True)
class Exact:
    """The bit-exact integer difference to the base model; stands alone and without a mask."""

    kind: ClassVar[int] = 8
    label: ClassVar[str] = "exact"
    differences: Stream

    def streams(self) -> tuple[Stream, ...]:
        return (self.differences,)


Part = (
    Factors | RotatedLargest | RotatedUniform | Stage | GroupedStage | Values | Coefficients | Exact
)


def read_part(value: object, extent: Extent, vectors: int, width: int) -> Part:
    """One part of a parameter of `extent`, whose values take `width` bytes in the fine-tune and
    whose shared basis has so many `vectors`."""
    if type(value) is not list or not value:
        raise Malformed(f"expected a part, got {value!r:.40}")
    kind = value[0]
    if type(kind) is not int or not 1 <= kind <= Exact.kind:
        raise Malformed(f"expected a part of kind 1..8, got {kind!r:.40}")
    if kind == Coefficients.kind:
        return _coefficients(value, vectors)
    if kind == Exact.kind:
        return _exact(value, extent, width)
    return _READERS[kind](value, extent)


def _factors(value: list[object], extent: Extent) -> Factors:
    _, raw_rank, left, right, scales = array(value, 5)
    rank = integer(raw_rank, ".rank", min(extent.rows, extent.columns), least=1)
    return Factors(
        rank,
        read_stream(left, ".left", _FACTOR, rank * extent.rows),
        read_stream(right, ".right", _FACTOR, rank * extent.columns),
        read_stream(scales, ".scales", FLOATS, rank),
    )


def _rotated_largest(value: list[object], extent: Extent) -> RotatedLargest:
    _, raw_block_log2, raw_run_log2, gain, scales, raw_codes = array(value, 6)
    block_log2 = _block_log2(raw_block_log2, extent)
    run_log2 = integer(raw_run_log2, ".run_log2", block_log2, least=1)
    blocks = _blocks(extent.count, block_log2)
    codes = read_stream(raw_codes, ".codes", (UNSIGNED,), blocks << block_log2 - run_log2)
    if codes.size != run_log2 + 1:
        raise Malformed(f"expected {run_log2 + 1} bits, got {codes.size}", ".codes.size")
    return RotatedLargest(
        block_log2,
        run_log2,
        real(gain, ".gain"),
        read_stream(scales, ".scales", (FLOAT16,), blocks),
        codes,
    )


def _rotated_uniform(value: list[object], extent: Extent) -> RotatedUniform:
    _, raw_block_log2, gain, scales, codes = array(value, 5)
    block_log2 = _block_log2(raw_block_log2, extent)
    blocks = _blocks(extent.count, block_log2)
    return RotatedUniform(
        block_log2,
        real(gain, ".gain"),
        read_stream(scales, ".scales", (FLOAT16,), blocks),
        read_stream(codes, ".codes", _CODES, blocks << block_log2),
    )


def _stage(value: list[object], extent: Extent) -> Stage:
    _, scale, codes = array(value, 3)
    return Stage(real(scale, ".scale"), read_stream(codes, ".codes", _CODES, extent.count))


def _grouped_stage(value: list[object], extent: Extent) -> GroupedStage:
    _, raw_group, scales, minimums, codes = array(value, 5)
    group = integer(raw_group, ".group", COUNT_MAX)
    groups = -(-extent.count // group) if group else 1
    return GroupedStage(
        group,
        read_stream(scales, ".scales", FLOATS, groups),
        read_stream(minimums, ".minimums", FLOATS, groups),
        read_stream(codes, ".codes", (SYMBOLS,), extent.count),
    )


def _values(value: list[object], extent: Extent) -> Values:
    return Values(read_stream(array(value, 2)[1], ".values", FLOATS, extent.count))


def _coefficients(value: list[object], vectors: int) -> Coefficients:
    if not vectors:
        raise Malformed("expected a parameter with a shared basis, got one without")
    return Coefficients(read_stream(array(value, 2)[1], ".coefficients", FLOATS, vectors))


def _exact(value: list[object], extent: Extent, width: int) -> Exact:
    differences = read_stream(array(value, 2)[1], ".differences", (INTEGERS,), extent.count)
    if differences.size != width:
        message = f"expected integers of {width} bytes, got {differences.size}"
        raise Malformed(message, ".differences.size")
    return Exact(differences)


_READERS: dict[int, Callable[[list[object], Extent], Part]] = {
    Factors.kind: _factors,
    RotatedLargest.kind: _rotated_largest,
    RotatedUniform.kind: _rotated_uniform,
    Stage.kind: _stage,
    GroupedStage.kind: _grouped_stage,
    Values.kind: _values,
}


def _block_log2(value: object, extent: Extent) -> int:
    """That of a block no larger than it takes to hold all values."""
    return integer(value, ".block_log2", min(16, max(4, (extent.count - 1).bit_length())), least=4)


def _blocks(count: int, block_log2: int) -> int:
    """How many blocks hold `count` values, the last one padded."""
    return -(-count >> block_log2)
