"""A piece coded by a recipe: each task alone, or all of them together."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace

from tvcodec.encoding import joint
from tvcodec.encoding.masks import Masks
from tvcodec.encoding.piece import Piece, Pieces
from tvcodec.encoding.published import Published
from tvcodec.encoding.survey import Spread
from tvcodec.maths import sketch
from tvcodec.parameter import one_task
from tvcodec.parameter.one_task import Coded
from tvcodec.parameter.recipes import Recipe

ALONE = 1 << 22  # values from which memory for one parameter at a time is all there should be
Unit = tuple[int, Sequence[int]]
"""Numbers of a parameter and of tasks."""
Answer = tuple[Iterable[Coded | None], joint.Basis | None]
"""What each task of a piece stores, and the basis."""
Sink = Callable[[Coded], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How pieces are coded. `recipe` is one for each task of a piece, or a published one for all of
    them; `share` lets tasks have vectors in common, if `bounded` with no task farther off than
    alone. Sketches have so many `bits`; 0: none."""

    recipe: tuple[Recipe, ...] | Published
    bits: int
    share: bool = False
    bounded: bool = False
    masks: Masks = field(default_factory=Masks)

    @property
    def joint(self) -> bool:
        """Whether a piece has to have all tasks."""
        return self.share or isinstance(self.recipe, Published)

    def of(self, tasks: Sequence[int]) -> Plan:
        """For pieces that have only those tasks."""
        if isinstance(self.recipe, Published):
            return self
        return replace(self, recipe=tuple(self.recipe[task] for task in tasks))

    def elsewhere(self, name: str) -> Plan:
        """The same for another process and a single parameter."""
        return replace(self, masks=self.masks.elsewhere(name))


def shares(recipe: Recipe | Published) -> bool:
    """Whether tasks may have vectors in common by a recipe that codes each of them alone."""
    return (
        isinstance(recipe, Recipe) and recipe.share and recipe.metric == "mse" and not recipe.exact
    )


def units(plan: Plan, numbers: Iterable[int], tasks: Sequence[int]) -> Iterator[Unit]:
    """What can be coded apart from each other: parameters, and tasks if the plan lets them."""
    for number in numbers:
        yield from [(number, tasks)] if plan.joint else [(number, (task,)) for task in tasks]


def here(
    pool: Executor, jobs: int, pieces: Pieces, plan: Plan, parts: Iterable[Unit], sink: Sink
) -> Iterator[Answer]:
    """What units come to, in their order; `sink` is given the vectors that tasks share. Of large
    parameters one task is in memory at a time, of others `jobs`."""
    begun: deque[Future[Answer]] = deque()
    for number, tasks in parts:
        piece, own = pieces.of(number, tasks), plan.of(tasks)
        large = piece.parameter.count >= ALONE
        while begun and (large or plan.joint or len(begun) >= 2 * jobs):
            yield begun.popleft().result()
        if plan.joint or large:
            yield code(piece, own, map if large else pool.map, sink)
        else:
            begun.append(pool.submit(_finished, piece, own, sink))
    while begun:
        yield begun.popleft().result()


def _finished(piece: Piece, plan: Plan, sink: Sink) -> Answer:
    coding, basis = code(piece, plan, map, sink)
    return list(coding), basis


@dataclass(frozen=True, slots=True)
class Errand:
    """A unit to be coded by another process."""

    piece: Piece
    plan: Plan

    def elsewhere(self) -> Errand:
        """As the other process may know it."""
        piece = self.piece.elsewhere()
        return Errand(piece, self.plan.elsewhere(piece.parameter.name))

    def __call__(self) -> tuple[Answer, list[Coded]]:
        """The answer, and the vectors that tasks share."""
        vectors: list[Coded] = []
        coding, basis = _finished(self.piece, self.plan, vectors.append)
        return ([one and replace(one, tau=None) for one in coding], basis), vectors


def there(
    spread: Spread, pieces: Pieces, plan: Plan, parts: Iterable[Unit], sink: Sink
) -> Iterator[Answer]:
    """As `here`, by errands that `spread` has run."""
    errands = (Errand(pieces.of(number, tasks), plan.of(tasks)) for number, tasks in parts)
    for answer, vectors in spread(errands):
        for vector in vectors:
            sink(vector)
        yield answer


def code(piece: Piece, plan: Plan, run: joint.Run, sink: Sink) -> Answer:
    """What each task of a piece stores (None where nothing changed), and the basis if the recipe
    has one. `sink` is given the shared vectors; `run` is `map`, or does several at a time."""
    if isinstance(plan.recipe, Published):
        return joint.encode(piece, run, plan.recipe, plan.masks, plan.bits, sink)
    recipes = plan.recipe
    share = plan.share and not any(task.thin for task in piece.tasks)

    def code_one(task: int) -> Coded | None:
        coded = _alone(piece, task, recipes[task])
        if coded is None or coded.tau is None:
            return coded
        sums = sketch.sums(coded.tau, piece.number, plan.bits) if plan.bits else None
        # task vectors of all tasks would add up
        return replace(coded, sums=sums, tau=coded.tau if share else None)

    coding: Iterable[Coded | None] = run(code_one, range(len(piece.tasks)))
    if share:
        vectors, coding = joint.shared_instead(piece, run, recipes, list(coding), plan.bounded)
        for vector in vectors:
            sink(vector)
    return coding, None


def _alone(piece: Piece, task: int, recipe: Recipe) -> Coded | None:
    changed = piece.tasks[task]
    if changed.energy is None:
        return None
    read = functools.partial(piece.read, task)
    if recipe.exact or not changed.energy:
        return one_task.encode_exact(piece.number, read, math.sqrt(changed.energy))
    product = piece.product(task)
    if product is not None:
        base = piece.base.tensor(piece.parameter.name)
        return one_task.encode_product(piece.number, product, base, recipe, changed.rms)
    return one_task.encode(piece.number, read, recipe, changed.rms)
