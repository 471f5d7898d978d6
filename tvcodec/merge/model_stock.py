"""Model Stock: the mean, as far from the base model as the fine-tunes agree.

Jang et al., Model Stock (ECCV 2024, arXiv 2403.19522): with cos the mean cosine of all pairs of
task vectors of one parameter, t = N cos / (1 + (N - 1) cos) and the merged task vector is
t * mean(tau). So it is a weighted merge with weights t / N, and needs no more than the Gram matrix.

Cosines are taken as at least 0: below, t would be negative and grow without bound towards
cos = -1 / (N - 1). A task that left the parameter alone has cosine 0 with all others; a single task
is its own merge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gram(taus: Sequence[Tensor]) -> list[list[float]]:
    """Inner products of the task vectors of one parameter, summed in float64."""
    rows = [[0.0] * len(taus) for _ in taus]
    for i, a in enumerate(taus):
        for j, b in enumerate(taus[: i + 1]):
            rows[i][j] = rows[j][i] = _dot(a, b)
    return rows


def share(gram: Sequence[Sequence[float]]) -> float:
    """t, from the inner products of the task vectors."""
    count = len(gram)
    if count == 1:
        return 1.0
    total = 0.0
    for i in range(count):
        for j in range(i):
            norms = (gram[i][i] * gram[j][j]) ** 0.5
            total += min(max(gram[i][j] / norms, -1.0), 1.0) if norms > 0 else 0.0
    cosine = max(2 * total / (count * (count - 1)), 0.0)
    return count * cosine / (1 + (count - 1) * cosine)


def merge(taus: Sequence[Tensor]) -> Tensor:
    """The merged task vector of one parameter."""
    weight = share(gram(taus)) / len(taus)
    merged = taus[0] * weight
    for tau in taus[1:]:
        merged.add_(tau, alpha=weight)
    return merged


def _dot(a: Tensor, b: Tensor) -> float:
    pieces = (torch.split(flat.reshape(-1), 1 << 20) for flat in (a, b))
    return sum(
        float(torch.dot(x.to(torch.float64), y.to(torch.float64)))
        for x, y in zip(*pieces, strict=True)
    )
