"""tvcodec copy"""

from __future__ import annotations

import dataclasses

import click

from tvcodec.cli import completion, options, printing
from tvcodec.cli.progress import progress


@click.command()
@click.argument("source", metavar="SOURCE.tvq", shell_complete=completion.files)
@click.argument("target", metavar="TARGET.tvq", shell_complete=completion.files)
@options.expect_root
@options.force
@options.as_json
def copy(source: str, target: str, expect_root: str | None, force: bool, as_json: bool) -> None:
    """Copy a .tvq file between local disks and URLs, and check it.

    The copy appears whole, once every checksum has held, or not at all. A damaged file is not
    copied: tvcodec salvage saves what is intact of it. URLs are those that fsspec opens, such as
    https://example.org/bank.tvq, s3://bucket/bank.tvq or hf://owner/repository/bank.tvq, and
    credentials come from where its libraries look for them.

    \b
      tvcodec copy bank.tvq backup.tvq
    """
    from tvcodec.file import copying

    with progress(("copying", None), unit="B") as advance:
        written = copying.copy(
            source, target, force=force, expected_root=expect_root, progress=advance
        )
    if as_json:
        printing.print_json(dataclasses.asdict(written))
    else:
        printing.note(printing.wrote(written.path, written.bytes, len(written.tasks)))
