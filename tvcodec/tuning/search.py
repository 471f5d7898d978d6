"""The smallest size at which a task still passes a test that costs much: what to try, in which
order.

Along a line of settings that differ in their step, size falls with the step, and a test that a step
passes is passed by finer ones, as a rule. So the coarsest step that passes is bracketed and
bisected. A further line is tested where it takes a little less than the smallest setting that
passed so far: if it fails there, it has nothing to offer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from tvcodec.parameter.recipes import LEAST_STEP, QUALITIES, Recipe

LINES = (
    QUALITIES["small"],
    QUALITIES["balanced"],
    Recipe(step=2.0),
    Recipe(step=2.0, gain=0.5),
)
CLOSE = 1.2  # ratio of steps between which nothing is tried
COARSEST = 64.0
STRIDES = 3  # how many times a step is doubled or halved in search of a bracket
SMALLER = 0.97  # of the smallest size so far: what is worth a test
AIM = (0.88, 0.93, SMALLER)  # at which size a further line is tested first, of the smallest so far
EXPONENT = 1.7  # about how size falls with the step
SIZINGS = 4  # how many steps are sized to hit it
HARDLY = 0.97  # of the size at one step: what a coarser one should take less than


class Spent(Exception):
    """There shall be no further test."""


def smallest(
    size: Callable[[Recipe], int],
    passes: Callable[[Recipe], bool],
    lines: Sequence[Recipe] = LINES,
) -> Recipe | None:
    """The setting of least `size` among those found to pass; None where none was. `passes` ends the
    search by raising Spent."""
    search = _Search(size, passes)
    with suppress(Spent):
        for line in lines:
            search.explore(line)
    return search.best


class _Search:
    def __init__(self, size: Callable[[Recipe], int], passes: Callable[[Recipe], bool]) -> None:
        self.size, self.passes = size, passes
        self.best: Recipe | None = None
        self.least = math.inf

    def explore(self, line: Recipe) -> None:
        """Tests settings on one line."""
        if self.best is None:
            self._bracket(line, line.step, 2.0)
        elif start := self._below(line):
            self._bracket(line, start, math.sqrt(2.0))

    def _bracket(self, line: Recipe, start: float, stride: float) -> None:
        """Looks for a step that passes beside one that does not, then between the two."""
        first = self.best is None
        good = self._good(line.at_step(start))
        if not good and not first:
            return  # all finer steps are too large
        step = start
        for _ in range(STRIDES):
            beyond = _rounded(step * stride if good else step / stride)
            if self._good(line.at_step(beyond)) != good:
                self._bisect(line, *sorted((step, beyond)))
                return
            step = beyond

    def _bisect(self, line: Recipe, fine: float, coarse: float) -> None:
        while coarse / fine > CLOSE:
            middle = _rounded(math.sqrt(fine * coarse))
            if self._good(line.at_step(middle)):
                fine = middle
            else:
                coarse = middle

    def _good(self, recipe: Recipe) -> bool:
        """Whether a coarser step may be better: this one passes, or is too large anyway."""
        size = self.size(recipe)
        if size >= SMALLER * self.least:
            return True
        if not self.passes(recipe):
            return False
        self.best, self.least = recipe, size
        return True

    def _below(self, line: Recipe) -> float | None:
        """The finest step found at which a line takes less than the smallest setting so far."""
        step, found, before = line.step, math.inf, math.inf
        low, aim, high = (share * self.least for share in AIM)
        for _ in range(SIZINGS):
            size = self.size(line.at_step(step))
            if size < high:
                found = min(found, step)
            if low <= size < high or HARDLY * before < size <= before:
                break
            before = size
            factor = (size / aim) ** (1 / EXPONENT)
            step = _rounded(step * min(max(factor, 0.25), 4.0))
        return found if found < math.inf else None


def _rounded(step: float) -> float:
    """To four digits, which is how settings are written down."""
    return float(f"{min(max(step, LEAST_STEP), COARSEST):.4g}")
