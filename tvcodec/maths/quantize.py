"""Numbers <-> small integers: a uniform step with a dead zone, or equal steps of a range."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tvcodec.maths.dense import as_half

PIECE = 1 << 18  # values turned into codes at a time
DEAD_ZONE = 0.44  # rounding offset: below one half, a code must earn its bits


def uniform_codes(values: Tensor, step: float | Tensor, offset: float = 0.5) -> Tensor:
    """sign(v) * floor(|v| / step + offset) of float32 `values`, in the same shape and the narrowest
    of int8, int16 and int32 that holds them; `step` is one for all or, [rows, 1], one per row.

    `offset` 0.5 rounds to nearest; less than that leaves a dead zone around zero (Sullivan,
    "Efficient scalar quantization of exponential and Laplacian random variables", 1996).
    """
    if not values.numel():
        return values.to(torch.int8)
    # in pieces, so that nothing as large as `values` is made but the codes
    table = values if isinstance(step, Tensor) else values.reshape(-1, 1)
    rows = max(PIECE // table.shape[1], 1)
    pieces = [
        _codes(piece, step[start : start + rows] if isinstance(step, Tensor) else step, offset)
        for start, piece in zip(range(0, len(table), rows), torch.split(table, rows), strict=True)
    ]
    widest = max((piece.dtype for piece in pieces), key=lambda dtype: dtype.itemsize)
    return torch.cat([piece.to(widest) for piece in pieces]).view(values.shape)


def _codes(values: Tensor, step: float | Tensor, offset: float) -> Tensor:
    magnitude = values.abs().div_(step).add_(offset).floor_()
    largest = float(magnitude.max())
    dtype = torch.int8 if largest < 128 else torch.int16 if largest < 1 << 15 else torch.int32
    return magnitude.copysign_(values).to(dtype)


def least_squares_scale(values: Tensor, codes: Tensor) -> float:
    """The scale s that minimises ||values - s * codes||; 0.0 where all codes are zero."""
    code = codes.to(torch.float32).reshape(-1)
    energy = float(torch.dot(code, code))
    return float(torch.dot(values.reshape(-1), code)) / energy if energy > 0 else 0.0


def float32(value: float) -> float:
    """`value` as the float32 that a file keeps; infinite where it is out of range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


@dataclass(frozen=True, slots=True)
class Stage:
    """Uniform codes: integer `codes` of any shape; a value is scale * code."""

    codes: Tensor
    scale: float

    def values(self) -> Tensor:
        """The values, float32, in the shape of the codes."""
        return self.codes.to(torch.float32) * self.scale

    def scaled(self, factor: float) -> Stage:
        """The same part times `factor`."""
        return replace(self, scale=float32(self.scale * factor))


@dataclass(frozen=True, slots=True)
class Grouped:
    """Codes between a minimum and a maximum: symbols 0 to `alphabet` - 1, uint8 of any shape; a
    value is scale * symbol + minimum, with `scales` and `minimums` (float16 or float32) for each
    `group` values in order, the last group being what is left; 0 stands for one group."""

    codes: Tensor
    scales: Tensor
    minimums: Tensor
    group: int
    alphabet: int

    def values(self) -> Tensor:
        """The values, float32, in the shape of the codes."""
        values = self.codes.reshape(-1).to(torch.float32, copy=True)
        size = self.group or len(values)
        whole = len(values) // size
        scales, minimums = self.scales.to(torch.float32), self.minimums.to(torch.float32)
        table = values[: whole * size].view(whole, size)
        table.mul_(scales[:whole, None]).add_(minimums[:whole, None])
        if whole * size < len(values):
            values[whole * size :].mul_(scales[-1]).add_(minimums[-1])
        return values.view(self.codes.shape)

    def scaled(self, factor: float) -> Grouped:
        """The same part times `factor`; its scales and minimums become float32."""
        scales, minimums = self.scales.to(torch.float32), self.minimums.to(torch.float32)
        return replace(self, scales=scales * factor, minimums=minimums * factor)


def stage(values: Tensor, step: float, offset: float) -> Stage:
    """One stage of codes for float32 `values`, with the scale that fits them best."""
    codes = uniform_codes(values, step, offset)
    return Stage(codes, float32(least_squares_scale(values, codes)))


def min_max(values: Tensor, bits: int, group: int = 0, half: bool = False) -> Grouped:
    """Codes of float32 `values`, rounded between the least and the greatest of each `group` values
    in order (0: of all), with `bits` (1 to 8) each; zero, where it is in that range, stays zero.

    The asymmetric quantiser of Kim et al., "Task Vector Quantization for Memory-Efficient Model
    Merging" (ICCV 2025), code for code. Where that divides by zero, as for a constant, all of the
    group is the middle of its range. `half` asks for scales and minimums in float16; then zero
    moves by what that rounds, but in a group of nothing else.
    """
    most = 2**bits - 1
    flat = values.reshape(-1)
    size = min(group or flat.numel(), flat.numel())
    missing = -flat.numel() % size
    if missing:
        flat = torch.cat([flat, flat[-1:].expand(missing)])
    table = flat.view(-1, size)
    least, greatest = torch.aminmax(table, dim=1, keepdim=True)
    factors = most / (greatest - least)
    zeros = -torch.round(factors * least)
    steps = 1 / factors
    sound = (factors * zeros * steps).isfinite() & (steps > 0)
    pieces, rows = [], max(PIECE // size, 1)
    for start in range(0, len(table), rows):
        at = slice(start, start + rows)
        codes = table[at].mul(factors[at]).add_(zeros[at]).round_().clamp_(0, most)
        pieces.append(codes.masked_fill_(~sound[at], 0).to(torch.uint8))
    minimums = torch.where(sound, -(zeros * steps), least / 2 + greatest / 2)
    scales = torch.where(sound, steps, 0.0)
    numbers = [as_half(one.view(-1), half) for one in (scales, minimums)]
    codes = torch.cat(pieces).view(-1)[: values.numel()].view(values.shape)
    return Grouped(codes, numbers[0], numbers[1], group, most + 1)
