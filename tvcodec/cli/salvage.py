"""tvcodec salvage"""

from __future__ import annotations

import dataclasses

import click

from tvcodec.cli import completion, options, printing
from tvcodec.file import salvaging

SOME_LOST = 3


@click.command()
@click.argument("damaged", metavar="DAMAGED.tvq", shell_complete=completion.files)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="NEW.tvq",
    shell_complete=completion.files,
    help="The file to write.",
)
@options.force
@options.as_json
def salvage(damaged: str, output: str, force: bool, as_json: bool) -> None:
    """Write the intact tasks of a damaged file to a new one.

    A task is intact if every checksum of its own, and of what it shares with others, holds. The
    list of tasks at the end of the file has to be readable: a file that was cut off has lost it,
    and nothing of it can be saved. Damage to the first 64 bytes and to the last 72 is made good.

    Exits with 0 if all tasks were saved, 3 if some were, 1 if none was.

    \b
      tvcodec salvage damaged.tvq -o saved.tvq
    """
    saved = salvaging.salvage(damaged, output, force=force)
    for line in saved.notes:
        printing.note(f"note: {line}")
    for task, reason in saved.lost.items():
        printing.note(f"lost: {task}: {reason}")
    if as_json:
        printing.print_json(dataclasses.asdict(saved))
    else:
        written = saved.written
        printing.note(printing.wrote(written.path, written.bytes, len(written.tasks)))
    if saved.lost:
        click.get_current_context().exit(SOME_LOST)
