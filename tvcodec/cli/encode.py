"""tvcodec encode"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import click

from tvcodec.cli import options, report
from tvcodec.cli.progress import progress

if TYPE_CHECKING:
    from tvcodec.encoder import Summary
    from tvcodec.rate import Goal
    from tvcodec.recipes import Recipe

QUALITIES = {  # what each costs and keeps, as measured
    "small": "~0.04 bit",
    "balanced": "~0.10 bit",
    "high": "~1.1 bit",
}
_QUALITY_HELP = ", ".join(f"{name} {cost}" for name, cost in QUALITIES.items())

_RATES = ("step", "bits", "size", "max_error", "quality", "exact")


@click.command(
    short_help="Write fine-tunes into one .tvq file.",
    epilog="Of --quality, --step, --bits, --size, --max-error and --exact at most one may be given."
    " All of them count for each task on its own.",
)
@click.argument("base_model", metavar="BASE_MODEL")
@click.argument(
    "fine_tunes",
    type=options.NamedCheckpoint(),
    metavar="NAME=FINE_TUNE...",
    nargs=-1,
    required=True,
)
@click.option("-o", "--output", required=True, metavar="BANK.tvq", help="The file to write.")
@click.option(
    "--quality",
    type=click.Choice(list(QUALITIES)),
    help=f"How close, by preset [default: balanced]. Per parameter on gentle fine-tunes:"
    f" {_QUALITY_HELP}; more on violent ones.",
)
@click.option(
    "--step",
    type=options.Number(least=0.001, most=1000),
    help="Quantisation step, in units of the root mean square of the task vector: 1 is fine, 3"
    " coarse.",
)
@click.option(
    "--bits",
    type=options.Number(above=0),
    help="Bits per parameter, at most, but for what all tasks share.",
)
@click.option("--size", type=options.Bytes(), help="Bytes per task, at most: 500KB, 1.5MB.")
@click.option(
    "--max-error",
    type=options.Number(above=0),
    help="Error relative to the norm of the task vector, at most: 0.5.",
)
@click.option("--exact", is_flag=True, help="Restore every bit of every weight.")
@click.option(
    "--metric",
    type=click.Choice(["mse", "function"]),
    help="What --step, --bits and --size judge by: squared error [default], or what the error does"
    " to the network, which allows large unbiased noise and suits less than half a bit.",
)
@click.option(
    "--gain",
    type=options.Number(least=0, most=1),
    help="With --metric mse: undo this share (an exponent) of the shrinkage that rounding to a step"
    " brings. [default: 0]",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Threads [default: one per core].")
@options.force
@options.as_json
def encode(
    base_model: str,
    fine_tunes: tuple[tuple[str, str], ...],
    output: str,
    jobs: int | None,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the task vectors of fine-tunes into one .tvq file.

    BASE_MODEL and each FINE_TUNE are a .safetensors file, a .pt or .bin state dict, or a Hugging
    Face style directory; NAME is what the task is called from then on. They are read one parameter
    at a time. The same inputs and options give the same bytes.

    \b
      tvcodec encode base/ cars=cars/ dtd=dtd.safetensors -o bank.tvq
      tvcodec encode base/ cars=cars/ --max-error 0.3 -o bank.tvq
    """
    paths = options.by_task(fine_tunes)
    _check_settings(settings)
    from tvcodec import encoder
    from tvcodec.checkpoint import open_checkpoint

    recipe, goal = _recipe(settings)
    base = open_checkpoint(base_model)
    values = sum(math.prod(base.shape(name)) for name in base.names)
    reading = ("reading", values * (1 + len(paths)))
    coding = ("searching the step", None) if goal else ("encoding", values * len(paths))
    with progress(reading, coding) as advance:
        summary = encoder.encode(
            base,
            paths,
            output,
            recipe=recipe,
            goal=goal,
            jobs=jobs,
            force=force,
            progress=advance,
        )
    _print(summary, as_json)


def _check_settings(settings: dict[str, Any]) -> None:
    """Usage errors for settings that exclude each other or do nothing."""
    given = [
        f"--{name.replace('_', '-')}" for name in _RATES if settings[name] not in (None, False)
    ]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
    stepped = bool(given) and given[0] in ("--step", "--bits", "--size")
    for name in ("metric", "gain"):
        if settings[name] is not None and not stepped:
            raise click.UsageError(f"--{name} goes with --step, --bits or --size")
    if settings["gain"] is not None and settings["metric"] == "function":
        raise click.UsageError("--gain goes with --metric mse")


def _recipe(settings: dict[str, Any]) -> tuple[Recipe, Goal | None]:
    from tvcodec.rate import Goal
    from tvcodec.recipes import EXACT, QUALITIES, Recipe

    if settings["exact"]:
        return EXACT, None
    recipe = Recipe(metric=settings["metric"] or "mse", gain=settings["gain"] or 0.0)
    if settings["step"]:
        return recipe.at_step(settings["step"]), None
    goals = {name: settings[name] for name in ("bits", "size", "max_error") if settings[name]}
    if goals:
        return recipe, Goal(**goals)
    return QUALITIES[settings["quality"] or "balanced"], None


def _print(summary: Summary, as_json: bool) -> None:
    if as_json:
        report.print_json(dataclasses.asdict(summary))
        return
    rows = [
        (
            task.name,
            report.bits(task.bits_per_parameter),
            f"{task.times_smaller:,.1f}",
            report.percent(task.error),
            report.amount(task.bytes),
        )
        for task in summary.tasks
    ]
    headers = ("task", "bits per parameter", "times smaller", "error", "size")
    click.echo(report.table(headers, rows))
    for task in summary.tasks:
        for line in task.notes:
            report.note(f"note: task {task.name!r}: {line}")
    size = report.amount(summary.bytes)
    report.note(f"wrote {summary.path}: {size}, {report.counted(len(rows), 'task')}")
