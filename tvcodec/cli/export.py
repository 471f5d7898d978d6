"""tvcodec export"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from tvcodec.cli import completion, options, printing
from tvcodec.cli.import_ import print_carried
from tvcodec.cli.loading import load_torch
from tvcodec.cli.progress import progress
from tvcodec.file import carrier

if TYPE_CHECKING:
    from tvcodec.decoding.lora import Exported

MOST_LOST = 0.5  # of the energy, before a note says so


@click.command()
@options.bank_argument
@click.argument("task", metavar="[TASK]", required=False, shell_complete=completion.tasks)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["peft", "safetensors"]),
    required=True,
    help="peft: the task as the directory of a LoRA adapter. safetensors: the whole file, its bytes"
    " as tensors; tvcodec import gives it back.",
)
@options.base_model(required=False)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="peft: rank of the adapter, at most; matrices that are not stored as factors alone are"
    " approximated to it. [default: the factors in the file]",
)
@click.option(
    "--modules-to-save",
    metavar="GLOB",
    multiple=True,
    help="peft: modules to save whole, such as 'classifier' or '*.LayerNorm'; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    shell_complete=completion.files,
    help="A directory, or a file.",
)
@options.expect_root
@options.force
@options.as_json
def export(
    bank: str,
    task: str | None,
    kind: str,
    base_model: str | None,
    rank: int | None,
    modules_to_save: tuple[str, ...],
    output: str,
    expect_root: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a task, or the file, in a form that other programs read.

    A LoRA adapter holds matrices of low rank. How much of the task vector it leaves out is printed,
    as a share of its energy (squared norm): of matrices, what is beyond the rank; of biases and
    norms (vectors), embeddings and others all that is in no saved module.

    \b
      tvcodec export bank.tvq cars --base-model base/ --format peft --rank 16 \\
        -o cars-lora/
      tvcodec export bank.tvq --format safetensors -o bank.safetensors
    """
    if kind == "safetensors":
        if task or base_model or rank or modules_to_save:
            raise click.UsageError("--format safetensors writes the whole file: give -o only")
        with progress(("copying", carrier.length(bank)), unit=" bytes") as advance:
            carried = carrier.to_safetensors(
                bank, output, force=force, expected_root=expect_root, progress=advance
            )
        print_carried(carried, as_json)
        return
    if task is None or base_model is None:
        raise click.UsageError("--format peft needs TASK and --base-model")
    load_torch()
    from tvcodec.decoding.decoder import Bank
    from tvcodec.decoding.lora import export_adapter

    with (
        Bank(bank, expected_root=expect_root) as opened,
        progress(("exporting", opened.archive.values)) as advance,
    ):
        exported = export_adapter(
            opened,
            task,
            base_model,
            output,
            rank=rank,
            modules_to_save=modules_to_save,
            force=force,
            progress=advance,
        )
    _print_exported(exported, as_json)


def _print_exported(exported: Exported, as_json: bool) -> None:
    if as_json:
        printing.print_json({**dataclasses.asdict(exported), "lost": exported.lost})
        return
    rows = [
        (kind, printing.percent(share), printing.percent(exported.left_out[kind]))
        for kind, share in exported.energy.items()
    ]
    rows.append(("all", printing.percent(1.0), printing.percent(exported.lost)))
    click.echo(printing.table(("parameters", "energy", "left out"), rows))
    if exported.lost > MOST_LOST:
        printing.note(
            f"note: task {exported.task!r}: most of it is not in the adapter: measure what that"
            " does, or encode it with --quality high, or export a higher --rank"
        )
    for line in exported.notes:
        printing.note(f"note: task {exported.task!r}: {line}")
    modules = printing.counted(exported.modules, "module")
    size = printing.amount(exported.bytes)
    printing.note(f"wrote {exported.path}: {modules}, rank {exported.rank} at most, {size}")
