"""Checkpoints -> file: the walk over parameters, all tasks of one parameter after another."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tvcodec import html, joint, parameter, rate, similarity
from tvcodec.checkpoint import Checkpoint, CheckpointSource, open_checkpoint, refuse_inputs
from tvcodec.container import Writer
from tvcodec.errors import TvqError
from tvcodec.index import (
    Root,
    TaskRecord,
    pack_root,
    pack_task,
    single,
    valid_task_name,
)
from tvcodec.locking import only_writer_if_there
from tvcodec.masks import Masks
from tvcodec.published import Published
from tvcodec.recipes import QUALITIES, Recipe
from tvcodec.spool import SharedSpool, Spool, Whole, measured, put_whole
from tvcodec.survey import Progress, Survey, TaskSurvey, changes, survey
from tvcodec.threads import one_thread

ALONE = 1 << 22  # values from which memory for one parameter at a time is all there should be


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What became of one task: `bytes` in the file with its index; with its share of what tasks
    share, bits per parameter of the base model, and how many times smaller than the checkpoint as
    stored; error relative to the norm of the task vector, and notes on what is more than that."""

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

    def _repr_html_(self) -> str:
        rows = [
            (task.name, f"{task.bits_per_parameter:.3f}", f"{task.error:.1%}", f"{task.bytes:,}")
            for task in self.tasks
        ]
        headers = ("task", "bits per parameter", "error", "bytes")
        return html.table(f"{self.path}: {self.bytes:,} bytes", headers, rows)


def encode(
    base_model: CheckpointSource,
    fine_tunes: Mapping[str, CheckpointSource],
    path: str | os.PathLike[str],
    *,
    recipe: Recipe | Published | None = None,
    goal: rate.Goal | None = None,
    masks: Mapping[str, CheckpointSource] | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress = lambda values: None,
) -> Summary:
    """Writes all fine-tunes into one .tvq file at `path`, which appears whole or not at all.

    Checkpoints are files, directories or mappings of names to tensors. `recipe` defaults to the
    quality "balanced", or to squared error with a `goal`, whose step is the one that reaches a
    size or an error; an error is judged by squared error whatever metric the recipe has.
    `masks` are truth values by task, for recipes that use them. The bytes depend neither on the
    order of the tasks nor on `jobs`, the number of threads. A file that another process is changing
    is replaced, by `force`, when that one is done.

    Raises CheckpointError where the checkpoints do not belong together or hold values that are not
    finite, TvqError where `path` exists and `force` is not set, or is one of the checkpoints or
    within its directory, OSError, and ValueError for task names, and for a goal or masks that the
    recipe has no use for.
    """
    if not isinstance(recipe, Recipe | Published | None):
        raise ValueError(f"recipe: expected a Recipe or a published one, got {recipe!r:.40}")
    if recipe is not None and recipe.exact and goal is not None:
        raise ValueError(f"expected a goal or an exact recipe, got both: {goal}")
    if recipe is None:
        recipe = QUALITIES["balanced"] if goal is None else Recipe()
    elif isinstance(recipe, Recipe) and goal and goal.max_error is not None:
        recipe = replace(recipe, metric="mse", factor_step=None)
    _check_use(recipe, goal, masks, fine_tunes)
    _check_names(fine_tunes)
    with ExitStack() as stack:
        base = stack.enter_context(open_checkpoint(base_model))
        tunes = {name: stack.enter_context(_open(name, fine_tunes[name])) for name in fine_tunes}
        given = Masks(
            {name: stack.enter_context(_open(name, mask)) for name, mask in (masks or {}).items()}
        )
        for checkpoint in (base, *tunes.values(), *given.checkpoints.values()):
            refuse_inputs(path, checkpoint.paths)
        writer = stack.enter_context(Writer(path, force=force))
        stack.enter_context(one_thread())  # parameters run in parallel instead
        found = survey(base, tunes, recipe.exact, progress)
        pool = stack.enter_context(ThreadPoolExecutor(jobs or os.cpu_count() or 1))
        shared = stack.enter_context(SharedSpool())
        spools = [stack.enter_context(Spool(found, task)) for task in found.tasks]
        recipes: Sequence[Recipe | Published]
        if isinstance(recipe, Published):
            recipes = [recipe] * len(spools)
        else:
            recipes = alone = _recipes(found, recipe, goal, pool, progress)
        for number, base_parameter in enumerate(found.base_model):
            run = map if base_parameter.count >= ALONE else pool.map
            if isinstance(recipe, Published):
                joint.encode(found, number, run, recipe, given, shared, spools)
            else:
                _encode_parameter(found, number, alone, shared, spools, pool, not goal)
            progress(base_parameter.count * len(spools))
        if force:
            stack.enter_context(only_writer_if_there(path))
        return _write(writer, found, recipes, shared, spools)


def _open(name: str, source: CheckpointSource) -> Checkpoint:
    with _naming(name):
        return open_checkpoint(source)


@contextmanager
def _naming(task: str) -> Iterator[None]:
    """Says which task an error comes from."""
    try:
        yield
    except TvqError as error:
        raise type(error)(f"task {task!r}: {error}", error.hint) from None


def _check_use(
    recipe: Recipe | Published,
    goal: rate.Goal | None,
    masks: Mapping[str, object] | None,
    fine_tunes: Mapping[str, object],
) -> None:
    published = isinstance(recipe, Published)
    if published and goal:
        raise ValueError(f"recipe {recipe.name!r} takes no goal: its settings say how close it is")
    if masks and not recipe.uses_masks:
        raise ValueError(f"recipe {recipe.name!r} has no use for masks")
    if masks and set(masks) != set(fine_tunes):
        odd = ", ".join(sorted(set(masks) ^ set(fine_tunes)))
        raise ValueError(f"expected a mask for each task, got none, or no task, for {odd}")


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


def _recipes(
    found: Survey,
    recipe: Recipe,
    goal: rate.Goal | None,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> list[Recipe]:
    if goal is None or recipe.exact:
        return [recipe] * len(found.tasks)

    def measure(task: TaskSurvey, whole: Whole, step: float) -> rate.Measured:
        with Spool(found, task) as spool:
            numbers = range(len(found.base_model))
            at_step = recipe.at_step(step)
            counts = [base.count for base in found.base_model]
            run = map if max(counts, default=0) >= ALONE else pool.map
            coding = run(lambda n: _encode_task(found, task, n, at_step), numbers)
            for base, coded in zip(found.base_model, coding, strict=True):
                spool.put(coded, keep_sections=False)
                progress(base.count)
            return rate.Measured(spool.finished_bytes(at_step.as_metadata(), whole), spool.error)

    wanted, recipes = goal.in_bytes(found.values), []
    for task in found.tasks:
        whole = put_whole(measured, found, task)
        with _naming(task.name):
            step = rate.find_step(wanted, functools.partial(measure, task, whole))
        recipes.append(recipe.at_step(step))
    return recipes


def _encode_parameter(
    found: Survey,
    number: int,
    recipes: list[Recipe],
    shared: SharedSpool,
    spools: list[Spool],
    pool: ThreadPoolExecutor,
    share: bool,
) -> None:
    run = map if found.base_model[number].count >= ALONE else pool.map
    recipe = recipes[0]  # those of tasks differ in their steps, which a goal finds
    share = share and recipe.share and recipe.metric == "mse" and not recipe.exact

    def encode_one(task: int) -> parameter.Coded | None:
        coded = _encode_task(found, found.tasks[task], number, recipes[task])
        if coded is None or coded.tau is None:
            return coded
        spools[task].sketch.add(coded.tau, number)
        return coded if share else replace(coded, tau=None)  # which all tasks would add up to

    coding: Iterable[parameter.Coded | None] = run(encode_one, range(len(spools)))
    if share:
        vectors, coding = joint.shared_instead(found, number, run, recipe, list(coding))
        for vector in vectors:
            shared.put(vector)
    for spool, coded in zip(spools, coding, strict=True):
        spool.put(coded)


def _encode_task(
    found: Survey, task: TaskSurvey, number: int, recipe: Recipe
) -> parameter.Coded | None:
    if number not in task.energies:
        return None
    read = functools.partial(task.read, number, found.base, found.base_model[number])
    if recipe.exact or not task.energies[number]:
        return parameter.encode_exact(number, read, math.sqrt(task.energies[number]))
    return parameter.encode(number, read, recipe, task.rms)


def _write(
    writer: Writer,
    found: Survey,
    recipes: Sequence[Recipe | Published],
    shared: SharedSpool,
    spools: list[Spool],
) -> Summary:
    records = []
    common = shared.write(writer)
    for spool, recipe in zip(spools, recipes, strict=True):
        start = writer.offset
        index = spool.write(writer, recipe.as_metadata())
        sections_length = writer.offset - start
        length, sha256 = writer.put_index(pack_task(index))
        norm, error = single(spool.task.norm), single(spool.error)
        records.append(TaskRecord(spool.task.name, sections_length, length, sha256, norm, error))
    triangle = similarity.triangle([spool.known for spool in spools])
    gram_length, gram_sha256 = writer.put_apart(triangle) if triangle else (0, bytes(32))
    root = Root(
        base_model=found.base_model,
        gram_length=gram_length,
        gram_sha256=gram_sha256,
        shared=common,
        tasks=tuple(records),
    )
    digest = writer.close(pack_root(root))
    share = (writer.offset - sum(record.group.length for record in records)) / len(records)
    tasks = tuple(
        _summary(found, spool, record.group.length, share)
        for spool, record in zip(spools, records, strict=True)
    )
    return Summary(writer.path, writer.offset, digest.hex(), tasks)


def _summary(found: Survey, spool: Spool, size: int, share: float) -> TaskSummary:
    task = spool.task
    return TaskSummary(
        task.name,
        size,
        8 * (size + share) / found.values if found.values else 0.0,
        task.checkpoint.stored_bytes / (size + share),
        spool.error,
        tuple(changes(task, found.base_model)),
    )
