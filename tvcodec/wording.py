"""Numbers, names and settings in the words that people read."""

from __future__ import annotations

import json
from collections.abc import Iterable


def printable(text: str) -> str:
    """`text` with whatever a terminal might obey, or a line end, written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


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
    return f"{number:.1f} %" if abs(number) >= 1 or not number else f"{number:.2g} %"


def bits(number: float) -> str:
    """Bits per parameter, to three places."""
    return f"{number:.3f}"


def counted(number: int, noun: str) -> str:
    """As in "1 task", "8 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def meant(name: str, known: Iterable[str]) -> str:
    """The question whether one of `known` was meant by `name`, for the start of a hint; empty where
    none is like it."""
    from difflib import get_close_matches

    folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), folded, 1)
    return f"did you mean {folded[near[0]]}? " if near else ""


def recipe(text: str | None) -> str:
    """The recipe in a task's metadata in few words; it is whatever another program wrote there."""
    if text is None:
        return "-"
    try:
        settings = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return text
    words = [str(settings.pop(key)) for key in ("name", "metric") if key in settings]
    rest = sorted(settings.items(), key=lambda item: item[0] != "step")
    return ", ".join([*words, *(f"{key} {_short(value)}" for key, value in rest)])


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
