"""Sets of numbers in long runs, each [start, end)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class Ranges:
    """Which numbers are held."""

    def __init__(self) -> None:
        self._runs: list[Range] = []  # disjoint, in order, never touching

    def add(self, start: int, end: int) -> None:
        """Adds a run."""
        first = bisect_left(self._runs, start, key=lambda run: run[1])
        last = bisect_right(self._runs, end, key=lambda run: run[0])
        touched = self._runs[first:last]
        start = min([start, *(run[0] for run in touched)])
        end = max([end, *(run[1] for run in touched)])
        self._runs[first:last] = [(start, end)]

    def missing(self, start: int, end: int) -> Iterator[Range]:
        """The runs of what is not held from `start` to `end`."""
        for held_start, held_end in self._runs[
            bisect_right(self._runs, start, key=lambda r: r[1]) :
        ]:
            if held_start >= end:
                break
            if held_start > start:
                yield start, held_start
            start = held_end
        if start < end:
            yield start, end


def joined(runs: Iterable[Range], gap: int) -> list[Range]:
    """Runs in order, those that are `gap` or less apart made one with what lies between."""
    found: list[Range] = []
    for start, end in sorted(runs):
        if found and start - found[-1][1] <= gap:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def split(start: int, end: int, most: int) -> Iterator[Range]:
    """Runs of up to `most` numbers."""
    for at in range(start, end, most):
        yield at, min(at + most, end)
