"""One parameter of some tasks: all that coding it takes, on this machine or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tvcodec.checkpoint import Checkpoint
from tvcodec.encoding.survey import Survey
from tvcodec.file.index import BaseParameter
from tvcodec.maths.dense import task_vector
from tvcodec.maths.product import Product


@dataclass(frozen=True, slots=True)
class Changed:
    """What a task did to the parameter: `energy` is the squared norm of its task vector, None where
    nothing changed. `rms` is the root mean square of the whole task vector; `grown` says that the
    fine-tune has more rows than the base model, `thin` that an adapter gives a thin product."""

    name: str
    rms: float
    energy: float | None
    grown: bool
    thin: bool
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter of the base model, by its number, and of tasks in order."""

    number: int
    parameter: BaseParameter
    base: Checkpoint
    tasks: tuple[Changed, ...]

    def read(self, task: int) -> tuple[Tensor, Tensor]:
        """The parameter of a fine-tune, as far as the base model has it, and of the base model."""
        name, changed = self.parameter.name, self.tasks[task]
        if changed.grown:
            return changed.checkpoint.rows(name, 0, self.parameter.dims[0]), self.base.tensor(name)
        return changed.checkpoint.tensor(name), self.base.tensor(name)

    def product(self, task: int) -> Product | None:
        """The task vector as a thin product, where it is given so."""
        changed = self.tasks[task]
        return changed.checkpoint.product(self.parameter.name) if changed.thin else None

    def tau(self, task: int) -> Tensor:
        """The task vector, float32 [rows, columns]."""
        product = self.product(task)
        if product is not None:
            return product.dense()
        return task_vector(*self.read(task)).reshape(self.parameter.extent.rows, -1)

    def elsewhere(self) -> Piece:
        """The same for another process, with the places of these tensors and no others."""
        name = self.parameter.name
        tasks = tuple(
            replace(task, checkpoint=task.checkpoint.elsewhere(name)) for task in self.tasks
        )
        return replace(self, base=self.base.elsewhere(name), tasks=tasks)


class Pieces:
    """The parameters of a survey, piece by piece."""

    def __init__(self, found: Survey) -> None:
        self.found = found
        self._rms = [task.rms for task in found.tasks]

    def of(self, number: int, tasks: Sequence[int]) -> Piece:
        """A parameter of the tasks of these numbers."""
        surveyed = [(self.found.tasks[task], self._rms[task]) for task in tasks]
        changed = tuple(
            Changed(
                task.name,
                rms,
                task.energies.get(number),
                number in task.rows,
                number in task.products,
                task.checkpoint,
            )
            for task, rms in surveyed
        )
        return Piece(number, self.found.base_model[number], self.found.base, changed)
