"""Checkpoints -> file: the walk over parameters, all tasks of one parameter after another."""

from __future__ import annotations

import functools
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import torch
from torch import Tensor

from tvcodec import codec, parameter, rate
from tvcodec.checkpoint import Checkpoint, CheckpointSource, open_checkpoint
from tvcodec.container import Writer, aligned
from tvcodec.errors import CheckpointError, TvqError
from tvcodec.index import (
    BaseParameter,
    Entry,
    Kept,
    Root,
    Rows,
    Small,
    SmallMember,
    Stream,
    TaskIndex,
    TaskRecord,
    pack_root,
    pack_task,
    single,
    valid_task_name,
)
from tvcodec.recipes import QUALITIES, Recipe
from tvcodec.survey import Progress, Survey, TaskSurvey, changes, survey

SPOOL_MEMORY = 4 << 20  # bytes of sections per task held in memory before they go to disk
ALONE = 1 << 22  # values from which a parameter is coded by one thread at a time


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What became of one task: `bytes` in the file with its index, bits per parameter of the base
    model, how many times smaller than the checkpoint as stored, error relative to the norm of the
    task vector, and notes on what is more than a task vector."""

    name: str
    bytes: int
    bits_per_parameter: float
    times_smaller: float
    error: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What `encode` wrote: the file's size and root digest (hexadecimal), and each task."""

    path: str
    bytes: int
    root: str
    tasks: tuple[TaskSummary, ...]


def encode(
    base_model: CheckpointSource,
    fine_tunes: Mapping[str, CheckpointSource],
    path: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    goal: rate.Goal | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress = lambda values: None,
) -> Summary:
    """Writes all fine-tunes into one .tvq file at `path`, which appears whole or not at all.

    Checkpoints are files, directories or mappings of names to tensors. `recipe` defaults to the
    quality "balanced"; a `goal` replaces its step by the one that reaches a size or an error. The
    bytes depend neither on the order of the tasks nor on `jobs`, the number of threads.

    Raises CheckpointError where the checkpoints do not belong together or hold values that are not
    finite, TvqError where `path` exists and `force` is not set, OSError, and ValueError for task
    names.
    """
    recipe = recipe or QUALITIES["balanced"]
    _check_names(fine_tunes)
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(path, force=force))
        base = stack.enter_context(open_checkpoint(base_model))
        tunes = {name: stack.enter_context(_open(name, fine_tunes[name])) for name in fine_tunes}
        stack.enter_context(_one_thread_per_parameter())
        found = survey(base, tunes, recipe.exact, progress)
        pool = stack.enter_context(ThreadPoolExecutor(jobs or os.cpu_count() or 1))
        recipes = _recipes(found, recipe, goal, pool, progress)
        spools = [stack.enter_context(_Spool(found, task)) for task in found.tasks]
        gram = torch.zeros(len(spools), len(spools), dtype=torch.float64)
        for number in range(len(found.base_model)):
            _encode_parameter(found, number, recipes, spools, gram, pool)
            progress(found.base_model[number].count * len(spools))
        return _write(writer, found, recipes, spools, gram)


def _open(name: str, source: CheckpointSource) -> Checkpoint:
    try:
        return open_checkpoint(source)
    except TvqError as error:
        raise type(error)(f"task {name!r}: {error}", error.hint) from None


def _check_names(fine_tunes: Mapping[str, object]) -> None:
    if not fine_tunes:
        raise ValueError("expected at least one fine-tune, got none")
    folded: dict[str, str] = {}
    for name in fine_tunes:
        if not valid_task_name(name):
            raise ValueError(
                f"task {name!a}: expected a name of letters, digits and . _ -, not a device's"
            )
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"tasks {other!r} and {name!r}: names differ in more than case")


@contextmanager
def _one_thread_per_parameter() -> Iterator[None]:
    """Sums depend on how many threads share them, so each stays in one; parameters run in
    parallel instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _recipes(
    found: Survey,
    recipe: Recipe,
    goal: rate.Goal | None,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> list[Recipe]:
    if goal is None or recipe.exact:
        return [recipe] * len(found.tasks)

    def measure(task: TaskSurvey, step: float) -> rate.Measured:
        with _Spool(found, task) as spool:
            numbers = range(len(found.base_model))
            at_step = recipe.at_step(step)
            for coded in pool.map(lambda n: _encode_task(found, task, n, at_step), numbers):
                spool.put(coded, keep_sections=False)
            return rate.Measured(spool.finished_bytes(), spool.error)

    wanted = goal.in_bytes(found.values)
    return [
        recipe.at_step(rate.find_step(wanted, functools.partial(measure, task)))
        for task in found.tasks
    ]


def _encode_parameter(
    found: Survey,
    number: int,
    recipes: list[Recipe],
    spools: list[_Spool],
    gram: Tensor,
    pool: ThreadPoolExecutor,
) -> None:
    jobs = list(zip(found.tasks, recipes, strict=True))
    run = map if found.base_model[number].count >= ALONE else pool.map
    decoded: list[Tensor | None] = []
    for spool, coded in zip(
        spools, run(lambda job: _encode_task(found, job[0], number, job[1]), jobs), strict=True
    ):
        decoded.append(coded.values.reshape(-1) if coded and coded.values is not None else None)
        spool.put(coded)
    for row, one in enumerate(decoded):
        for column, other in enumerate(decoded[:row]):
            if one is not None and other is not None:
                gram[row, column] += torch.dot(one, other).double()


def _encode_task(
    found: Survey, task: TaskSurvey, number: int, recipe: Recipe
) -> parameter.Coded | None:
    if number not in task.energies:
        return None
    name, dims = found.base_model[number].name, found.base_model[number].dims
    fine_tune = task.checkpoint.tensor(name)
    if number in task.rows:
        fine_tune = fine_tune[: dims[0]]
    base = found.base.tensor(name)
    if recipe.exact:
        norm = math.sqrt(task.energies[number])
        return parameter.encode_exact(number, fine_tune, base.to(fine_tune.dtype), norm)
    return parameter.encode(number, fine_tune, base, recipe, task.rms)


@dataclass(slots=True)
class _Spool:
    """The sections of one task until it is their turn in the file."""

    found: Survey
    task: TaskSurvey
    sections: BinaryIO = field(init=False)
    entries: list[Entry] = field(default_factory=list)
    members: list[SmallMember] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)
    lost: float = 0.0

    def __post_init__(self) -> None:
        self.sections = tempfile.SpooledTemporaryFile(SPOOL_MEMORY)  # type: ignore[assignment]

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.sections.close()

    @property
    def error(self) -> float:
        """Of the whole task so far, relative to the norm of its task vector."""
        return math.sqrt(self.lost) / self.task.norm if self.task.norm else 0.0

    def put(self, coded: parameter.Coded | None, keep_sections: bool = True) -> None:
        if coded is None:
            return
        self.lost += coded.lost
        if coded.entry:
            self.entries.append(coded.entry)
            if keep_sections:
                self.sections.write(coded.section)
        if coded.member and coded.codes is not None:
            self.members.append(coded.member)
            self.codes.append(coded.codes)

    def small(self) -> tuple[Stream, bytes]:
        return codec.store_stream(torch.cat(self.codes))

    def finished_bytes(self) -> int:
        """What the task will take, from the sections alone: a close estimate of the whole."""
        small = aligned(len(self.small()[1])) + 24 * len(self.members) if self.codes else 0
        return small + sum(aligned(entry.length) + 60 for entry in self.entries)

    def write(self, writer: Writer, metadata: Mapping[str, str]) -> TaskIndex:
        """Puts all sections of the task in file order; their index."""
        small = None
        if self.codes:
            stream, data = self.small()
            small = Small(*writer.put(data), stream, tuple(self.members))
        self.sections.seek(0)
        entries = []
        for entry in self.entries:
            length, crc = writer.put(self.sections.read(entry.length))
            entries.append(replace(entry, length=length, crc=crc))
        task, parameters = self.task, self.found.base_model
        replaced = tuple(_keep(writer, n, task, parameters[n].name) for n in task.kept)
        rows = tuple(
            _rows(writer, n, count, task, parameters[n]) for n, count in sorted(task.rows.items())
        )
        added = tuple(_keep(writer, name, task, name) for name in task.added)
        return TaskIndex(
            added=added,
            aliases=tuple(sorted(task.aliases.items())),
            digest=writer.end_group(),
            dtypes=tuple(sorted(task.dtypes.items())),
            entries=tuple(entries),
            metadata=metadata,
            missing=tuple(task.missing),
            replaced=replaced,
            rows=rows,
            small=small,
        )


def _keep(writer: Writer, key: int | str, task: TaskSurvey, name: str) -> Kept:
    tensor = task.checkpoint.tensor(name)
    stream, data = codec.store_elements(tensor)
    dtype = task.checkpoint.dtype(name)
    return Kept(key, dtype, tuple(tensor.shape), *writer.put(data), stream)


def _rows(writer: Writer, number: int, count: int, task: TaskSurvey, base: BaseParameter) -> Rows:
    tensor = task.checkpoint.rows(base.name, base.dims[0], base.dims[0] + count)
    stream, data = codec.store_elements(tensor)
    return Rows(number, count, *writer.put(data), stream)


def _write(
    writer: Writer, found: Survey, recipes: list[Recipe], spools: list[_Spool], gram: Tensor
) -> Summary:
    records, starts = [], []
    for spool, recipe in zip(spools, recipes, strict=True):
        starts.append(writer.offset)
        index = spool.write(writer, recipe.as_metadata())
        sections_length = writer.offset - starts[-1]
        length, sha256 = writer.put_index(pack_task(index))
        norm, error = single(spool.task.norm), single(spool.error)
        records.append(TaskRecord(spool.task.name, sections_length, length, sha256, norm, error))
    starts.append(writer.offset)
    gram_length, gram_crc = writer.put(_triangle(found, gram)) if len(spools) > 1 else (0, 0)
    root = Root(
        base_model=found.base_model,
        gram_crc=gram_crc,
        gram_length=gram_length,
        tasks=tuple(records),
    )
    digest = writer.close(pack_root(root))
    tasks = tuple(
        _summary(found, spool, end - start)
        for spool, start, end in zip(spools, starts, starts[1:], strict=False)
    )
    return Summary(writer.path, writer.offset, digest.hex(), tasks)


def _triangle(found: Survey, gram: Tensor) -> bytes:
    """Inner products of the task vectors as stored, and their true squared norms on the diagonal;
    float32, lower triangle row by row."""
    for number, task in enumerate(found.tasks):
        gram[number, number] = task.norm**2
    rows = [float(gram[row, column]) for row in range(len(gram)) for column in range(row + 1)]
    return struct.pack(f"<{len(rows)}f", *rows)


def _summary(found: Survey, spool: _Spool, size: int) -> TaskSummary:
    task = spool.task
    return TaskSummary(
        task.name,
        size,
        8 * size / found.values if found.values else 0.0,
        task.checkpoint.stored_bytes / size,
        spool.error,
        tuple(changes(task, found.base_model)),
    )


__all__ = ["CheckpointError", "Summary", "TaskSummary", "encode"]
