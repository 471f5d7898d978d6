"""One parameter of one task: from its task vector to the records and bytes of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.file import entropy
from tvcodec.file.index import ROWS, Entry, Mask, Part, SmallMember, single
from tvcodec.maths import dense, lowrank, quantize
from tvcodec.maths.product import Product
from tvcodec.parameter import auto, codec
from tvcodec.parameter.recipes import Recipe
from tvcodec.parameter.summands import Content

SMALL = 4096  # values up to which a parameter is coded finely, together with the other small ones
SMALL_STEP = 1.0  # of the small parameters' own root mean square, at most
SMALL_SHARE = {"mse": 0.45, "function": 0.5}  # of the recipe's step, by metric
SYMBOL_MAX = 127
MASKED = 0.75  # of the rows, up to which a mask of those that have codes is tried
EXACT_FROM = 2.0  # bits per value below which no bit-exact difference can compete


Read = Callable[[], tuple[Tensor, Tensor]]
"""Reads a parameter's fine-tune and base model, of one shape; again each time it is called, so that
neither has to stay in memory."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A parameter of a task as it goes into the file, and what was lost.

    `section` with `entry` is a section of its own; `codes` with `member` goes with the small ones.
    `tau` is the task vector itself, where whoever asked has none; `sums` is what the task's sketch
    takes of it.
    """

    lost: float  # squared error
    tau: Tensor | Product | None = None
    entry: Entry | None = None
    section: bytes = b""
    member: SmallMember | None = None
    codes: Tensor | None = None
    sums: Tensor | None = None


def encode_exact(number: int, read: Read, norm: float) -> Coded:
    """Bit-exact; `norm` is that of the task vector."""
    part, data = codec.store(_difference(*read()))
    entry = Entry(number, single(norm), 0.0, 1.0, None, (part,), len(data), 0)
    tau = dense.task_vector(*read()).nan_to_num_(0, 0, 0)
    return Coded(0.0, tau, entry, data)


def _difference(fine_tune: Tensor, base: Tensor) -> dense.Exact:
    return dense.exact_difference(fine_tune, dense.converted(base, fine_tune.dtype))


def encode(number: int, read: Read, recipe: Recipe, rms: float) -> Coded:
    """By the auto codec; or bit-exact where that is no larger. The tensors differ; `rms` is the
    root mean square of the task's whole task vector."""
    fine_tune, base = read()
    tau = dense.task_vector(fine_tune, base)
    if tau.numel() <= SMALL or tau.dim() < 2:
        coded = _encode_small(number, tau, recipe)
        if coded is not None:
            return coded
    norms = _row_norms(base)
    del fine_tune, base
    coded = _encode_matrix(number, tau, norms, recipe, rms)
    if 8 * len(coded.section) > EXACT_FROM * tau.numel():
        norm = _rms(tau) * math.sqrt(tau.numel())
        del tau
        exact = encode_exact(number, read, norm)
        if len(exact.section) <= len(coded.section):
            return exact
    return coded


def encode_product(number: int, tau: Product, base: Tensor, recipe: Recipe, rms: float) -> Coded:
    """A thin product by its factors; the matrix itself is never made."""
    base_norm = float(torch.linalg.vector_norm(_row_norms(base)))
    choice = auto.choose_factors(tau, base_norm, recipe.target(rms))
    energy = tau.squared_norm()
    if not choice.stored:
        return Coded(energy, tau)
    factors = [item.product() for item in choice.contents if isinstance(item, lowrank.Factors)]
    values = Product.total(factors)
    lost = tau.minus(values).squared_norm()
    error, gain = math.sqrt(lost / energy), values.inner_product(tau) / energy
    section = b"".join(data for _, data in choice.stored)
    parts: tuple[Part, ...] = tuple(part for part, _ in choice.stored)
    norms = single(math.sqrt(energy)), single(error), single(gain)
    return Coded(lost, tau, Entry(number, *norms, None, parts, len(section), 0), section)


def _encode_small(number: int, tau: Tensor, recipe: Recipe) -> Coded | None:
    own = _rms(tau)
    step = own * min(SMALL_STEP, recipe.step * SMALL_SHARE[recipe.metric])
    unit = dense.unit(own)
    stage = quantize.stage(dense.divided(tau.reshape(-1), unit), step / unit, 0.5).scaled(unit)
    if int(stage.codes.abs().max()) > SYMBOL_MAX or not stage.scale:
        return None
    values = stage.values().view_as(tau)
    norm = own * math.sqrt(tau.numel())
    lost, error, gain = _fidelity(tau, values, norm**2)
    member = SmallMember(number, single(norm), single(error), single(gain), stage.scale)
    return Coded(lost, tau, member=member, codes=stage.codes)


def _encode_matrix(number: int, tau: Tensor, norms: Tensor, recipe: Recipe, rms: float) -> Coded:
    matrix = tau.reshape(tau.shape[0], -1) if tau.dim() else tau.reshape(1, 1)
    mask, mask_bytes, rows = changed_rows(matrix)
    kept = matrix if rows is None else matrix[rows]
    base_norm = float(torch.linalg.vector_norm(norms if rows is None else norms[rows]))
    choice = auto.choose(kept, base_norm, recipe.target(rms), number)
    energy = dense.squared_norm(tau)
    if choice.values is None:
        return Coded(energy, tau)
    values = choice.values
    if rows is not None:
        values = torch.zeros_like(matrix).index_copy_(0, rows, values)
    values = values.view(tau.shape)
    lost, error, gain = _fidelity(tau, values, energy)
    fidelity = single(math.sqrt(energy)), single(error), single(gain)
    section = mask_bytes + b"".join(data for _, data in choice.stored)
    parts: tuple[Part, ...] = tuple(part for part, _ in choice.stored)
    if (fewer := _coded_rows(choice.contents, rows, len(matrix))) and len(fewer[2]) < len(section):
        mask, parts, section = fewer
    entry = Entry(number, *fidelity, mask, parts, len(section), 0)
    return Coded(lost, tau, entry, section)


def changed_rows(matrix: Tensor) -> tuple[Mask | None, bytes, Tensor | None]:
    """The rows that changed, where enough did not for a bit each to pay."""
    changed = torch.linalg.vector_norm(matrix, dim=1) > 0
    if not changed.all():  # squares may be too small for float32
        changed[~changed] = matrix[~changed].any(1)
    rows = int(changed.sum())
    if (len(changed) - rows) * matrix.shape[1] < 64 * len(changed) or rows == len(changed):
        return None, b"", None
    return *_mask(changed), changed.nonzero()[:, 0]


def _mask(kept: Tensor) -> tuple[Mask, bytes]:
    stream, data = codec.store_bits(kept, 1)
    return Mask(ROWS, int(kept.sum()), stream), data


def _coded_rows(
    contents: Sequence[Content], rows: Tensor | None, count: int
) -> tuple[Mask, tuple[Part, ...], bytes] | None:
    """The parts of those rows alone that codes say anything of, of `count` in all or those numbered
    `rows`; None where these are nearly all, or the parts do not tell one row from another."""
    coded = None
    for content in contents:
        if not isinstance(content, lowrank.Factors | quantize.Stage):
            return None
        codes = content.left if isinstance(content, lowrank.Factors) else content.codes
        coded = codes.any(1) if coded is None else coded | codes.any(1)
    if coded is None or int(coded.sum()) > MASKED * len(coded):
        return None
    kept = coded
    if rows is not None:
        kept = torch.zeros(count, dtype=torch.bool).index_copy_(0, rows, coded)
    mask, data = _mask(kept)
    stored = [codec.store(_rows_of(content, coded), entropy.THOROUGH) for content in contents]
    return (
        mask,
        tuple(part for part, _ in stored),
        b"".join([data, *(found for _, found in stored)]),
    )


def _rows_of(content: Content, coded: Tensor) -> Content:
    if isinstance(content, lowrank.Factors):
        return replace(content, left=content.left[coded])
    assert isinstance(content, quantize.Stage)
    return replace(content, codes=content.codes[coded])


def _row_norms(weights: Tensor) -> Tensor:
    """Norm of each row of the base model's parameter."""
    matrix = weights.reshape(weights.shape[0], -1) if weights.dim() else weights.reshape(1, 1)
    wide = None if weights.element_size() >= 4 else torch.float32
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=wide)
    return norms


def _fidelity(tau: Tensor, values: Tensor, energy: float) -> tuple[float, float, float]:
    """Squared error, error relative to the norm of tau, whose square is `energy`, and gain along
    tau; uses up `values`."""
    gain = dense.inner_product(values, tau) / energy
    lost = dense.squared_norm(values.sub_(tau))
    return lost, math.sqrt(lost / energy), gain


def _rms(values: Tensor) -> float:
    return math.sqrt(dense.squared_norm(values) / values.numel())
