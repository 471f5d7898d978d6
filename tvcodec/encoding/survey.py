"""What each fine-tune changed: found out before anything is encoded, and refused if unsound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tvcodec.checkpoint import Checkpoint, checksum, fingerprint
from tvcodec.encoding.difference import Compare, TaskSurvey, check_finite, same_bits
from tvcodec.errors import CheckpointError
from tvcodec.file.index import BaseParameter

Progress = Callable[[int], None]  # told how many more values have been dealt with


@dataclass(frozen=True, slots=True)
class Survey:
    """The base model's parameters and what each task, in name order, did to them."""

    base: Checkpoint
    base_model: tuple[BaseParameter, ...]
    tasks: tuple[TaskSurvey, ...]

    @property
    def values(self) -> int:
        """Values of the base model."""
        return sum(parameter.count for parameter in self.base_model)


class Identify(NamedTuple):
    """A parameter of the base model to be read."""

    base: Checkpoint
    name: str

    def elsewhere(self) -> Identify:
        """For another process."""
        return self._replace(base=self.base.elsewhere(self.name))

    def __call__(self) -> BaseParameter:
        name = self.name
        tensor, dtype, shape = self.base.tensor(name), self.base.dtype(name), self.base.shape(name)
        digest = fingerprint(name, dtype, shape, tensor)
        return BaseParameter(name, dtype, shape, digest, checksum(tensor))


Spread = Callable[[Iterable[Any]], Iterator[Any]]
"""Runs errands, which are called without arguments, and gives what they return in their order."""


def _one_by_one(errands: Iterable[Any]) -> Iterator[Any]:
    for errand in errands:
        yield errand()


def survey(
    base: Checkpoint,
    fine_tunes: Mapping[str, Checkpoint],
    exact: bool,
    progress: Progress,
    spread: Spread = _one_by_one,
) -> Survey:
    """Reads the base model once by itself and once beside each fine-tune; each fine-tune once, but
    twice what changed of parameters that are tied in the base model.

    Raises CheckpointError for values that are not finite or far too large (unless `exact`), and a
    fine-tune without any parameter of the base model.
    """
    parameters, twins = _identify(base, progress, spread)
    repeated = {*twins, *twins.values()}
    tasks = []
    for name in sorted(fine_tunes):
        task = TaskSurvey(name, fine_tunes[name])
        _compare_names(task, base, parameters, exact)
        seen: dict[int, bytes] = {}
        there = [(n, one) for n, one in enumerate(parameters) if n not in task.missing]
        errands = (
            Compare(name, task.checkpoint, base, number, one, exact, number in repeated)
            for number, one in there
        )
        for (number, parameter), (part, digest) in zip(there, spread(errands), strict=True):
            task.add(part)
            if digest:
                _find_alias(task, number, parameter, twins.get(number), digest, seen)
            progress(parameter.count)
        progress(sum(parameters[number].count for number in task.missing))
        tasks.append(task)
    return Survey(base, parameters, tuple(tasks))


def _identify(
    base: Checkpoint, progress: Progress, spread: Spread
) -> tuple[tuple[BaseParameter, ...], dict[int, int]]:
    """The base model's parameters, and for each that repeats an earlier one bit for bit, which."""
    parameters, twins, first = [], {}, dict[tuple[str, tuple[int, ...], int], int]()
    for number, one in enumerate(spread(Identify(base, name) for name in base.names)):
        parameters.append(one)
        of = first.setdefault((one.dtype, one.dims, one.crc32), number)
        if of != number and one.count > 1 and _equal(base, one, parameters[of]):
            twins[number] = of
        progress(one.count)
    return tuple(parameters), twins


def _equal(base: Checkpoint, one: BaseParameter, other: BaseParameter) -> bool:
    return same_bits(base.tensor(one.name), base.tensor(other.name))


def _compare_names(
    task: TaskSurvey, base: Checkpoint, parameters: tuple[BaseParameter, ...], exact: bool
) -> None:
    checkpoint = task.checkpoint
    task.missing = [n for n, p in enumerate(parameters) if p.name not in checkpoint]
    task.added = [name for name in checkpoint.names if name not in base]
    if len(task.missing) == len(parameters):
        raise CheckpointError(
            f"task {task.name!r}: {checkpoint.label} has no parameter of {base.label}: expected"
            f" names such as {parameters[0].name!r}, got {checkpoint.names[0]!r}",
            hint="is this a fine-tune of that base model?",
        )
    for name in task.added:
        if not exact:
            check_finite(task, name, checkpoint.tensor(name))


def _find_alias(
    task: TaskSurvey,
    number: int,
    parameter: BaseParameter,
    of: int | None,
    digest: bytes,
    seen: dict[int, bytes],
) -> None:
    """Records a parameter that is the same tensor as its twin `of` in the fine-tune too: tied
    weights. `seen` has the digests of those before it."""
    seen[number] = digest
    if of is not None and seen.get(of) == digest:
        task.aliases[number] = of
        del task.energies[number]
        task.products.discard(number)
        task.rows.pop(number, None)
        task.dtypes.pop(number, None)
        task.count -= parameter.count
