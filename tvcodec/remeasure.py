"""What a file says of its errors, measured again from the originals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from tvcodec.checkpoint import Checkpoint, CheckpointSource, open_checkpoint, open_fine_tune
from tvcodec.decoding.decoder import Bank
from tvcodec.decoding.model import Model
from tvcodec.encoding.survey import Progress
from tvcodec.file.index import Entry, Exact, SmallMember
from tvcodec.maths.dense import inner_product, squared_norm, task_vector

TOLERANCE = 1e-3  # relative
ROUNDING = 1e-6  # of errors and gains, absolute: sums in another order
LEAST = 2.0**-149  # float32 keeps norms to that


@dataclass(slots=True)
class Remeasured:
    """One task: its error as recorded and as measured, relative to the norm of the task vector, and
    a line for each parameter (or the task as a whole) that is not what the file says."""

    task: str
    recorded: float
    measured: float = 0.0
    differences: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def remeasure(
    bank: Bank,
    base_model: CheckpointSource,
    task: str,
    fine_tune: CheckpointSource,
    progress: Progress = lambda values: None,
) -> Remeasured:
    """Decodes a task and compares it with the fine-tune that it was encoded from: bits where they
    are kept, or where the file says that nothing was lost, and errors elsewhere. Tied parameters
    have to be the same tensor. BaseModelMismatch, CheckpointError, UnknownTaskError."""
    with open_checkpoint(base_model) as base, open_fine_tune(fine_tune, base) as original:
        measuring = _Measuring(bank, base, task, original)
        for parameter in bank.archive.root.base_model:
            measuring.look_at(parameter.name)
            progress(parameter.count)
        for name in original.names:
            if name not in bank.archive.numbers:
                measuring.look_at(name)
        return measuring.result()


class _Measuring:
    def __init__(self, bank: Bank, base: Checkpoint, task: str, original: Checkpoint) -> None:
        self.base, self.original = base, original
        self.numbers, self.parameters = bank.archive.numbers, bank.archive.root.base_model
        self.index = bank.archive.index(task)
        self.record = bank.archive.record(task)
        self.restored: Model = bank.decode(task, base)
        self.task_vector: Model = bank.task_vector(task, base)
        self.stated: dict[int, Entry | SmallMember] = {e.parameter: e for e in self.index.entries}
        if self.index.small:
            self.stated.update((item.parameter, item) for item in self.index.small.members)
        self.whole = {item.parameter for item in (*self.index.replaced, *self.index.added)}
        self.aliases = dict(self.index.aliases)
        self.found = Remeasured(task, self.record.error)
        self.energy = self.lost = 0.0

    def result(self) -> Remeasured:
        norm = math.sqrt(self.energy)
        self.found.measured = math.sqrt(self.lost) / norm if norm else 0.0
        whole = [
            *_compare("norm", self.record.norm, norm, LEAST),
            *_compare("error", self.record.error, self.found.measured, ROUNDING),
        ]
        self.found.differences += [f"all of it: {line}" for line in whole]
        return self.found

    def look_at(self, name: str) -> None:
        """Compares one parameter of the task with the original."""
        if (name in self.original) != (name in self.restored):
            has = "has" if name in self.original else "lacks"
            self._differs(name, f"the fine-tune {has} it, the task does not agree")
        if name not in self.original or name not in self.restored:
            return
        restored, original = self.restored[name], self.original.tensor(name)
        if restored.dtype != original.dtype or restored.shape != original.shape:
            found = f"{original.dtype} {list(original.shape)}"
            self._differs(name, f"expected {restored.dtype} {list(restored.shape)}, got {found}")
            return
        number = self.numbers.get(name)
        if number is None or number in self.whole or not original.is_floating_point():
            self._same_bits(name, restored, original)
        elif number in self.aliases:
            self._same_as_twin(name, self.parameters[self.aliases[number]].name, original)
        else:
            self._measure(name, number, restored, original)

    def _measure(self, name: str, number: int, restored: Tensor, original: Tensor) -> None:
        base = self.base.tensor(name)
        if original.shape != base.shape:
            self._same_bits(f"{name}, extra rows", restored[len(base) :], original[len(base) :])
            restored, original = restored[: len(base)], original[: len(base)]
        stated = self.stated.get(number)
        if stated is None and _same(restored, original):
            return
        exact = isinstance(stated, Entry) and isinstance(stated.parts[0], Exact)
        product = None if exact else self.original.product(name)
        if product is None:
            tau = task_vector(original, base).nan_to_num_(0, 0, 0)
        else:
            tau = product.dense().view(base.shape)
        energy = squared_norm(tau)
        self.energy += energy
        if exact:
            self._same_bits(name, restored, original)
        elif stated is None and self.record.error:
            self.lost += energy
        elif stated is None:
            self._differs(name, "expected the same bits, got others")
        else:
            values = self.task_vector[name]
            lost = squared_norm(values - tau)
            self.lost += lost
            along = inner_product(values, tau)
            if lines := list(_stated(stated, energy, lost, along)):
                self._differs(name, "; ".join(lines))

    def _same_bits(self, name: str, restored: Tensor, original: Tensor) -> None:
        if not _same(restored, original):
            self._differs(name, "expected the same bits, got others")

    def _same_as_twin(self, name: str, twin: str, original: Tensor) -> None:
        if twin in self.original and not _same(original, self.original.tensor(twin)):
            self._differs(name, f"expected the same bits as {twin!r}, got others")

    def _differs(self, name: str, line: str) -> None:
        self.found.differences.append(f"parameter {name!r}: {line}")


def _stated(stated: Entry | SmallMember, energy: float, lost: float, along: float) -> Iterator[str]:
    yield from _compare("norm", stated.norm, math.sqrt(energy), LEAST)
    if energy:
        yield from _compare("error", stated.error, math.sqrt(lost / energy), ROUNDING)
        yield from _compare("gain", stated.gain, along / energy, ROUNDING)


def _compare(what: str, stated: float, measured: float, floor: float) -> Iterator[str]:
    if abs(stated - measured) > TOLERANCE * max(abs(stated), abs(measured)) + floor:
        yield f"{what}: expected {stated:.6g} as stated, got {measured:.6g}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether dtype, shape and bits are the same."""
    if (one.dtype, one.shape) != (other.dtype, other.shape) or not one.numel():
        return (one.dtype, one.shape) == (other.dtype, other.shape)
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)
