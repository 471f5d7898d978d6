"""One parameter of all tasks, by a recipe that looks at them together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor

from tvcodec.family import Family, Sum
from tvcodec.masks import Masks
from tvcodec.parameter import Coded, encode_exact
from tvcodec.recipes import Recipe
from tvcodec.sharing import promising
from tvcodec.spool import SharedSpool, Spool
from tvcodec.survey import Survey, TaskSurvey


class Joint(Protocol):
    """A recipe of several tasks at once."""

    def share(self, family: Family) -> Tensor | None:
        """Stores what the tasks of a family share; what `code` has to know of it."""

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        """A task's own parts; `tau` is its whole task vector [rows, columns]."""


Run = Callable[[Callable[[int], Coded], Iterable[int]], Iterable[Coded]]


def encode(
    found: Survey,
    number: int,
    run: Run,
    recipe: Joint,
    masks: Masks,
    shared: SharedSpool,
    spools: Sequence[Spool],
) -> None:
    """Puts a parameter of all tasks where it belongs. Each task vector is held once and read twice;
    `run` is `map`, or does several at a time."""
    for task, spool in zip(found.tasks, spools, strict=True):
        if task.energies.get(number) == 0:  # zeros of another sign, which only bits tell apart
            read = functools.partial(task.read, number, found.base, found.base_model[number])
            spool.put(encode_exact(number, read, 0.0))
    members = [n for n, task in enumerate(found.tasks) if task.energies.get(number)]
    if not members:
        return

    def first_read(member: int) -> Tensor:
        tau = _tau(found, found.tasks[member], number)
        spools[member].sketch.add(tau, number)
        return tau

    taus = (first_read(member) for member in members)
    family = _family(found, number, members, taus, masks, shared.put)
    coded = _encode(found, run, recipe, family)
    shared.describe(number, family.basis)
    for member, one in zip(members, coded, strict=True):
        spools[member].put(one)


def shared_instead(
    found: Survey, number: int, run: Run, recipe: Recipe, alone: Sequence[Coded | None]
) -> tuple[Sequence[Coded], Sequence[Coded | None]]:
    """Shared vectors of a parameter and what each task then stores, or none and `alone`, how tasks
    are coded on their own, where that costs no more. The task vectors in `alone` are used up."""
    members = [n for n, coded in enumerate(alone) if coded is not None]
    each = [coded for coded in alone if coded is not None]
    taus = [coded.tau for coded in each if isinstance(coded.tau, Tensor)]
    if len(taus) < 2:
        return (), alone
    extent = found.base_model[number].extent
    matrices = [tau.view(extent.rows, -1) for tau in taus]
    vectors: list[Coded] = []
    family = _family(found, number, members, matrices, Masks(), vectors.append)
    sharing = promising(recipe, family.rms, each, family.gram(), extent.count)
    if sharing is None:
        return (), alone
    together = list(_encode(found, run, sharing, family))
    if not sharing.pays(vectors, together, each):
        return (), alone
    tasks: list[Coded | None] = [None] * len(alone)
    for member, coded in zip(members, together, strict=True):
        tasks[member] = coded
    return vectors, tasks


def _family(
    found: Survey,
    number: int,
    members: Sequence[int],
    taus: Iterable[Tensor],
    masks: Masks,
    sink: Callable[[Coded], None],
) -> Family:
    tasks = [(found.tasks[n].name, found.tasks[n].rms) for n in members]
    return Family(number, found.base_model[number], tasks, taus, len(found.tasks), masks, sink)


def _encode(found: Survey, run: Run, recipe: Joint, family: Family) -> Iterable[Coded]:
    """What each task of a family stores, after what they share."""
    surveyed = {task.name: task for task in found.tasks}
    common = recipe.share(family)

    def finish(task: int) -> Coded:
        tau = _tau(found, surveyed[family.tasks[task]], family.number)
        return family.finish(task, tau, recipe.code(family, task, tau, common))

    return run(finish, range(len(family.tasks)))


def _tau(found: Survey, task: TaskSurvey, number: int) -> Tensor:
    parameter = found.base_model[number]
    return task.tau(number, found.base, parameter).reshape(parameter.extent.rows, -1)
