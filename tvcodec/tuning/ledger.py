"""Answers that took long to get, kept as lines of JSON from the moment they are known."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from tvcodec.errors import TvqError

Key = dict[str, str]
SIZE = "bytes"


class Ledger:
    """Numbers (or None) by what they answer and a key of texts; those in the file at `path` from
    the start, and each new one is appended to it. Without `path` nothing is kept.

    A line that a killed writer left half done, or that says something else, is passed over.
    TvqError for a number that is not finite, which nobody but a hand has put there, and for a size
    that is none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[tuple[str, str], float | None] = {}
        if path is not None and path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                self._learn(line, f"{path}: line {number}")

    def known(self, what: str, key: Key) -> bool:
        """Whether the answer is there."""
        return (what, _canonical(key)) in self._known

    def get(self, what: str, key: Key) -> float | None:
        """The answer; KeyError where there is none."""
        return self._known[what, _canonical(key)]

    def put(self, what: str, key: Key, value: float | None) -> None:
        """Keeps an answer; it is on disk when this returns."""
        self._known[what, _canonical(key)] = value
        if self.path is None:
            return
        line = json.dumps({**key, what: value}).encode() + b"\n"
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _learn(self, line: bytes, where: str) -> None:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict):
            return
        key = {name: text for name, text in said.items() if isinstance(text, str)}
        for what, value in said.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is None or number:
                _check(what, value, where)
                self._known[what, _canonical(key)] = value


def _check(what: str, value: float | None, where: str) -> None:
    sound = value is None or -math.inf < value < math.inf
    if what == SIZE:
        sound = value is not None and 0 < value < math.inf
    if not sound:
        expected = "a size above 0" if what == SIZE else "a finite number or null"
        raise TvqError(
            f"{where}: {what}: expected {expected}, got {json.dumps(value)}",
            hint="delete that line, and it is measured again",
        )


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
