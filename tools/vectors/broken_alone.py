"""Files in which nothing but one rule is broken: all lengths fit, all sums are right. A reader that
does not check that rule reads them."""

from __future__ import annotations

import copy
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vectors import streams as s
from vectors.broken_bytes import Broken, plain
from vectors.broken_payload import COUNT, MAGIC, RLE_2
from vectors.files import PROLOGUE, Draft, Group, entry, imagined, kept, put, rows, small, subset
from vectors.streams import cycle, float16, float32, symbols, unsigned

STAGE = s.stage(0.5, symbols(cycle(42, 3), 3))
BYTE = ("int8", (1,), np.zeros(1, "u1"))
FLOATS = np.zeros(1, "u4")


class Padded(Group):
    """A group with 8 bytes behind its sections that belong to none."""

    def sections(self) -> list[bytes]:
        return [*super().sections(), bytes(8)]


def bent(record: s.Run, *path: Any, to: Any) -> s.Run:
    """A record with another value at `path`; its bytes stay."""
    return put(*path, to=to)(copy.deepcopy(record[0])), record[1]


def one(names: str, *entries: s.Run, **more: Any) -> bytes:
    return Draft(subset(names), {"one": Group(entries=list(entries), **more)}).build()


def twins(**more: Any) -> bytes:
    base = [imagined(name, "float32", 2) for name in "abc"]
    return Draft(base, {"one": Group(**more)}).build()


def shifted(data: bytes, at: int, by: int) -> bytes:
    """A file with 8 bytes of zeros inserted, and a trailer that knows them."""
    data = data[:at] + bytes(8) + data[at:]
    offset, length, size = struct.unpack_from("<QQQ", data, len(data) - 72)
    fields = struct.pack("<QQQ", offset + by, length, size + 8) + data[-48:-16]
    return data[:-72] + fields + struct.pack("<II", zlib.crc32(fields), 0) + data[-8:]


def places() -> Iterator[Broken]:
    yield "prologue_cut", 5, "20 bytes of a prologue", PROLOGUE[:20]
    yield "prologue_alone", 5, "a prologue and nothing else", PROLOGUE
    whole = plain().build()
    root = int.from_bytes(whole[-72:-64], "little")
    yield "gap_behind_root", 9, "8 bytes behind the root index", shifted(whole, len(whole) - 72, 0)
    yield "gap_before_root", 13, "8 bytes before the root index", shifted(whole, root, 8)
    hidden = Draft(subset("a"), {"one": Padded([entry(0, STAGE)])}).build()
    yield "gap_in_group", 15, "8 bytes between sections and index", hidden
    shared = Draft(subset("a"), {}, shared=Padded([entry(0, STAGE)])).build()
    yield "gap_in_shared", 15, "8 bytes between shared sections and their index", shared


def types() -> Iterator[Broken]:
    """Values of another type that would do."""
    twin = [imagined(name, "float32", 2) for name in "ab"]
    no_tasks: dict[str, Group] = {}
    roots: dict[str, tuple[int, str, tuple[Any, ...], Any]] = {
        "metadata_list": (22, "an array in place of a map", ("metadata",), []),
        "name_number": (22, "a parameter's name that is a number", ("base_model", 0, 0), 7),
        "task_number": (22, "a task's name that is a number", ("tasks", 0, 0), 7),
        "dtype_array": (22, "a dtype that is an array", ("base_model", 0, 1), []),
        "base_digest_short": (22, "31 bytes for a SHA-256", ("base_model", 0, 3), bytes(31)),
        "base_crc_wide": (23, "33 bits for a CRC-32", ("base_model", 0, 4), 1 << 32),
        "base_crc_negative": (23, "a CRC-32 below 0", ("base_model", 0, 4), -1),
        "base_digest_text": (22, "32 letters for a SHA-256", ("base_model", 0, 3), "x" * 32),
    }
    for label, (rule, what, path, value) in roots.items():
        draft = Draft(twin, {"one": Group()}, root=put(*path, to=value))
        yield label, rule, what, draft.build()
    false = Draft([], no_tasks, root=put("gram_length", to=False))
    yield "gram_false", 22, "a length that is false", false.build()
    task = {"one": Group()}
    real = Draft([], task, gram=[1.0], root=put("gram_length", to=4.0))
    yield "gram_float", 22, "a length that is a float", real.build()
    keys = Draft([], task, index=list)
    yield "index_of_keys", 22, "an array of just the keys of the map", keys.build()
    alias = {"aliases": [b"\1\0"]}
    yield "alias_binary", 22, "two bytes in place of two numbers", twins(**alias)
    yield "part_number", 22, "a number in place of a part", one("a", bent(entry(0), 5, to=[4]))
    code = (5, 0, 2)
    changes: dict[str, tuple[str, tuple[Any, ...], Any]] = {
        "stream_kind_float": ("a kind that is a float", (*code, 0), 2.0),
        "stream_length_float": ("a length that is a float", (*code, 1), 9.0),
        "alphabet_float": ("an alphabet that is a float", (*code, 2), 3.0),
        "entry_length_float": ("a length that is a float", (6,), 9.0),
        "part_kind_float": ("a kind that is a float", (5, 0, 0), 4.0),
    }
    for label, (what, path, value) in changes.items():
        yield label, 22, what, one("a", bent(entry(0, STAGE), *path, to=value))
    basis = Group([entry(0, STAGE)])
    task = {"one": Group([bent(entry(0, s.coefficients(float32(1))), 5, 0, 0, to=7.0)])}
    draft = Draft(subset("a"), task, shared=basis)
    yield "coefficients_kind_float", 22, "a kind that is a float", draft.build()
    exact = bent(entry(0, s.exact(s.integers(cycle(42, 99), 4))), 5, 0, 0, to=8.0)
    yield "exact_kind_float", 22, "a kind that is a float", one("a", exact)
    added = kept("n", *BYTE)
    yield (
        "section_length_true",
        22,
        "a length that is true",
        one("j", added=[bent(added, 3, to=True)]),
    )
    true = bent(
        entry(0, s.factors(1, float16(*range(6)), float16(*range(7)), float16(1))), 5, 0, 0, to=True
    )
    yield "part_kind_true", 22, "a kind that is true", one("a", true)


def numbers() -> Iterator[Broken]:
    negative = bent(entry(0, STAGE), 2, to=-0.5)
    yield "entry_error_negative", 25, "a negative error of an entry", one("a", negative)
    member = small(symbols(cycle(5, 3), 3), (0, 1.0))
    yield (
        "member_norm_negative",
        25,
        "a negative norm",
        one("j", small=bent(member, 3, 0, 1, to=-1.0)),
    )
    member = small(symbols(cycle(5, 3), 3), (0, 1.0))
    yield "member_gain_nan", 24, "a gain of NaN", one("j", small=bent(member, 3, 0, 3, to=math.nan))
    gain = s.uniform(4, math.nan, float16(1, 1, 1), symbols(cycle(48, 3), 3))
    yield "uniform_gain_nan", 24, "a gain of NaN", one("a", entry(0, gain))
    gram = Draft([], {"one": Group(), "two": Group()}, gram=[1.0]).build()
    yield "gram_of_one_of_two", 34, "one inner product of two tasks", gram
    lengths = plain(root=_negative).build()
    yield "sections_made_up", 23, "a length below 0 that another one makes up for", lengths
    lengths = plain(root=_unpadded).build()
    yield "sections_unpadded_both", 33, "two lengths off by 4 that make up for each other", lengths
    for label, value in (("wide", 1 << 32), ("negative", -1)):
        added = bent(kept("n", *BYTE), 4, to=value)
        yield f"added_crc_{label}", 23, f"a checksum of {value}", one("j", added=[added])
    yield "index_of_nothing", 23, "an index of no bytes", plain(index_bytes=lambda _: b"").build()
    yield "missing_negative", 35, "parameter -1", one("j", missing=[-1])
    yield "alias_negative", 38, "an alias of parameter -1", twins(aliases=[[1, -1]])
    base = [imagined(name, "float32", 2) for name in "ba"]
    yield "base_unsorted_alone", 31, "parameters not sorted", Draft(base, {}).build()
    yield "aliases_unsorted_alone", 36, "aliases not sorted", twins(aliases=[[2, 0], [1, 0]])
    yield "missing_unsorted", 36, "missing not sorted", twins(missing=[1, 0])
    nine = kept("n", "int8", (1,) * 9, np.zeros(1, "u1"))
    yield "added_rank_9", 30, "nine dimensions", one("j", added=[nine])
    empty = [imagined("w", "float32", 2, 0)]
    more = rows(0, (1 << 48) - 2, np.zeros(0, "u4"))
    draft = Draft(empty, {"one": Group(rows=[more])})
    yield "rows_2_48", 40, "2^48 rows of nothing", draft.build()


def _negative(root: dict[str, Any]) -> dict[str, Any]:
    first, second = root["tasks"]
    first[1], second[1] = -8, first[1] + second[1] + 8
    return root


def _unpadded(root: dict[str, Any]) -> dict[str, Any]:
    first, second = root["tasks"]
    first[1], second[1] = first[1] - 4, second[1] + 4
    return root


def streams() -> Iterator[Broken]:
    sized = s.values(([1, 168, 0], float32(*range(42))[1]))
    yield "float_size_0", 45, "floats with a size of 0", one("a", entry(0, sized))
    run = symbols([2] * 42, 17)
    raw = MAGIC + b"\x20\x2a" + (42 << 3 | 1).to_bytes(3, "little") + run[1]
    framed = s.stage(0.5, s.stored(run, raw))
    yield "stream_longer", 47, "a frame longer than what it holds", one("a", entry(0, framed))
    codes = s.largest(4, 2, 1.0, float16(1, 1, 1), unsigned(cycle(12, 8), 4))
    yield "code_bits_4", 46, "codes of 4 bits for runs of 4", one("a", entry(0, codes))
    wide = s.exact(s.integers(cycle(42, 99), 8))
    yield "exact_width_8", 46, "differences of 8 bytes of float32", one("a", entry(0, wide))
    two = np.zeros(1, "u2")
    other = kept("n", "int8", (1,), two)
    yield "added_width_2", 46, "elements of 2 bytes of int8", one("j", added=[other])
    less = bent(kept("n", "float32", (1,), FLOATS), 5, 1, to=3)
    yield "added_length_less", 44, "a stream shorter than its section", one("j", added=[less])
    member = bent(small(symbols(cycle(42, 3), 3), (0, 1.0)), 2, 1, to=8)
    yield "small_length_less", 44, "a stream shorter than its section", one("a", small=member)


def parts() -> Iterator[Broken]:
    left, right = float16(*range(42)), float16(*range(49))
    seven = s.factors(7, left, right, float16(*range(7)))
    yield "rank_7_of_6", 51, "rank 7 of 6 rows", one("a", entry(0, seven))
    nothing = s.factors(0, float16(), float16(), float16())
    yield "rank_0_alone", 51, "factors of rank 0", one("a", entry(0, nothing))
    ones = float16(1, 1, 1, 1, 1, 1)
    largest = {
        "largest_block_3": s.largest(3, 2, 1.0, ones, unsigned(cycle(12, 8), 3)),
        "largest_run_0": s.largest(4, 0, 1.0, float16(1, 1, 1), unsigned(cycle(48, 2), 1)),
        "uniform_block_3": s.uniform(3, 1.0, ones, symbols(cycle(48, 3), 3)),
    }
    for label, part in largest.items():
        what = label.replace("_", ", ", 1).replace("_", " 2^")
        yield label, 52, what, one("a", entry(0, part))
    codes = s.zipped(symbols([8] * (1 << 17), 17))
    widest = {
        "largest_block_17": s.largest(17, 17, 1.0, float16(1), unsigned([5], 18)),
        "uniform_block_17": s.uniform(17, 1.0, float16(1), codes),
    }
    for label, part in widest.items():
        draft = Draft([imagined("w", "float32", 70000)], {"one": Group([entry(0, part)])})
        yield label, 52, "a block of 2^17 for 70000 values", draft.build()
    empty = s.coefficients(float32())
    yield "no_basis_empty", 53, "no coefficients of no basis", one("a", entry(0, empty))
    yield "parts_none_alone", 49, "no parts and no bytes", one("a", entry(0))
    yield "parts_17_alone", 49, "17 parts with all their bytes", one("a", entry(0, *[STAGE] * 17))


def masks() -> Iterator[Broken]:
    three = s.stage(0.5, symbols(cycle(3, 3), 3))
    record, data = s.mask(0, [1, 0, 1, 1, 0])
    for label, kind in (("2", 2), ("negative", -1)):
        masked = entry(0, three, mask=([kind, *record[1:]], data))
        yield f"mask_kind_{label}_alone", 48, f"a mask of kind {kind}", one("j", masked)
    double = unsigned([1, 0, 1, 1, 0], 2)
    masked = entry(0, three, mask=([0, 3, double[0]], double[1]))
    yield "mask_two_bits", 46, "a mask of two bits a row", one("j", masked)
    none = entry(0, s.stage(0.5, symbols([], 3)), mask=s.mask(0, [0] * 5))
    yield "mask_none_alone", 48, "a mask that keeps nothing, and nothing kept", one("j", none)
    six = s.stage(0.5, symbols(cycle(6, 3), 3))
    record, data = s.mask(0, [1] * 5)
    more = entry(0, six, mask=([0, 6, record[2]], data))
    yield "mask_6_of_5", 48, "a mask that keeps 6 rows of 5", one("j", more)


def frames() -> Iterator[Broken]:
    size = (COUNT - 256).to_bytes(2, "little")
    right = MAGIC + b"\x64" + size + RLE_2 + CHECKSUM
    open_end = MAGIC + b"\x60" + size + (COUNT << 3 | 2).to_bytes(3, "little") + b"\2"
    skipped = b"\x50\x2a\x4d\x18" + COUNT.to_bytes(4, "little") + bytes(9)
    cases = {
        "zstd_right_checksum": ("a frame with a checksum that is right", right),
        "zstd_open_end": ("a frame with all of its content and no last block", open_end),
        "zstd_skipped": ("nothing but a frame to skip, as long as the content", skipped),
    }
    for label, (what, data) in cases.items():
        run = [2, len(data), 17], data
        draft = Draft(
            [imagined("w", "float32", COUNT)], {"one": Group([entry(0, s.stage(0.5, run))])}
        )
        yield label, 55, what, draft.build()


CHECKSUM = b"\x32\x75\x3a\xcf"  # XXH64 of COUNT bytes of 2, its lower half


def broken_alone() -> Iterator[Broken]:
    for case in (places, types, numbers, streams, parts, masks, frames):
        yield from case()
