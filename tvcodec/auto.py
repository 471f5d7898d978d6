"""The cheapest sum of parts that stands for one task vector of one parameter.

Every candidate is judged at its real bytes by one Lagrangian, bits + slope * distortion, where
distortion is either the squared error or what that error does to the function of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tvcodec import codec, dense, lowrank, quantize, rotated
from tvcodec.index import Extent

# A network forgives white noise in a weight matrix according to its size beside the weights
# themselves: measured, the noise of ratio r to the base model's norm costs what a shrinkage of the
# task vector by r / TOLERANCE would (text and vision encoders: 0.29 and 0.75; 0.4 suits both).
TOLERANCE = 0.6
LOOKUP_ASPECT = 16  # rows per column from which a matrix is taken for a table of embeddings
NOISE_CAP = 0.2  # noise beside the base model's norm that no choice may pass
RUNS_LOG2 = range(3, 11)
PRUNING = (1.5, 4.0)
SPECTRUM_SIDE = 8192  # no eigenproblem above this


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


@dataclass(frozen=True, slots=True)
class Choice:
    """Parts, as meant and as stored, and the matrix that they add up to; `cost` in bits."""

    contents: tuple[codec.Content, ...]
    stored: tuple[codec.Stored, ...]
    values: Tensor | None
    cost: float


def choose(
    matrix: Tensor, base_norm: float, target: Target, seed: int, lookup: bool = False
) -> Choice:
    """The best Choice for `matrix` [m, n] float32; no parts where nothing is worth its bits.

    `base_norm` is the norm of the base model's weights in the same place. A `lookup` table is read
    one row at a time, so that noise in it is never averaged out: it counts like any other error.
    """
    judge = _Judge(matrix, base_norm, target, lookup)
    best = judge.nothing()
    for contents, values in _candidates(matrix, judge, target, seed):
        choice = judge.weigh(contents, values)
        if choice.cost < best.cost:
            best = choice
    if sum(8 * len(data) for _, data in best.stored) > 16 * matrix.numel():
        half = dense.Values(matrix.to(torch.float16))
        return judge.weigh((half,), half.values.to(torch.float32))
    return best


class _Judge:
    """Turns candidates for one matrix into choices with a cost."""

    def __init__(self, matrix: Tensor, base_norm: float, target: Target, lookup: bool) -> None:
        self.matrix = matrix
        self.target = target
        self.energy = float(matrix.square().sum(dtype=torch.float64))
        self.slope = 6 / math.log(2) / target.step**2
        ratio = math.sqrt(self.energy) / base_norm if base_norm else math.inf
        by_function = target.metric == "function" and not lookup
        self.noise_weight = min(1.0, (ratio / TOLERANCE) ** 2) if by_function else 1.0
        self.noise_cap = (NOISE_CAP / ratio) ** 2 if by_function else math.inf

    def nothing(self) -> Choice:
        return Choice((), (), None, self.slope * self.energy)

    def distortion(self, gain: float, noise: float, weight: float) -> float:
        """Of a reconstruction with `gain` along the matrix and noise energy relative to it."""
        return self.energy * ((1 - gain) ** 2 + weight * noise)

    def weigh(self, contents: tuple[codec.Content, ...], values: Tensor) -> Choice:
        white = isinstance(contents[-1], rotated.Largest | rotated.Uniform)
        weight = self.noise_weight if white else 1.0
        stored = tuple(codec.store(content) for content in contents)
        bits = 8 * sum(len(data) for _, data in stored)
        along = float(torch.sum(values * self.matrix, dtype=torch.float64)) / self.energy
        power = float(values.square().sum(dtype=torch.float64)) / self.energy
        factor = 1.0 if along <= 0 else float(along**-self.target.gain)
        gain, noise = factor * along, factor**2 * (power - along**2)
        cost = bits + self.slope * self.distortion(gain, noise, weight)
        if factor != 1:
            contents = tuple(_scaled(content, factor) for content in contents)
            stored = tuple(codec.store(content) for content in contents)
            values = values * factor
        return Choice(contents, stored, values, cost)


def _candidates(
    matrix: Tensor, judge: _Judge, target: Target, seed: int
) -> Iterator[tuple[tuple[codec.Content, ...], Tensor]]:
    extent = Extent(*matrix.shape, matrix.numel())
    for contents in _shrinking(matrix, target):
        yield contents, codec.expand(contents, extent, seed)
    if target.metric == "function":
        for contents in _unbiased(matrix, judge, target, seed):
            yield contents, codec.expand(contents, extent, seed)


def _shrinking(matrix: Tensor, target: Target) -> Iterator[tuple[codec.Content, ...]]:
    """Low rank and one step for everything: dense codes, factors, factors and a residual."""
    offset = quantize.DEAD_ZONE
    yield (quantize.stage(matrix, target.step, offset),)
    if min(matrix.shape) < 2 or min(matrix.shape) > SPECTRUM_SIDE:
        return
    floor = lowrank.component_floor(matrix.shape, target.step, min(PRUNING))
    known = lowrank.spectrum(matrix, floor)
    for pruning in PRUNING:
        factors = lowrank.quantised_factors(matrix, known, target.step, pruning, offset)
        if factors is None:
            continue
        yield (factors,)
        residual = quantize.stage(matrix - factors.values(), target.step, offset)
        if residual.scale:
            yield factors, residual


def _unbiased(
    matrix: Tensor, judge: _Judge, target: Target, seed: int
) -> Iterator[tuple[codec.Content, ...]]:
    """Rotated coding at the best of its rates, alone or behind strong factors."""
    front: tuple[codec.Content, ...] = ()
    if target.factor_step and 1 < min(matrix.shape) <= SPECTRUM_SIDE:
        floor = lowrank.component_floor(matrix.shape, target.factor_step, PRUNING[1])
        known = lowrank.spectrum(matrix, floor)
        factors = lowrank.quantised_factors(
            matrix, known, target.factor_step, PRUNING[1], quantize.DEAD_ZONE
        )
        if factors is not None:
            front = (factors,)
            matrix = matrix - factors.values()
    flat = matrix.reshape(-1)
    coefficients = rotated.rotate(flat, seed, rotated.best_block_log2(flat.numel()))
    if not coefficients.any():
        return
    part = _best_largest(coefficients, judge)
    if part is not None:
        yield *front, part
    rms = float(coefficients.square().mean().sqrt())
    step = target.step / math.sqrt(judge.noise_weight) / rms
    if step < 4:
        for scale in (1.0, 0.7):
            part_uniform = rotated.keep_uniform(coefficients, step * scale, quantize.DEAD_ZONE)
            if part_uniform.gain:
                yield *front, part_uniform


def _best_largest(coefficients: Tensor, judge: _Judge) -> rotated.Largest | None:
    """The run length with the least cost; rates are fixed, so nothing needs to be packed."""
    energy = float(coefficients.square().sum(dtype=torch.float64))
    best, least = None, math.inf
    for run_log2 in RUNS_LOG2:
        if 1 << run_log2 > coefficients.shape[1]:
            break
        part = rotated.keep_largest(coefficients, run_log2)
        noise = float(part.coefficients().square().sum(dtype=torch.float64)) / energy - 1
        noise *= energy / judge.energy
        bits = part.codes.numel() * (run_log2 + 1)
        cost = bits + judge.slope * judge.distortion(1.0, noise, judge.noise_weight)
        if cost < least and noise <= judge.noise_cap:
            best, least = part, cost
    return best


def _scaled(content: codec.Content, factor: float) -> codec.Content:
    if isinstance(content, dense.Exact):
        raise TypeError("exact differences cannot be scaled")
    return content.scaled(factor)
