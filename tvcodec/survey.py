"""What each fine-tune changed: found out before anything is encoded, and refused if unsound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tvcodec.checkpoint import Checkpoint, content_digest, fingerprint, first_nonfinite
from tvcodec.dense import converted, squared_norm, task_vector
from tvcodec.errors import CheckpointError
from tvcodec.index import BaseParameter

NORM_MAX = 3e38
LOSSY_NORM_MAX = 1e36  # noise of several times the norm has to fit float32 too
Progress = Callable[[int], None]  # told how many more values have been dealt with


@dataclass(slots=True)
class TaskSurvey:
    """How one fine-tune differs from the base model; parameters by number.

    `energies` holds the squared norm of the task vector of each parameter of floats with other bits
    (0.0 where float32 does not tell the difference: a zero of the other sign, 1e-50), and `kept`
    the parameters that are stored whole: another shape or kind, or changed integers.
    """

    name: str
    checkpoint: Checkpoint
    energies: dict[int, float] = field(default_factory=dict)
    aliases: dict[int, int] = field(default_factory=dict)
    dtypes: dict[int, str] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    reshaped: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    count: int = 0  # values of the parameters that have a task vector, changed or not

    def add(self, part: TaskSurvey) -> None:
        """What was found out about one more parameter."""
        self.energies.update(part.energies)
        self.dtypes.update(part.dtypes)
        self.rows.update(part.rows)
        self.kept += part.kept
        self.reshaped += part.reshaped
        self.count += part.count

    @property
    def norm(self) -> float:
        """Norm of the whole task vector."""
        return min(math.sqrt(sum(self.energies.values())), NORM_MAX)

    @property
    def rms(self) -> float:
        """Root mean square of the task vector over all parameters it could have changed."""
        return self.norm / math.sqrt(self.count) if self.count else 0.0


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
    """A parameter of the base model to be read: what it is, and a digest of its bits if it has
    several values."""

    base: Checkpoint
    name: str

    def elsewhere(self) -> Identify:
        """For another process."""
        return self._replace(base=self.base.elsewhere(self.name))

    def __call__(self) -> tuple[BaseParameter, bytes]:
        name = self.name
        tensor, dtype, shape = self.base.tensor(name), self.base.dtype(name), self.base.shape(name)
        digest = content_digest(tensor) if tensor.numel() > 1 else b""
        return BaseParameter(name, dtype, shape, fingerprint(name, dtype, shape, tensor)), digest


class Compare(NamedTuple):
    """A parameter of a fine-tune to be read beside the base model's: what it is of the survey of
    its task, and for one of `twins` a digest of its bits."""

    task: str
    checkpoint: Checkpoint
    base: Checkpoint
    number: int
    parameter: BaseParameter
    exact: bool
    twins: bool

    def elsewhere(self) -> Compare:
        """For another process."""
        name = self.parameter.name
        base, checkpoint = self.base.elsewhere(name), self.checkpoint.elsewhere(name)
        return self._replace(base=base, checkpoint=checkpoint)

    def __call__(self) -> tuple[TaskSurvey, bytes]:
        part = TaskSurvey(self.task, self.checkpoint)
        _compare(part, self.number, self.parameter, self.base, self.exact)
        twin = self.twins and self.number in part.energies
        digest = content_digest(self.checkpoint.tensor(self.parameter.name)) if twin else b""
        return part, digest


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
    parameters, twins, first = [], {}, dict[bytes, int]()
    for number, (parameter, digest) in enumerate(spread(Identify(base, n) for n in base.names)):
        parameters.append(parameter)
        of = first.setdefault(digest, number) if digest else number
        if of != number:
            twins[number] = of
        progress(parameter.count)
    return tuple(parameters), twins


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
            _check_finite(task, name, checkpoint.tensor(name))


def _compare(
    task: TaskSurvey, number: int, parameter: BaseParameter, base: Checkpoint, exact: bool
) -> None:
    name, dims = parameter.name, parameter.dims
    dtype, shape = task.checkpoint.dtype(name), task.checkpoint.shape(name)
    grown = bool(dims) and dims[1:] == shape[1:] and 0 < dims[0] < shape[0]
    if "float" not in dtype + parameter.dtype or "float" not in parameter.dtype:
        _compare_opaque(task, number, parameter, base)
    elif "float" not in dtype or (shape != dims and not grown):
        task.kept.append(number)
        task.reshaped.append(number)
        if not exact:
            _check_finite(task, name, task.checkpoint.tensor(name))
    elif exact and dtype != parameter.dtype and bool(base.tensor(name).isnan().any()):
        task.kept.append(number)  # which NaN a conversion of dtype makes differs between machines
    else:
        if dtype != parameter.dtype:
            task.dtypes[number] = dtype
        if grown:
            task.rows[number] = shape[0] - dims[0]
        _measure(task, number, parameter, base, exact)


def _compare_opaque(
    task: TaskSurvey, number: int, parameter: BaseParameter, base: Checkpoint
) -> None:
    """Integers and truth values: kept whole where they differ."""
    name = parameter.name
    same = task.checkpoint.dtype(name) == parameter.dtype
    same = same and task.checkpoint.shape(name) == parameter.dims
    if not same or not torch.equal(task.checkpoint.tensor(name), base.tensor(name)):
        task.kept.append(number)
        if not same:
            task.reshaped.append(number)


def _measure(
    task: TaskSurvey, number: int, parameter: BaseParameter, base: Checkpoint, exact: bool
) -> None:
    fine_tune = task.checkpoint.tensor(parameter.name)
    original = base.tensor(parameter.name)
    if not exact:
        _check_finite(task, parameter.name, fine_tune)
        _check_finite(None, parameter.name, original, base.label)
    task.count += parameter.count
    common = fine_tune[: parameter.dims[0]] if number in task.rows else fine_tune
    if _same_bits(common, original):
        return
    tau = task_vector(common, original)
    energy = squared_norm(tau.nan_to_num_(0, 0, 0) if exact else tau)
    if exact:
        energy = min(energy, NORM_MAX**2)
    elif energy > LOSSY_NORM_MAX**2:
        raise CheckpointError(
            f"task {task.name!r}: parameter {parameter.name!r}: expected a task vector of norm"
            f" {LOSSY_NORM_MAX:g} at most, got {math.sqrt(energy):g}",
            hint="--exact stores such values as they are",
        )
    task.energies[number] = energy


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if not one.numel():
        return True
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, converted(other, one.dtype))]
    return torch.equal(*bits)


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
        task.rows.pop(number, None)
        task.dtypes.pop(number, None)
        task.count -= parameter.count


def _check_finite(
    task: TaskSurvey | None, name: str, tensor: Tensor, label: str | None = None
) -> None:
    at = first_nonfinite(tensor)
    if at is not None:
        where = f"task {task.name!r}" if task else f"base model {label}"
        raise CheckpointError(
            f"{where}: parameter {name!r}: expected finite values, got {tensor[at].item()}"
            f" at {list(at)}",
            hint="--exact stores such values as they are",
        )
