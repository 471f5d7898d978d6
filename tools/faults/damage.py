"""Damage as discs and networks do it: bits, cuts, additions, blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

Damaged = tuple[str, bytes]  # what was done, the file
BLOCK = 64


def flips(data: bytes) -> Iterator[Damaged]:
    """Every bit of every byte, one at a time."""
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


def cuts(data: bytes) -> Iterator[Damaged]:
    """Every length below the right one, from the front and from the back."""
    for length in range(len(data)):
        yield f"cut to {length}", data[:length]
        yield f"the last {length}", data[len(data) - length :]


def additions(data: bytes) -> Iterator[Damaged]:
    """Zeros, its own bytes and others, in front and behind."""
    for more in range(1, 200):
        for name, extra in (("zeros", bytes(more)), ("bytes of its own", data[:more])):
            yield f"{more} {name} behind", data + extra
            yield f"{more} {name} in front", extra + data


def blocks(data: bytes) -> Iterator[Damaged]:
    """Blocks of 64 bytes lost, emptied, doubled and exchanged."""
    for at in range(0, len(data), BLOCK):
        before, block, behind = data[:at], data[at : at + BLOCK], data[at + BLOCK :]
        yield f"block at {at} lost", before + behind
        if any(block):
            yield f"block at {at} emptied", before + bytes(len(block)) + behind
        yield f"block at {at} doubled", before + block + block + behind
        other = data[at + BLOCK : at + 2 * BLOCK]
        if len(other) == BLOCK and other != block:
            yield f"block at {at} exchanged", before + other + block + behind[BLOCK:]


def all_but_flips(data: bytes) -> Iterator[Damaged]:
    return chain(cuts(data), additions(data), blocks(data))
