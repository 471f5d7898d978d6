"""MagMax: of each value the task's that changed it most.

Marczak et al., MagMax (ECCV 2024, arXiv 2407.06322): the merged value is tau_t with
t = argmax |tau_t|; of equal magnitudes that of the last task holds.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def merge(taus: Iterable[Tensor]) -> Tensor:
    """The merged task vector; one task's is in memory at a time where `taus` is lazy."""
    waiting = iter(taus)
    merged = next(waiting)
    for tau in waiting:
        merged = torch.where(tau.abs() >= merged.abs(), tau, merged)
    return merged
