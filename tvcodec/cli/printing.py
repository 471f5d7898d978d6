"""Numbers, names and tables as people read them; JSON as machines do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

WIDTH = 80
LEAST = 12  # columns of a name


def printable(text: str) -> str:
    """`text` with whatever a terminal might obey, or a line end, written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


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


def amount(size: int) -> str:
    """Bytes, as 519.6 kB."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.95:
            return f"{number:.1f} {unit}" if unit != "B" else f"{size} B"
        number /= 1000
    return f"{number:.1f} TB"


def percent(share: float) -> str:
    """A share, as 48.7 %; two places where it is small."""
    number = 100 * share
    return f"{number:.1f} %" if number >= 1 or not number else f"{number:.2g} %"


def bits(number: float) -> str:
    """Bits per parameter, to three places."""
    return f"{number:.3f}"


def counted(number: int, noun: str) -> str:
    """As in "1 task", "8 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def wrote(path: str, size: int, tasks: int, noun: str = "task") -> str:
    """The line about a .tvq file that was written."""
    return f"wrote {path}: {amount(size)}, {counted(tasks, noun)}"
