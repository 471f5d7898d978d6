"""Iso-C: the sum of the task vectors with a flat spectrum.

Marczak et al., No Task Left Behind: Isotropic Model Merging (ICML 2025, arXiv 2502.04959): with
U S V^T the decomposition of the sum, the merged matrix is mean(S) U V^T. What is no matrix is
averaged. Where the sum has no full rank, the directions it lacks stay empty; a decomposition would
fill them with arbitrary ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from tvcodec.maths.merge import polar


def merge(taus: Sequence[Tensor], missing: float = 0.0) -> Tensor:
    """The merged matrix [m, n] of several.

    `missing` is the squared norm of what the sum lacks of the one whose spectrum is meant: as much
    is taken to be in each of the directions that it does not have, so that the mean of the singular
    values comes out right.
    """
    total = taus[0].clone()
    for tau in taus[1:]:
        total.add_(tau)
    wide = total.shape[0] < total.shape[1]
    tall = total.T if wide else total
    sigma, vectors = polar.spectrum(polar.gram(tall))
    lacking = tall.shape[1] - len(sigma)
    mean = (float(sigma.sum()) + math.sqrt(missing * lacking)) / max(tall.shape[1], 1)
    flat = polar.product(tall, (vectors / sigma * mean) @ vectors.T, total.dtype)
    return flat.T if wide else flat
