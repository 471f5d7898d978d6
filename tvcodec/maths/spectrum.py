"""Strong singular values of a matrix and the directions that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvcodec.maths.product import Product

LONG_SIDE = 256  # from which the strongest eigenvectors are quicker found than all
DEGREE = 3  # of the polynomial that tells them from the others
ROOM, LEAST_ROOM = 1.4, 1.15  # directions to look in, of those wanted
LEAST_BELOW = 1e-7  # of the largest eigenvalue: less is rounding noise, and too much to divide by
LEAST_TURN = 1 / 100  # of each column, that the ones before it do not span


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Strong singular values [r] of a matrix, descending, and the vectors of its shorter side."""

    sigma: Tensor
    vectors: Tensor  # [short side, r]


NO_SPECTRUM = Spectrum(torch.empty(0), torch.empty(0, 0))


def spectrum(matrix: Tensor | Product, floor: float) -> Spectrum:
    """The singular triplets of `matrix` [m, n] above `floor`, but for some that barely are.

    From eigenvectors of the Gram matrix of the shorter side, which costs a fraction of a full
    singular value decomposition and is as accurate for the strong triplets kept here; those of a
    product come from its factors.
    """
    if isinstance(matrix, Product):
        left, sigma, right = matrix.triplets()
        vectors = right if len(left) >= len(right) else left
    else:
        gram = _gram(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
        energies, vectors = _strongest(gram, floor**2) or _eigh(gram)
        sigma, vectors = energies.clamp_min(0).sqrt().flip(0), vectors.flip(1)
    strong = sigma > floor
    return Spectrum(sigma[strong], vectors[:, strong].contiguous())


def _gram(tall: Tensor) -> Tensor:
    """tall.T @ tall: what lies above the diagonal is computed, but for blocks on it, once."""
    side = tall.shape[1]
    if side < LONG_SIDE:
        return tall.T @ tall
    gram = tall.new_empty(side, side)
    for start in range(0, side, -(-side // 3)):
        end = min(start + -(-side // 3), side)
        gram[start:end, start:] = tall[:, start:end].T @ tall[:, start:]
        gram[end:, start:end] = gram[start:end, end:].T
    return gram


def _strongest(gram: Tensor, floor: float) -> tuple[Tensor, Tensor] | None:
    """The largest eigenvalues of a positive matrix, in rising order, and their eigenvectors: more
    than are above `floor`. None where a full decomposition is quicker.

    Subspace iteration from random directions (Halko, Martinsson, Tropp, SIAM Review 2011). What it
    finds too little of lies near the floor, where a component gains no more than it costs.
    """
    side = len(gram)
    if floor <= 0 or side < LONG_SIDE:
        return None
    chance = torch.Generator(device=gram.device).manual_seed(side)
    basis = _orthonormal(gram @ _random(gram, side // 16, chance))
    image = gram @ basis
    energies, turn = _eigh(basis.T @ image)
    if int((energies > floor).sum()) * ROOM > len(energies):
        # what is left, spread evenly, would fill so many; of a spectrum that decays, half of them
        left = float(gram.diagonal().sum() - energies.sum()) / floor
        width = max(int(ROOM * left / 2), 2 * len(energies))
        if width > side // 2:
            return None
        more = _random(gram, width - len(energies), chance)
        basis = _orthonormal(torch.cat([basis, gram @ more], 1))
        image = gram @ basis
        energies, turn = _eigh(basis.T @ image)
    if energies[-1] <= 0:
        return None
    below = max(float(energies[0]), LEAST_BELOW * float(energies[-1]))
    basis = _complete(_amplified(gram, basis @ turn, image @ turn, below))
    energies, turn = _eigh(basis.T @ (gram @ basis))
    too_few = int((energies > floor).sum()) * LEAST_ROOM > len(energies)
    return None if too_few else (energies, basis @ turn)


def _random(gram: Tensor, width: int, chance: torch.Generator) -> Tensor:
    dtype, device = gram.dtype, gram.device
    return torch.randn(len(gram), width, generator=chance, dtype=dtype, device=device)


def _amplified(gram: Tensor, basis: Tensor, image: Tensor, below: float) -> Tensor:
    """Approximate eigenvectors `basis`, whose product with `gram` is `image`, times a Chebyshev
    polynomial of it: directions of eigenvalues up to `below` stay, others grow by far more than
    by as many powers (Zhou et al., J. Comput. Phys. 219, 2006). Columns of length one."""
    last, this = basis, image * (2 / below) - basis
    for _ in range(DEGREE - 1):
        last, this = this, ((gram @ this) * (2 / below) - this) * 2 - last
    return _of_length_one(this)


def _orthonormal(columns: Tensor) -> Tensor:
    """A basis of what columns span, as good as the next iteration needs it: by their Cholesky
    factor, or by QR where they are too much alike for that."""
    columns = _of_length_one(columns)
    upper, failed = torch.linalg.cholesky_ex(columns.T @ columns, upper=True)
    if failed or float(upper.diagonal().min()) < LEAST_TURN:
        return _complete(columns)
    basis: Tensor = torch.linalg.solve_triangular(upper, columns, upper=True, left=False)
    return basis


def _complete(columns: Tensor) -> Tensor:
    """An orthonormal basis, to the last bit that float32 has."""
    basis: Tensor = torch.linalg.qr(columns)[0]
    return basis


def _of_length_one(columns: Tensor) -> Tensor:
    columns = columns / columns.abs().amax(0).clamp_min(1e-30)  # squares of which fit float32
    lengths: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return columns / lengths.clamp_min(1e-30)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in rising order and eigenvectors: in float64 where float32 does not get there, as
    it may not where many columns are zero."""
    try:
        energies, vectors = torch.linalg.eigh(matrix)
    except RuntimeError:  # LinAlgError is one
        energies, vectors = torch.linalg.eigh(matrix.double())
    return energies.to(matrix.dtype), vectors.to(matrix.dtype)
