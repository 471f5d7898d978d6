"""tvcodec encode"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from tvcodec.cli import completion, options, paths, printing, recipe_settings
from tvcodec.cli.progress import progress
from tvcodec.cli.recipe_settings import AUTO, QUALITIES, RecipeFile
from tvcodec.file.container import check_name

if TYPE_CHECKING:
    from tvcodec.checkpoint import Checkpoint
    from tvcodec.encoding.published import Published
    from tvcodec.encoding.summary import Summary
    from tvcodec.parameter.rate import Goal
    from tvcodec.parameter.recipes import Recipe

_QUALITY_HELP = ", ".join(f"{name} {cost}" for name, cost in QUALITIES.items())


@click.command(
    epilog="Of --quality, --step, --bits, --size, --max-error and --exact at most one may be given."
    " All of them count for each task on its own. Settings of other recipes: see --recipe.",
)
@click.argument("base_model", metavar="BASE_MODEL", required=False, shell_complete=completion.files)
@click.argument(
    "fine_tunes",
    type=options.NamedCheckpoint(),
    metavar="NAME=FINE_TUNE...",
    nargs=-1,
)
@options.new_bank
@click.option(
    "--quality",
    type=AUTO["quality"],
    help=f"How close, by preset [default: balanced]. Per parameter on gentle fine-tunes:"
    f" {_QUALITY_HELP}; more on violent ones.",
)
@click.option(
    "--step",
    type=AUTO["step"],
    help="Quantisation step, in units of the root mean square of the task vector: 1 is fine, 3"
    " coarse. With svd-hybrid, of a coded basis.",
)
@click.option(
    "--bits",
    type=AUTO["bits"],
    help="Bits per parameter, at most, but for what all tasks share. With tvq, of each code.",
)
@click.option("--size", type=AUTO["size"], help="Bytes per task, at most: 500KB, 1.5MB.")
@click.option(
    "--max-error",
    type=AUTO["max_error"],
    help="Error relative to the norm of the task vector, at most: 0.5. Judged by squared error.",
)
@click.option("--exact", is_flag=True, help="Restore every bit of every weight.")
@click.option(
    "--metric",
    type=AUTO["metric"],
    help="What --step, --bits and --size judge by: squared error [default], or what the error does"
    " to the network, which allows large unbiased noise and suits less than half a bit.",
)
@click.option(
    "--gain",
    type=AUTO["gain"],
    help="With --metric mse: undo this share (an exponent) of the shrinkage that rounding to a step"
    " brings. [default: 0]",
)
@options.recipe
@options.svd_hybrid
@click.option(
    "--masks",
    metavar="DIR",
    shell_complete=completion.files,
    help="Masks TASK.safetensors, for svd-hybrid, tall, consensus.",
)
@click.option(
    "--config",
    metavar="FILE.yaml",
    shell_complete=completion.files,
    help="Settings, and with base_model_path, checkpoint_dir and tasks also the models.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting of the recipe, or of the file; may be repeated.",
)
@options.jobs
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Of a dask scheduler, whose workers do the work; they need the same paths. --jobs is then"
    " how many parameters are on their way at a time [default: 4 per thread of the cluster].",
)
@click.option(
    "--weights-only",
    is_flag=True,
    help="Leave out what lies beside the weights of a directory: config, tokenizer, model card.",
)
@options.force
@options.as_json
def encode(
    base_model: str | None,
    fine_tunes: tuple[tuple[str, str], ...],
    output: str,
    masks: str | None,
    jobs: int | None,
    cluster: str | None,
    weights_only: bool,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the task vectors of fine-tunes into one .tvq file.

    BASE_MODEL and each FINE_TUNE are a .safetensors file, a .pt or .bin state dict, or a Hugging
    Face style directory, and a FINE_TUNE may be that of a LoRA adapter; NAME is what the task is
    called from then on. They are read one parameter at a time. The same inputs and options give the
    same bytes. Of a fine-tune that is a directory, config, tokenizer and the like are kept too,
    where they are not the base model's; with --exact, `tvcodec decode` gives its .safetensors files
    back byte for byte.

    \b
      tvcodec encode base/ cars=cars/ dtd=dtd.safetensors -o bank.tvq
      tvcodec encode base/ cars=cars/ --max-error 0.3 -o bank.tvq
      tvcodec encode base/ cars=cars/ --recipe tvq --bits 3 -o bank.tvq
    """
    given_base = None if base_model and options.NamedCheckpoint.is_one(base_model) else base_model
    paths.check(given_base, *(path for _, path in fine_tunes), output=output)
    check_name(output)
    chosen, goal, said = chosen_recipe(settings)
    base_model, tunes = models(base_model, fine_tunes, said)
    given = _masks(masks or said.places.get("mask_dir"), tunes)
    if given and not chosen.uses_masks:
        raise click.UsageError(f"recipe {chosen.name!r} has no use for masks")
    from tvcodec.checkpoint import open_checkpoint
    from tvcodec.encoding import encoder

    base = open_checkpoint(base_model)
    with ExitStack() as stack:
        executor = None
        if cluster is not None:
            from tvcodec.encoding.cluster import connected

            executor, suits = stack.enter_context(connected(cluster))
            jobs = jobs or suits
        advance = stack.enter_context(progress(*phases(base, len(tunes), goal)))
        summary = encoder.encode(
            base,
            tunes,
            output,
            recipe=chosen,
            goal=goal,
            masks=given,
            jobs=jobs,
            executor=executor,
            weights_only=weights_only,
            force=force,
            progress=advance,
        )
    print_summary(summary, as_json)


def phases(base: Checkpoint, tasks: int, goal: Goal | None) -> Iterator[tuple[str, int | None]]:
    """What is done to how many values."""
    values = sum(math.prod(base.shape(name)) for name in base.names)
    yield "reading", values * (1 + tasks)
    yield ("searching the step", None) if goal else ("encoding", values * tasks)


def chosen_recipe(
    settings: dict[str, Any],
) -> tuple[Recipe | Published, Goal | None, RecipeFile]:
    """What the options ask for, and what else is in a file of settings; a usage error where they
    exclude each other."""
    own = {key: value for key, value in settings.items() if value is not None}
    recipe, exact = own.pop("recipe", None), own.pop("exact", False)
    said = recipe_settings.read(own.pop("config", None), own.pop("overrides", ()))
    if said.ignored:
        printing.note(f"note: {', '.join(said.ignored)}: for tvcodec merge, not used here")
    if exact:
        others = [f"--{key.replace('_', '-')}" for key in recipe_settings.RATES if key in own]
        others += [f"--recipe {recipe}"] if recipe else []
        if others:
            given = " and ".join([*others, "--exact"])
            raise click.UsageError(f"{given} exclude each other: give one")
        recipe = "exact"
    return *recipe_settings.make(recipe or said.recipe, {**said.settings, **own}), said


def models(
    first: str | None, fine_tunes: tuple[tuple[str, str], ...], said: RecipeFile
) -> tuple[str, dict[str, str]]:
    """The base model and the fine-tune of each task, as given or as the file says; `first` may be
    either."""
    base_model, named = first, options.NamedCheckpoint()
    if first and named.is_one(first):
        base_model, fine_tunes = None, (named.convert(first, None, None), *fine_tunes)
    base_model = base_model or said.places.get("base_model_path")
    if not base_model:
        found = f": {first!a} is NAME=FINE_TUNE" if first else ""
        raise click.UsageError(f"Missing argument 'BASE_MODEL'{found}.")
    directory, tasks = said.places.get("checkpoint_dir"), said.places.get("tasks")
    if not fine_tunes and directory and tasks:
        pairs = [f"{task}={recipe_settings.of_task(directory, task)}" for task in tasks]
        fine_tunes = tuple(named.convert(text, None, None) for text in pairs)
    if not fine_tunes:
        raise click.UsageError("Missing argument 'NAME=FINE_TUNE...'.")
    return base_model, options.by_task(fine_tunes)


def _masks(directory: str | None, tasks: dict[str, str]) -> dict[str, str] | None:
    if directory is None:
        return None
    return {task: recipe_settings.of_task(directory, task) for task in tasks}


def print_summary(summary: Summary, as_json: bool, noun: str = "task") -> None:
    """A line for each task on stdout, what else there is to say on stderr; or all of it as JSON."""
    if as_json:
        printing.print_json(dataclasses.asdict(summary))
        return
    rows = [
        (
            task.name,
            printing.bits(task.bits_per_parameter),
            f"{task.times_smaller:,.1f}",
            printing.percent(task.error),
            printing.amount(task.bytes),
        )
        for task in summary.tasks
    ]
    common = summary.bytes - sum(task.bytes for task in summary.tasks)
    if noun == "task":  # and not tasks that were added to others
        rows.append(("(common)", "", "", "", printing.amount(common)))
    headers = ("task", "bits per parameter", "times smaller", "error", "size")
    click.echo(printing.table(headers, rows))
    if any(task.error > 1 for task in summary.tasks):
        printing.note(
            "note: errors above 100 % are unbiased noise, which a network averages out;"
            " --quality high and --max-error keep tasks closer"
        )
    for task in summary.tasks:
        for line in task.notes:
            printing.note(f"note: task {task.name!r}: {line}")
    printing.note(printing.wrote(summary.path, summary.bytes, len(summary.tasks), noun))
