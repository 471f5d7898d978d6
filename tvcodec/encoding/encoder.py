"""Checkpoints -> file: the walk over parameters, all tasks of one parameter after another."""

from __future__ import annotations

import functools
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from tvcodec import threads
from tvcodec.checkpoint import (
    Checkpoint,
    CheckpointSource,
    open_checkpoint,
    open_fine_tune,
    refuse_inputs,
)
from tvcodec.encoding import coding, workers
from tvcodec.encoding.coding import Answer, Plan, Sink, Unit
from tvcodec.encoding.companions import companions
from tvcodec.encoding.masks import Masks
from tvcodec.encoding.piece import Pieces
from tvcodec.encoding.published import Published
from tvcodec.encoding.spool import SharedSpool, Spool, Whole, measured, put_whole
from tvcodec.encoding.summary import Summary, of_task
from tvcodec.encoding.survey import Progress, Survey, survey
from tvcodec.errors import TvqError
from tvcodec.file import similarity
from tvcodec.file.container import Writer
from tvcodec.file.index import (
    Root,
    TaskRecord,
    pack_root,
    pack_task,
    single,
    valid_task_name,
)
from tvcodec.file.locking import only_writer_if_there
from tvcodec.file.stored_files import put_blobs
from tvcodec.parameter import rate
from tvcodec.parameter.recipes import QUALITIES, Recipe

_Run = Callable[[Plan, Iterable[Unit], Sink], Iterator[Answer]]


def encode(
    base_model: CheckpointSource,
    fine_tunes: Mapping[str, CheckpointSource],
    path: str | os.PathLike[str],
    *,
    recipe: Recipe | Published | None = None,
    goal: rate.Goal | None = None,
    masks: Mapping[str, CheckpointSource] | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    weights_only: bool = False,
    force: bool = False,
    progress: Progress = lambda values: None,
) -> Summary:
    """Writes all fine-tunes into one .tvq file at `path`, which appears whole or not at all.

    Checkpoints are files, directories or mappings of names to tensors; a fine-tune may be the
    directory of a LoRA adapter. `recipe` defaults to the
    quality "balanced", or to squared error with a `goal`, whose step is the one that reaches a
    size or an error; an error is judged by squared error whatever metric the recipe has, and
    tasks that share something are no farther off than alone.
    `masks` are truth values by task, for recipes that use them. The bytes depend neither on the
    order of the tasks nor on `jobs`, the number of threads. What lies beside the weights of a
    fine-tune that is a directory is kept too, unless `weights_only` is set. A file that another
    process is changing is replaced, by `force`, when that one is done.

    With an `executor` its workers read and code the parameters, `jobs` (64) of them on their way at
    a time, from checkpoints that have to be paths which they can read too. The bytes are the same.

    Raises CheckpointError where the checkpoints do not belong together, hold values that are not
    finite, or are out of the workers' reach; TvqError where `path` exists and `force` is not set,
    or is one of the checkpoints or within its directory; OSError; and ValueError for task names,
    and for a goal or masks that the recipe has no use for.
    """
    if not isinstance(recipe, Recipe | Published | None):
        raise ValueError(
            f"recipe: expected a Recipe, as in QUALITIES, or a published one, got {recipe!r:.40}"
        )
    if recipe is not None and recipe.exact and goal is not None:
        raise ValueError(f"expected a goal or an exact recipe, got both: {goal}")
    if recipe is None:
        recipe = QUALITIES["balanced"] if goal is None else Recipe()
    elif isinstance(recipe, Recipe) and goal and goal.max_error is not None:
        recipe = replace(recipe, metric="mse", factor_step=None)
    _check_use(recipe, goal, masks, fine_tunes)
    check_names(fine_tunes)
    with ExitStack() as stack:
        base = stack.enter_context(open_checkpoint(base_model))
        tunes = {
            name: stack.enter_context(_open(name, fine_tunes[name], base)) for name in fine_tunes
        }
        given = Masks(
            {name: stack.enter_context(_open(name, mask)) for name, mask in (masks or {}).items()}
        )
        for checkpoint in (base, *tunes.values(), *given.checkpoints.values()):
            refuse_inputs(path, checkpoint.paths)
            if executor:
                workers.check_file(checkpoint)
        writer = stack.enter_context(Writer(path, force=force))
        stack.enter_context(threads.one_thread())  # parameters run in parallel instead
        run: _Run
        if executor:
            spread = functools.partial(workers.spread, executor, jobs or workers.AHEAD)
            found = survey(base, tunes, recipe.exact, progress, spread)
            run = functools.partial(coding.there, spread, Pieces(found))
        else:
            found = survey(base, tunes, recipe.exact, progress)
            jobs = jobs or os.cpu_count() or 1
            pool = stack.enter_context(threads.pool(jobs))
            run = functools.partial(coding.here, pool, jobs, Pieces(found))
        for one in () if weights_only else found.tasks:
            with _naming(one.name):
                one.companions = companions(one.checkpoint, base, recipe.exact)
        shared = stack.enter_context(SharedSpool())
        spools = [stack.enter_context(Spool(found, task)) for task in found.tasks]
        plan = Plan(_recipes(found, recipe, goal, run, progress), similarity.bits(found.values))
        share = coding.shares(recipe) and (goal is None or goal.max_error is not None)
        plan = replace(plan, masks=given, share=share, bounded=goal is not None)
        parts = list(coding.units(plan, range(len(found.base_model)), range(len(spools))))
        for (number, tasks), answer in zip(parts, run(plan, parts, shared.put), strict=True):
            coded, basis = answer
            for task, stored in zip(tasks, coded, strict=True):
                spools[task].put(stored)
            shared.describe(number, basis)
            progress(found.base_model[number].count * len(tasks))
        recipes = plan.recipe if isinstance(plan.recipe, tuple) else [plan.recipe] * len(spools)
        if force:
            stack.enter_context(only_writer_if_there(path))
        return _write(writer, found, recipes, shared, spools)


def _open(name: str, source: CheckpointSource, base: Checkpoint | None = None) -> Checkpoint:
    """A fine-tune of `base`; without one, any checkpoint."""
    with _naming(name):
        return open_checkpoint(source) if base is None else open_fine_tune(source, base)


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


def check_names(fine_tunes: Mapping[str, object]) -> None:
    """ValueError unless these can be the names of a file's tasks."""
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
    recipe: Recipe | Published,
    goal: rate.Goal | None,
    run: _Run,
    progress: Progress,
) -> tuple[Recipe, ...] | Published:
    """That of each task, with the step that reaches the goal; a published one is for all."""
    if isinstance(recipe, Published):
        return recipe
    if goal is None or recipe.exact:
        return (recipe,) * len(found.tasks)

    def measure(task: int, whole: Whole, step: float) -> rate.Measured:
        with Spool(found, found.tasks[task]) as spool:
            at_step = recipe.at_step(step)
            plan = Plan((at_step,) * len(found.tasks), 0)
            parts = [(number, (task,)) for number in range(len(found.base_model))]
            answers = run(plan, parts, lambda vector: None)
            for base, (coded, _) in zip(found.base_model, answers, strict=True):
                for one in coded:
                    spool.put(one, keep_sections=False)
                progress(base.count)
            return rate.Measured(spool.finished_bytes(at_step.as_metadata(), whole), spool.error)

    wanted, recipes = goal.in_bytes(found.values), []
    for number, task in enumerate(found.tasks):
        whole = put_whole(measured, found, task)
        with _naming(task.name):
            step = rate.find_step(wanted, functools.partial(measure, number, whole))
        recipes.append(recipe.at_step(step))
    return tuple(recipes)


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
    beside = put_blobs(writer, ChainMap(*(dict(spool.task.companions.blobs) for spool in spools)))
    triangle = similarity.triangle([spool.known for spool in spools])
    gram_length, gram_sha256 = writer.put_apart(triangle) if triangle else (0, bytes(32))
    root = Root(
        base_model=found.base_model,
        companions=beside,
        gram_length=gram_length,
        gram_sha256=gram_sha256,
        shared=common,
        tasks=tuple(records),
    )
    digest = writer.close(pack_root(root))
    share = (writer.offset - sum(record.group.length for record in records)) / len(records)
    tasks = tuple(
        of_task(found, spool.task, spool.error, record.group.length, share)
        for spool, record in zip(spools, records, strict=True)
    )
    return Summary(writer.path, writer.offset, digest.hex(), tasks)
