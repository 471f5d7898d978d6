"""tvcodec tune"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from tvcodec.cli import completion, options, paths, printing
from tvcodec.cli.encode import print_summary
from tvcodec.cli.loading import load_torch
from tvcodec.file.container import check_name

if TYPE_CHECKING:
    from tvcodec.tuning.curve import Point


@click.command(
    epilog="Sizes and scores are kept in BANK.tvq.tune.jsonl as soon as they are known, and used by"
    " every later run on the same models and command: killed, it goes on where it was; another"
    " --retain is quick. Delete that file when what the command measures has changed.",
)
@click.argument("base_model", metavar="BASE_MODEL", shell_complete=completion.files)
@click.argument(
    "fine_tunes",
    type=options.NamedCheckpoint(),
    metavar="NAME=FINE_TUNE...",
    nargs=-1,
    required=True,
)
@options.new_bank
@click.option(
    "--evaluate",
    "command",
    required=True,
    metavar="COMMAND",
    help="Prints the score of the model at {model}, of the task {task}: the last line of its stdout"
    " that is a number. It runs without a shell.",
)
@click.option(
    "--retain",
    type=options.Number(above=0, least=0, most=1),
    default=0.99,
    show_default=True,
    help="The share of the fine-tune's own score that each task keeps.",
)
@click.option("--lower-is-better", is_flag=True, help="The score is a loss, or a perplexity.")
@click.option(
    "--max-evaluations",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Decoded models to run the command on, for each task.",
)
@options.jobs
@options.force
@options.as_json
def tune(
    base_model: str,
    fine_tunes: tuple[tuple[str, str], ...],
    output: str,
    command: str,
    retain: float,
    lower_is_better: bool,
    max_evaluations: int,
    jobs: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Search the smallest file that keeps a share of each fine-tune's score.

    Your command scores the fine-tune, then models decoded at one setting after another, each
    written as what the fine-tune is: a .safetensors file, or a directory with its config and
    tokenizer; of a LoRA adapter, the whole model with those of the base model. A task of which
    nothing else keeps enough is stored bit-exact. What was tried is kept in the file: see
    `tvcodec info --json`. The score on the rows that decided is a little flattered: report another
    one.

    \b
      tvcodec tune base.safetensors mnist=mnist.safetensors -o bank.tvq \\
        --evaluate 'python evaluate.py {model} {task}' --retain 0.99
    """
    tunes = options.by_task(fine_tunes)
    paths.check(base_model, *tunes.values(), output=output)
    check_name(output)
    load_torch()
    from tvcodec.tuning import tune as tuner
    from tvcodec.tuning.evaluating import Command

    try:
        evaluate = Command(command, output)
    except ValueError as error:
        raise click.UsageError(f"--evaluate: {error}") from None
    try:
        found = tuner.tune(
            base_model,
            tunes,
            evaluate,
            path=output,
            retain=retain,
            lower_is_better=lower_is_better,
            max_evaluations=max_evaluations,
            label=command,
            jobs=jobs,
            force=force,
            progress=lambda task, point: printing.note(f"{task}: {described(point)}"),
        )
    except KeyboardInterrupt:
        ledger = tuner.ledger_path(output)
        if not ledger.exists():
            raise
        raise KeyboardInterrupt(
            f"interrupted; what was measured stays in {ledger}: the same command goes on from there"
        ) from None
    if as_json:
        curves = {task: dataclasses.asdict(curve) for task, curve in found.curves.items()}
        printing.print_json({**dataclasses.asdict(found.summary), "curves": curves})
    else:
        print_summary(found.summary, as_json)
        for task, curve in found.curves.items():
            if curve.choice.metric == "exact":
                printing.note(
                    f"note: task {task!r}: of {len(curve.points) - 1} settings tried none kept"
                    f" {printing.percent(retain)}, so it is stored bit-exact; a higher"
                    " --max-evaluations tries finer ones, and more test rows a finer score"
                )


def described(point: Point) -> str:
    """A point of a curve in a line: settings, size, score."""
    words = [point.metric]
    for name in ("step", "gain", "factor_step"):
        if value := getattr(point, name):
            words.append(f"{name} {value:g}")
    score = "no finite number" if point.score is None else f"{point.score:.6g}"
    return (
        f"{', '.join(words)}: {printing.bits(point.bits)} bits per parameter, score {score},"
        f" {printing.percent(point.share)} kept"
    )
