"""A matrix <-> quantised factors: singular triplets, and how many of them are worth coding.

The factors A = U diag(sigma) and B = V diag(sigma) are both quantised with one step: an error in A
costs as much distortion as the same error in the matrix seen along that direction, so the step of a
dense residual would be the equal-slope choice, were not one side fitted to errors of the other.
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
    found = fitted_factors(matrix, known, step, pruning, offset, 1)
    return found[0] if found else None


def fitted_factors(
    matrix: Tensor | Product, known: Spectrum, step: float, pruning: float, offset: float, fits: int
) -> tuple[Factors, float] | None:
    """The same, with the energy that they take off the matrix.

    The shorter side is quantised first. Then `fits` times, the longer side first, one side is
    fitted to what the decoder will see of the other, and quantised; the scales are fitted to both.
    """
    rows, columns = matrix.shape
    tall = matrix if rows >= columns else matrix.T
    strong = known.sigma > component_floor((rows, columns), step, pruning)
    sigma = known.sigma[strong]
    codes = uniform_codes(known.vectors[:, strong] * sigma, step, offset)
    for turn in range(fits):
        used = codes.any(0)
        other, sigma = codes[:, used], sigma[used]
        image = (tall.T if turn % 2 else tall) @ other.to(torch.float32)
        solution = _least_squares(image, other)
        if solution is None:
            return None
        codes = uniform_codes(solution * (sigma / step), step, offset)
    used = codes.any(0)
    if not used.any():
        return None
    if not used.all():
        codes, other, image = codes[:, used], other[:, used], image[:, used]
    scales, captured = _fitted_scales(image, codes, other)
    longer_first = (fits % 2 == 1) == (rows >= columns)
    left, right = (codes, other) if longer_first else (other, codes)
    return Factors(left, right, scales), captured


def _least_squares(image: Tensor, codes: Tensor) -> Tensor | None:
    """The side X for which X codes' is closest to a matrix that makes `image` of the codes; None
    where they are too much alike, or none."""
    seen = codes.to(torch.float32)
    gram = seen.T @ seen
    gram.diagonal().mul_(1 + 1e-6)
    upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
    if failed or not len(gram):
        return None
    return image @ torch.cholesky_inverse(upper, upper=True)


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
