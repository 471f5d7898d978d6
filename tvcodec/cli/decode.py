"""tvcodec decode"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvcodec.cli import completion, options, paths, printing
from tvcodec.cli.loading import load_torch
from tvcodec.cli.progress import progress
from tvcodec.errors import TvqError

if TYPE_CHECKING:
    from tvcodec.decoding.decoder import Bank
    from tvcodec.decoding.model import Model


@click.command()
@options.bank_argument
@click.argument("tasks", metavar="TASK...", nargs=-1, shell_complete=completion.tasks)
@click.option("--all", "everything", is_flag=True, help="All tasks of the file.")
@options.base_model(required=False)
@options.model_output
@click.option(
    "--parameters",
    metavar="GLOB",
    help="Only the parameter of that name, or those whose names match: 'encoder.layer.0.*'.",
)
@click.option(
    "--task-vector",
    is_flag=True,
    help="Write fine-tune minus base model instead, in float32; --base-model is needed only where"
    " parameters are stored bit-exact.",
)
@options.max_shard_size
@options.expect_root
@options.jobs
@options.force
def decode(
    bank: str,
    tasks: tuple[str, ...],
    everything: bool,
    base_model: str | None,
    output: str,
    parameters: str | None,
    task_vector: bool,
    max_shard_size: int | None,
    expect_root: str | None,
    jobs: int | None,
    force: bool,
) -> None:
    """Write fine-tunes as checkpoints, each parameter in its original dtype.

    Every parameter of the base model is checked before it is used; if it is another one, nothing
    is written. A directory gets the files that the fine-tune's had beside the weights, or the base
    model's if the fine-tune was a single file. Several tasks go into one directory, OUT, which
    appears when all are done: each as a directory OUT/TASK where it or the base model was one, else
    as OUT/TASK.safetensors.

    \b
      tvcodec decode bank.tvq cars --base-model base/ -o cars-restored/
      tvcodec decode bank.tvq --all --base-model base/ -o restored/
      tvcodec decode bank.tvq cars --task-vector -o cars-tau.safetensors
    """
    if base_model is None and not task_vector:
        raise click.UsageError("--base-model is missing (only --task-vector goes without)")
    _check_tasks(tasks, everything)
    several = everything or len(tasks) > 1
    if several and output.endswith(".safetensors"):
        raise click.UsageError(f"-o: several tasks go into a directory, got {output!a}")
    paths.check(bank, base_model, output=output)
    load_torch()
    from tvcodec.decoding.decoder import Bank
    from tvcodec.decoding.several import save_each

    with Bank(bank, expected_root=expect_root) as opened:
        models: dict[str, Model] = {}
        for task in opened.tasks if everything else tasks:
            if task_vector:
                model = opened.task_vector(task, base_model, parameters)
            else:
                assert base_model is not None
                model = opened.decode(task, base_model, parameters)
            models[_name(opened, task, model) if several else output] = model
        values = sum(math.prod(one.shape(name)) for one in models.values() for name in one)
        with progress(("decoding", values)) as advance:
            if several:
                save_each(
                    models,
                    output,
                    max_shard_size=max_shard_size,
                    force=force,
                    jobs=jobs,
                    progress=advance,
                )
            else:
                models[output].save(
                    output, max_shard_size=max_shard_size, force=force, jobs=jobs, progress=advance
                )
    for name, model in models.items():
        for line in () if name.endswith(".safetensors") else model.notes:
            printing.note(f"note: {line}")
    parameters_written = printing.counted(sum(map(len, models.values())), "parameter")
    written = f"{printing.counted(len(models), 'task')}, " if several else ""
    printing.note(f"wrote {output}: {written}{parameters_written}")


def _check_tasks(tasks: tuple[str, ...], everything: bool) -> None:
    if everything and tasks:
        raise click.UsageError("TASK and --all exclude each other: give one")
    if not everything and not tasks:
        raise click.UsageError("Missing argument 'TASK...' (or --all).")
    for task in tasks:
        if tasks.count(task) > 1:
            raise click.UsageError(f"task {task!a} is given twice")


def _name(bank: Bank, task: str, model: Model) -> str:
    """What a task is called beside others: a directory where it comes with files of its own or of
    the base model."""
    beside = bank.archive.index(task).files is not None and "tvcodec.task" in model.metadata
    if not beside and model.directory is None:
        return f"{task}.safetensors"
    from tvcodec.decoding.model import OTHER_FORMATS

    if Path(task).suffix in {".safetensors", *OTHER_FORMATS}:
        raise TvqError(
            f"{bank.archive.path}: task {task!a}: no directory can have that name",
            hint="decode it by itself, with an -o of another one",
        )
    return task
