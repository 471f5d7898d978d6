"""tvcodec verify"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

import click

from tvcodec.cli import options, paths, printing
from tvcodec.cli.loading import load_torch
from tvcodec.cli.progress import progress
from tvcodec.file.archive import Archive

if TYPE_CHECKING:
    from tvcodec.remeasure import Remeasured

SHOWN = 5  # differences listed per task


@click.command()
@options.bank_argument
@options.base_model(required=False)
@click.option(
    "--against",
    "originals",
    type=options.NamedCheckpoint(),
    multiple=True,
    help="A fine-tune that was encoded: its task is decoded and compared with it, and what the file"
    " says of errors with what is measured. Needs --base-model; may be given again.",
)
@options.expect_root
@options.as_json
def verify(
    bank: str,
    base_model: str | None,
    originals: tuple[tuple[str, str], ...],
    expect_root: str | None,
    as_json: bool,
) -> None:
    """Check every checksum in a file; with the originals, also every error that it states.

    The root digest stands for every byte of the file. The content digest stands for what it says:
    it stays the same when streams are compressed by another version of zstd.

    \b
      tvcodec verify bank.tvq
      tvcodec verify bank.tvq --base-model base/ --against cars=cars/
    """
    tunes = options.by_task(originals)
    if bool(tunes) != (base_model is not None):
        raise click.UsageError("--base-model and --against go together")
    paths.check(bank, base_model, *tunes.values())
    opened = closing(Archive(bank, expected_root=expect_root))
    archive = click.get_current_context().with_resource(opened)
    for task in tunes:
        archive.record(task)
    archive.verify()
    from tvcodec.file.content import content_digest

    stored = sum(archive.group(group).sections_length for group in archive.groups)
    with progress(("reading", stored), unit=" bytes") as advance:
        content = content_digest(archive, advance).hex()
    results = _remeasure(bank, archive, base_model, tunes) if base_model is not None else []
    if as_json:
        printing.print_json(
            {
                "path": archive.path,
                "root": archive.container.root_digest.hex(),
                "content": content,
                "tasks": list(archive.tasks),
                "against": [result.as_dict() for result in results],
            }
        )
    else:
        tasks, size = printing.counted(len(archive.tasks), "task"), archive.container.size
        where = f"{printing.printable(archive.path)}: {tasks}, {printing.amount(size)}"
        click.echo(f"{where}: all checksums hold")
        click.echo(f"root     {archive.container.root_digest.hex()}\ncontent  {content}")
        if results:
            click.echo(_table(results))
    _fail_on_differences(results)


def _remeasure(
    bank: str, archive: Archive, base_model: str, tunes: Mapping[str, str]
) -> list[Remeasured]:
    load_torch()
    from tvcodec.decoding.decoder import Bank
    from tvcodec.remeasure import remeasure

    values = sum(parameter.count for parameter in archive.root.base_model)
    root = archive.container.root_digest.hex()  # whoever changes the file meanwhile is noticed
    with (
        Bank(bank, expected_root=root) as opened,
        progress(("measuring", values * len(tunes))) as go,
    ):
        return [remeasure(opened, base_model, task, path, go) for task, path in tunes.items()]


def _table(results: list[Remeasured]) -> str:
    rows = [
        (
            result.task,
            printing.percent(result.recorded),
            printing.percent(result.measured),
            f"{len(result.differences)} differ" if result.differences else "as stated",
        )
        for result in results
    ]
    return printing.table(("task", "error stated", "error measured", "parameters"), rows, (0, 3))


def _fail_on_differences(results: list[Remeasured]) -> None:
    failed = [result for result in results if result.differences]
    for result in failed:
        for line in result.differences[:SHOWN]:
            click.echo(f"Error: task {result.task!r}: {printing.printable(line)}", err=True)
        if len(result.differences) > SHOWN:
            printing.note(f"... and {len(result.differences) - SHOWN} more")
    if failed:
        printing.note("hint: are these the checkpoints that the file was encoded from?")
        click.get_current_context().exit(1)
