"""What is asked of a merge, and what that comes to for the tasks there are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvcodec.decoding.task_vector import Term
from tvcodec.errors import TvqError, UnknownTaskError
from tvcodec.maths.merge import methods
from tvcodec.maths.merge import weights as merge_weights
from tvcodec.wording import meant


@dataclass(frozen=True, slots=True)
class Request:
    """A method with its options (see `methods.METHODS`; None: the default), for some tasks or, with
    None, all. `scaling` is a number that multiplies the merged task vector, or one for each task;
    tasks in `negate` count with the opposite sign."""

    method: str
    options: Mapping[str, Any]
    tasks: Sequence[str] | None
    scaling: float | Mapping[str, float]
    negate: Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms of a merge in order of their names, what the merged task vector is multiplied by,
    the method's settings, and all that as text."""

    method: str
    settings: Mapping[str, Any]
    terms: Sequence[Term]
    scaling: float
    metadata: Mapping[str, str]


def resolved(request: Request, held: Mapping[str, Term]) -> Plan:
    """The plan for a request on tasks of `held`. Raises TvqError for what means nothing, or nothing
    for the method, and UnknownTaskError."""
    settings = methods.settings(request.method, request.options)
    names = _chosen(request.tasks, held)
    weights = _weights(settings, names, held) if "weights" in settings else None
    names = names if weights is None else list(weights)
    factors = dict.fromkeys(names, 1.0) if weights is None else weights
    for task in _negated(request.negate, names):
        factors[task] *= -1
    scaling = _scaling(request.scaling, names)
    if isinstance(scaling, dict):
        factors = {name: factor * scaling[name] for name, factor in factors.items()}
        scaling = 1.0
    if request.method == "weighted":  # rounded once, and only what counts is read
        factors = {name: factor * scaling for name, factor in factors.items()}
        factors = {name: factor for name, factor in factors.items() if factor} or factors
        scaling = 1.0
    terms = [held[name].times(factor) for name, factor in factors.items()]
    metadata = _metadata(request, settings, names, weights)
    return Plan(request.method, settings, terms, scaling, metadata)


def gram(terms: Sequence[Term]) -> list[list[float]]:
    """Inner products of whole task vectors as their file keeps them, factors left out. Raises
    TvqError where they are of several files, or the file does not keep them."""
    archives = {id(term.task.archive): term.task.archive for term in terms}
    if len(archives) > 1:
        paths = ", ".join(archive.path for archive in archives.values())
        raise TvqError(
            f"no inner products are known of task vectors of different files: {paths}",
            hint="encode the tasks into one file",
        )
    (archive,) = archives.values()
    whole = archive.gram() or [[1.0]]
    if len(whole) != len(archive.tasks):
        raise TvqError(
            f"{archive.path}: does not say how alike its tasks are",
            hint="choose another method or weights, or encode the tasks again",
        )
    at = [archive.tasks.index(term.task.name) for term in terms]
    return [[whole[i][j] for j in at] for i in at]


def _chosen(tasks: Sequence[str] | None, held: Mapping[str, Term]) -> list[str]:
    if tasks is None:
        return sorted(held)
    _refuse_text("tasks", tasks)
    if not tasks:
        raise TvqError(
            "expected at least one task to merge, got none", hint="None stands for all tasks"
        )
    for task in tasks:
        if task not in held:
            files = ", ".join(dict.fromkeys(term.task.archive.path for term in held.values()))
            known = ", ".join(sorted(held)[:20])
            hint = f"{meant(task, held)}there is {known}"
            raise UnknownTaskError(f"no task {task!r} in {files}", hint)
    return sorted(set(tasks))


def _weights(
    settings: Mapping[str, Any], names: Sequence[str], held: Mapping[str, Term]
) -> merge_weights.Weights:
    given, temperature = settings["weights"], settings["temperature"]
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    found: Mapping[str, float]
    if isinstance(given, str):
        found = merge_weights.parse(
            given, names, lambda tasks: gram([held[task] for task in tasks]), temperature
        )
    elif temperature is not None:
        raise TvqError(
            "a temperature has no effect with weights that are numbers",
            hint="leave it out, or give the path of a file of accuracies",
        )
    else:
        found = merge_weights.checked(given, names)
    if not found:
        raise TvqError(
            "expected a weight for at least one task, got none",
            hint='"uniform" stands for 1/N each',
        )
    weights = merge_weights.Weights(sorted(found.items()))
    if isinstance(found, merge_weights.Weights):
        weights.clusters = found.clusters
    return weights


def _scaling(
    scaling: float | Mapping[str, float], names: Sequence[str]
) -> float | dict[str, float]:
    if isinstance(scaling, bool) or not isinstance(scaling, int | float | Mapping):
        raise TvqError(f"scaling: expected a number, or one for each task, got {scaling!r:.40}")
    if isinstance(scaling, int | float):
        merge_weights.check_range(scaling, "scaling")
        return float(scaling)
    if missing := [name for name in names if name not in scaling]:
        raise TvqError(
            f"scaling: expected one number, or one for each task, got none for"
            f" {', '.join(missing)}",
            hint="add it, or choose the tasks to merge",
        )
    return merge_weights.checked(scaling, names, "scaling")


def _refuse_text(what: str, names: Sequence[str]) -> None:
    """TvqError for a text where a list is expected, each letter of which would count as a name."""
    if isinstance(names, str):
        raise TvqError(
            f"{what}: expected a list of names, got {names!r:.40}", hint=f"write [{names!r:.40}]"
        )


def _negated(tasks: Sequence[str], names: Sequence[str]) -> set[str]:
    _refuse_text("negate", tasks)
    for task in tasks:
        if task not in names:
            raise UnknownTaskError(
                f"negate: no task {task!r}",
                hint=f"{meant(task, names)}merged are {', '.join(names)}",
            )
    return set(tasks)


def _metadata(
    request: Request,
    settings: Mapping[str, Any],
    names: Sequence[str],
    weights: merge_weights.Weights | None,
) -> dict[str, str]:
    metadata = {
        "tvcodec.merge": request.method,
        "tvcodec.scaling": json.dumps(request.scaling, sort_keys=True),
        "tvcodec.tasks": json.dumps(list(names)),
    }
    if weights is not None:  # signs included
        metadata["tvcodec.weights"] = json.dumps(weights)
        if weights.clusters:
            metadata["tvcodec.clusters"] = json.dumps(weights.clusters)
    elif request.negate:
        metadata["tvcodec.negate"] = json.dumps(sorted(set(request.negate)))
    others = {
        name: value for name, value in settings.items() if name not in ("weights", "temperature")
    }
    if others:
        metadata["tvcodec.settings"] = json.dumps(others, sort_keys=True)
    return metadata
