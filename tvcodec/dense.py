"""Values that need no model: raw floats, and the integer differences of bit-exact storage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Values:
    """Float16 or float32 `values` of any shape, as they are."""

    values: Tensor

    def scaled(self, factor: float) -> Values:
        """The same part times `factor`."""
        return replace(self, values=(self.values * factor).to(self.values.dtype))


@dataclass(frozen=True, slots=True)
class Exact:
    """Integer `differences` (int8 to int64, wrapping) between ordered bit patterns."""

    differences: Tensor


def _ordered(tensor: Tensor) -> Tensor:
    """Bit patterns of floats as integers that grow with the value; negative numbers are mirrored."""
    bits = tensor.contiguous().view(_INTEGER[tensor.element_size()])
    lowest = torch.iinfo(bits.dtype).min
    return torch.where(bits < 0, lowest - bits - 1, bits)


def exact_difference(fine_tune: Tensor, base: Tensor) -> Exact:
    """Differences that restore `fine_tune` bit for bit from `base`, both of one float dtype (NaN
    payloads, infinities, signed zeros and subnormals included)."""
    return Exact(_ordered(fine_tune) - _ordered(base))


def exact_restore(base: Tensor, exact: Exact) -> Tensor:
    """The fine-tune behind `exact_difference`, in the dtype and shape of `base`."""
    ordered = _ordered(base) + exact.differences.view(base.shape)
    lowest = torch.iinfo(ordered.dtype).min
    return torch.where(ordered < 0, lowest - ordered - 1, ordered).view(base.dtype)
