"""File -> task vectors, models and merges: the walk back, one parameter at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tvcodec import dense
from tvcodec.archive import Archive
from tvcodec.base_model import BaseModel
from tvcodec.checkpoint import TORCH_DTYPES, CheckpointSource, open_checkpoint
from tvcodec.errors import CheckpointError, TvqError
from tvcodec.index import DTYPES
from tvcodec.merge import weights as merge_weights
from tvcodec.model import Model
from tvcodec.stored_task import Parts, StoredTask, merged, task_vector


class Bank:
    """An open .tvq file: task vectors, fine-tunes and merges on demand.

    A context manager. What it gives is lazy: a tensor is decoded when it is read, from its own
    bytes of the file alone. Raises FormatError for a file that is damaged or is no .tvq,
    UnsupportedError for one that needs a newer tvcodec, UnknownTaskError, and BaseModelMismatch.
    """

    def __init__(self, path: str | os.PathLike[str], *, expected_root: str | None = None) -> None:
        self.archive = Archive(path, expected_root=expected_root)
        self._tasks: dict[str, StoredTask] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return self.archive.tasks

    @property
    def root(self) -> str:
        """The digest that identifies the file's whole content, hexadecimal."""
        return self.archive.container.root_digest.hex()

    def task_vector(self, task: str, base_model: CheckpointSource | None = None) -> Model:
        """The task vector of a fine-tune: float32 tensors for all parameters that changed.

        `base_model` is needed for parameters that are stored bit-exact; without it, reading one
        raises TvqError.
        """
        stored = self._task(task)
        base = None if base_model is None else self._base(base_model)
        parameters = self.archive.root.base_model
        shapes = {
            parameter.name: ("float32", parameter.dims)
            for number, parameter in enumerate(parameters)
            if stored.changed(number)
        }
        return Model(
            shapes,
            lambda name: self._tau([(1.0, stored)], self.archive.numbers[name], base),
            {"tvcodec.task_vector": task},
        )

    def decode(
        self, task: str, base_model: CheckpointSource, parameters: str | None = None
    ) -> Model:
        """The fine-tune itself, in its own dtypes. `parameters` is a glob of names that restricts
        it to a part; TvqError where it matches none."""
        stored, base = self._task(task), self._base(base_model)
        shapes = self._fine_tune_shapes(stored, base)
        model = Model(
            shapes,
            lambda name: self._restore(stored, base, name),
            {"tvcodec.task": task},
            base.directory,
        )
        if parameters is None:
            return model
        names = [name for name in model if fnmatchcase(name, parameters)]
        if not names:
            raise TvqError(
                f"no parameter of task {task!r} matches {parameters!r}",
                hint="tvcodec info --parameters lists them",
            )
        return model.subset(names)

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
        subset. Sums are float32, rounded once. Parameters that a task adds, lacks or reshapes, extra
        rows and integers stay the base model's.
        """
        chosen = list(dict.fromkeys(tasks or self.tasks))
        stored = {task: self._task(task) for task in chosen}
        if isinstance(weights, str):
            given = merge_weights.parse(weights, chosen, temperature)
        else:
            given = merge_weights.checked(weights, chosen)
        base = self._base(base_model)
        weighted = [(scaling * weight, stored[task]) for task, weight in given.items() if weight]
        metadata = {
            "tvcodec.merge": "weighted",
            "tvcodec.scaling": repr(scaling),
            "tvcodec.weights": json.dumps(given),
        }

        def compute(name: str) -> Tensor:
            number = self.archive.numbers[name]
            original = base.tensor(number)
            if not original.is_floating_point():
                return original
            total = self._tau(weighted, number, base)
            return total.add_(original).to(original.dtype)

        shapes = {p.name: (p.dtype, p.dims) for p in self.archive.root.base_model}
        return Model(shapes, compute, metadata, base.directory)

    def load_into(self, model: torch.nn.Module, task: str, base_model: CheckpointSource) -> None:
        """Overwrites the parameters and buffers of a live module with those of a task, in place and
        one at a time. The module must have the names and shapes of the fine-tune (CheckpointError)."""
        decoded = self.decode(task, base_model)
        live = dict(model.state_dict(keep_vars=True))
        for name in decoded:
            if name not in live:
                raise CheckpointError(f"expected a module with {name!r}, got one without")
        with torch.no_grad():
            for name in decoded:
                tensor = decoded[name]
                if live[name].shape != tensor.shape:
                    found, wanted = list(live[name].shape), list(tensor.shape)
                    raise CheckpointError(f"{name!r}: expected shape {wanted}, got {found}")
                live[name].copy_(tensor)

    def similarity(self) -> list[list[float]]:
        """Cosines between the task vectors, tasks in order, from what the file says of them."""
        gram = self.archive.gram() or [[1.0]]
        norms = [gram[n][n] ** 0.5 for n in range(len(gram))]
        return [
            [
                value / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0
                for j, value in enumerate(row)
            ]
            for i, row in enumerate(gram)
        ]

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

    def _tau(
        self, weighted: Sequence[tuple[float, StoredTask]], number: int, base: BaseModel | None
    ) -> Tensor:
        """The weighted sum of task vectors of one parameter, float32."""
        shape = self.archive.root.base_model[number].dims
        stored: list[tuple[float, Parts]] = []
        exact: list[tuple[float, StoredTask, dense.Exact]] = []
        for weight, task in weighted:
            parts = task.parts(number)
            if parts is None:
                continue
            if parts.exact is None:
                stored.append((weight, parts))
            else:
                exact.append((weight, task, parts.exact))
        total = merged(stored, shape, self._seed(weighted, number))
        for weight, task, difference in exact:
            if base is None:
                name = self.archive.root.base_model[number].name
                raise TvqError(
                    f"task {task.name!r}: parameter {name!r} is stored as a difference of bits,"
                    " which needs the base model",
                    hint="give --base-model",
                )
            original = base.tensor(number)
            restored = _restore_exact(original, difference, task.dtype(number))
            total.add_(restored.to(torch.float32).sub_(original), alpha=weight)
        return total

    def _seed(self, weighted: Sequence[tuple[float, StoredTask]], number: int) -> int:
        """Tied weights are stored under another number, whose frame is theirs."""
        for _, task in weighted:
            return task.aliases.get(number, number)
        return number

    def _fine_tune_shapes(
        self, stored: StoredTask, base: BaseModel
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        shapes = {}
        for number, parameter in enumerate(self.archive.root.base_model):
            if number in stored.missing:
                continue
            kept = stored.replaced(number)
            if kept is not None:
                shapes[parameter.name] = (kept.dtype, kept.dims)
                continue
            dims = parameter.dims
            extra = stored.extra_rows(number)
            if extra:
                dims = (dims[0] + extra, *dims[1:])
            shapes[parameter.name] = (stored.dtype(number), dims)
        for added in stored.index.added:
            shapes[str(added.parameter)] = (added.dtype, added.dims)
        return dict(sorted(shapes.items()))

    def _restore(self, stored: StoredTask, base: BaseModel, name: str) -> Tensor:
        number = self.archive.numbers.get(name)
        if number is None:
            record = next(item for item in stored.index.added if item.parameter == name)
            return stored.whole(record)
        kept = stored.replaced(number)
        if kept is not None:
            return stored.whole(kept)
        original = base.tensor(number)
        tensor = self._restore_values(stored, number, original)
        rows = stored.rows(stored.aliases.get(number, number))
        return tensor if rows is None else torch.cat([tensor, rows])

    def _restore_values(self, stored: StoredTask, number: int, original: Tensor) -> Tensor:
        dtype = TORCH_DTYPES[stored.dtype(stored.aliases.get(number, number))]
        parts = stored.parts(number)
        if parts is None:
            return original.to(dtype)
        if parts.exact is not None:
            return _restore_exact(original, parts.exact, str(dtype).removeprefix("torch."))
        tau = task_vector(parts, tuple(original.shape), stored.aliases.get(number, number))
        return tau.add_(original).to(dtype)


def _restore_exact(original: Tensor, exact: dense.Exact, dtype: str) -> Tensor:
    assert dtype in DTYPES
    return dense.exact_restore(original.to(TORCH_DTYPES[dtype]), exact)
