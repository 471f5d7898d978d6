"""TSV-Merge: the strongest singular directions of all tasks, made orthogonal to each other.

Gargiulo et al., Task Singular Vectors (CVPR 2025, arXiv 2412.00081), as FusionBench computes it:
of each of T tasks the top k = int(min(m, n) * (1 / T)) triplets U_t, S_t, V_t; with
U = [U_1 .. U_T] and V = [V_1 .. V_T] the merged matrix is polar(U) diag(S_1 .. S_T) polar(V)^T.
What is no matrix is averaged. A scalar scaling multiplies the result, one per task its S_t.

Different from the published program, which loses or invents things there: k is at least 1, so that
no short matrix vanishes; triplets of singular value zero, whose vectors are arbitrary, do not take
part; directions that several tasks share exactly count once (see `polar.inverse_root`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.maths.merge import polar


@dataclass(frozen=True, slots=True)
class Triplets:
    """The strongest singular triplets of a matrix [m, n]: orthonormal columns left [m, k] and
    right [n, k], sigma [k] descending, none of them zero."""

    left: Tensor
    sigma: Tensor
    right: Tensor

    def scaled(self, factor: float) -> Triplets:
        """Those of the matrix times `factor`; a sign stays in sigma."""
        return replace(self, sigma=self.sigma * factor)

    def lengthened(self, norm: float, rank: int) -> Triplets:
        """Scaled to the energy that the top `rank` triplets had before weak ones were not coded,
        where the whole matrix had the Frobenius norm `norm`.

        What is missing is taken to lie evenly in all directions but those kept, which is the least
        that the strongest of them can have.
        """
        found = float(self.sigma.double().square().sum())
        kept, side = len(self.sigma), min(len(self.left), len(self.right))
        missing = max(norm * norm - found, 0.0)
        if not missing or not found or not 0 < kept < rank:
            return self
        return self.scaled(math.sqrt(1 + missing / found * (rank - kept) / (side - kept)))


def rank_per_task(shape: Sequence[int], tasks: int) -> int:
    """How many triplets each of `tasks` tasks may bring."""
    return max(int(min(shape) * (1 / tasks)), 1)


def triplets_of_matrix(matrix: Tensor, rank: int) -> Triplets:
    """At most `rank` triplets of a matrix, from the Gram matrix of its shorter side."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    sigma, short = polar.spectrum(polar.gram(tall))
    sigma, short = sigma[:rank], short[:, :rank]
    long = polar.product(tall, short / sigma, matrix.dtype)
    short, sigma = short.to(matrix.dtype), sigma.to(matrix.dtype)
    return Triplets(short, sigma, long) if wide else Triplets(long, sigma, short)


def triplets_of_factors(left: Tensor, right: Tensor, rank: int) -> Triplets:
    """At most `rank` triplets of left @ right^T, for any left [m, r] and right [n, r],
    numbers or codes; float64 if one of them is, else float32. Costs orthonormal bases of both, and
    nothing of the size of the matrix."""
    double = torch.float64 in (left.dtype, right.dtype)
    dtype = torch.float64 if double else torch.float32
    left_frame, left_core = polar.orthonormal(left.to(torch.float64))
    right_frame, right_core = polar.orthonormal(right.to(torch.float64))
    core = triplets_of_matrix(left_core @ right_core.T, rank)
    return Triplets(
        (left_frame @ core.left).to(dtype),
        core.sigma.to(dtype),
        (right_frame @ core.right).to(dtype),
    )


def merge(tasks: Sequence[Triplets]) -> Tensor:
    """The merged matrix [m, n] of all tasks' triplets, each of at most `rank_per_task`."""
    left = torch.cat([task.left for task in tasks], 1)
    right = torch.cat([task.right for task in tasks], 1)
    sigma = torch.cat([task.sigma for task in tasks]).to(torch.float64)
    strong = polar.product(left, polar.inverse_root(polar.gram(left)) * sigma, left.dtype)
    return strong @ polar.product(right, polar.inverse_root(polar.gram(right)), right.dtype).T
