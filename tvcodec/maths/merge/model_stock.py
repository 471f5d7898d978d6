"""Model Stock: the mean, as far from the base model as the fine-tunes agree.

Jang et al., Model Stock (ECCV 2024, arXiv 2403.19522): with cos the mean cosine of all pairs of
task vectors of one parameter (or of the whole model), t = N cos / (1 + (N - 1) cos) and the merged
task vector is t * mean(tau). So it is a weighted merge with weights t / N, and needs no more than
the Gram matrix.

Cosines are taken as at least 0: below, t would be negative and grow without bound towards
cos = -1 / (N - 1). A task that left the parameter alone has cosine 0 with all others; a single task
is its own merge.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tvcodec.maths.dense import inner_product


def gram(taus: Sequence[Tensor]) -> list[list[float]]:
    """Inner products of the task vectors of one parameter, summed in float64."""
    rows = [[0.0] * len(taus) for _ in taus]
    for i, a in enumerate(taus):
        for j, b in enumerate(taus[: i + 1]):
            rows[i][j] = rows[j][i] = inner_product(a, b)
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
