"""Merges of tasks of one or more files, computed parameter by parameter when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.merging.card import called, write_card
from tvcodec.decoding.merging.request import Plan, Request, resolved
from tvcodec.decoding.merging.strategies import strategy
from tvcodec.decoding.merging.values import Progress, Tasks, Tau
from tvcodec.decoding.model import Model
from tvcodec.decoding.task_vector import Term
from tvcodec.maths import dense

__all__ = ["Request", "merged_model", "merged_task_vector"]


def merged_model(
    held: Mapping[str, Term], base: BaseModel, request: Request, progress: Progress
) -> Model:
    """The base model plus what the request makes of the tasks `held`, in the base model's dtypes.

    `progress` is told of values that are read before the first parameter can be merged, where the
    method has to. Raises TvqError for a request that means nothing or that the tasks cannot serve.
    """
    plan, tasks, tau = _prepared(held, base, request, progress)
    numbers = tasks.numbers

    def compute(name: str) -> Tensor:
        original = base.copy(numbers[name])
        if not tasks.changed(numbers[name]):
            return original
        return dense.fine_tune(original, tau(numbers[name]), original.dtype, reuse=True)

    shapes = {parameter.name: (parameter.dtype, parameter.dims) for parameter in tasks.parameters}
    model = Model(shapes, compute, {**plan.metadata, **_origin(tasks, base)}, base.directory)
    model.beside = lambda directory: write_card(directory, model.metadata)
    return model


def _origin(tasks: Tasks, base: BaseModel) -> dict[str, str]:
    """What the base model is called, where it has a name, and the root digests of the files, by
    name, or by path where files have one name."""
    archives = {id(term.task.archive): term.task.archive for term in tasks.terms}.values()
    roots: dict[str, str] = {}
    for one in archives:
        name, number = Path(one.path).name, 1
        while (unique := name if number == 1 else f"{name} ({number})") in roots:
            number += 1
        roots[unique] = one.container.root_digest.hex()
    origin = {"tvcodec.archives": json.dumps(roots, sort_keys=True)}
    place = base.directory or base.checkpoint.path
    return origin if place is None else {**origin, "tvcodec.base_model": json.dumps(called(place))}


def merged_task_vector(
    held: Mapping[str, Term], base: BaseModel | None, request: Request, progress: Progress
) -> Model:
    """What `merged_model` adds to the base model: float32 tensors for all parameters that a task
    changed. `base` is needed where parameters are stored bit-exact."""
    plan, tasks, tau = _prepared(held, base, request, progress)
    shapes = {
        parameter.name: ("float32", parameter.dims)
        for number, parameter in enumerate(tasks.parameters)
        if tasks.changed(number)
    }
    return Model(shapes, lambda name: tau(tasks.numbers[name]), plan.metadata)


def _prepared(
    held: Mapping[str, Term], base: BaseModel | None, request: Request, progress: Progress
) -> tuple[Plan, Tasks, Tau]:
    plan = resolved(request, held)
    tasks = Tasks(plan.terms, base)
    tau = strategy(plan, tasks, progress)
    if plan.scaling == 1:
        return plan, tasks, tau
    return plan, tasks, lambda number: tau(number).mul_(plan.scaling)
