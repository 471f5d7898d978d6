"""TIES: trim, elect a sign, merge what agrees with it.

Yadav et al., TIES-Merging (NeurIPS 2023, arXiv 2306.01708): of each task vector only the largest
magnitudes are kept (20 %); each value's sign is that of the sum over tasks; merged is the mean (or
the sum) of the values that are not zero and have this sign.

The paper's threshold is one for the whole task vector: fill `Magnitudes` with all its parameters,
one at a time, then ask for the threshold. mergekit's is one for each parameter: `threshold`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tvcodec.maths.merge.methods import DENSITY

_FEW = 1 << 15  # values that are counted one by one
_SHIFT = 13  # of 23 bits of mantissa 10 are kept: a bin is 1 / 1024 wide, or less


class Magnitudes:
    """How many values of a task vector are of which magnitude, to 0.1 %, in 2 MB."""

    def __init__(self) -> None:
        self._counts = torch.zeros(1 << (31 - _SHIFT), dtype=torch.int64)

    def add(self, tau: Tensor) -> None:
        """Counts the values of one more parameter."""
        for piece in torch.split(tau.reshape(-1), 1 << 22):
            bins = (piece.to(torch.float32).abs().view(torch.int32) >> _SHIFT).cpu()
            if len(bins) <= _FEW:
                self._counts.index_add_(0, bins, torch.ones(len(bins), dtype=torch.int64))
            else:
                self._counts += torch.bincount(bins, minlength=len(self._counts))

    def threshold(self, density: float = DENSITY, count: int = 0) -> float:
        """The magnitude that a share of `density` of all values reaches; at most 0.1 % below what
        sorting them all would give. They are `count` in all, those not yet added being zero, or as
        many as were added. With a fixed `count` it only grows by what is added."""
        upto = self._counts.cumsum(0)
        added = int(upto[-1])
        place = added - int((count or added) * density)
        if place <= 0:
            return 0.0
        at = int(torch.searchsorted(upto, place))
        return float(torch.tensor(at << _SHIFT, dtype=torch.int32).view(torch.float32))


def threshold(tau: Tensor, density: float = DENSITY) -> float:
    """The magnitude that a share of `density` of a parameter's values reaches, exactly."""
    flat = tau.reshape(-1).abs()
    place = len(flat) - int(len(flat) * density)
    return float(flat.kthvalue(place).values) if place > 0 else 0.0


def trim(tau: Tensor, threshold: float) -> Tensor:
    """The task vector without values of a magnitude below `threshold`."""
    return torch.where(tau.abs() >= threshold, tau, torch.zeros_like(tau))


def merge(trimmed: Sequence[Tensor], *, summed: bool = False, majority: int = 0) -> Tensor:
    """The merged task vector of one parameter: the mean of what agrees, or the sum.

    Where the tasks cancel exactly the sign is `majority` (1 or -1: in the paper's program that of
    most values of the model), or else that of most values of this parameter.
    """
    total = trimmed[0].clone()
    for tau in trimmed[1:]:
        total.add_(tau)
    sign = total.sign_()
    positive = (majority or float(sign.sum())) >= 0
    up = sign >= 0 if positive else sign > 0
    merged, count = torch.zeros_like(total), torch.zeros_like(total)
    for tau in trimmed:
        agrees = torch.where(up, tau > 0, tau < 0)
        merged += torch.where(agrees, tau, merged.new_zeros(()))
        count += agrees
    return merged if summed else merged.div_(count.clamp_min_(1))
