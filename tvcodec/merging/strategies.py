"""From a method's name and settings to what it makes of each parameter."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import Tensor

from tvcodec.errors import TvqError
from tvcodec.merge.methods import MODEL
from tvcodec.merging import directions, values
from tvcodec.merging.noise import refuse_noise
from tvcodec.merging.request import Plan
from tvcodec.merging.values import Progress, Tasks, Tau

# How much of the sum of N tasks' rotated parts counts, times N. TSV-Merge takes 1 / N of a matrix's
# directions, and of weak parts those hold about twice their share (measured on two corpora).
REST = 2.0


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
            return values.model_stock_by_model(tasks, progress)
        case "model-stock":
            return values.model_stock_by_parameter(tasks)
    looked_at = _looked_at(tasks, plan)
    refuse_noise(tasks, plan.method, looked_at)
    structured = tasks.structured()
    return _with_rest(tasks, structured, looked_at, _looking(plan, structured, progress))


def _looking(plan: Plan, tasks: Tasks, progress: Progress) -> Tau:
    """By a method that looks at single values or directions."""
    settings = plan.settings
    match plan.method:
        case "tsvm":
            return directions.tsvm(tasks)
        case "iso-c":
            return directions.iso_c(tasks)
        case "ties" if settings["scope"] == MODEL:
            return values.ties_by_model(tasks, settings["density"], progress)
        case "ties":
            return values.ties_by_parameter(tasks, settings["density"])
        case "consensus":
            return values.consensus(tasks, settings["threshold"], settings["votes"])
    return values.magmax(tasks)


def _with_rest(
    tasks: Tasks, structured: Tasks, looked_at: Callable[[int], bool], looking: Tau
) -> Tau:
    """The mean, for parameters that the method leaves alone. What is coded in a rotated frame has
    no values or directions to look at, but is right in a sum: a share of that is added."""
    share = min(1.0, REST / len(tasks.terms)) * len(tasks.terms)

    def tau(number: int) -> Tensor:
        if not looked_at(number):
            return tasks.mean(number)
        merged = looking(number)
        if any(term.rotated(number) for term in tasks.terms):
            rest = tasks.mean(number).sub_(structured.mean(number))
            merged.add_(rest, alpha=share)
        return merged

    return tau


def _looked_at(tasks: Tasks, plan: Plan) -> Callable[[int], bool]:
    """Which parameters a method looks at: all, or matrices that no glob of `exclude` matches."""
    if "exclude" not in plan.settings:
        return lambda number: True
    names = [parameter.name for parameter in tasks.parameters]
    left_out = set()
    for glob in plan.settings["exclude"]:
        found = {name for name in names if name == glob or fnmatchcase(name, glob)}
        if not found:
            raise TvqError(
                f"exclude: no parameter matches {glob!r}",
                hint="tvcodec info --parameters lists them",
            )
        left_out |= found
    return lambda number: len(tasks.parameters[number].dims) == 2 and names[number] not in left_out
