"""What a candidate for a matrix of a task vector costs: bits, and what its error does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from tvcodec.parameter import summands

# A network forgives white noise in a weight matrix according to its size beside the weights
# themselves: noise of ratio r to the base model's norm costs what shrinking the task vector by
# r / TOLERANCE would (measured: 0.29 on a text encoder, 0.75 on a vision model).
TOLERANCE = 0.6
NOISE_CAP = 0.2  # noise beside the base model's norm that no choice may pass
NEAR = 1.06  # of the least cost, by quick compression
NOISE_FLOOR = 1 / 1000  # what noise costs at least, however small it is beside the weights


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


class Candidate(NamedTuple):
    """Parts with what they do, in units of the matrix's energy: inner product with the matrix,
    squared error; whether that error is white noise."""

    contents: tuple[summands.Content, ...]
    along: float
    lost: float
    white: bool = False


class Judge:
    """What an error in one matrix costs."""

    def __init__(self, energy: float, count: int, base_norm: float, target: Target) -> None:
        self.energy = energy
        self.exponent = target.gain
        self.step = target.step
        emphasis = 1.0  # how much more an error costs than one of plain squared error at this step
        ratio = math.sqrt(self.energy) / base_norm if base_norm else math.inf
        if target.metric == "function" and target.rms and self.energy:
            # what a parameter does to the function grows less than its energy: measured, the root
            emphasis *= target.rms * math.sqrt(count / self.energy)
            # and a task vector that is large beside the weights bears less of the same error
            emphasis *= (1 + min(ratio, 1.0)) ** 1.5
        self.slope = emphasis * 6 / math.log(2) / self.step**2
        # what shrinks has the step whose errors cost as much as plain squared error does at it
        self.shrinking_step = self.step / math.sqrt(emphasis)
        self.noise_weight = 1.0
        self.noise_cap = math.inf
        if target.metric == "function" and ratio:
            self.noise_weight = min(1.0, max((ratio / TOLERANCE) ** 2, NOISE_FLOOR))
            self.noise_cap = (NOISE_CAP / ratio) ** 2

    def cost(self, bits: float, candidate: Candidate) -> float:
        """The Lagrangian of a candidate, after its correction."""
        factor = self._factor(candidate)
        gain = factor * candidate.along
        power = 2 * candidate.along - 1 + candidate.lost
        noise = max(factor**2 * (power - candidate.along**2), 0.0)
        weight = self.noise_weight if candidate.white else 1.0
        return bits + self.slope * self.energy * ((1 - gain) ** 2 + weight * noise)

    def corrected(self, candidate: Candidate) -> tuple[summands.Content, ...]:
        """The candidate's parts, scaled by (1 / gain) to the power asked for."""
        factor = self._factor(candidate)
        if factor == 1.0:
            return candidate.contents
        return tuple(summands.scaled(content, factor) for content in candidate.contents)

    def _factor(self, candidate: Candidate) -> float:
        if candidate.white or not self.exponent or candidate.along <= 0:
            return 1.0
        return float(candidate.along**-self.exponent)


class Best:
    """The least cost so far, at most that of storing nothing, and the candidates that come `near`
    it, with their bits: quick to find, and so not to be told apart by a few per cent."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.cost = judge.slope * judge.energy
        self.near: list[tuple[Candidate, float]] = []

    def consider(self, candidate: Candidate, bits: float) -> None:
        """Takes a candidate that is stored in so many bits."""
        self.cost = min(self.cost, self.judge.cost(bits, candidate))
        found = (*self.near, (candidate, bits))
        self.near = [one for one in found if self.judge.cost(one[1], one[0]) < NEAR * self.cost]
