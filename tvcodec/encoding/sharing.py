"""Vectors that tasks share under the auto codec, where real bytes say that they pay.

The task vectors of one parameter are turned into their principal vectors: those of the strongest
eigenvalues of their inner products are coded once, and what they leave of each task on its own.
For unrelated tasks that is no gain, and they stay as they are. Under the metric "function" nothing
is shared: the noise that it allows would be the same in all tasks, and stay in their merges.

Sharing makes errors smaller, too. Where only the bytes shall be, vectors are shared at coarser
steps, and what a task then misses of the error that it has alone it makes up for itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.file.index import VECTORS_MAX, Exact
from tvcodec.maths.dense import inner_product, squared_norm
from tvcodec.parameter import auto
from tvcodec.parameter.judging import Target
from tvcodec.parameter.one_task import Coded, changed_rows
from tvcodec.parameter.recipes import Recipe
from tvcodec.parameter.shrinking import RECORD

LEAST_GAIN = 0.02  # below, what tasks share is not worth reading it for one of them
COARSER = (1.0, 1.6, 2.5, 4.0, 6.4)  # than alone, steps tried under bounds, while that saves bytes
FINER = 10  # steps tried for a task that loses too much
LEAST_FINER = 1.25
CLOSE = 1 - 1e-6  # of a bound: sums of squares differ in their last digits
WITHIN_STEP = 4.0  # 0.5 log2(1 + this * energy in squared steps): bits of a value, about


@dataclass(frozen=True, slots=True)
class Sharing:
    """The auto codec for several tasks at once, as a recipe of families: `rank` vectors are shared;
    `steps` has the step of each task, and `directions` [tasks, rank] are the eigenvectors. With
    `bounds`, squared errors, no task may lose more."""

    recipes: tuple[Recipe, ...]
    steps: tuple[float, ...]
    directions: Tensor
    bounds: tuple[float, ...] | None = None

    def share(self, family: Family) -> Tensor | None:
        """Codes the principal vectors, each of what the ones before it left."""
        step = math.sqrt(sum(step**2 for step in self.steps) / len(self.steps))
        target = Target(step)
        for column in self.directions.T.tolist():
            wanted = torch.zeros_like(family.left[0])
            for left, factor, own in zip(family.left, column, self.steps, strict=True):
                wanted.add_(left, alpha=factor * step / own)
            choice = auto.choose(wanted, 0.0, target, family.number)
            if not choice.contents:
                break
            vector = family.share(wanted, Sum(choice.contents))
            energy = squared_norm(vector)
            for task, left in enumerate(family.left):
                family.take(task, vector, inner_product(vector, left) / energy)
        return None

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        """What is left of a task, of the rows that it changed."""
        target = self.recipes[task].target(family.rms[task])
        _, _, rows = changed_rows(tau)
        left = family.left[task]
        kept = left if rows is None else left[rows]
        choice = auto.choose(kept, 0.0, target, family.number)
        if self.bounds:
            choice = _within(self.bounds[task], kept, choice, target, family.number)
        mask = None
        if rows is not None:
            mask = torch.zeros(len(tau), dtype=torch.bool)
            mask[rows] = True
        return Sum(choice.contents, mask)

    def pays(
        self,
        vectors: Sequence[Coded],
        tasks: Sequence[Coded],
        known_vectors: Sequence[Coded],
        known_tasks: Sequence[Coded],
    ) -> bool:
        """Whether these shared vectors, and what tasks then store, are worth more than those known
        so far."""
        most = (1 - LEAST_GAIN) * self._cost(known_vectors, known_tasks)
        return self._cost(vectors, tasks) < most

    def _cost(self, vectors: Sequence[Coded], tasks: Sequence[Coded]) -> float:
        """The Lagrangian of the auto codec: bits, and the errors of all tasks; under bounds, bits
        alone."""
        bits = 8 * sum(_bytes(coded) for coded in (*vectors, *tasks))
        if self.bounds:
            kept = all(map(operator.le, (coded.lost for coded in tasks), self.bounds))
            return bits if kept else math.inf
        slope = 6 / math.log(2)
        pairs = zip(tasks, self.steps, strict=True)
        return bits + slope * sum(coded.lost / step**2 for coded, step in pairs)


def promising(
    recipes: Sequence[Recipe],
    rms: Sequence[float],
    alone: Sequence[Coded],
    gram: Tensor,
    count: int,
    bounded: bool = False,
) -> Sharing | None:
    """How tasks could share something of a parameter of `count` values; None where they have too
    little in common. `alone` is how each is coded on its own, `gram` [n, n] are inner products; if
    `bounded`, no task may lose more than alone."""
    if not all(map(_shareable, alone)) or (bounded and not all(coded.lost for coded in alone)):
        return None
    steps = torch.tensor(
        [recipe.step * one for recipe, one in zip(recipes, rms, strict=True)], dtype=torch.float64
    )
    unit = gram / (steps[:, None] * steps * count)
    energies, directions = torch.linalg.eigh(unit)
    energies, directions = energies.flip(0).clamp_min(0), directions.flip(1)
    explained = (energies * directions.square()).cumsum(1)
    left = (unit.diagonal()[:, None] - explained).clamp_min(0)
    costs = _bits(energies).cumsum(0) + _bits(left).sum(0)
    rank = int(costs[:VECTORS_MAX].argmin()) + 1
    if not float(costs[rank - 1]) < (1 - LEAST_GAIN) * float(_bits(unit.diagonal()).sum()):
        return None
    bounds = tuple(coded.lost for coded in alone) if bounded else None
    return Sharing(tuple(recipes), tuple(steps.tolist()), directions[:, :rank], bounds)


def _within(
    bound: float, matrix: Tensor, choice: auto.Choice, target: Target, seed: int
) -> auto.Choice:
    """The choice for `matrix` at the first of ever finer steps that loses `bound` at most."""
    for _ in range(FINER):
        values = choice.values
        lost = squared_norm(matrix if values is None else matrix - values)
        if lost <= CLOSE * bound:
            break
        target = target.divided(max(math.sqrt(lost / bound), LEAST_FINER))
        choice = auto.choose(matrix, 0.0, target, seed)
    return choice


def _shareable(coded: Coded) -> bool:
    """Neither kept bit for bit nor one of the small parameters."""
    return coded.member is None and not (coded.entry and isinstance(coded.entry.parts[0], Exact))


def _bytes(coded: Coded) -> int:
    return len(coded.section) + RECORD if coded.entry else 0


def _bits(energies: Tensor) -> Tensor:
    return torch.log2(1 + WITHIN_STEP * energies) / 2
