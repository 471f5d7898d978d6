"""Names of parameters in an order that follows the network, and the layer that each belongs to."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"([0-9]+)")

Natural = tuple[tuple[int, int, str], ...]


def natural(name: str) -> Natural:
    """A key that sorts blocks.2 before blocks.10."""
    pieces = _NUMBER.split(name)
    return tuple(_digits(piece) if at % 2 else (0, 0, piece) for at, piece in enumerate(pieces))


def layer(name: str) -> str:
    """What a parameter is part of: its name up to the first number of its own, as blocks.2 of
    blocks.2.mlp.fc1.weight, or else all but the last word of the name."""
    words = name.split(".")
    for at, word in enumerate(words):
        if at and word.isascii() and word.isdigit():
            return ".".join(words[: at + 1])
    return ".".join(words[:-1]) or name


def _digits(piece: str) -> tuple[int, int, str]:
    """Compares like the number, without making one of as many digits as a name may have."""
    digits = piece.lstrip("0")
    return 1, len(digits), digits
