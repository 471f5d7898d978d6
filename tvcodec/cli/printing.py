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

WIDTH = 80
LEAST = 12  # columns of a name


def note(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(printable(text), err=True)


def print_json(value: object, indent: int | None = None) -> None:
    """JSON on stdout, in one line unless it is to be indented."""
    click.echo(json.dumps(value, indent=indent))


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (0,),
    narrow: Sequence[int] = (0,),
) -> str:
    """Columns of text; those numbered in `left` flush left, all others right. Those in `narrow`
    hold names, and lose the middle of long ones where the table would be over 80 columns wide."""
    from tabulate import tabulate  # not before a table is due: it costs as much as reading a file

    cells = [[printable(cell) for cell in row] for row in rows]
    _narrow(headers, cells, narrow)
    sides = ["left" if column in left else "right" for column in range(len(headers))]
    return tabulate(
        cells,
        headers=headers,
        tablefmt="simple",
        colalign=sides if cells else None,
        disable_numparse=True,
    )


def _narrow(headers: Sequence[str], rows: list[list[str]], columns: Sequence[int]) -> None:
    padded = [header + 2 * " " for header in headers]  # as tabulate does
    widths = [max(map(len, column)) for column in zip(padded, *rows, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - WIDTH
    taken = sum(widths[column] for column in columns)
    for column in columns if over > 0 else ():
        room = max(widths[column] - -(-over * widths[column] // taken), LEAST)
        short = {row[column]: _without_middle(row[column], room) for row in rows}
        if len(set(short.values())) == len(short):  # names that nobody can tell apart are none
            for row in rows:
                row[column] = short[row[column]]


def _without_middle(text: str, room: int) -> str:
    end = (room - 3) // 2
    return text if len(text) <= room else f"{text[: room - 3 - end]}...{text[-end:]}"


def wrote(path: str, size: int, tasks: int, noun: str = "task") -> str:
    """The line about a .tvq file that was written."""
    return f"wrote {path}: {amount(size)}, {counted(tasks, noun)}"
