"""The smallest file that keeps a share of each fine-tune's own score, by whatever measures it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from tvcodec import __version__
from tvcodec.adding import among
from tvcodec.checkpoint import (
    CheckpointSource,
    open_checkpoint,
    open_fine_tune,
    refuse_inputs,
)
from tvcodec.encoding.encoder import check_names
from tvcodec.encoding.summary import Summary, TaskSummary
from tvcodec.file.archive import Archive
from tvcodec.file.assembly import Taken, Written, copy_tasks, publish
from tvcodec.file.container import Writer
from tvcodec.file.durable import scratch_directory
from tvcodec.file.locking import only_writer_if_there
from tvcodec.tuning.curve import Curve, Point
from tvcodec.tuning.ledger import Ledger
from tvcodec.tuning.search import LINES
from tvcodec.tuning.trials import Aim, Evaluate, Place, Trials, digest

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The file that `tune` wrote, and by task what was tried and chosen."""

    summary: Summary
    curves: dict[str, Curve]


def tune(
    base_model: CheckpointSource,
    fine_tunes: Mapping[str, CheckpointSource],
    evaluate: Evaluate,
    *,
    path: StrPath,
    retain: float = 0.99,
    lower_is_better: bool = False,
    max_evaluations: int = 12,
    label: str | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Callable[[str, Point], None] = lambda task, point: None,
) -> Tuned:
    """Writes a file at `path` in which each task takes as few bytes as were found to keep the share
    `retain` of its fine-tune's score. `evaluate(model, task)` is the score of a `Model`: it grows
    with quality, or falls, as losses do, with `lower_is_better`.

    The fine-tune and at most `max_evaluations` decoded models of each task are evaluated, at
    settings of the auto codec; `progress` is told of each. A task of which none keeps enough is
    stored bit-exact. What was tried goes into the task's metadata. With a `label`, which stands for
    what `evaluate` measures, sizes and scores are kept in `path` + ".tune.jsonl" once they are
    known, and never measured again: neither after a kill nor for another `retain`.

    Raises TvqError for a fine-tune whose score is not above zero, ValueError for `retain` outside
    0..1, what `encode` raises, and what `evaluate` does.
    """
    if not 0 < retain <= 1:
        raise ValueError(f"retain: expected a share above 0 and at most 1, got {retain}")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations: expected 1 or more, got {max_evaluations}")
    check_names(fine_tunes)
    base = open_checkpoint(base_model)
    tunes = {task: open_fine_tune(fine_tunes[task], base) for task in sorted(fine_tunes)}
    used = itertools.chain.from_iterable(model.paths for model in (base, *tunes.values()))
    refuse_inputs(path, used)
    Writer(path, force=force).abort()  # refused now, not when all is measured
    ledger = Ledger(None if label is None else ledger_path(path))
    key = {"base_model": digest(base), "label": label or "", "version": __version__}
    aim = Aim(evaluate, retain, lower_is_better, max_evaluations)
    with scratch_directory(path) as scratch:
        place = Place(scratch, ledger, key, jobs, progress)
        trials = [Trials(task, base, tune, aim, place) for task, tune in tunes.items()]
        for one in trials:
            one.size(LINES[0])  # what cannot be encoded is refused before the long part
        found = {one.task: one.search() for one in trials}
        apart = [one.write(*found[one.task]) for one in trials]
        written = _assemble([encoded.path for encoded in apart], path, force)
    each: list[TaskSummary] = []
    for encoded in apart:
        each += among(encoded, written).tasks
    summary = Summary(written.path, written.bytes, written.root, tuple(each))
    return Tuned(summary, {task: curve for task, (_, curve) in found.items()})


def ledger_path(path: StrPath) -> Path:
    """Where sizes and scores are kept, for a file at `path`."""
    return Path(f"{os.fspath(path)}.tune.jsonl")


def _assemble(paths: Sequence[str], path: StrPath, force: bool) -> Written:
    """One file of files of one task each."""
    with ExitStack() as stack:
        archives = [stack.enter_context(closing(Archive(one))) for one in paths]
        tasks = [Taken(archive, name) for archive in archives for name in archive.tasks]
        writer = stack.enter_context(Writer(path, force=force))
        if force:
            stack.enter_context(only_writer_if_there(path))
        return publish(writer, copy_tasks(writer, tasks, None, archives[0].root))
