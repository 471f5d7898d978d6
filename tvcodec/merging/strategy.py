"""From a method's name and settings to what it makes of each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tvcodec.errors import TvqError
from tvcodec.merge import model_stock
from tvcodec.merge.methods import MODEL
from tvcodec.merging import directions, values
from tvcodec.merging.noise import refuse_noise
from tvcodec.merging.request import Plan, gram
from tvcodec.merging.values import Progress, Tasks, Tau


def strategy(plan: Plan, tasks: Tasks, progress: Progress) -> Tau:
    """The merged task vector by parameter, not yet scaled. Raises TvqError for tasks that the
    method can make nothing of."""
    settings = plan.settings
    match plan.method:
        case "weighted":
            return tasks.total
        case "dare":
            return values.dare(tasks, settings["rate"], settings["seed"])
        case "model-stock" if settings["scope"] == MODEL:
            share = model_stock.share(_signed(tasks))
            return lambda number: tasks.mean(number).mul_(share)
        case "model-stock":
            return values.model_stock(tasks)
        case "tsvm" | "iso-c":
            is_matrix = _matrices(tasks, settings["exclude"])
            refuse_noise(tasks, plan.method, is_matrix)
            merge = directions.tsvm if plan.method == "tsvm" else directions.iso_c
            return merge(tasks, is_matrix)
    refuse_noise(tasks, plan.method, lambda number: True)
    structured = tasks.structured()
    match plan.method:
        case "ties" if settings["scope"] == MODEL:
            return values.ties_by_model(structured, settings["density"], progress)
        case "ties":
            return values.ties_by_parameter(structured, settings["density"])
        case "consensus":
            return values.consensus(structured, settings["threshold"], settings["votes"])
    return values.magmax(structured)


def _signed(tasks: Tasks) -> list[list[float]]:
    """The Gram matrix of task vectors with their factors, which turn some around."""
    factors = [term.factor for term in tasks.terms]
    return [
        [value * math.copysign(1, a * b) for value, b in zip(row, factors, strict=True)]
        for row, a in zip(gram(tasks.terms), factors, strict=True)
    ]


def _matrices(tasks: Tasks, exclude: Sequence[str]) -> directions.IsMatrix:
    """Which parameters are matrices that no glob of `exclude` matches."""
    names = [parameter.name for parameter in tasks.parameters]
    left_out = set()
    for glob in exclude:
        found = {name for name in names if name == glob or fnmatchcase(name, glob)}
        if not found:
            raise TvqError(
                f"exclude: no parameter matches {glob!r}",
                hint="tvcodec info --parameters lists them",
            )
        left_out |= found
    return lambda n: len(tasks.parameters[n].dims) == 2 and names[n] not in left_out
