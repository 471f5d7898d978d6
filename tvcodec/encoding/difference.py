"""What a fine-tune made of one parameter of the base model: found out before it is encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tvcodec.checkpoint import Checkpoint, content_digest, first_nonfinite
from tvcodec.encoding.companions import Companions
from tvcodec.errors import CheckpointError
from tvcodec.file.index import BaseParameter
from tvcodec.maths.dense import converted, squared_norm, task_vector

NORM_MAX = 3e38
LOSSY_NORM_MAX = 1e36  # noise of several times the norm has to fit float32 too


@dataclass(slots=True)
class TaskSurvey:
    """How one fine-tune differs from the base model; parameters by number.

    `energies` holds the squared norm of the task vector of each parameter of floats with other bits
    (0.0 where float32 does not tell the difference: a zero of the other sign, 1e-50), and `kept`
    the parameters that are stored whole: another shape or kind, or changed integers. Those in
    `products` have a task vector that an adapter gives as a thin product.
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
    products: set[int] = field(default_factory=set)
    companions: Companions = field(default_factory=Companions)
    count: int = 0  # values of the parameters that have a task vector, changed or not

    def add(self, part: TaskSurvey) -> None:
        """What was found out about one more parameter."""
        self.energies.update(part.energies)
        self.dtypes.update(part.dtypes)
        self.rows.update(part.rows)
        self.kept += part.kept
        self.reshaped += part.reshaped
        self.products |= part.products
        self.count += part.count

    @property
    def norm(self) -> float:
        """Norm of the whole task vector."""
        return min(math.sqrt(sum(self.energies.values())), NORM_MAX)

    @property
    def rms(self) -> float:
        """Root mean square of the task vector over all parameters it could have changed."""
        return self.norm / math.sqrt(self.count) if self.count else 0.0


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


def _compare(
    task: TaskSurvey, number: int, parameter: BaseParameter, base: Checkpoint, exact: bool
) -> None:
    name, dims = parameter.name, parameter.dims
    if task.checkpoint.borrows(name):
        task.count += parameter.count if "float" in parameter.dtype else 0
        return
    dtype, shape = task.checkpoint.dtype(name), task.checkpoint.shape(name)
    grown = bool(dims) and dims[1:] == shape[1:] and 0 < dims[0] < shape[0]
    if "float" not in dtype + parameter.dtype or "float" not in parameter.dtype:
        _compare_opaque(task, number, parameter, base)
    elif "float" not in dtype or (shape != dims and not grown):
        task.kept.append(number)
        task.reshaped.append(number)
        if not exact:
            check_finite(task, name, task.checkpoint.tensor(name))
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
    product = None if exact else task.checkpoint.product(parameter.name)
    if product is not None:
        check_finite(None, parameter.name, base.tensor(parameter.name), base.label)
        task.count += parameter.count
        if energy := product.squared_norm():
            task.products.add(number)
            _note_energy(task, number, parameter, energy)
        return
    fine_tune = task.checkpoint.tensor(parameter.name)
    original = base.tensor(parameter.name)
    task.count += parameter.count
    common = fine_tune[: parameter.dims[0]] if number in task.rows else fine_tune
    same = same_bits(common, original)
    if same:
        energy = 0.0
    else:
        tau = task_vector(common, original)
        energy = squared_norm(tau.nan_to_num_(0, 0, 0) if exact else tau)
    # a finite norm says that both are finite
    if not exact and (same or number in task.rows or not math.isfinite(energy)):
        check_finite(task, parameter.name, fine_tune)
        check_finite(None, parameter.name, original, base.label)
    if same:
        return
    if exact:
        task.energies[number] = min(energy, NORM_MAX**2)
    else:
        _note_energy(task, number, parameter, energy)


def _note_energy(task: TaskSurvey, number: int, parameter: BaseParameter, energy: float) -> None:
    if not energy <= LOSSY_NORM_MAX**2:
        raise CheckpointError(
            f"task {task.name!r}: parameter {parameter.name!r}: expected a task vector of norm"
            f" {LOSSY_NORM_MAX:g} at most, got {math.sqrt(energy):g}",
            hint="--exact stores such values as they are",
        )
    task.energies[number] = energy


def same_bits(one: Tensor, other: Tensor) -> bool:
    if not one.numel():
        return True
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, converted(other, one.dtype))]
    return torch.equal(*bits)


def check_finite(
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
