"""New tasks for a file: encoded apart, then put among the others, which are copied."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tvcodec.checkpoint import (
    Checkpoint,
    CheckpointSource,
    open_checkpoint,
    open_fine_tune,
    refuse_inputs,
)
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.decoder import Bank
from tvcodec.encoding.encoder import encode
from tvcodec.encoding.published import RECIPES, Published
from tvcodec.encoding.summary import Summary
from tvcodec.encoding.survey import Progress
from tvcodec.errors import BaseModelMismatch, TvqError
from tvcodec.file import similarity
from tvcodec.file.archive import Archive
from tvcodec.file.assembly import Taken, Written
from tvcodec.file.container import Writer
from tvcodec.file.durable import scratch_directory
from tvcodec.file.editing import edit
from tvcodec.file.location import refuse_edit
from tvcodec.file.locking import resolved
from tvcodec.maths.sketch import Sketch
from tvcodec.parameter.rate import Goal
from tvcodec.parameter.recipes import QUALITIES, Recipe

StrPath = str | os.PathLike[str]
ALONE = ", ".join(["auto", "exact", *(name for name, kind in RECIPES.items() if not kind.joint)])


def add(
    path: StrPath,
    base_model: CheckpointSource,
    fine_tunes: Mapping[str, CheckpointSource],
    *,
    output: StrPath | None = None,
    recipe: Recipe | Published | None = None,
    goal: Goal | None = None,
    jobs: int | None = None,
    weights_only: bool = False,
    replace: bool = False,
    force: bool = False,
    expected_root: str | None = None,
    progress: Progress = lambda values: None,
) -> Summary:
    """Puts fine-tunes into a file, as `encode` codes them; its tasks are copied, none is decoded.

    Without `output` the file is replaced, whole or not at all; whoever has it open goes on reading
    the old one. Several processes may add to one file at a time: each waits for its turn. Where
    tasks share no basis, the file is byte for byte what `encode` makes of all of them. What comes
    back speaks of the new tasks.

    Raises BaseModelMismatch; TvqError for a task that is there already, unless `replace` is
    set, for an `output` that exists, unless `force` is, and for a recipe that codes tasks by what
    all of them are; and what `encode` and `open` raise.
    """
    if output is None:
        refuse_edit(path)
    if recipe is None:
        recipe = QUALITIES["balanced"] if goal is None else Recipe()
    if isinstance(recipe, Recipe):
        recipe = dataclasses.replace(recipe, share=False)
    elif recipe.joint:
        raise TvqError(
            f"{os.fspath(path)}: recipe {recipe.name!r} codes a task by what all tasks are: none"
            " can be added",
            hint=f"encode all tasks together, or add by another recipe ({ALONE})",
        )
    base = open_checkpoint(base_model)
    if output is not None:
        tunes = [open_fine_tune(source, base) for source in fine_tunes.values()]
        used = [checkpoint.paths for checkpoint in (base, *tunes)]
        refuse_inputs(output, {Path(path), *itertools.chain.from_iterable(used)})
    with closing(Archive(path, expected_root=expected_root)) as archive:
        _check_names(archive, fine_tunes, replace)
        BaseModel(archive, base).check()
    if output is not None:
        Writer(output, force=force).abort()  # refused now, not when all is encoded
    place = resolved(path) if output is None else output
    with scratch_directory(place) as scratch:
        apart = scratch / "new.tvq"
        encoded = encode(
            base,
            fine_tunes,
            apart,
            recipe=recipe,
            goal=goal,
            jobs=jobs,
            weights_only=weights_only,
            progress=progress,
        )
        with (
            closing(Archive(apart)) as new,
            edit(path, output, force, expected_root) as editing,
        ):
            archive = editing.archive
            _check_names(archive, fine_tunes, replace)
            _check_alike(archive, new)
            stay = [task for task in archive.tasks if task not in fine_tunes]
            sketches = _sketches(path, archive, stay, base)
            tasks = [Taken(archive, task) for task in stay]
            tasks += [Taken(new, task) for task in new.tasks]
            written = editing.finish(tasks, sketches)
    return among(encoded, written)


def _check_names(archive: Archive, names: Iterable[str], replace: bool) -> None:
    there = {task.casefold(): task for task in archive.tasks}
    for name in names:
        other = there.get(name.casefold(), name)
        if other != name:
            raise TvqError(
                f"tasks {other!r} (in {archive.path}) and {name!r} differ only in case",
                hint="choose another name: where files are named so, one would hide the other",
            )
        if name in archive.tasks and not replace:
            raise TvqError(f"{archive.path}: has a task {name!r}", hint="--replace replaces it")


def _check_alike(archive: Archive, new: Archive) -> None:
    """What was encoded apart has to belong to the file as it is now."""
    if new.root.base_model != archive.root.base_model:
        raise BaseModelMismatch(
            f"{archive.path}: was replaced meanwhile by a file of another base model",
            hint="tvcodec info shows which one: encode against that, or to another file",
        )


def _sketches(
    path: StrPath, archive: Archive, tasks: Sequence[str], base: Checkpoint
) -> dict[str, bytes]:
    """Sketches of tasks that another writer left without one like ours, from what they decode
    to."""
    sketches = {}
    for task in tasks:
        index = archive.index(task)
        known = similarity.from_metadata(index.metadata, archive.values)
        if known or not archive.record(task).norm:
            continue
        numbers = [entry.parameter for entry in index.entries]
        numbers += [member.parameter for member in index.small.members] if index.small else []
        sketch = Sketch(similarity.bits(archive.values))
        with Bank(path, expected_root=archive.container.root_digest.hex()) as bank:
            tau = bank.task_vector(task, base)
            for number in numbers:
                vector = tau[archive.root.base_model[number].name]
                sketch.add(vector.nan_to_num(0, 0, 0), number)
        sketches[task] = sketch.packed().tobytes()
    return sketches


def among(encoded: Summary, written: Written) -> Summary:
    """The summary of tasks that were encoded apart, as tasks of the file that they were copied
    into: each with its share of what all tasks there have in common."""
    apart = encoded.bytes - sum(task.bytes for task in encoded.tasks)
    tasks = []
    for task in encoded.tasks:
        before = task.bytes + apart / len(encoded.tasks)
        now = task.bytes + written.common_bytes / len(written.tasks)
        rate, times = task.bits_per_parameter * now / before, task.times_smaller * before / now
        tasks.append(dataclasses.replace(task, bits_per_parameter=rate, times_smaller=times))
    return Summary(written.path, written.bytes, written.root, tuple(tasks))
