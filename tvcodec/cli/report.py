"""tvcodec report"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvcodec.cli import completion, options, printing
from tvcodec.cli.loading import load_torch
from tvcodec.cli.progress import progress
from tvcodec.file.archive import Archive
from tvcodec.file.durable import durable_file

if TYPE_CHECKING:
    from tvcodec.report.build import Report


@click.command()
@options.bank_argument
@click.option(
    "-o",
    "--output",
    metavar="REPORT.html",
    shell_complete=completion.files,
    help="The page to write.",
)
@click.option(
    "--png",
    "pictures",
    metavar="PLOT=FILE or DIR",
    multiple=True,
    help="Write one chart as a PNG picture, or all of them into a directory: size, depth, spectra,"
    " similarity, tuning.",
)
@options.expect_root
@options.force
@options.as_json
def report(
    bank: str,
    output: str | None,
    pictures: Sequence[str],
    expect_root: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw sizes, errors along the network, spectra and similarities as one page of HTML.

    The page is one file without scripts that asks for nothing else, in light and dark. No model is
    needed. Charts need matplotlib and scipy: pip install 'tvcodec[report]'.

    \b
      tvcodec report bank.tvq -o report.html
      tvcodec report bank.tvq --png similarity=similarity.png
    """
    if output is None and not pictures:
        raise click.UsageError("give -o REPORT.html, --png, or both")
    wanted = [_picture(text) for text in pictures]
    from tvcodec.report import check_libraries

    check_libraries()
    made = _made(bank, expect_root)
    written = []
    if output is not None:
        written.append(_write(bank, output, made.page(), force))
    for plot, path in wanted:
        targets = [(plot, path)] if plot else _all_of(made, path)
        written += [_write(bank, target, made.png(name), force) for name, target in targets]
    if as_json:
        printing.print_json([{"path": path, "bytes": size} for path, size in written])
        return
    for path, size in written:
        printing.note(f"wrote {path}: {printing.amount(size)}")


def _picture(text: str) -> tuple[str | None, str]:
    """A plot and its file, or None and a directory for all of them."""
    from tvcodec.report import PLOTS

    plot, equals, path = text.partition("=")
    if not equals:
        return None, text
    if plot not in PLOTS or not path:
        raise click.UsageError(
            f"--png: expected DIR or PLOT=FILE, PLOT one of {', '.join(PLOTS)}, got {text!a}"
        )
    return plot, path


def _made(bank: str, expect_root: str | None) -> Report:
    archive = Archive(bank, expected_root=expect_root)
    try:
        load_torch()
        from tvcodec.report.build import report as build

        with progress(("reading", len(archive.tasks)), unit=" tasks") as advance:
            return build(archive, os.path.basename(bank), advance)
    finally:
        archive.close()


def _all_of(made: Report, directory: str) -> list[tuple[str, str]]:
    """A file in `directory`, which is made, for each plot that there is."""
    Path(directory).mkdir(exist_ok=True)
    return [(plot, os.path.join(directory, f"{plot}.png")) for plot in made.plots]


def _write(bank: str, path: str, content: bytes, force: bool) -> tuple[str, int]:
    from tvcodec.checkpoint import refuse_inputs

    refuse_inputs(path, {Path(bank)})
    with durable_file(path, force) as file:
        file.write(content)
    return path, len(content)
