"""Answers that took long to get, kept as lines of JSON from the moment they are known."""

from __future__ import annotations

import json
import os
from pathlib import Path

Key = dict[str, str]


class Ledger:
    """Numbers (or None) by what they answer and a key of texts; those in the file at `path` from
    the start, and each new one is appended to it. Without `path` nothing is kept.

    A line that a killed writer left half done, or that says something else, is passed over.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, str], float | None] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                self._learn(line)

    def known(self, what: str, key: Key) -> bool:
        """Whether the answer is there."""
        return (what, _canonical(key)) in self._known

    def get(self, what: str, key: Key) -> float | None:
        """The answer; KeyError where there is none."""
        return self._known[what, _canonical(key)]

    def put(self, what: str, key: Key, value: float | None) -> None:
        """Keeps an answer; it is on disk when this returns."""
        self._known[what, _canonical(key)] = value
        if self._path is None:
            return
        line = json.dumps({**key, what: value}).encode() + b"\n"
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _learn(self, line: bytes) -> None:
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
                self._known[what, _canonical(key)] = value


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
