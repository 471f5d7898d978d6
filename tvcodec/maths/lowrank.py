"""A matrix <-> quantised factors: singular triplets, and how many of them are worth coding.

The factors A = U diag(sigma) and B = V diag(sigma) are both quantised with the step that a dense
residual would have: an error in A costs as much distortion as the same error in the matrix seen
along that direction, so one step is the equal-slope choice for factors and residuals alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.maths.product import Product
from tvcodec.maths.quantize import uniform_codes
from tvcodec.maths.spectrum import Spectrum

PEAKS = (7, 3, 2, 1)  # largest codes of which 1, 2, 2, 3 and 5 fit a byte
TOGETHER = 256  # components whose factors are floats at a time
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
        ranks = [len(one.scales) for one in together]
        # component by component, which is how codes lie in memory
        left, right = (total.new_empty(sum(ranks), side) for side in total.shape)
        places = torch.split(left, ranks), torch.split(right, ranks)
        for left_place, right_place, one in zip(*places, together, strict=True):
            left_place.copy_(one.left.T).mul_(one.scales[:, None])
            right_place.copy_(one.right.T)
        total.addmm_(left.T, right, beta=int(add))
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


def subtracted(matrix: Tensor, parts: Iterable[Factors]) -> Tensor:
    """What parts leave of `matrix` [m, n] float32."""
    left = matrix.clone()
    for part in parts:
        part.add_to(left, -1.0)
    return left


def component_floor(shape: tuple[int, int], step: float, pruning: float) -> float:
    """The singular value under which coding a component with `step` costs more than it gains:
    sigma^2 = pruning * (m + n) * step^2 / 12."""
    return step * math.sqrt(pruning * sum(shape) / 12)


def quantised_factors(
    matrix: Tensor | Product, known: Spectrum, step: float, pruning: float, offset: float
) -> Factors | None:
    """Factors of `matrix` [m, n] with codes of one `step`, of the components worth it; None where
    there is none."""
    found = ShortSide.of(matrix, known, step, pruning, offset).factors(pruning)
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class ShortSide:
    """Factors of a matrix that go only so far: the shorter side is quantised first, the longer side
    is fitted to what the decoder will see of it, and the scales are fitted to both.

    `codes` [short side, r] have one `step`, `image` [long side, r] is what the matrix makes of
    them: all that is ever needed of it, however many of the components are used.
    """

    shape: tuple[int, int]
    step: float
    offset: float
    sigma: Tensor
    codes: Tensor
    image: Tensor

    @classmethod
    def of(
        cls, matrix: Tensor | Product, known: Spectrum, step: float, pruning: float, offset: float
    ) -> ShortSide:
        """Of the components of `matrix` [m, n] that are worth it at the least `pruning`."""
        rows, columns = matrix.shape
        strong = known.sigma > component_floor((rows, columns), step, pruning)
        sigma, vectors = known.sigma[strong], known.vectors[:, strong]
        codes = uniform_codes(vectors * sigma, step, offset)
        used = codes.any(0)
        sigma, codes = sigma[used], codes[:, used]
        tall = matrix if rows >= columns else matrix.T
        image = tall @ codes.to(torch.float32)
        return cls((rows, columns), step, offset, sigma, codes, image)

    def factors(self, pruning: float) -> tuple[Factors, float] | None:
        """Of the components that are worth it at a `pruning`, the least or more, with the energy
        that they take off the matrix; None where there is none."""
        rank = int((self.sigma > component_floor(self.shape, self.step, pruning)).sum())
        if not rank:
            return None
        short, image = self.codes[:, :rank], self.image[:, :rank]
        seen = short.to(torch.float32)
        gram = seen.T @ seen
        gram.diagonal().mul_(1 + 1e-6)
        upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
        if failed:
            return None
        solution = torch.linalg.solve_triangular(upper, image, upper=True, left=False)
        solution = torch.linalg.solve_triangular(upper.T, solution, upper=False, left=False)
        fitted = solution * (self.sigma[:rank] / self.step)
        long = uniform_codes(fitted, self.step, self.offset)
        used = long.any(0)
        if not used.all():
            long, short, image = long[:, used], short[:, used], image[:, used]
        if not long.shape[1]:
            return None
        scales, captured = _fitted_scales(image, long, short)
        left, right = (long, short) if self.shape[0] >= self.shape[1] else (short, long)
        return Factors(left, right, scales), captured


def _fitted_scales(image: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """Least-squares scales: (L'L * R'R) s = diag(L' M R), of `image` M R; and what they take off
    the energy of M."""
    a, b = left.to(torch.float32), right.to(torch.float32)
    system = ((a.T @ a) * (b.T @ b)).double()
    system.diagonal().mul_(1 + 1e-9)
    wanted = (image * a).sum(0).double()
    scales = torch.linalg.solve(system, wanted).to(torch.float32)
    wide = scales.double()
    return scales, float(wide @ (2 * wanted - system @ wide))
