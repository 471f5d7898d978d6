"""Numbers <-> small integers: a uniform step with a dead zone, and the scale that undoes it best."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

DEAD_ZONE = 0.42  # rounding offset: below one half, a code must earn its bits


def uniform_codes(values: Tensor, step: float | Tensor, offset: float = 0.5) -> Tensor:
    """sign(v) * floor(|v| / step + offset) of float32 `values`, as int32 of the same shape.

    `offset` 0.5 rounds to nearest; less than that leaves a dead zone around zero (Sullivan,
    "Efficient scalar quantization of exponential and Laplacian random variables", 1996).
    """
    magnitude = (values.abs() / step).add_(offset).floor_()
    return magnitude.mul_(values.sign()).to(torch.int32)


def least_squares_scale(values: Tensor, codes: Tensor) -> float:
    """The scale s that minimises ||values - s * codes||; 0.0 where all codes are zero."""
    code = codes.to(torch.float32)
    energy = torch.sum(code * code, dtype=torch.float64)
    return float(torch.sum(values * code, dtype=torch.float64) / energy) if energy > 0 else 0.0


def float32(value: float) -> float:
    """`value` as the float32 that a file keeps."""
    return float(np.float32(value))


@dataclass(frozen=True, slots=True)
class Stage:
    """Uniform codes: int32 `codes` of any shape; a value is scale * code."""

    codes: Tensor
    scale: float

    def values(self) -> Tensor:
        """The values, float32, in the shape of the codes."""
        return self.codes * self.scale

    def scaled(self, factor: float) -> Stage:
        """The same part times `factor`."""
        return replace(self, scale=float32(self.scale * factor))


def stage(values: Tensor, step: float, offset: float) -> Stage:
    """One stage of codes for float32 `values`, with the scale that fits them best."""
    codes = uniform_codes(values, step, offset)
    return Stage(codes, float32(least_squares_scale(values, codes)))
