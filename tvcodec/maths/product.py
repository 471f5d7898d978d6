"""A matrix given as the product of two thin ones, and what can be known of it without making it.

Its singular values are those of the small core that is left when both factors have lost their
orthonormal bases (thin QR): r x r in place of m x n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Product:
    """left @ right.T: left [m, r] and right [n, r], float32."""

    left: Tensor
    right: Tensor

    @classmethod
    def total(cls, terms: Sequence[Product]) -> Product:
        """The sum of matrices of one shape, as a product of their ranks together."""
        left = torch.cat([term.left for term in terms], 1)
        return cls(left, torch.cat([term.right for term in terms], 1))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    @property
    def rank(self) -> int:
        """Columns of either factor; the matrix may have less."""
        return self.left.shape[1]

    @property
    def thin(self) -> bool:
        """Whether the factors have half as many values as the matrix, or fewer."""
        rows, columns = self.shape
        return 2 * self.rank * (rows + columns) <= rows * columns

    @property
    def T(self) -> Product:
        """The transpose."""
        return Product(self.right, self.left)

    def __matmul__(self, other: Tensor) -> Tensor:
        """The product with a matrix [n, k]."""
        return self.left @ (self.right.T @ other)

    def dense(self) -> Tensor:
        """The matrix [m, n] itself."""
        return self.left @ self.right.T

    def pieces(self, length: int) -> Iterator[Tensor]:
        """The matrix row by row, flat, in pieces of `length` values (the last one shorter)."""
        rows, columns = self.shape
        for start in range(0, rows * columns, length):
            end = min(start + length, rows * columns)
            first = start // columns
            some = self.left[first : -(-end // columns)] @ self.right.T
            yield some.view(-1)[start - first * columns : end - first * columns]

    def scaled(self, factor: float) -> Product:
        """The matrix times `factor`."""
        return replace(self, left=(self.left.double() * factor).float())

    def minus(self, other: Product) -> Product:
        """The difference of two matrices of one shape, as a product of their ranks together."""
        return Product.total([self, other.scaled(-1)])

    def inner_product(self, other: Product) -> float:
        """Of two matrices of one shape, summed in float64."""
        left = other.left.double().T @ self.left.double()
        return float((left * (other.right.double().T @ self.right.double())).sum())

    def squared_norm(self) -> float:
        """`inner_product` with itself."""
        return max(self.inner_product(self), 0.0)

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Left vectors [m, k], singular values [k], descending, and right vectors [n, k]; float32
        but for the sums that lead to them."""
        left_basis, left_core = torch.linalg.qr(self.left.double())
        right_basis, right_core = torch.linalg.qr(self.right.double())
        left, sigma, right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
        return (left_basis @ left).float(), sigma.float(), (right_basis @ right.T).float()

    def truncated(self, rank: int) -> Product:
        """The closest product of that rank at most, both its factors of one size."""
        left, sigma, right = self.triplets()
        kept = min(rank, int((sigma > 0).sum()))
        root = sigma[:kept].sqrt()
        return Product(left[:, :kept] * root, right[:, :kept] * root)
