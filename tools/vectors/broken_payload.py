"""Files with sections that do not hold what their records say (R55 to R61)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vectors import streams as s
from vectors.broken_bytes import Broken
from vectors.files import Draft, Group, entry, imagined, kept, rows, small, subset
from vectors.streams import cycle, float16, float32, frame, symbols, unsigned

COUNT = 4096
MAGIC = b"\x28\xb5\x2f\xfd"
RLE_2 = (COUNT << 3 | 3).to_bytes(3, "little") + b"\2"  # one last block: COUNT times the byte 2


def _one(names: str, *parts: s.Run, mask: s.Run | None = None, **more: Any) -> bytes:
    entries = [entry(0, *parts, mask=mask)] if parts else []
    return Draft(subset(names), {"one": Group(entries=entries, **more)}).build()


def _framed(data: bytes) -> bytes:
    """A parameter of COUNT symbols, one a byte, that are stored as `data`."""
    run = [2, len(data), 17], data
    task = Group([entry(0, s.stage(0.5, run))])
    return Draft([imagined("w", "float32", COUNT)], {"one": task}).build()


def frames() -> Iterator[Broken]:
    size = (COUNT - 256).to_bytes(2, "little")
    good = frame(b"\2" * COUNT)
    assert good == MAGIC + b"\x60" + size + RLE_2
    other = frame(b"\2" * (COUNT - 1))
    two = frame(b"\2" * (COUNT // 2))
    cases = {
        "no_frame": ("bytes that are no frame", b"\2" * 99),
        "claims_less": ("a frame that declares less", other),
        "claims_more": ("a frame that declares more", frame(b"\2" * (COUNT + 1))),
        "holds_less": ("a frame of less than it declares", frame(b"\2" * 99, claim=COUNT)),
        "holds_more": ("a frame of more than it declares", frame(b"\2" * (COUNT + 9), claim=COUNT)),
        "no_size": ("a frame that declares no size", MAGIC + b"\x00\x10" + RLE_2),
        "checksum": (
            "a frame with a checksum of its own",
            MAGIC + b"\x64" + size + RLE_2 + b"\x0e\x2a\x6d\x7f",
        ),
        "dictionary": ("a frame that needs a dictionary", MAGIC + b"\x61\x07" + size + RLE_2),
        "window": ("a frame with a window of 16 MiB", MAGIC + b"\x40\x70" + size + RLE_2),
        "skippable": ("a skippable frame first", b"\x50\x2a\x4d\x18\2\0\0\0xx" + good),
        "behind": ("a byte behind the frame", good + b"\0"),
        "two_frames": ("two frames where one has room", two + two),
        "cut_frame": ("a frame without its end", good[:-1]),
        "cut_head": ("three bytes of a frame", good[:3]),
        "reserved_block": ("a block of the reserved kind", good[:7] + b"\x07" + good[8:]),
        "reserved_bit": ("the reserved bit of a frame", MAGIC + b"\x68" + size + RLE_2),
    }
    for name, (what, data) in cases.items():
        yield f"zstd_{name}", 55, what, _framed(data)
    second = frame(b"\2" * (1 << 23)) + frame(b"\2" * 8)
    yield "zstd_rest", 55, "a second frame of another size", _long(second)
    yield (
        "zstd_one_for_two",
        55,
        "one frame of more than 8 MiB",
        _long(frame(b"\2" * ((1 << 23) + 9))),
    )


def _long(data: bytes) -> bytes:
    task = Group([entry(0, s.stage(0.5, ([2, len(data), 17], data)))])
    return Draft([imagined("w", "float32", (1 << 23) + 9)], {"one": task}).build()


def numbers() -> Iterator[Broken]:
    good = symbols(cycle(42, 3), 3)
    over = (good[0], b"\xf3" + good[1][1:])
    filled = (good[0], good[1][:-1] + bytes([good[1][-1] + 81]))
    yield (
        "symbol_byte",
        56,
        "a byte of 243 for five symbols of three",
        _one("a", s.stage(1.0, over)),
    )
    fifteen = small(([2, 3, 15], b"\xff" * 3), (0, 1.0))
    yield "symbol_255", 56, "a symbol of 255 in an alphabet of 15", _one("j", small=fifteen)
    yield "symbol_fill", 57, "a symbol behind the last", _one("a", s.stage(1.0, filled))
    bits, data = unsigned(cycle(6, 32), 5)
    codes = (bits, data[:-1] + bytes([data[-1] | 0x80]))
    tail = s.largest(5, 4, 1.0, float16(1, 1, 1), codes)
    yield (
        "bits_fill",
        57,
        "a bit behind the last",
        Draft([imagined("w", "float32", 70)], {"one": Group([entry(0, tail)])}).build(),
    )
    row = s.stage(0.5, symbols(cycle(28, 3), 3))
    record, flags = s.mask(0, [1, 0, 1, 1, 0, 1])
    beyond = (record, bytes([flags[0] | 0x40]))
    yield "mask_fill", 57, "a row behind the last", _one("a", row, mask=beyond)
    fewer, more = (record, bytes([1])), (record, bytes([63]))
    yield "mask_fewer", 58, "one row where four are said", _one("a", row, mask=fewer)
    yield "mask_all", 58, "six rows where four are said", _one("a", row, mask=more)
    entries = s.mask(1, [1] * 41 + [0])
    values = s.stage(0.5, symbols(cycle(41, 3), 3))
    every = (entries[0], s.mask(1, [1] * 42)[1])
    yield "mask_entries_all", 58, "42 entries where 41 are said", _one("a", values, mask=every)


def floats() -> Iterator[Broken]:
    wave, bad = [1.0] * 41, math.nan
    left, right = symbols(cycle(6, 3), 3), symbols(cycle(7, 3), 3)
    codes = symbols(cycle(48, 3), 3)
    sixteen = symbols(cycle(42, 16), 16)
    parts = {
        "values16_nan": s.values(float16(*wave, bad)),
        "values32_infinite": s.values(float32(*wave, math.inf)),
        "factor_scale": s.factors(1, left, right, float16(-math.inf)),
        "factor_left": s.factors(1, float16(1, 1, 1, 1, 1, bad), right, float16(1)),
        "factor_right": s.factors(1, left, float32(1, 1, 1, 1, 1, 1, math.inf), float16(1)),
        "block_scale": s.uniform(4, 0.5, float16(1, bad, 1), codes),
        "run_scale": s.largest(4, 2, 0.5, float16(1, 1, math.inf), unsigned(cycle(12, 8), 3)),
        "group_scale": s.grouped(0, float32(bad), float32(1), sixteen),
        "group_minimum": s.grouped(0, float32(1), float16(-math.inf), sixteen),
    }
    for name, part in parts.items():
        yield name, 59, f"a number that is not finite: {name.replace('_', ', ')}", _one("a", part)
    basis = Group([entry(0, s.values(float16(*wave, 1)))])
    task = Group([entry(0, s.coefficients(float32(bad)))])
    shared = Draft(subset("a"), {"one": task}, shared=basis).build()
    yield "coefficient_nan", 59, "a coefficient that is not a number", shared
    basis = Group([entry(0, s.values(float16(*wave, bad)))])
    task = Group([entry(0, s.coefficients(float32(1)))])
    shared = Draft(subset("a"), {"one": task}, shared=basis).build()
    yield "basis_nan", 59, "a vector of a basis that is not finite", shared


def whole() -> Iterator[Broken]:
    two = np.array([1, 0, 2, 1], "u1")
    what = "a bool of 2"
    yield "bool_added", 60, what, _one("j", added=[kept("n", "bool", (4,), two)])
    yield "bool_replaced", 60, what, _one("i", replaced=[kept(0, "bool", (4,), two)])
    yield "bool_rows", 60, what, _one("i", rows=[rows(0, 4, two)])
    tasks = {"one": Group(), "two": Group()}
    for name, gram in {
        "gram_nan": [1.0, math.nan, 1.0],
        "gram_infinite": [1.0, math.inf, 1.0],
        "gram_negative": [1.0, 0.0, -1.0],
    }.items():
        yield name, 61, f"inner products {gram}", Draft(subset("l"), tasks, gram=gram).build()


def broken_payload() -> Iterator[Broken]:
    for case in (frames, numbers, floats, whole):
        yield from case()
