"""The cheapest sum of parts that stands for one task vector of one parameter.

Every candidate is judged at its real bytes by one Lagrangian, bits + slope * distortion, where
distortion is either the squared error or what that error does to the function of the network.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tvcodec.file import entropy
from tvcodec.file.index import Extent
from tvcodec.maths import dense, lowrank, quantize
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.product import Product
from tvcodec.maths.spectrum import spectrum
from tvcodec.parameter import codec, shrinking, summands, unbiased
from tvcodec.parameter.judging import Best, Candidate, Judge, Target

LEAST_BITS = 8  # of anything


class Choice(NamedTuple):
    """Parts, as meant and as stored, and the matrix [m, n] float32 that they add up to."""

    contents: tuple[summands.Content, ...]
    stored: tuple[codec.Stored, ...]
    values: Tensor | None

    @property
    def bits(self) -> int:
        return 8 * sum(len(data) for _, data in self.stored)


NOTHING = Choice((), (), None)


def choose(matrix: Tensor, base_norm: float, target: Target, seed: int) -> Choice:
    """The best Choice for `matrix` [m, n] float32; no parts where nothing is worth its bits.

    `base_norm` is the norm of the base model's weights in the same place.
    """
    judge = Judge(squared_norm(matrix), matrix.numel(), base_norm, target)
    if judge.slope * judge.energy < LEAST_BITS:
        return NOTHING
    unit = dense.unit(math.sqrt(judge.energy / matrix.numel()))
    if unit != 1.0:
        matrix, target = dense.divided(matrix, unit), target.divided(unit)
        judge = Judge(squared_norm(matrix), matrix.numel(), base_norm / unit, target)
    contents, stored = _cheapest(matrix, judge, target, seed)
    if not contents:
        return NOTHING
    if unit != 1.0:
        contents, stored = tuple(summands.scaled(content, unit) for content in contents), ()
    rows, columns = matrix.shape
    values = summands.expand(contents, Extent(rows, columns, matrix.numel()), seed)
    return Choice(contents, stored or _stored(contents), values)


def _stored(contents: tuple[summands.Content, ...]) -> tuple[codec.Stored, ...]:
    return tuple(codec.store(content, entropy.THOROUGH) for content in contents)


def choose_factors(product: Product, base_norm: float, target: Target) -> Choice:
    """The best Choice of factors alone for a thin product, whose matrix is never made: `values` is
    None. Their step is that of factors alone, or of those in front of rotated coding."""
    energy, count = product.squared_norm(), math.prod(product.shape)
    unit = dense.unit(math.sqrt(energy / count))
    product, target = product.scaled(1 / unit), target.divided(unit)
    energy = energy / unit**2
    judge = Judge(energy, count, base_norm / unit, target)
    best: tuple[summands.Content, ...] = ()
    least = judge.slope * energy
    pruning = shrinking.least_pruning(product.shape, judge)
    own = shrinking.COARSER * judge.shrinking_step
    steps = {own, target.factor_step or own}
    known = spectrum(product, lowrank.component_floor(product.shape, min(steps), pruning))
    for step in sorted(steps):
        fitted = lowrank.fitted_factors(
            product, known, step, pruning, shrinking.NEAREST, shrinking.FITS
        )
        if fitted is None:
            continue
        factors, _ = fitted
        lost = product.minus(factors.product()).squared_norm() / energy
        groups, bits = shrinking.cheapest_split(factors)
        candidate = Candidate(groups, 1 - lost, lost)
        if (cost := judge.cost(bits, candidate)) < least:
            best, least = judge.corrected(candidate), cost
    contents = tuple(summands.scaled(content, unit) for content in best)
    return Choice(contents, _stored(contents), None)


def _cheapest(
    matrix: Tensor, judge: Judge, target: Target, seed: int
) -> tuple[tuple[summands.Content, ...], tuple[codec.Stored, ...]]:
    """The parts of least cost, and as stored if they are known so; none where nothing is worth its
    bits."""
    found = Best(judge)
    if judge.noise_weight == 1 or not unbiased.consider(matrix, found, target, seed):
        shrinking.consider(matrix, found)
    best, size, least = None, 0.0, judge.slope * judge.energy
    kept: tuple[codec.Stored, ...] = ()
    for candidate, bits in found.near:
        stored: tuple[codec.Stored, ...] = ()
        if len(found.near) > 1:
            stored = _stored(candidate.contents)
            bits = 8 * sum(len(data) for _, data in stored)
        if (cost := judge.cost(bits, candidate)) < least:
            best, size, least, kept = candidate, bits, cost, stored
    if best is None:
        return (), ()
    if size > 16 * matrix.numel():
        return (_two_bytes_each(matrix),), ()
    contents = judge.corrected(best)
    return contents, kept if contents is best.contents else ()


def _two_bytes_each(matrix: Tensor) -> dense.Values | quantize.Stage:
    """Float16 values, or codes of 16 bits where those are closer: half precision has no room for
    the very large and the very small."""
    half = dense.Values(matrix.to(torch.float16))
    codes = quantize.stage(matrix, float(matrix.abs().max()) / 32767, 0.5)
    lost = squared_norm(half.values.to(torch.float32) - matrix)
    return half if lost <= squared_norm(codes.values() - matrix) else codes
