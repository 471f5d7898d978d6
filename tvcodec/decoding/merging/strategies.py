"""From a method's name and settings to what it makes of each parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor

from tvcodec.decoding.merging import directions, values
from tvcodec.decoding.merging.noise import refuse_noise
from tvcodec.decoding.merging.request import Plan
from tvcodec.decoding.merging.ties_by_model import ties_by_model
from tvcodec.decoding.merging.values import Progress, Tasks, Tau
from tvcodec.decoding.task_vector import Term
from tvcodec.errors import TvqError
from tvcodec.maths.merge.methods import MODEL

# How much of the sum of N tasks' rotated parts counts, times N. TSV-Merge takes 1 / N of a matrix's
# directions, and of weak parts those hold about twice their share (measured on two corpora).
REST = 2.0
# Energy of the noise beside that of a task's matrix from which its directions are better not looked
# at. Measured: at 0.4 to 2 (vit8) looking loses 1.1 points less, at 4 to 28 (text4) 1.0 more.
DROWNED = 3.0


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
    share = min(1.0, REST / len(tasks.terms)) * len(tasks.terms)
    if plan.method == "ties" and settings["scope"] == MODEL:
        return ties_by_model(tasks, settings["density"], share, progress)
    return _with_rest(tasks, plan, looked_at, share)


def _looking(plan: Plan, tasks: Tasks) -> Tau:
    """By a method that looks at single values or directions."""
    settings = plan.settings
    match plan.method:
        case "tsvm":
            return directions.tsvm(tasks)
        case "iso-c":
            return directions.iso_c(tasks)
        case "ties":
            return values.ties_by_parameter(tasks, settings["density"])
        case "consensus":
            return values.consensus(tasks, settings["threshold"], settings["votes"])
    return values.magmax(tasks)


def _with_rest(tasks: Tasks, plan: Plan, looked_at: Callable[[int], bool], share: float) -> Tau:
    """The mean, for parameters that the method leaves alone. Of what it does not see, for being
    coded in a rotated frame, `share` of the mean is added: it is right in a sum."""

    def tau(number: int) -> Tensor:
        if not looked_at(number):
            return tasks.mean(number)
        read = tasks.read(number)
        seen = Tasks([_seen(plan.method, term, number) for term in read.terms], tasks.base)
        merged = _looking(plan, seen)(number)
        if any(term.structured for term in seen.terms):
            merged.add_(read.mean(number).sub_(seen.mean(number)), alpha=share)
        return merged

    return tau


def _seen(method: str, term: Term, number: int) -> Term:
    """What a method sees of a task's parameter. Single values see no rotated parts. Iso-C does,
    having the directions of the sum, in which noise averages out; of single tasks TSV-Merge has
    those that noise does not drown."""
    drowned = method != "tsvm" or term.task.noise(number) > DROWNED
    if method == "iso-c" or not drowned or not term.rotated(number):
        return term
    return replace(term, structured=True)


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
