"""Tables as a notebook shows them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

ROWS = 20  # shown of a longer table


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A small HTML table, its first column flush left; all text is escaped, and of many rows only
    the first are shown."""
    shown = [*map(_row, rows[:ROWS])]
    if len(rows) > ROWS:
        shown.append(
            f'<tr><td colspan="{len(headers)}">... and {len(rows) - ROWS:,} more</td></tr>'
        )
    head = "".join(f"<th>{escape(text)}</th>" for text in headers)
    top = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{top}<tbody>{''.join(shown)}</tbody></table>"


def _row(cells: Sequence[object]) -> str:
    first, *others = (escape(str(cell)) for cell in cells)
    left = f'<td style="text-align: left">{first}</td>'
    return f"<tr>{left}{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"
