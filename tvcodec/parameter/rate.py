"""One step per task for a wanted size or error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvcodec.errors import TvqError

STEP_RANGE = (2.0**-10, 2.0**6)
ENOUGH = 0.01  # how close below the goal is close enough, relative
ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Goal:
    """One of: bits per parameter, bytes, or error relative to the norm of the task vector; each for
    every task on its own, so that a weak task is never drowned by a strong one. ValueError for none
    of them, or several."""

    bits: float | None = None
    size: int | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.bits, self.size, self.max_error) if value is not None]
        if len(given) != 1 or not 0 <= given[0] < math.inf:
            raise ValueError(f"expected one of bits, size and max_error, from 0, got {self}")

    def in_bytes(self, values: int) -> Goal:
        """The same for a base model of `values` values, with bits per parameter as bytes."""
        return self if self.bits is None else Goal(size=int(self.bits * values / 8))


@dataclass(frozen=True, slots=True)
class Measured:
    """What coding a task at some step gave: bytes and relative error."""

    size: int
    error: float


def find_step(goal: Goal, measure: Callable[[float], Measured]) -> float:
    """The step that comes closest to `goal` without passing it, by bisection of its logarithm: the
    smallest one for a size, the largest one for an error.

    Raises TvqError where no step reaches the goal.
    """

    def excess(got: Measured) -> float:
        """Above zero where the goal is missed; relative."""
        if goal.max_error is not None:
            return got.error / goal.max_error - 1 if goal.max_error else got.error
        assert goal.size is not None
        return got.size / max(goal.size, 1) - 1

    finer_misses = goal.max_error is None  # a size is missed by steps too fine, an error by coarse
    low, high = (math.log2(bound) for bound in STEP_RANGE)
    best: float | None = None
    got = Measured(0, 0.0)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        got = measure(2.0**middle)
        over = excess(got)
        if over <= 0:
            best = middle
            if over >= -ENOUGH:
                break
        if (over > 0) == finer_misses:
            low = middle
        else:
            high = middle
    if best is None and goal.max_error is not None:
        raise TvqError(
            f"expected a step that reaches error {goal.max_error:g} per task,"
            f" got {got.error:.3g} at the finest",
            hint="--exact has no error",
        )
    if best is None:
        raise TvqError(
            f"expected a step that reaches {goal.size} bytes per task,"
            f" got {got.size} bytes at the coarsest",
            hint="ask for more bytes",
        )
    return float(2.0**best)
