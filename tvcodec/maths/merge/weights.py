"""How much each task counts in a merge."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tvcodec.errors import TvqError, UnknownTaskError
from tvcodec.wording import meant

TEMPERATURE = 5.0
Gram = Callable[[Sequence[str]], Sequence[Sequence[float]]]
LARGEST = 1e6  # weight or scaling that any merge can want

_CLUSTER = "cluster:"
_PERFORMANCE = 'write such as {"cars": 0.85, "dtd": 0.78}: accuracies are shares'


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
        raise TvqError(f"{path}: expected JSON, got {error}", _PERFORMANCE) from None
    numbers = isinstance(loaded, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in loaded.values()
    )
    if not numbers:
        what = f'{path}: expected {{"task": accuracy, ...}}, got something else'
        raise TvqError(what, _PERFORMANCE)
    try:
        return {task: float(value) for task, value in loaded.items()}
    except OverflowError as error:
        what = f"{path}: expected accuracies in 0..1, got {error}"
        raise TvqError(what, _PERFORMANCE) from None


def of_performance(text: str) -> bool:
    """Whether `text` names a performance file, and is no other way to give weights."""
    if text == "uniform" or text.startswith(_CLUSTER):
        return False
    return "=" not in text or os.path.isfile(text)


class Weights(dict[str, float]):
    """Weight by task, and the `clusters` of tasks that they come from, if they do."""

    clusters: Sequence[Sequence[str]] = ()


def parse(
    text: str, tasks: Sequence[str], gram: Gram, temperature: float | None = None
) -> Mapping[str, float]:
    """The weights that `text` asks for: "uniform", "cars=0.4,dtd=0.6", "cluster:K" or the path of a
    performance file. Tasks that an explicit list leaves out are not merged.

    `gram` is asked for the inner products of `tasks` where clusters are wanted, which makes Weights
    of them; `temperature` is that of `by_performance`, and TvqError without one.
    """
    if of_performance(text):
        if not os.path.isfile(text):
            raise TvqError(
                f"weights: {text or repr(text)}: no such file",
                hint="expected uniform, TASK=NUMBER,TASK=NUMBER, cluster:K or a JSON file"
                " {task: accuracy}",
            )
        accuracy = read_performance(Path(text))
        return by_performance(accuracy, tasks, TEMPERATURE if temperature is None else temperature)
    if temperature is not None:
        raise TvqError(
            f"a temperature has no effect with weights {text!r}",
            hint="it is for weights from a file of accuracies",
        )
    if text.startswith(_CLUSTER):
        return _by_cluster(text.removeprefix(_CLUSTER), tasks, gram)
    return uniform(tasks) if text == "uniform" else checked(pairs(text, "weights"), tasks)


def _by_cluster(count: str, tasks: Sequence[str], gram: Gram) -> Weights:
    from tvcodec.maths.merge import clusters

    if not (count.isascii() and count.isdigit()):
        raise TvqError(
            f"weights: expected cluster:K with a number K, got {_CLUSTER + count!r}",
            hint="cluster:3 makes three clusters",
        )
    groups = clusters.groups(gram(tasks), tasks, int(count[:9]))
    found = Weights(clusters.weights(groups))
    found.clusters = groups
    return found


def pairs(text: str, what: str) -> dict[str, float]:
    """Numbers by task of a text such as "cars=0.4,dtd=0.6"; `what` they are is for messages."""
    numbers = {}
    for pair in text.split(","):
        task, _, number = pair.strip().partition("=")
        if task in numbers:
            raise TvqError(
                f"{what}: task {task!r} is given twice", hint="give each task one number"
            )
        try:
            numbers[task] = float(number)
        except ValueError:
            raise TvqError(
                f"{what}: expected TASK=NUMBER, got {pair.strip()!r}",
                hint="write them as cars=0.4,dtd=0.6",
            ) from None
    return numbers


def checked(
    numbers: Mapping[str, float], tasks: Sequence[str], what: str = "weights"
) -> dict[str, float]:
    """`numbers`, if they name known tasks and a model is left after them."""
    for task, number in numbers.items():
        if task not in tasks:
            hint = f"{meant(task, tasks)}there is {', '.join(tasks)}"
            raise UnknownTaskError(f"{what}: no task {task!r}", hint)
        check_range(number, f"{what}: task {task!r}")
    return dict(numbers)


def check_range(number: float, where: str) -> None:
    """TvqError for a number that leaves nothing of a model."""
    if not abs(number) <= LARGEST:  # NaN too
        raise TvqError(
            f"{where}: expected a number in {-LARGEST:g}..{LARGEST:g}, got {number}",
            hint="weights and scalings of merges are about 1",
        )
