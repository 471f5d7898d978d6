"""tvcodec merge"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tvcodec.cli import completion, options, paths, printing
from tvcodec.cli.loading import load_torch
from tvcodec.cli.progress import progress
from tvcodec.errors import TvqError
from tvcodec.file.location import is_url, shown
from tvcodec.maths.merge import methods, weights
from tvcodec.maths.merge.methods import METHODS

COMMAND = "tvcodec.command"
_UNRECORDED = {"output", "jobs", "force", "as_json"}  # on which the merge does not depend


def _of_method(*names: str, **settings: Any) -> Callable[[options.Command], options.Command]:
    """An option of some methods only: None unless it is given."""
    return click.option(*names, default=None, **settings)


class _Recorded(click.Command):
    """Keeps what was typed, for the metadata and the model card, so far as the merge depends on it:
    of files the names, and no secrets in URLs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        left = super().parse_args(ctx, list(args))  # which sees to mistakes, and to --help
        if not ctx.resilient_parsing:
            ctx.meta[COMMAND] = self._command(ctx, args)
        return left

    def _command(self, ctx: click.Context, args: list[str]) -> str:
        given, _, order = self.make_parser(ctx).parse_args(list(args))
        banks, chosen = [], []
        for parameter in dict.fromkeys(order):
            name = parameter.name or ""
            if isinstance(parameter, click.Argument):
                banks = [_without_directory(bank) for bank in given[name]]
            elif isinstance(parameter, click.Option) and name not in _UNRECORDED:
                values = given[name] if parameter.multiple else [given[name]]
                for value in values:
                    flag = max(parameter.opts, key=len)
                    if name == "base_model" or (name == "weights" and os.path.isfile(value)):
                        value = _without_directory(value)
                    chosen += [flag] if parameter.is_flag else [flag, value]
        return shlex.join(["tvcodec", "merge", *banks, *chosen])


@click.command(cls=_Recorded)
@click.argument(
    "banks", metavar="BANK.tvq...", nargs=-1, required=True, shell_complete=completion.files
)
@options.base_model(required=False)
@options.model_output
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="weighted",
    show_default=True,
    help="How task vectors are merged: see above.",
)
@_of_method(
    "--weights",
    metavar="WEIGHTS",
    shell_complete=completion.weights,
    help="Of weighted and dare: uniform (1/N each, the default); cars=0.4,dtd=-0.6; cluster:K (K"
    " clusters of similar tasks, by estimated inner products, share alike); or a JSON file {task:"
    " accuracy in 0..1}, from which come softmax(accuracy / temperature).",
)
@_of_method(
    "--temperature",
    type=options.Number(above=0),
    help="Of weights from a file of accuracies: small favours the best task; 5 if not given.",
)
@click.option(
    "--tasks", metavar="A,B", shell_complete=completion.listed_tasks, help="Merge these only."
)
@click.option(
    "--scaling",
    type=options.Scaling(),
    default="1",
    show_default=True,
    help="Multiplies the merged task vector; cars=0.5,dtd=1.2 multiplies each task's before.",
)
@click.option(
    "--negate",
    metavar="TASK",
    multiple=True,
    shell_complete=completion.tasks,
    help="Forget TASK; may be repeated.",
)
@_of_method(
    "--exclude",
    metavar="NAME",
    multiple=True,
    help="Of tsvm and iso-c: a parameter (or glob) to average; may be repeated.",
)
@_of_method(
    "--density", type=options.Number(), help="Of ties: share of values kept; 0.2 if not given."
)
@_of_method(
    "--scope",
    type=click.Choice([methods.MODEL, methods.PARAMETER]),
    help="Of ties: one threshold for the model (the default), or for each parameter. Of model-stock"
    " (default: parameter): what tasks have to agree about.",
)
@_of_method(
    "--rate", type=options.Number(), help="Of dare: share of values dropped; 0.9 if not given."
)
@_of_method("--seed", type=int, help="Of dare: 0 if not given.")
@_of_method(
    "--threshold",
    type=options.Number(),
    help="Of consensus: a value matters to a task above this share of what the others add; 0.4 if"
    " not given.",
)
@_of_method(
    "--votes", type=int, help="Of consensus: tasks that a value must matter to; 2 if not given."
)
@click.option(
    "--task-vector",
    is_flag=True,
    help="Write what would be added to the base model, in float32; --base-model is needed only"
    " where parameters are stored bit-exact.",
)
@options.max_shard_size
@options.expect_root
@options.jobs
@options.force
@options.as_json
def merge(
    banks: tuple[str, ...],
    base_model: str | None,
    output: str,
    method: str,
    tasks: str | None,
    scaling: float | dict[str, float],
    negate: tuple[str, ...],
    task_vector: bool,
    max_shard_size: int | None,
    expect_root: str | None,
    jobs: int | None,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write base model + scaling x the merged task vectors, in the base model's dtypes, from one or
    more files of one base model.

    \b
      weighted     their sum, by --weights
      tsvm         their strongest singular directions, made orthogonal to
                   each other (TSV-Merge)
      iso-c        their sum with a flat spectrum
      ties         the largest values, where they agree in sign (TIES)
      dare         like weighted, with most values dropped by chance and the
                   others made up for them
      consensus    their sum, where it matters to enough tasks (TALL masks)
      magmax       of each value the largest
      model-stock  their mean, as far as tasks agree

    What was used is printed, and written into the metadata of the output, with the command but for
    where and how it writes; a directory gets a model card, README.md, of it. Parameters that a task
    adds, lacks or reshapes are left out. All but weighted, dare and model-stock look at single
    values or directions: of what is coded in a rotated frame (--quality balanced) they take a share
    of the sum (iso-c all, tsvm where its noise is small), and they refuse files with little else.

    \b
      tvcodec merge bank.tvq --base-model base/ --weights perf.json -o merged/
      tvcodec merge bank.tvq --base-model base/ --tasks cars,dtd --scaling 0.6 \\
          -o merged.safetensors
      tvcodec merge bank.tvq --base-model base/ --method dare -o dropped/
      tvcodec merge bank.tvq --tasks dtd --negate dtd --task-vector -o forget/
    """
    if base_model is None and not task_vector:
        raise click.UsageError("--base-model is missing (only --task-vector goes without)")
    if expect_root is not None and len(banks) > 1:
        raise click.UsageError("--expect-root pins one file: merge from one, or leave it out")
    settings["exclude"] = settings["exclude"] or None
    _check(method, settings)
    paths.check(*banks, base_model, output=output)
    load_torch()
    from tvcodec.decoding.decoder import Bank

    with ExitStack() as stack:
        first, *others = (
            stack.enter_context(Bank(path, expected_root=expect_root)) for path in banks
        )
        chosen = [name.strip() for name in tasks.split(",")] if tasks is not None else None
        values = sum(parameter.count for parameter in first.archive.root.base_model)
        there = set(chosen or [task for bank in (first, *others) for task in bank.tasks])
        phases = [("merging", values)]
        if methods.settings(method, settings).get("scope") == methods.MODEL:
            phases.insert(0, ("measuring", values * len(there)))
        advance = stack.enter_context(progress(*phases))
        model = first.merge(
            base_model,
            method=method,
            tasks=chosen,
            scaling=scaling,
            negate=negate,
            others=others,
            task_vector=task_vector,
            progress=advance,
            **settings,
        )
        if not task_vector:
            model.metadata[COMMAND] = json.dumps(click.get_current_context().meta[COMMAND])
        model.save(output, max_shard_size=max_shard_size, force=force, jobs=jobs, progress=advance)
    if left_out := sorted(there - set(json.loads(model.metadata["tvcodec.tasks"]))):
        printing.note(f"note: not in --weights, left out: {', '.join(left_out)}")
    _report(output, model.metadata, as_json)


def _without_directory(path: str) -> str:
    """What whoever reads a card may know of a path: where the file lay is nobody's business."""
    return shown(path) if is_url(path) else Path(path).name


def _check(method: str, settings: dict[str, Any]) -> None:
    """A usage error for options that have no effect together, and for values out of range."""
    if name := methods.without_effect(method, settings):
        raise click.UsageError(f"--{name} has no effect with --method {method}")
    given = settings["weights"]
    if settings["temperature"] is not None and not weights.of_performance(given or "uniform"):
        raise click.UsageError("--temperature has no effect without --weights FILE")
    try:
        methods.settings(method, settings)
    except TvqError as error:
        raise click.UsageError(str(error)) from None


def _report(output: str, metadata: dict[str, str], as_json: bool) -> None:
    told = {name.removeprefix("tvcodec."): text for name, text in metadata.items()}
    method = told.pop("merge")
    for name in ("archives", "base_model", "command"):  # which whoever reads this has given
        told.pop(name, None)
    used: dict[str, Any] = {name: json.loads(text) for name, text in told.items()}
    if as_json:
        printing.print_json({"path": output, "method": method, **used})
        return
    if "weights" in used:
        cluster = {task: n for n, one in enumerate(used.get("clusters", ()), 1) for task in one}
        rows = [
            (task, f"{weight:.6g}", *([str(cluster[task])] if cluster else []))
            for task, weight in used["weights"].items()
        ]
        headers = ("task", "weight", *(["cluster"] if cluster else []))
        click.echo(printing.table(headers, rows), err=True)
    tasks = printing.counted(len(used["tasks"]), "task")
    printing.note(f"wrote {output}: {method} of {tasks}, scaling {_scaling(used['scaling'])}")


def _scaling(scaling: float | dict[str, float]) -> str:
    if isinstance(scaling, dict):
        return ",".join(f"{task}={number:g}" for task, number in scaling.items())
    return f"{scaling:g}"
