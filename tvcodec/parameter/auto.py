"""The cheapest sum of parts that stands for one task vector of one parameter.

Every candidate is judged at its real bytes by one Lagrangian, bits + slope * distortion, where
distortion is either the squared error or what that error does to the function of the network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tvcodec.file import entropy
from tvcodec.file.index import Extent
from tvcodec.maths import dense, lowrank, quantize, rotated
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.product import Product
from tvcodec.parameter import codec, summands

# A network forgives white noise in a weight matrix according to its size beside the weights
# themselves: noise of ratio r to the base model's norm costs what shrinking the task vector by
# r / TOLERANCE would (measured: 0.29 on a text encoder, 0.75 on a vision model).
TOLERANCE = 0.6
NOISE_CAP = 0.2  # noise beside the base model's norm that no choice may pass
NOISE_FLOOR = 1 / 1000  # what noise costs at least, however small it is beside the weights
FRONT_PRUNING = 4.0
RUNS_LOG2 = range(3, 11)
LEAST_BITS = 8  # of anything
RECORD = 24  # bytes that one more part takes in an index
PRUNING = (1.5, 4.0, 60.0)  # from "any gain" to "stands out of noise"
COARSEST_STEP = 4.0  # of codes in the rotated frame; beyond, the largest of a run is better


@dataclass(frozen=True, slots=True)
class Target:
    """What one task asks of each of its parameters.

    `step` is absolute; `gain` is the exponent of the correction by 1 / gain under the metric
    "mse"; `factor_step` puts factors of that step in front of rotated coding.
    """

    step: float
    metric: str = "mse"
    gain: float = 0.0
    factor_step: float | None = None
    rms: float = 0.0

    def divided(self, by: float) -> Target:
        """The same for a matrix in units of `by`."""
        factor_step = self.factor_step / by if self.factor_step else None
        return replace(self, step=self.step / by, factor_step=factor_step, rms=self.rms / by)


class Choice(NamedTuple):
    """Parts, as meant and as stored, and the matrix [m, n] float32 that they add up to."""

    contents: tuple[summands.Content, ...]
    stored: tuple[codec.Stored, ...]
    values: Tensor | None

    @property
    def bits(self) -> int:
        return 8 * sum(len(data) for _, data in self.stored)


class _Candidate(NamedTuple):
    """Parts with what they do, in units of the matrix's energy: inner product with the matrix,
    squared error; whether that error is white noise."""

    contents: tuple[summands.Content, ...]
    along: float
    lost: float
    white: bool = False


NOTHING = Choice((), (), None)


def choose(matrix: Tensor, base_norm: float, target: Target, seed: int) -> Choice:
    """The best Choice for `matrix` [m, n] float32; no parts where nothing is worth its bits.

    `base_norm` is the norm of the base model's weights in the same place.
    """
    judge = _Judge(squared_norm(matrix), matrix.numel(), base_norm, target)
    if judge.slope * judge.energy < LEAST_BITS:
        return NOTHING
    unit = dense.unit(math.sqrt(judge.energy / matrix.numel()))
    if unit != 1.0:
        matrix, target = dense.divided(matrix, unit), target.divided(unit)
        judge = _Judge(squared_norm(matrix), matrix.numel(), base_norm / unit, target)
    contents = _cheapest(matrix, judge, target, seed)
    if not contents:
        return NOTHING
    contents = tuple(summands.scaled(content, unit) for content in contents)
    stored = tuple(codec.store(content, entropy.THOROUGH) for content in contents)
    rows, columns = matrix.shape
    values = summands.expand(contents, Extent(rows, columns, matrix.numel()), seed)
    return Choice(contents, stored, values)


def choose_factors(product: Product, base_norm: float, target: Target) -> Choice:
    """The best Choice of factors alone for a thin product, whose matrix is never made: `values` is
    None. Their step is that of residuals, or of factors in front of rotated coding."""
    energy, count = product.squared_norm(), math.prod(product.shape)
    unit = dense.unit(math.sqrt(energy / count))
    product, target = product.scaled(1 / unit), target.divided(unit)
    energy = energy / unit**2
    judge = _Judge(energy, count, base_norm / unit, target)
    best, least = NOTHING, judge.slope * energy
    steps = {judge.step, target.factor_step or judge.step}
    floor = lowrank.component_floor(product.shape, min(steps), min(PRUNING))
    known = lowrank.spectrum(product, floor)
    for step, pruning in itertools.product(sorted(steps), PRUNING):
        factors = lowrank.quantised_factors(product, known, step, pruning, quantize.DEAD_ZONE)
        if factors is None:
            continue
        lost = product.minus(factors.product()).squared_norm() / energy
        candidate = _Candidate(_cheapest_split(factors), 1 - lost, lost)
        contents = judge.corrected(candidate)
        stored = tuple(codec.store(content) for content in contents)
        choice = Choice(contents, stored, None)
        if (cost := judge.cost(choice.bits, candidate)) < least:
            best, least = choice, cost
    contents = tuple(summands.scaled(content, unit) for content in best.contents)
    stored = tuple(codec.store(content, entropy.THOROUGH) for content in contents)
    return Choice(contents, stored, None)


def _cheapest(
    matrix: Tensor, judge: _Judge, target: Target, seed: int
) -> tuple[summands.Content, ...]:
    """The parts of least cost; none where nothing is worth its bits."""
    best, least = NOTHING, judge.slope * judge.energy
    for candidate in _candidates(matrix, judge, target, seed):
        contents = judge.corrected(candidate)
        choice = Choice(contents, tuple(codec.store(content) for content in contents), None)
        cost = judge.cost(choice.bits, candidate)
        if cost < least:
            best, least = choice, cost
    return (_two_bytes_each(matrix),) if best.bits > 16 * matrix.numel() else best.contents


def _two_bytes_each(matrix: Tensor) -> dense.Values | quantize.Stage:
    """Float16 values, or codes of 16 bits where those are closer: half precision has no room for
    the very large and the very small."""
    half = dense.Values(matrix.to(torch.float16))
    codes = quantize.stage(matrix, float(matrix.abs().max()) / 32767, 0.5)
    lost = squared_norm(half.values.to(torch.float32) - matrix)
    return half if lost <= squared_norm(codes.values() - matrix) else codes


class _Judge:
    """What an error in one matrix costs."""

    def __init__(self, energy: float, count: int, base_norm: float, target: Target) -> None:
        self.energy = energy
        self.exponent = target.gain
        self.step = target.step
        self.slope = 6 / math.log(2) / self.step**2
        ratio = math.sqrt(self.energy) / base_norm if base_norm else math.inf
        if target.metric == "function" and target.rms and self.energy:
            # what a parameter does to the function grows less than its energy: measured, the root
            self.slope *= target.rms * math.sqrt(count / self.energy)
            # and a task vector that is large beside the weights bears less of the same error
            self.slope *= (1 + min(ratio, 1.0)) ** 1.5
        self.noise_weight = 1.0
        self.noise_cap = math.inf
        if target.metric == "function" and ratio:
            self.noise_weight = min(1.0, max((ratio / TOLERANCE) ** 2, NOISE_FLOOR))
            self.noise_cap = (NOISE_CAP / ratio) ** 2

    def cost(self, bits: float, candidate: _Candidate) -> float:
        """The Lagrangian of a candidate, after its correction."""
        factor = self._factor(candidate)
        gain = factor * candidate.along
        power = 2 * candidate.along - 1 + candidate.lost
        noise = max(factor**2 * (power - candidate.along**2), 0.0)
        weight = self.noise_weight if candidate.white else 1.0
        return bits + self.slope * self.energy * ((1 - gain) ** 2 + weight * noise)

    def corrected(self, candidate: _Candidate) -> tuple[summands.Content, ...]:
        """The candidate's parts, scaled by (1 / gain) to the power asked for."""
        factor = self._factor(candidate)
        return tuple(summands.scaled(content, factor) for content in candidate.contents)

    def _factor(self, candidate: _Candidate) -> float:
        if candidate.white or not self.exponent or candidate.along <= 0:
            return 1.0
        return float(candidate.along**-self.exponent)


def _candidates(matrix: Tensor, judge: _Judge, target: Target, seed: int) -> Iterator[_Candidate]:
    steps = [judge.step, target.factor_step or judge.step]
    known = None
    if min(matrix.shape) > 1:
        rows, columns = matrix.shape
        floor = lowrank.component_floor((rows, columns), min(steps), min(PRUNING))
        known = lowrank.spectrum(matrix, floor)
    yield from _shrinking(matrix, known, judge.energy, judge.step)
    if judge.noise_weight < 1:
        yield from _unbiased(matrix, known, judge, target, seed)


def _shrinking(
    matrix: Tensor, known: lowrank.Spectrum | None, energy: float, step: float
) -> Iterator[_Candidate]:
    """Low rank and one step for everything: dense codes, factors, factors and a residual."""
    offset = quantize.DEAD_ZONE
    stage = quantize.stage(matrix, step, offset)
    if stage.scale:
        captured = stage.scale**2 * squared_norm(stage.codes.to(torch.float32)) / energy
        yield _Candidate((stage,), captured, 1 - captured)
    if known is None:
        return
    ranks = set()
    for pruning in PRUNING:
        factors = lowrank.quantised_factors(matrix, known, step, pruning, offset)
        if factors is None or len(factors.scales) in ranks:
            continue
        ranks.add(len(factors.scales))
        yield from _with_residual(matrix, factors, energy, step)


def _with_residual(
    matrix: Tensor, factors: lowrank.Factors, energy: float, step: float
) -> Iterator[_Candidate]:
    groups = _cheapest_split(factors)
    residual = factors.add_to(matrix.clone(), -1.0)
    lost = squared_norm(residual) / energy
    # least-squares scales leave a residual orthogonal to what they scale
    yield _Candidate(groups, 1 - lost, lost)
    stage = quantize.stage(residual, step, quantize.DEAD_ZONE)
    del residual
    if stage.scale:
        lost -= stage.scale**2 * squared_norm(stage.codes.to(torch.float32)) / energy
        yield _Candidate((*groups, stage), 1 - lost, lost)


def _cheapest_split(factors: lowrank.Factors) -> tuple[lowrank.Factors, ...]:
    """One part, or several by the size of their codes: whichever takes fewer bytes."""
    groups = factors.split()
    if len(groups) > 1:
        together = len(codec.store(factors)[1])
        apart = sum(len(codec.store(group)[1]) + RECORD for group in groups[1:])
        if together <= apart + len(codec.store(groups[0])[1]):
            return (factors,)
    return groups


def _unbiased(
    matrix: Tensor, known: lowrank.Spectrum | None, judge: _Judge, target: Target, seed: int
) -> Iterator[_Candidate]:
    """Rotated coding at the best of its rates, alone or behind strong factors."""
    front: tuple[summands.Content, ...] = ()
    if target.factor_step and known is not None:
        factors = lowrank.quantised_factors(
            matrix, known, target.factor_step, FRONT_PRUNING, quantize.DEAD_ZONE
        )
        if factors is not None:
            front = _cheapest_split(factors)
            matrix = factors.add_to(matrix.clone(), -1.0)
    flat = matrix.reshape(-1)
    coefficients = rotated.rotate(flat, seed, rotated.best_block_log2(flat.numel()))
    share = squared_norm(coefficients) / judge.energy
    if not share:
        return
    best = _best_largest(coefficients, share, judge)
    if best is not None:
        yield best._replace(contents=(*front, *best.contents))
    rms = math.sqrt(share * judge.energy / coefficients.numel())
    step = judge.step / math.sqrt(judge.noise_weight) / rms
    if step < COARSEST_STEP:
        uniform = rotated.keep_uniform(coefficients, step, quantize.DEAD_ZONE)
        noise = squared_norm(uniform.coefficients()) / judge.energy - share
        if uniform.gain and noise <= judge.noise_cap:
            yield _Candidate((*front, uniform), 1.0, noise, white=True)


def _best_largest(coefficients: Tensor, share: float, judge: _Judge) -> _Candidate | None:
    """The run length with the least cost; rates are fixed, so nothing needs to be packed."""
    best, least = None, math.inf
    for run_log2 in RUNS_LOG2:
        if 1 << run_log2 > coefficients.shape[1]:
            break
        part = rotated.keep_largest(coefficients, run_log2)
        noise = part.squared_norm() / judge.energy - share
        candidate = _Candidate((part,), 1.0, noise, white=True)
        cost = judge.cost(part.codes.numel() * (run_log2 + 1), candidate)
        if cost < least and noise <= judge.noise_cap:
            best, least = candidate, cost
    return best
