"""How much each task counts in a merge."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tvcodec.errors import TvqError, UnknownTaskError

TEMPERATURE = 5.0
LARGEST = 1e6  # weight or scaling that any merge can want


def uniform(tasks: Sequence[str]) -> dict[str, float]:
    """1 / N for each of the N tasks."""
    return {task: 1 / len(tasks) for task in tasks}


def by_performance(
    accuracy: Mapping[str, float], tasks: Sequence[str], temperature: float = TEMPERATURE
) -> dict[str, float]:
    """softmax(accuracy / temperature) over `tasks`; accuracies are shares in 0..1.

    Raises TvqError where a task has no accuracy or one outside 0..1 (SVD-Hybrid gives a missing
    task the highest weight, and percentages make one winner take all).
    """
    if not temperature > 0:
        raise TvqError(f"expected a temperature above 0, got {temperature}")
    missing = [task for task in tasks if task not in accuracy]
    if missing:
        raise TvqError(
            f"expected an accuracy for every task, got none for {', '.join(missing)}",
            hint="add it, or name the tasks to merge with --tasks",
        )
    for task in tasks:
        if not 0 <= accuracy[task] <= 1:
            raise TvqError(
                f"task {task!r}: expected an accuracy in 0..1, got {accuracy[task]}",
                hint="divide percentages by 100",
            )
    most = max((accuracy[task] for task in tasks), default=0.0)  # keeps powers in 0..1
    powers = {task: math.exp((accuracy[task] - most) / temperature) for task in tasks}
    total = sum(powers.values())
    return {task: power / total for task, power in powers.items()}


def read_performance(path: Path) -> dict[str, float]:
    """The accuracies of a JSON file {"task": accuracy}; TvqError where it is anything else."""
    try:
        loaded = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TvqError(f"{path}: expected JSON, got {error}") from None
    numbers = isinstance(loaded, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in loaded.values()
    )
    if not numbers:
        raise TvqError(f'{path}: expected {{"task": accuracy, ...}}, got something else')
    try:
        return {task: float(value) for task, value in loaded.items()}
    except OverflowError as error:
        raise TvqError(f"{path}: expected accuracies in 0..1, got {error}") from None


def parse(text: str, tasks: Sequence[str], temperature: float = TEMPERATURE) -> dict[str, float]:
    """The weights that `text` asks for: "uniform", "cars=0.4,dtd=0.6" or the path of a performance
    file. Tasks that an explicit list leaves out are not merged."""
    if text == "uniform":
        return uniform(tasks)
    if "=" not in text and not os.path.isfile(text):
        raise TvqError(
            f"weights: {text or repr(text)}: no such file",
            hint="expected uniform, TASK=NUMBER,TASK=NUMBER or a JSON file {task: accuracy}",
        )
    if os.path.isfile(text):
        return by_performance(read_performance(Path(text)), tasks, temperature)
    weights: dict[str, float] = {}
    for pair in text.split(","):
        task, _, number = pair.strip().partition("=")
        if task in weights:
            raise TvqError(f"weights: task {task!r} is given twice")
        try:
            weights[task] = float(number)
        except ValueError:
            raise TvqError(
                f"weights: expected TASK=NUMBER, got {pair.strip()!r}",
                hint="write them as cars=0.4,dtd=0.6",
            ) from None
    return checked(weights, tasks)


def checked(weights: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """`weights`, if they name known tasks and a model is left after them."""
    for task, weight in weights.items():
        if task not in tasks:
            raise UnknownTaskError(
                f"weights: no task {task!r}", hint=f"there is {', '.join(tasks)}"
            )
        _check_range(weight, f"weights: task {task!r}")
    return dict(weights)


def checked_scaling(scaling: float) -> float:
    """`scaling`, if a model is left after it."""
    _check_range(scaling, "scaling")
    return scaling


def _check_range(number: float, where: str) -> None:
    if not abs(number) <= LARGEST:  # NaN too
        raise TvqError(
            f"{where}: expected a number in {-LARGEST:g}..{LARGEST:g}, got {number}",
            hint="weights and scalings of merges are about 1",
        )
