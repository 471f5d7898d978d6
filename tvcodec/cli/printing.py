"""Numbers, names and tables as people read them; JSON as machines do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click


def printable(text: str) -> str:
    """`text` with whatever a terminal might obey, or a line end, written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def note(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(printable(text), err=True)


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    click.echo(json.dumps(value))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns of text; those numbered in `left` flush left, all others right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max([len(title) + 2, *(len(row[column]) for row in cells)])
        for column, title in enumerate(headers)
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left or not cells else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, cells)])


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
