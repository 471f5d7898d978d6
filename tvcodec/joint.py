"""One parameter of all tasks, by a recipe that looks at them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tvcodec.dense import task_vector
from tvcodec.family import Family, Sum
from tvcodec.masks import Masks
from tvcodec.parameter import Coded
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
    gram: Tensor,
) -> None:
    """Puts a parameter of all tasks where it belongs, and adds their inner products to the lower
    triangle of `gram`. Each task vector is held once and read twice; `run` is `map`, or does
    several at a time."""
    members = [n for n, task in enumerate(found.tasks) if number in task.energies]
    if not members:
        return
    tasks = [found.tasks[n] for n in members]
    family = Family(
        number,
        found.base_model[number],
        [(task.name, task.rms) for task in tasks],
        [_tau(found, task, number) for task in tasks],
        len(found.tasks),
        masks,
    )
    at = torch.tensor(members)
    gram[at[:, None], at] += family.gram.tril(-1)
    common = recipe.share(family)
    shared.put(number, family.vectors, family.basis)

    def finish(task: int) -> Coded:
        tau = _tau(found, tasks[task], number)
        return family.finish(task, tau, recipe.code(family, task, tau, common))

    for member, coded in zip(members, run(finish, range(len(tasks))), strict=True):
        spools[member].put(coded)


def _tau(found: Survey, task: TaskSurvey, number: int) -> Tensor:
    parameter = found.base_model[number]
    tau = task_vector(*task.read(number, found.base, parameter))
    return tau.reshape(parameter.extent.rows, -1)
