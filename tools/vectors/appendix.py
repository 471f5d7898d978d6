"""A file byte by byte, as a table for people."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator

BEGIN = "<!-- begin: written by tools/make_vectors.py -->\n"
END = "<!-- end -->\n"
Line = tuple[int, bytes, str]  # offset, bytes, what they are


def appendix(data: bytes) -> str:
    """Every byte of a file of one task with one section: a line per field, in a code block."""
    out = [f"{'offset':>6}  {'bytes':<47}  what\n"]
    for at, chunk, what in _lines(data):
        for start in range(0, len(chunk), 16):
            shown = chunk[start : start + 16].hex(" ").upper()
            label = what if start == 0 else ""
            out.append(f"{at + start:>6}  {shown:<47}  {label}".rstrip() + "\n")
    return "\n```text\n" + "".join(out) + "```\n\n"


def _lines(data: bytes) -> Iterator[Line]:
    root, length = struct.unpack_from("<QQ", data, len(data) - 72)
    section = 1  # the smallest file has a single section of a single byte
    index = 64 + 8
    yield 0, data[:8], "magic"
    yield 8, data[8:10], "major version 1"
    yield 10, data[10:12], "minor version 0"
    yield 12, data[12:16], "required features: none"
    yield 16, data[16:64], "reserved"
    yield 64, data[64 : 64 + section], "section: symbols 2, 1 of alphabet 3: 2 + 3 * 1, scale 0.25"
    yield 64 + section, data[64 + section : index], "padding"
    end = yield from _msgpack(data, index)
    yield end, data[end:root], "padding"
    end = yield from _msgpack(data, root)
    assert end == root + length
    if end < len(data) - 72:
        yield end, data[end : len(data) - 72], "padding"
    yield from _trailer(data, len(data) - 72)


def _trailer(data: bytes, at: int) -> Iterator[Line]:
    for length, what in (
        (8, "offset of the root index: {}"),
        (8, "length of the root index: {}"),
        (8, "length of the file: {}"),
        (32, "root digest: SHA-256 of prologue and root index"),
        (4, "CRC-32 of the 56 bytes before"),
        (4, "zeros"),
        (8, "end magic"),
    ):
        chunk = data[at : at + length]
        yield at, chunk, what.format(int.from_bytes(chunk, "little"))
        at += length


def _msgpack(data: bytes, at: int, depth: int = 0) -> Generator[Line, None, int]:
    """The lines of one value; returns where it ends."""
    byte, pad = data[at], "  " * depth
    if byte < 0x80:
        yield at, data[at : at + 1], f"{pad}{byte}"
        return at + 1
    if byte < 0xA0:
        count = byte & 15
        of = "map of" if byte < 0x90 else "array of"
        yield at, data[at : at + 1], f"{pad}{of} {count}"
        at += 1
        for _ in range(count * (2 if byte < 0x90 else 1)):
            at = yield from _msgpack(data, at, depth + 1)
        return at
    if byte < 0xC0:
        end = at + 1 + (byte & 31)
        yield at, data[at:end], f'{pad}"{data[at + 1 : end].decode()}"'
        return end
    if byte == 0xC0:
        yield at, data[at : at + 1], f"{pad}nil"
        return at + 1
    if byte == 0xC4:
        end = at + 2 + data[at + 1]
        yield at, data[at:end], f"{pad}{data[at + 1]} bytes"
        return end
    if byte == 0xCA:
        number = struct.unpack(">f", data[at + 1 : at + 5])[0]
        yield at, data[at : at + 5], f"{pad}{number}"
        return at + 5
    width = 1 << byte - 0xCC
    end = at + 1 + width
    yield at, data[at:end], f"{pad}{int.from_bytes(data[at + 1 : end], 'big')}"
    return end
