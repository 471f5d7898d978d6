"""A matrix <-> quantised factors: singular triplets, and how many of them are worth coding.

The factors A = U diag(sigma) and B = V diag(sigma) are both quantised with the step that a dense
residual would have: an error in A costs as much distortion as the same error in the matrix seen
along that direction, so one step is the equal-slope choice for factors and residuals alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.quantize import uniform_codes


@dataclass(frozen=True, slots=True)
class Factors:
    """sum_j scales[j] * outer(left[:, j], right[:, j]): left [m, r] and right [n, r] int32 codes or
    float16 values, scales [r] float32."""

    left: Tensor
    right: Tensor
    scales: Tensor

    def values(self) -> Tensor:
        """The matrix [m, n] float32."""
        return (self.left.to(torch.float32) * self.scales) @ self.right.to(torch.float32).T

    def add_to(self, total: Tensor) -> None:
        """Adds the matrix to `total` [m, n] float32, in place."""
        total.addmm_(self.left.to(torch.float32) * self.scales, self.right.to(torch.float32).T)

    def scaled(self, factor: float) -> Factors:
        """The same part times `factor`."""
        return replace(self, scales=self.scales * factor)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Strong singular values [r] of a matrix, descending, and the vectors of its shorter side."""

    sigma: Tensor
    vectors: Tensor  # [short side, r]


def spectrum(matrix: Tensor, floor: float) -> Spectrum:
    """The singular triplets of `matrix` [m, n] above `floor`.

    From the eigenvectors of the Gram matrix of the shorter side, which costs a fraction of a full
    singular value decomposition and is as accurate for the strong triplets kept here.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    energies, vectors = torch.linalg.eigh(tall.T @ tall)
    sigma = energies.clamp_min(0).sqrt().flip(0)
    rank = int((sigma > floor).sum())
    return Spectrum(sigma[:rank], vectors.flip(1)[:, :rank].contiguous())


def component_floor(shape: tuple[int, int], step: float, pruning: float) -> float:
    """The singular value under which coding a component with `step` costs more than it gains:
    sigma^2 = pruning * (m + n) * step^2 / 12."""
    return step * (pruning * sum(shape) / 12) ** 0.5


def quantised_factors(
    matrix: Tensor, known: Spectrum, step: float, pruning: float, offset: float
) -> Factors | None:
    """Factors of `matrix` [m, n] with codes of one `step`, of the components worth it; None where
    there is none.

    The shorter side is quantised first, the longer side is fitted to what the decoder will see of
    it, and the scales are fitted to both.
    """
    rows, columns = matrix.shape
    strong = known.sigma > component_floor((rows, columns), step, pruning)
    sigma, vectors = known.sigma[strong], known.vectors[:, strong]
    tall = matrix if rows >= columns else matrix.T
    short = uniform_codes(vectors * sigma, step, offset)
    used = short.any(0)
    short, sigma = short[:, used], sigma[used]
    if not len(sigma):
        return None
    seen = short.to(torch.float32) * step
    gram = seen.T @ seen
    gram.diagonal().mul_(1 + 1e-6)
    fitted = torch.linalg.solve(gram, (tall @ seen).T).T
    long = uniform_codes(fitted * sigma, step, offset)
    used = long.any(0)
    long, short = long[:, used], short[:, used]
    if not long.shape[1]:
        return None
    scales = _fitted_scales(tall, long, short)
    return Factors(long, short, scales) if rows >= columns else Factors(short, long, scales)


def _fitted_scales(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Least-squares scales: (L'L * R'R) s = diag(L' M R)."""
    a, b = left.to(torch.float32), right.to(torch.float32)
    system = ((a.T @ a) * (b.T @ b)).double()
    system.diagonal().mul_(1 + 1e-9)
    wanted = (a * (matrix @ b)).sum(0).double()
    return torch.linalg.solve(system, wanted).to(torch.float32)
