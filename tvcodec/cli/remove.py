"""tvcodec remove"""

from __future__ import annotations

import dataclasses

import click

from tvcodec.cli import completion, options, printing
from tvcodec.file import editing


@click.command()
@options.bank_argument
@click.argument(
    "tasks", metavar="TASK...", nargs=-1, required=True, shell_complete=completion.tasks
)
@options.edited_output
@options.expect_root
@click.option("--force", is_flag=True, help="Overwrite the output.")
@options.as_json
def remove(
    bank: str,
    tasks: tuple[str, ...],
    output: str | None,
    expect_root: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Take tasks out of a .tvq file; the others are copied as they are, no model is needed.

    The file is replaced in one step, so whoever reads it is not disturbed. The result is what
    `encode` would have written of the tasks that stay, but that vectors which tasks share stay too.

    \b
      tvcodec remove bank.tvq cars dtd
      tvcodec remove bank.tvq cars -o without-cars.tvq
    """
    written = editing.remove(bank, tasks, output=output, force=force, expected_root=expect_root)
    if as_json:
        printing.print_json(dataclasses.asdict(written))
    else:
        printing.note(printing.wrote(written.path, written.bytes, len(written.tasks)))
