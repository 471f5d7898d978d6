"""Numbers, names and tables as people read them; JSON as machines do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from tvcodec.wording import amount as amount
from tvcodec.wording import bits as bits
from tvcodec.wording import counted as counted
from tvcodec.wording import percent as percent
from tvcodec.wording import printable as printable
from tvcodec.wording import recipe as recipe


def note(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(printable(text), err=True)


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    click.echo(json.dumps(value))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns of text; those numbered in `left` flush left, all others right."""
    from tabulate import tabulate  # not before a table is due: it costs as much as reading a file

    sides = ["left" if column in left else "right" for column in range(len(headers))]
    return tabulate(
        [[printable(cell) for cell in row] for row in rows],
        headers=headers,
        tablefmt="simple",
        colalign=sides if rows else None,
        disable_numparse=True,
    )


def wrote(path: str, size: int, tasks: int, noun: str = "task") -> str:
    """The line about a .tvq file that was written."""
    return f"wrote {path}: {amount(size)}, {counted(tasks, noun)}"
