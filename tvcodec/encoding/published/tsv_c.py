"""TSV-Compress: the strongest singular triplets of each task's matrices.

Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging" (CVPR 2025,
arXiv 2412.00081). What differs: a matrix of which not one triplet would be left, or whose triplets
would take more room than itself, stays in floats like all that is not a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.encoding.published.settings import Published
from tvcodec.maths import lowrank
from tvcodec.maths.dense import as_half
from tvcodec.maths.merge.tsvm import triplets_of_matrix


@dataclass(frozen=True, kw_only=True)
class TsvC(Published):
    """Of a matrix m x n, min(m, n) / T triplets with T tasks in the file."""

    name: ClassVar[str] = "tsv-c"
    joint: ClassVar[bool] = True

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        rows, columns = tau.shape
        rank = int(min(rows, columns) * (1 / family.of))
        if len(family.parameter.dims) != 2 or not 0 < rank * (rows + columns + 1) < rows * columns:
            return self.floats(tau)
        found = triplets_of_matrix(tau, rank)
        left, right = as_half(found.left, self.fp16), as_half(found.right, self.fp16)
        return Sum((lowrank.Factors(left, right, found.sigma),))
