"""One parameter of one task: from its task vector to the records and bytes of a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tvcodec import auto, codec, dense, quantize
from tvcodec.index import ROWS, Entry, Mask, Part, SmallMember, single
from tvcodec.recipes import Recipe

SMALL = 4096  # values up to which a parameter is coded finely, together with the other small ones
SMALL_STEP = 0.5  # of the small parameters' own root mean square, at most
SYMBOL_MAX = 127
EXACT_FROM = 2.0  # bits per value below which no bit-exact difference can compete


@dataclass(frozen=True, slots=True)
class Coded:
    """A parameter of a task as it goes into the file, and what was lost.

    `section` with `entry` is a section of its own; `codes` with `member` goes with the small ones.
    `values` is what a reader will see, shaped like the parameter; None where that is all zeros.
    """

    lost: float  # squared error
    values: Tensor | None
    entry: Entry | None = None
    section: bytes = b""
    member: SmallMember | None = None
    codes: Tensor | None = None


def encode_exact(number: int, fine_tune: Tensor, base: Tensor, norm: float) -> Coded:
    """Bit-exact; both tensors of the fine-tune's dtype and one shape."""
    part, data = codec.store(dense.exact_difference(fine_tune, base))
    entry = Entry(number, single(norm), 0.0, 1.0, None, (part,), len(data), 0)
    values = task_vector(fine_tune, base).nan_to_num_(0, 0, 0)
    return Coded(0.0, values, entry, data)


def encode(number: int, fine_tune: Tensor, base: Tensor, recipe: Recipe, rms: float) -> Coded:
    """By the auto codec; or bit-exact where that is no larger. The tensors differ and have one
    shape; `rms` is the root mean square of the task's whole task vector."""
    tau = task_vector(fine_tune, base)
    if tau.numel() <= SMALL or tau.dim() < 2:
        coded = _encode_small(number, tau, recipe)
        if coded is not None:
            return coded
    coded = _encode_matrix(number, tau, base, recipe, rms)
    if 8 * len(coded.section) > EXACT_FROM * tau.numel():
        norm = _rms(tau) * math.sqrt(tau.numel())
        del tau
        exact = encode_exact(number, fine_tune, base.to(fine_tune.dtype), norm)
        if len(exact.section) <= len(coded.section):
            return exact
    return coded


def task_vector(fine_tune: Tensor, base: Tensor) -> Tensor:
    """fine_tune - base in float32, for float tensors of one shape; differences of float64 are
    taken in float64."""
    if torch.float64 in (fine_tune.dtype, base.dtype):
        return (fine_tune.double() - base.double()).float()
    return fine_tune.to(torch.float32, copy=True).sub_(base)


def _encode_small(number: int, tau: Tensor, recipe: Recipe) -> Coded | None:
    own = _rms(tau)
    step = own * min(SMALL_STEP, recipe.step / 4)
    stage = quantize.stage(tau.reshape(-1), step, 0.5)
    if int(stage.codes.abs().max()) > SYMBOL_MAX or not stage.scale:
        return None
    values = stage.values().view_as(tau)
    lost, error, gain = _fidelity(tau, values)
    norm = own * math.sqrt(tau.numel())
    member = SmallMember(number, single(norm), single(error), single(gain), stage.scale)
    return Coded(lost, values, member=member, codes=stage.codes)


def _encode_matrix(number: int, tau: Tensor, base: Tensor, recipe: Recipe, rms: float) -> Coded:
    matrix = tau.reshape(tau.shape[0], -1) if tau.dim() else tau.reshape(1, 1)
    mask, mask_bytes, rows = _row_mask(matrix)
    kept = matrix if rows is None else matrix[rows]
    base_norm = _norm_of_rows(base.reshape(matrix.shape), rows)
    lookup = rows is not None or matrix.shape[0] >= auto.LOOKUP_ASPECT * matrix.shape[1]
    choice = auto.choose(kept, base_norm, recipe.target(rms), number, lookup)
    if not choice.stored:
        return Coded(float(tau.square().sum(dtype=torch.float64)), None)
    values = choice.values
    if rows is not None and values is not None:
        values = torch.zeros_like(matrix).index_copy_(0, rows, values)
    assert values is not None
    values = values.view(tau.shape)
    parts: tuple[Part, ...] = tuple(part for part, _ in choice.stored)
    section = mask_bytes + b"".join(data for _, data in choice.stored)
    lost, error, gain = _fidelity(tau, values)
    norm = _rms(tau) * math.sqrt(tau.numel())
    entry = Entry(number, single(norm), single(error), single(gain), mask, parts, len(section), 0)
    return Coded(lost, values, entry, section)


def _row_mask(matrix: Tensor) -> tuple[Mask | None, bytes, Tensor | None]:
    """The rows that changed, where enough did not for a bit each to pay."""
    changed = matrix.any(1)
    rows = int(changed.sum())
    if (len(changed) - rows) * matrix.shape[1] < 64 * len(changed) or rows == len(changed):
        return None, b"", None
    stream, data = codec.store_bits(changed, 1)
    return Mask(ROWS, rows, stream), data, changed.nonzero()[:, 0]


def _norm_of_rows(weights: Tensor, rows: Tensor | None) -> float:
    norms = torch.linalg.vector_norm(weights, dim=1, dtype=torch.float32)
    return float(torch.linalg.vector_norm(norms if rows is None else norms[rows]))


def _fidelity(tau: Tensor, values: Tensor) -> tuple[float, float, float]:
    """Squared error, error relative to the norm of tau, and gain along tau."""
    energy = float(tau.square().sum(dtype=torch.float64))
    lost = float((values - tau).square_().sum(dtype=torch.float64))
    gain = float(torch.sum(values * tau, dtype=torch.float64)) / energy
    return lost, math.sqrt(lost / energy), gain


def _rms(values: Tensor) -> float:
    return math.sqrt(float(values.square().mean(dtype=torch.float64)))
