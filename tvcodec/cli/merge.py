"""tvcodec merge"""

from __future__ import annotations

import json

import click

from tvcodec.cli import options, report
from tvcodec.cli.progress import progress
from tvcodec.merge.weights import TEMPERATURE


@click.command(short_help="Write a weighted merge of fine-tunes.")
@options.bank_argument
@options.base_model(required=True)
@options.model_output
@click.option(
    "--weights",
    default="uniform",
    show_default=True,
    metavar="WEIGHTS",
    help="uniform (1/N each); cars=0.4,dtd=0.6; or a JSON file {task: accuracy in 0..1}, from which"
    " come softmax(accuracy / temperature).",
)
@click.option(
    "--temperature",
    type=options.Number(above=0),
    default=TEMPERATURE,
    show_default=True,
    help="Of weights from a file of accuracies: small favours the best task.",
)
@click.option("--tasks", metavar="A,B", help="Merge these only.")
@click.option(
    "--scaling",
    type=options.Number(),
    default=1.0,
    show_default=True,
    help="Multiplies the merged task vector.",
)
@options.max_shard_size
@options.expect_root
@options.force
@options.as_json
def merge(
    bank: str,
    base_model: str,
    output: str,
    weights: str,
    temperature: float,
    tasks: str | None,
    scaling: float,
    max_shard_size: int,
    expect_root: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write base model + scaling x (weighted sum of task vectors), in the base model's dtypes.

    The weights are printed, and written into the metadata of the output. Parameters that a task
    adds, lacks or reshapes are left out.

    \b
      tvcodec merge bank.tvq --base-model base/ --weights perf.json -o merged/
      tvcodec merge bank.tvq --base-model base/ --tasks cars,dtd --scaling 0.6 \\
          -o merged.safetensors
    """
    from tvcodec.decoder import Bank

    with Bank(bank, expected_root=expect_root) as opened:
        model = opened.merge(
            base_model,
            weights,
            tasks=[name.strip() for name in tasks.split(",")] if tasks is not None else None,
            scaling=scaling,
            temperature=temperature,
        )
        values = sum(parameter.count for parameter in opened.archive.root.base_model)
        with progress(("merging", values)) as advance:
            model.save(output, max_shard_size=max_shard_size, force=force, progress=advance)
    used: dict[str, float] = json.loads(model.metadata["tvcodec.weights"])
    if as_json:
        report.print_json({"path": output, "scaling": scaling, "weights": used})
        return
    rows = [(task, f"{weight:.6g}") for task, weight in used.items()]
    click.echo(report.table(("task", "weight"), rows), err=True)
    report.note(f"wrote {output}: scaling {scaling:g}")
