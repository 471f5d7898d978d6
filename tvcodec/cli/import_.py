"""tvcodec import"""

from __future__ import annotations

import dataclasses

import click

from tvcodec.cli import completion, options, printing
from tvcodec.cli.progress import progress
from tvcodec.file import carrier


@click.command("import")
@click.argument("carrier_path", metavar="BANK.safetensors", shell_complete=completion.files)
@options.new_bank
@options.expect_root
@options.force
@options.as_json
def import_(
    carrier_path: str, output: str, expect_root: str | None, force: bool, as_json: bool
) -> None:
    """Write the .tvq file that `export --format safetensors` was given, byte for byte.

    Every checksum in it is checked first.

    \b
      tvcodec import bank.safetensors -o bank.tvq
    """
    with progress(("copying", carrier.length(carrier_path)), unit=" bytes") as advance:
        carried = carrier.from_safetensors(
            carrier_path, output, force=force, expected_root=expect_root, progress=advance
        )
    print_carried(carried, as_json)


def print_carried(carried: carrier.Carried, as_json: bool) -> None:
    """What was copied, for people or as JSON."""
    if as_json:
        printing.print_json(dataclasses.asdict(carried))
    else:
        click.echo(f"root  {carried.root}")
        printing.note(f"wrote {carried.path}: {printing.amount(carried.bytes)}")
