"""What each fine-tune changed: found out before anything is encoded, and refused if unsound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tvcodec.checkpoint import Checkpoint, content_digest, fingerprint, first_nonfinite
from tvcodec.companions import Companions
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
    companions: Companions = field(default_factory=Companions)
    count: int = 0  # values of the parameters that have a task vector, changed or not

    def read(
        self, number: int, base: Checkpoint, parameter: BaseParameter
    ) -> tuple[Tensor, Tensor]:
        """A parameter of the fine-tune, as far as the base model has it, and of the base model."""
        name = parameter.name
        if number in self.rows:
            return self.checkpoint.rows(name, 0, parameter.dims[0]), base.tensor(name)
        return self.checkpoint.tensor(name), base.tensor(name)

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


def survey(
    base: Checkpoint, fine_tunes: Mapping[str, Checkpoint], exact: bool, progress: Progress
) -> Survey:
    """Reads the base model once by itself and once beside each fine-tune; each fine-tune once, but
    twice what changed of parameters that are tied in the base model.

    Raises CheckpointError for values that are not finite or far too large (unless `exact`), and a
    fine-tune without any parameter of the base model.
    """
    parameters, twins = _identify(base, progress)
    firsts = frozenset(twins.values())
    tasks = []
    for name in sorted(fine_tunes):
        task = TaskSurvey(name, fine_tunes[name])
        _compare_names(task, base, parameters, exact)
        seen: dict[int, bytes] = {}
        for number, parameter in enumerate(parameters):
            if parameter.name in task.checkpoint:
                _compare(task, number, parameter, base, exact)
                if number in task.energies and (number in twins or number in firsts):
                    _find_alias(task, number, parameter, twins.get(number), seen)
            progress(parameter.count)
        tasks.append(task)
    return Survey(base, parameters, tuple(tasks))


def _identify(
    base: Checkpoint, progress: Progress
) -> tuple[tuple[BaseParameter, ...], dict[int, int]]:
    """The base model's parameters, and for each that repeats an earlier one bit for bit, which."""
    parameters, twins, first = [], {}, dict[bytes, int]()
    for number, name in enumerate(base.names):
        tensor = base.tensor(name)
        dtype, shape = base.dtype(name), base.shape(name)
        parameters.append(
            BaseParameter(name, dtype, shape, fingerprint(name, dtype, shape, tensor))
        )
        if tensor.numel() > 1:
            of = first.setdefault(content_digest(tensor), number)
            if of != number:
                twins[number] = of
        progress(tensor.numel())
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
    seen: dict[int, bytes],
) -> None:
    """Records a parameter that is the same tensor as its twin `of` in the fine-tune too: tied
    weights. `seen` has the digests of those before it."""
    digest = content_digest(task.checkpoint.tensor(parameter.name))
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


def changes(task: TaskSurvey, base_model: tuple[BaseParameter, ...]) -> Iterator[str]:
    """One line for each change that is more than a task vector, for people to read."""
    checkpoint = task.checkpoint
    for number, count in task.rows.items():
        yield f"{base_model[number].name}: {count} extra rows"
    for number in task.reshaped:
        parameter = base_model[number]
        found = f"{checkpoint.dtype(parameter.name)} {list(checkpoint.shape(parameter.name))}"
        before = f"{parameter.dtype} {list(parameter.dims)}"
        yield f"{parameter.name}: {before} became {found}, kept whole, left out of merges"
    for number in sorted(set(task.kept) - set(task.reshaped)):
        yield f"{base_model[number].name}: other values, kept whole, left out of merges"
    for name in task.added:
        yield f"{name}: not in the base model, kept whole, left out of merges"
    for number in task.missing:
        yield f"{base_model[number].name}: missing from the fine-tune"
