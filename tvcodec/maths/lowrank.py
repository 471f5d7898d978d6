"""A matrix <-> quantised factors: singular triplets, and how many of them are worth coding.

The factors A = U diag(sigma) and B = V diag(sigma) are both quantised with the step that a dense
residual would have: an error in A costs as much distortion as the same error in the matrix seen
along that direction, so one step is the equal-slope choice for factors and residuals alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.maths.product import Product
from tvcodec.maths.quantize import uniform_codes

PEAKS = (7, 3, 2, 1)  # largest codes of which 1, 2, 2, 3 and 5 fit a byte
TOGETHER = 256  # components whose factors are floats at a time
LONG_SIDE = 1536  # from which the strongest eigenvectors are quicker found than all
POWER = 5  # iterations, of which each squares the ratios of singular values
LEAST_GROUP = 3  # components that a stream of their own pays for


@dataclass(frozen=True, slots=True)
class Factors:
    """sum_j scales[j] * outer(left[:, j], right[:, j]): left [m, r] and right [n, r] are integer
    codes or float16 values, scales [r] float32."""

    left: Tensor
    right: Tensor
    scales: Tensor

    def values(self) -> Tensor:
        """The matrix [m, n] float32."""
        return (self.left.to(torch.float32) * self.scales) @ self.right.to(torch.float32).T

    def add_to(self, total: Tensor, factor: float = 1.0) -> Tensor:
        """`total` [m, n] float32, to which the matrix times `factor` was added in place."""
        left = self.left.to(torch.float32, copy=True).mul_(self.scales * factor)
        return total.addmm_(left, self.right.to(torch.float32).T)

    def product(self) -> Product:
        """The matrix as a product of floats."""
        return Product(self.left.to(torch.float32) * self.scales, self.right.to(torch.float32))

    def split(self) -> tuple[Factors, ...]:
        """The same sum as several: components whose codes are of one size together.

        Weak components have codes of -1, 0 and 1 only; in one stream with the large codes of strong
        ones they would take twice their entropy.
        """
        peaks = torch.maximum(self.left.abs().amax(0), self.right.abs().amax(0))
        groups, start = [], 0
        for peak in PEAKS:
            inside = (peaks > peak).nonzero()
            end = int(inside[-1]) + 1 if len(inside) else 0
            if end - start >= LEAST_GROUP:
                groups.append((start, end))
                start = end
        if start < len(peaks):
            groups.append((start, len(peaks)))
        return tuple(
            Factors(self.left[:, a:b], self.right[:, a:b], self.scales[a:b]) for a, b in groups
        )

    def scaled(self, factor: float) -> Factors:
        """The same part times `factor`."""
        return replace(self, scales=self.scales * factor)


def add_all(parts: Sequence[Factors], total: Tensor, add: bool = True) -> None:
    """Adds the matrices of all to `total` [m, n] float32, in place, or writes them over what is
    there unless `add`: many thin ones by one product, since each product reads and writes the
    whole."""
    for together in _groups(parts):
        left = [one.left.T.to(torch.float32, copy=True) for one in together]
        for rows, one in zip(left, together, strict=True):
            rows.mul_(one.scales[:, None])
        right = [one.right.T.to(torch.float32) for one in together]
        # component by component, which is how codes lie in memory
        total.addmm_(torch.cat(left).T, torch.cat(right), beta=int(add))
        add = True


def products(parts: Sequence[Factors]) -> int:
    """How many products `add_all` takes, each of which is rounded."""
    return sum(1 for _ in _groups(parts))


def _groups(parts: Sequence[Factors]) -> Iterator[list[Factors]]:
    """Parts that share a product, of so many components that their floats are few."""
    together: list[Factors] = []
    for part in parts:
        if together and sum(len(one.scales) for one in (*together, part)) > TOGETHER:
            yield together
            together = []
        together.append(part)
    if together:
        yield together


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Strong singular values [r] of a matrix, descending, and the vectors of its shorter side."""

    sigma: Tensor
    vectors: Tensor  # [short side, r]


def spectrum(matrix: Tensor | Product, floor: float) -> Spectrum:
    """The singular triplets of `matrix` [m, n] above `floor`.

    From eigenvectors of the Gram matrix of the shorter side, which costs a fraction of a full
    singular value decomposition and is as accurate for the strong triplets kept here; those of a
    product come from its factors.
    """
    if isinstance(matrix, Product):
        left, sigma, right = matrix.triplets()
        vectors = right if len(left) >= len(right) else left
    else:
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        gram = tall.T @ tall
        energies, vectors = _strongest(gram, floor**2) or torch.linalg.eigh(gram)
        sigma, vectors = energies.clamp_min(0).sqrt().flip(0), vectors.flip(1)
    strong = sigma > floor
    return Spectrum(sigma[strong], vectors[:, strong].contiguous())


def _strongest(gram: Tensor, floor: float) -> tuple[Tensor, Tensor] | None:
    """The largest eigenvalues of a positive matrix, in rising order, and their eigenvectors: so
    many that half of them, for safety, are below `floor`. None where a full decomposition is
    quicker: its time grows with the cube of the side.

    Subspace iteration from random directions (Halko, Martinsson, Tropp, SIAM Review 2011).
    """
    side = len(gram)
    width = side // 16
    while floor > 0 and side >= LONG_SIDE and width <= side // 4:
        chance = torch.Generator(device=gram.device).manual_seed(side)
        basis = torch.randn(side, width, generator=chance, device=gram.device)
        for _ in range(POWER):
            basis = torch.linalg.qr(gram @ basis)[0]
        energies, turn = torch.linalg.eigh(basis.T @ gram @ basis)
        if energies[width // 2] <= floor:
            return energies, basis @ turn
        width *= 2
    return None


def component_floor(shape: tuple[int, int], step: float, pruning: float) -> float:
    """The singular value under which coding a component with `step` costs more than it gains:
    sigma^2 = pruning * (m + n) * step^2 / 12."""
    return step * math.sqrt(pruning * sum(shape) / 12)


def quantised_factors(
    matrix: Tensor | Product, known: Spectrum, step: float, pruning: float, offset: float
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
    solution, failed = torch.linalg.solve_ex(gram, seen.T)
    if failed:  # squares so small that float32 has no room for them
        return None
    long = uniform_codes(tall @ (solution.T * sigma), step, offset)
    used = long.any(0)
    long, short = long[:, used], short[:, used]
    if not long.shape[1]:
        return None
    scales = _fitted_scales(tall, long, short)
    return Factors(long, short, scales) if rows >= columns else Factors(short, long, scales)


def _fitted_scales(matrix: Tensor | Product, left: Tensor, right: Tensor) -> Tensor:
    """Least-squares scales: (L'L * R'R) s = diag(L' M R)."""
    a, b = left.to(torch.float32), right.to(torch.float32)
    system = ((a.T @ a) * (b.T @ b)).double()
    system.diagonal().mul_(1 + 1e-9)
    del a
    wanted = (matrix @ b).mul_(left).sum(0).double()
    fitted: Tensor = torch.linalg.solve(system, wanted)
    return fitted.to(torch.float32)
