"""File -> task vectors, models and merges: the walk back, one parameter at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from tvcodec import html
from tvcodec.checkpoint import CheckpointSource, open_checkpoint
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.fine_tune import FineTune
from tvcodec.decoding.live_module import overwrite
from tvcodec.decoding.merging import Request, merged_model, merged_task_vector
from tvcodec.decoding.model import Model
from tvcodec.decoding.restoring import Directory
from tvcodec.decoding.stored_task import SharedBasis, StoredTask
from tvcodec.decoding.task_vector import Term, summed
from tvcodec.device import Device, available
from tvcodec.errors import BaseModelMismatch, TvqError
from tvcodec.file.archive import Archive, mirrored


class Bank:
    """An open .tvq file: task vectors, fine-tunes and merges on demand.

    A context manager. What it gives is lazy: a tensor is decoded when it is read, from its own
    bytes of the file alone; where `path` is a URL, the first tensor of a task fetches that task.
    Raises FormatError for a file that is damaged or is no .tvq, UnsupportedError for one that needs
    a newer tvcodec, UnknownTaskError, BaseModelMismatch, and TvqError where a URL cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, expected_root: str | None = None) -> None:
        self.archive = Archive(path, expected_root=expected_root)
        self._tasks: dict[str, StoredTask] = {}
        self._shared: SharedBasis | None = None
        self._checked: set[tuple[int, object]] = set()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return self.archive.tasks

    @property
    def root(self) -> str:
        """The digest that identifies the file's whole content, hexadecimal."""
        return self.archive.container.root_digest.hex()

    def task_vector(
        self,
        task: str,
        base_model: CheckpointSource | None = None,
        parameters: str | None = None,
        *,
        device: Device = "cpu",
    ) -> Model:
        """The task vector of a fine-tune: float32 tensors for all parameters that changed, or for
        those among them that `parameters` matches, as for `decode`; on `device`, as there.

        `base_model` is needed for parameters that are stored bit-exact; without it, reading one
        raises TvqError.
        """
        device = available(device)
        term = self._term(task)
        base = None if base_model is None else self._base(base_model)
        shapes = {
            parameter.name: ("float32", parameter.dims)
            for number, parameter in enumerate(self.archive.root.base_model)
            if term.task.changed(number)
        }
        model = Model(
            shapes,
            lambda name: summed([term], self.archive.numbers[name], base),
            {"tvcodec.task_vector": task},
            inputs=self._inputs(base),
            device=device,
        )
        return _matching(model, task, parameters)

    def decode(
        self,
        task: str,
        base_model: CheckpointSource,
        parameters: str | None = None,
        *,
        device: Device = "cpu",
    ) -> Model:
        """The fine-tune itself, in its own dtypes. `parameters`, a name or else a glob of
        names, restricts it to a part; TvqError where it matches none. Saved as a directory, it gets
        the files that the fine-tune had beside its weights, or the base model's where that was no
        directory.

        Tensors are decoded on the CPU and moved to `device` when they are read; TvqError where
        torch cannot use it. No accelerator was measured.
        """
        device = available(device)
        stored, base = self._task(task), self._base(base_model)
        fine_tune = FineTune(stored, self._basis(), base)
        beside = Directory(self.archive, task, base.checkpoint)
        model = Model(
            fine_tune.shapes(),
            fine_tune.tensor,
            {"tvcodec.task": task},
            None if beside.known else base.directory,
            self._inputs(base),
            device,
            fill=fine_tune.overwrite,
            beside=beside.write,
            layout=beside.layout,
            notes=beside.notes,
        )
        return _matching(model, task, parameters)

    def merge(
        self,
        base_model: CheckpointSource | None,
        weights: Mapping[str, float] | str | os.PathLike[str] | None = None,
        *,
        method: str = "weighted",
        tasks: Sequence[str] | None = None,
        scaling: float | Mapping[str, float] = 1.0,
        negate: Sequence[str] = (),
        others: Sequence[Bank] = (),
        task_vector: bool = False,
        temperature: float | None = None,
        exclude: Sequence[str] | None = None,
        density: float | None = None,
        scope: str | None = None,
        rate: float | None = None,
        seed: int | None = None,
        threshold: float | None = None,
        votes: int | None = None,
        device: Device = "cpu",
        progress: Callable[[int], None] = lambda values: None,
    ) -> Model:
        """base model + scaling * the merged task vectors, in the base model's dtypes.

        `method` says how they are merged:
        "weighted": sum of weight * task vector;
        "tsvm": strongest singular directions, made orthogonal (TSV-Merge); the mean for what is no
        matrix or what a name or glob in `exclude` matches;
        "iso-c": the sum with a flat spectrum; `exclude` as for "tsvm";
        "ties": the share `density` (0.2) of largest values of each task, over the "model" or each
        "parameter" (`scope`), and the mean of those with the elected sign;
        "dare": as "weighted", of what is left when a share `rate` (0.9) is dropped by `seed` (0);
        "consensus": the sum where it matters to `votes` (2) tasks, by lambda = `threshold` (0.4);
        "magmax": of each value the task's that changed it most;
        "model-stock": the mean, as far as tasks agree about each "parameter" or the whole "model"
        (`scope`).

        `weights` (of "weighted" and "dare") are task -> number, "uniform" (1 / N), "cluster:K"
        (clusters share alike, by inner products that the file estimates), the path of a performance
        file {task: accuracy} (softmax of accuracy / `temperature`), or "cars=0.4,dtd=0.6". `tasks`
        takes a subset. `scaling` is a number, or one for each task. Tasks in `negate` count with
        the opposite sign. `others` are open files with more tasks of the same base model. With
        `task_vector` the result is what would be added to the base model, in float32; `base_model`
        may then be None, unless parameters are stored bit-exact. Tensors come on `device`, as for
        `decode`. `progress` is told of values of
        each task that are read before the first is merged, which "ties" and "model-stock" over the
        model do.

        Sums are float32, rounded once. Parameters that a task adds, lacks or reshapes, extra rows
        and integers stay the base model's. Methods that look at single values or directions (all
        but "weighted", "dare" and "model-stock") take a share of the sum of what is coded in a
        rotated frame, but "iso-c" all of it, and "tsvm" too where its noise is below 3 times the
        task vector's energy; TvqError where it is most of a task, and for an option that the method
        does not take.
        """
        device = available(device)
        options = {
            "weights": weights,
            "temperature": temperature,
            "exclude": exclude,
            "density": density,
            "scope": scope,
            "rate": rate,
            "seed": seed,
            "threshold": threshold,
            "votes": votes,
        }
        request = Request(method, options, tasks, scaling, negate)
        held = self._held_with(others)
        base = None if base_model is None else self._base(base_model)
        inputs = self._inputs(base).union(*(other._inputs(None) for other in others))
        if task_vector:
            return merged_task_vector(held, base, request, progress).made_from(inputs).on(device)
        if base is None:
            raise TvqError(
                "a merge needs the base model, a merged task vector does not",
                hint="give base_model, or set task_vector=True",
            )
        return merged_model(held, base, request, progress).made_from(inputs).on(device)

    def load_into(
        self, model: torch.nn.Module, task: str | None, base_model: CheckpointSource
    ) -> None:
        """Overwrites the parameters and buffers of a live module with those of a task, or of the
        base model itself where `task` is None, in place, a few at a time. CheckpointError unless
        the module has its names and shapes, and memory apart from the base model;
        BaseModelMismatch; FormatError for a damaged file. All leave the module as it was.

        A base model in files is read again each time, so that there is no second copy of it in
        memory, but checked only once by each Bank.
        """
        base = self._base(base_model)
        source = base if task is None else FineTune(self._task(task), self._basis(), base)
        for group in self.archive.groups if task is not None else ():
            if group in (None, task):
                self.archive.ensure_group(group)  # damage is found before anything is overwritten
        overwrite(model, source, base, "the base model" if task is None else f"task {task!r}")

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

    def _repr_html_(self) -> str:
        tasks = self.archive.root.tasks
        rows = [(task.name, f"{task.group.length:,}", f"{task.error:.1%}") for task in tasks]
        size = self.archive.container.size
        return html.table(f"{self.archive.path}: {size:,} bytes", ("task", "bytes", "error"), rows)

    def _task(self, name: str) -> StoredTask:
        if name not in self._tasks:
            self._tasks[name] = StoredTask(self.archive, name)
        return self._tasks[name]

    def _base(self, source: CheckpointSource) -> BaseModel:
        return BaseModel(self.archive, open_checkpoint(source), self._checked)

    def _inputs(self, base: BaseModel | None) -> frozenset[Path]:
        """What a model is made from, and must not be written over."""
        paths = frozenset() if base is None else base.checkpoint.paths
        return paths | {Path(self.archive.path)}

    def _basis(self) -> SharedBasis:
        if self._shared is None:
            self._shared = SharedBasis(self.archive)
        return self._shared

    def _term(self, name: str) -> Term:
        return Term(self._task(name), self._basis())

    def _held_with(self, others: Sequence[Bank]) -> dict[str, Term]:
        """The tasks of several files."""
        held: dict[str, Term] = {}
        for bank in (self, *others):
            bank.archive.prefetch_indexes()
            if bank.archive.base_model_digest != self.archive.base_model_digest:
                raise BaseModelMismatch(
                    f"{bank.archive.path}: expected tasks of the base model of"
                    f" {self.archive.path}, got those of another one",
                    hint="tvcodec info shows which base model a file was made with",
                )
            for name in bank.tasks:
                if name in held:
                    found = held[name].task.archive.path
                    raise TvqError(
                        f"task {name!r} is in {found} and in {bank.archive.path}",
                        hint="merge files whose tasks have different names",
                    )
                held[name] = bank._term(name)
        return held


def _matching(model: Model, task: str, glob: str | None) -> Model:
    """The parameter of a task that has this name, or else those whose names match, TvqError if none
    does; None matches all."""
    if glob is None:
        return model
    names = [glob] if glob in model else [name for name in model if fnmatchcase(name, glob)]
    if not names:
        raise TvqError(
            f"no parameter of task {task!r} matches {glob!r}",
            hint="tvcodec info --parameters lists them",
        )
    return model.subset(names)
