"""Consensus merging: the sum, of values that matter to enough tasks.

Wang et al., Localizing Task Information (TALL-masks, ICML 2024, arXiv 2405.07813): a value matters
to task t where |tau_t| > lambda |tau_MTL - tau_t|, with tau_MTL the sum of all task vectors; the
merged task vector is tau_MTL where it matters to at least k tasks, else zero. k = 1 drops only what
matters to nobody, k = 2 also what serves a single task, k above the number of tasks everything.

lambda is fixed here, 0.4 being the middle of the range that the paper searches per task with
validation data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tvcodec.maths.merge.methods import LAMBDA, VOTES


def tall_mask(tau: Tensor, total: Tensor, threshold: float = LAMBDA) -> Tensor:
    """Which values of the sum matter to the task: bool of the shape of `tau`."""
    return tau.abs() > (total - tau).abs_().mul_(threshold)


def merge(
    taus: Sequence[Tensor], thresholds: Sequence[float] | float = LAMBDA, votes: int = VOTES
) -> Tensor:
    """The merged task vector; `thresholds` are lambda, for all tasks or one for each."""
    total = taus[0].clone()
    for tau in taus[1:]:
        total.add_(tau)
    each = [thresholds] * len(taus) if isinstance(thresholds, int | float) else thresholds
    count = torch.zeros_like(total, dtype=torch.int16)
    for tau, threshold in zip(taus, each, strict=True):
        count += tall_mask(tau, total, threshold)
    return total.mul_(count >= votes)
