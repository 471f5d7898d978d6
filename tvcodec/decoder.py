"""File -> task vectors, models and merges: the walk back, one parameter at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from tvcodec import dense
from tvcodec.archive import Archive, mirrored
from tvcodec.base_model import BaseModel
from tvcodec.checkpoint import TORCH_DTYPES, CheckpointSource, open_checkpoint
from tvcodec.errors import CheckpointError, TvqError
from tvcodec.fine_tune import FineTune
from tvcodec.merge import weights as merge_weights
from tvcodec.model import Model
from tvcodec.parts import Parts, weighted_sum
from tvcodec.stored_task import SharedBasis, StoredTask


class Bank:
    """An open .tvq file: task vectors, fine-tunes and merges on demand.

    A context manager. What it gives is lazy: a tensor is decoded when it is read, from its own
    bytes of the file alone. Raises FormatError for a file that is damaged or is no .tvq,
    UnsupportedError for one that needs a newer tvcodec, UnknownTaskError, and BaseModelMismatch.
    """

    def __init__(self, path: str | os.PathLike[str], *, expected_root: str | None = None) -> None:
        self.archive = Archive(path, expected_root=expected_root)
        self._tasks: dict[str, StoredTask] = {}
        self._shared: SharedBasis | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return self.archive.tasks

    @property
    def root(self) -> str:
        """The digest that identifies the file's whole content, hexadecimal."""
        return self.archive.container.root_digest.hex()

    def task_vector(
        self, task: str, base_model: CheckpointSource | None = None, parameters: str | None = None
    ) -> Model:
        """The task vector of a fine-tune: float32 tensors for all parameters that changed, or for
        those among them that `parameters` matches, as for `decode`.

        `base_model` is needed for parameters that are stored bit-exact; without it, reading one
        raises TvqError.
        """
        stored = self._task(task)
        base = None if base_model is None else self._base(base_model)
        shapes = {
            parameter.name: ("float32", parameter.dims)
            for number, parameter in enumerate(self.archive.root.base_model)
            if stored.changed(number)
        }
        model = Model(
            shapes,
            lambda name: self._tau([(1.0, stored)], self.archive.numbers[name], base),
            {"tvcodec.task_vector": task},
            inputs=self._inputs(base),
        )
        return _matching(model, task, parameters)

    def decode(
        self, task: str, base_model: CheckpointSource, parameters: str | None = None
    ) -> Model:
        """The fine-tune itself, in its own dtypes. `parameters` is a glob of names that restricts
        it to a part; TvqError where it matches none."""
        stored, base = self._task(task), self._base(base_model)
        fine_tune = FineTune(stored, self._basis(), base)
        metadata = {"tvcodec.task": task}
        inputs = self._inputs(base)
        model = Model(fine_tune.shapes(), fine_tune.tensor, metadata, base.directory, inputs)
        return _matching(model, task, parameters)

    def merge(
        self,
        base_model: CheckpointSource,
        weights: Mapping[str, float] | str = "uniform",
        *,
        tasks: Sequence[str] | None = None,
        scaling: float = 1.0,
        temperature: float = merge_weights.TEMPERATURE,
    ) -> Model:
        """base model + scaling * sum of weight * task vector, in the base model's dtypes.

        `weights` are task -> number, "uniform" (1 / N), the path of a performance file {task:
        accuracy} (softmax of accuracy / temperature), or "cars=0.4,dtd=0.6". `tasks` takes a
        subset. Sums are float32, rounded once. Parameters that a task adds, lacks or reshapes,
        extra rows and integers stay the base model's.
        """
        chosen = list(dict.fromkeys(self.tasks if tasks is None else tasks))
        if tasks is not None and not chosen:
            raise TvqError("expected at least one task to merge, got none")
        stored = {task: self._task(task) for task in chosen}
        if isinstance(weights, str):
            given = merge_weights.parse(weights, chosen, temperature)
        else:
            given = merge_weights.checked(weights, chosen)
        scaling = merge_weights.checked_scaling(scaling)
        base = self._base(base_model)
        given = dict(sorted(given.items()))
        weighted = [(scaling * weight, stored[task]) for task, weight in given.items() if weight]
        metadata = {
            "tvcodec.merge": "weighted",
            "tvcodec.scaling": repr(scaling),
            "tvcodec.weights": json.dumps(given),
        }

        def compute(name: str) -> Tensor:
            number = self.archive.numbers[name]
            original = base.tensor(number)
            if not any(task.changed(number) for _, task in weighted):
                return original.clone()
            return dense.fine_tune(original, self._tau(weighted, number, base), original.dtype)

        shapes = {p.name: (p.dtype, p.dims) for p in self.archive.root.base_model}
        return Model(shapes, compute, metadata, base.directory, self._inputs(base))

    def load_into(self, model: torch.nn.Module, task: str, base_model: CheckpointSource) -> None:
        """Overwrites the parameters and buffers of a live module with those of a task, in place and
        one at a time. CheckpointError unless the module has its names and shapes, and memory apart
        from the base model; BaseModelMismatch. Either leaves the module as it was."""
        base = self._base(base_model)
        fine_tune = FineTune(self._task(task), self._basis(), base)
        shapes, live = fine_tune.shapes(), dict(model.state_dict(keep_vars=True))
        _check_module(live, shapes, task)
        if shared := base.checkpoint.shared_with(live.values()):
            raise CheckpointError(
                f"parameter {shared!r}: expected a base model apart from the module, got its own"
                " memory, which the task overwrites",
                hint="give the base model's file, or a copy: {name: tensor.clone() for name, ...}",
            )
        for name in shapes:
            if name in self.archive.numbers:
                base.tensor(self.archive.numbers[name])  # refused before anything is overwritten
        with torch.no_grad():
            for name in shapes:
                live[name].copy_(fine_tune.tensor(name))

    def similarity(self) -> list[list[float]]:
        """Cosines between the task vectors, tasks in order, from what the file says of them."""
        return mirrored(self.archive.similarity())

    def close(self) -> None:
        """Closes the file; what was read stays."""
        self.archive.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tvcodec.Bank {self.archive.path}: {', '.join(self.tasks)}>"

    def _task(self, name: str) -> StoredTask:
        if name not in self._tasks:
            self._tasks[name] = StoredTask(self.archive, name)
        return self._tasks[name]

    def _base(self, source: CheckpointSource) -> BaseModel:
        return BaseModel(self.archive, open_checkpoint(source))

    def _inputs(self, base: BaseModel | None) -> frozenset[Path]:
        """What a model is made from, and must not be written over."""
        paths = frozenset() if base is None else base.checkpoint.paths
        return paths | {Path(self.archive.path)}

    def _basis(self) -> SharedBasis:
        if self._shared is None:
            self._shared = SharedBasis(self.archive)
        return self._shared

    def _tau(
        self, weighted: Sequence[tuple[float, StoredTask]], number: int, base: BaseModel | None
    ) -> Tensor:
        """The weighted sum of task vectors of one parameter, float32."""
        parameter = self.archive.root.base_model[number]
        stored: dict[int, list[tuple[float, Parts]]] = {}
        total = torch.zeros(parameter.extent.rows, parameter.extent.columns)
        for weight, task in weighted:
            parts = task.parts(number)
            if parts is not None and parts.exact is not None:
                tau = self._exact_tau(task, number, parts.exact, base)
                total.add_(tau.view(total.shape), alpha=weight)
            elif parts is not None:
                # tasks may tie a parameter to another one, whose frame its parts are then in
                stored.setdefault(task.stored_as(number), []).append((weight, parts))
        for of, tied in stored.items():
            total += weighted_sum(tied, parameter.extent, of, self._basis().of(of))
        return total.view(parameter.dims)

    def _exact_tau(
        self, task: StoredTask, number: int, exact: dense.Exact, base: BaseModel | None
    ) -> Tensor:
        if base is None:
            name = self.archive.root.base_model[number].name
            raise TvqError(
                f"task {task.name!r}: parameter {name!r} is stored as a difference of bits,"
                " which needs the base model",
                hint="give --base-model",
            )
        original = base.tensor(number)
        converted = dense.converted(original, TORCH_DTYPES[task.dtype(number)])
        return dense.task_vector(dense.exact_restore(converted, exact), original)


def _matching(model: Model, task: str, glob: str | None) -> Model:
    """The parameters of a task whose names match, TvqError if none does; None matches all."""
    if glob is None:
        return model
    names = [name for name in model if fnmatchcase(name, glob)]
    if not names:
        raise TvqError(
            f"no parameter of task {task!r} matches {glob!r}",
            hint="tvcodec info --parameters lists them",
        )
    return model.subset(names)


def _check_module(
    live: Mapping[str, Tensor], shapes: Mapping[str, tuple[str, tuple[int, ...]]], task: str
) -> None:
    """CheckpointError unless a module's tensors have the names and shapes of a task."""
    hint = "is this the architecture of the fine-tune?"
    for name, (_, shape) in shapes.items():
        where = f"task {task!r}: parameter {name!r}"
        if name not in live:
            raise CheckpointError(f"{where}: expected a module that has it, got one without", hint)
        if tuple(live[name].shape) != shape:
            found = list(live[name].shape)
            raise CheckpointError(f"{where}: expected shape {list(shape)}, got {found}", hint)
