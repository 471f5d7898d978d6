"""Orthogonal polar factors of thin matrices, from their Gram matrices.

The polar factor of A = P D Q^T is P Q^T = A (A^T A)^(-1/2). An eigendecomposition of the small
symmetric matrix is a fraction of the work of a singular value decomposition of A; it is float64,
since a Gram matrix squares the condition of A.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUTOFF = 1e-6  # share of the largest singular value under which a direction is rounding noise
INDEPENDENT = 0.03  # least part of a column that others lack, for digits enough to be left
CHUNK = 4096  # rows that are float64 at a time


def gram(matrix: Tensor) -> Tensor:
    """matrix^T matrix in float64, [n, n] of a matrix [m, n]."""
    total = matrix.new_zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for rows in torch.split(matrix, CHUNK):
        exact = rows.to(torch.float64)
        total.addmm_(exact.T, exact)
    return total


def product(matrix: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """matrix @ right, computed in float64 and rounded once."""
    pieces = [(rows.to(torch.float64) @ right).to(dtype) for rows in torch.split(matrix, CHUNK)]
    return torch.cat(pieces)


def orthonormal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Q with orthonormal columns and R with Q R = matrix [m, n], both float64.

    By a Cholesky decomposition, R^T R, of the Gram matrix of the columns in units of their norms,
    which costs a few products; by Householder reflections where columns are too much alike for
    that.
    """
    norms = torch.linalg.vector_norm(matrix, dim=0)
    if matrix.numel() and bool((norms > 0).all()):
        unit = matrix / norms
        core, failed = torch.linalg.cholesky_ex(unit.T @ unit, upper=True)
        if not failed and float(core.diagonal().min()) > INDEPENDENT:
            frame = torch.linalg.solve_triangular(core, unit, upper=True, left=False)
            return frame, core * norms
    frame, core = torch.linalg.qr(matrix)
    return frame, core


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values above the cutoff, descending, and their right vectors [n, r], of the matrix
    behind a Gram matrix [n, n]."""
    if not gram.numel():
        return gram.new_zeros(0), gram
    energies, vectors = torch.linalg.eigh(gram)
    sigma = energies.clamp_min(0).sqrt().flip(0)
    rank = int((sigma > CUTOFF * sigma[0]).sum())
    return sigma[:rank], vectors.flip(1)[:, :rank]


def inverse_root(gram: Tensor) -> Tensor:
    """gram^(-1/2) on the directions above the cutoff, zero on the others.

    So a matrix without full rank has the polar factor of what rank it has, where a decomposition
    fills in arbitrary directions.
    """
    sigma, vectors = spectrum(gram)
    return (vectors / sigma) @ vectors.T
