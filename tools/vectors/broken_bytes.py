"""Files that break a rule about bytes or about the spelling of an index (R1 to R25)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from vectors import streams as s
from vectors.files import PROLOGUE, Draft, Group, Hook, entry, pack, put, small, subset
from vectors.streams import cycle, symbols

Broken = tuple[str, int, str, bytes]


def plain(**hooks: object) -> Draft:
    """A sound file of two tasks, one with two sections, and a gram section."""
    stage = entry(0, s.stage(0.5, symbols(cycle(42, 3), 3)))
    tasks = {
        "one": Group([stage], small(symbols(cycle(6, 3), 3), (1, 0.5), (2, 0.5))),
        "two": Group(metadata={"k": "v"}),
    }
    return Draft(subset("a f j"), tasks, gram=[1.0, 0.0, 1.0], **hooks)  # type: ignore[arg-type]


def first(*path: object, to: object) -> Hook:
    """Bends the index of the first task and leaves the others alone."""

    def hook(index: dict[str, object]) -> dict[str, object]:
        return put(*path, to=to)(index) if index["entries"] else index

    return hook


def spelled(old: bytes, new: bytes) -> Hook:
    """Bends the spelling of the first index that holds `old`; once, at its first place."""
    return lambda data: data.replace(old, new, 1)


def grown(fields: list[object], number: int, by: int) -> list[object]:
    return [value + by if n == number else value for n, value in enumerate(fields)]  # type: ignore[operator]


def prologues() -> Iterator[Broken]:
    yield "magic", 1, "another first byte", plain(prologue=b"\x88" + PROLOGUE[1:]).build()
    yield "magic_as_text", 1, "line ends changed", plain().build().replace(b"\r\n", b"\n", 1)
    yield "lfs_pointer", 1, "a pointer in place of a file", b"version https://git-lfs" * 9
    yield "empty_file", 1, "no bytes at all", b""
    yield "major_0", 2, "major version 0", plain(prologue=_prologue(0, 0, 0)).build()
    yield "major_2", 2, "major version 2", plain(prologue=_prologue(2, 0, 0)).build()
    yield "feature_0", 3, "an unknown required feature", plain(prologue=_prologue(1, 0, 1)).build()
    high = plain(prologue=_prologue(1, 9, 1 << 31)).build()
    yield "feature_31", 3, "an unknown required feature of a newer minor version", high
    reserved = PROLOGUE[:63] + b"\x01"
    yield "reserved", 4, "a reserved byte is not zero", plain(prologue=reserved).build()


def _prologue(major: int, minor: int, features: int) -> bytes:
    return PROLOGUE[:8] + struct.pack("<HHI48s", major, minor, features, b"")


def trailers() -> Iterator[Broken]:
    whole = plain().build()
    at = len(whole) - 72
    yield "cut", 5, "the last 8 bytes are missing", whole[:-8]
    yield "cut_short", 5, "100 bytes", whole[:100]
    yield "appended", 5, "8 bytes behind the end", whole + bytes(8)
    yield "end_magic", 5, "another end magic", plain(tail=bytes(4) + b"TVQ2END\n").build()
    flipped = bytearray(whole)
    flipped[at + 56] ^= 1
    yield "trailer_checksum", 6, "CRC-32 of the trailer", bytes(flipped)
    yield "trailer_zero", 7, "zeros in the trailer", plain(tail=b"\0\0\0\1TVQ1END\n").build()
    trailer = {
        "file_length": (8, "another file length", lambda f: grown(f, 2, 8)),
        "root_length_0": (9, "a root index of no bytes", lambda f: [f[2] - 72, 0, *f[2:]]),
        "root_too_long": (9, "a root index of more than 64 MiB", lambda f: [f[0], 1 << 40, *f[2:]]),
        "root_unaligned": (9, "a root index at an odd place", lambda f: grown(f, 0, 1)),
        "root_early": (9, "a gap behind the root index", lambda f: grown(f, 0, -8)),
        "root_in_prologue": (9, "a root index in the prologue", lambda f: [0, f[2] - 72, *f[2:]]),
        "root_digest": (11, "another root digest", lambda f: [*f[:3], bytes(32)]),
    }
    for name, (rule, what, hook) in trailer.items():
        yield name, rule, what, plain(trailer=hook).build()
    minor = bytearray(whole)
    minor[10] = 1
    yield "minor_flipped", 11, "the root digest covers the prologue", bytes(minor)
    yield "padding_section", 10, "padding behind a section", plain(fill=b"\1").build()
    yield "padding_index", 10, "padding behind a task index", plain(index_fill=b"\1").build()
    yield "padding_gram", 10, "padding behind the gram section", plain(gram_fill=b"\1").build()
    yield "padding_root", 10, "padding behind the root index", plain(root_fill=b"\1").build()


def places() -> Iterator[Broken]:
    hooks = {
        "hole": (13, "eight bytes that nothing covers", put("tasks", 1, 1, to=8)),
        "hole_index": (13, "an index longer than it is", put("tasks", 0, 2, to=lambda n: n + 8)),
        "overlap": (13, "groups that overlap", put("tasks", 1, 2, to=lambda n: n - 8)),
        "index_digest": (14, "SHA-256 of a task index", put("tasks", 0, 3, to=bytes(32))),
    }
    for name, (rule, what, hook) in hooks.items():
        yield name, rule, what, plain(root=hook).build()
    unlisted = plain(index=first("small", to=None)).build()
    yield "uncovered_section", 15, "a section that no record speaks of", unlisted
    checksums = {
        "crc_entry": ("of an entry", first("entries", 0, 7, to=lambda n: n ^ 1)),
        "crc_small": ("of small parameters", first("small", 1, to=lambda n: n ^ 1)),
    }
    for name, (what, hook) in checksums.items():
        yield name, 16, f"CRC-32 {what}", plain(index=hook).build()
    other = put("gram_sha256", to=bytes(31) + b"\1")
    yield "gram_digest", 16, "SHA-256 of the gram section", plain(root=other).build()
    yield (
        "group_digest",
        17,
        "SHA-256 of a group",
        plain(index=first("digest", to=bytes(32))).build(),
    )


def spellings() -> Iterator[Broken]:
    lists = b"\xa7aliases\x90"
    nested = b"\xa7aliases" + b"\x91" * 900 + b"\x90"
    indexes = {
        "array_claim": (18, "an array of 2^32 - 1 values", lists, b"\xa7aliases\xdd" + b"\xff" * 4),
        "array_too_long": (18, "an array of 2^18 + 1 values", lists, b"\xa7aliases\xdd\0\4\0\1"),
        "map_claim": (
            18,
            "a map of 2^31 pairs",
            b"\xa8metadata\x80",
            b"\xa8metadata\xdf\x80\0\0\0",
        ),
        "text_claim": (18, "text of 2^16 + 1 bytes", b"\xa7aliases", b"\xdb\0\1\0\1aliases"),
        "binary_33": (18, "33 bytes of binary", b"\xc4\x20", b"\xc4\x21\0"),
        "extension": (18, "an extension type", lists, b"\xa7aliases\xd4\x01\x00"),
        "timestamp": (18, "a timestamp", lists, b"\xa7aliases\xd6\xff\0\0\0\0"),
        "nested": (18, "900 arrays in each other", lists, nested),
        "byte_c1": (19, "the byte that is no msgpack", lists, b"\xa7aliases\xc1"),
        "not_utf8": (
            19,
            "text that is not UTF-8",
            b"\xa8metadata\x80",
            b"\xa8metadata\x81\xa1k\xa1\xff",
        ),
        "surrogate": (
            19,
            "half of a pair of surrogates",
            b"\xa8metadata\x80",
            b"\xa8metadata\x81\xa1k\xa3\xed\xa0\x80",
        ),
        "long_integer": (
            20,
            "zero in two bytes",
            b"\xa7entries\x91\x98\x00",
            b"\xa7entries\x91\x98\xcc\0",
        ),
        "signed_integer": (
            20,
            "zero as a signed one",
            b"\xa7entries\x91\x98\x00",
            b"\xa7entries\x91\x98\xd0\0",
        ),
        "wide_float": (
            20,
            "a float of 8 bytes",
            struct.pack(">Bf", 202, 1),
            struct.pack(">Bd", 203, 1),
        ),
        "long_text": (20, "a short text in a long form", b"\xa7aliases", b"\xd9\x07aliases"),
        "long_binary": (20, "32 bytes in a long form", b"\xc4\x20", b"\xc5\0\x20"),
        "long_array": (20, "a short array in a long form", lists, b"\xa7aliases\xdc\0\0"),
        "long_map": (
            20,
            "a short map in a long form",
            b"\xa8metadata\x80",
            b"\xa8metadata\xde\0\0",
        ),
        "key_twice": (20, "a key twice", b"\x8a\xa5added\x90", b"\x8b\xa5added\x90\xa5added\x90"),
    }
    for name, (rule, what, old, new) in indexes.items():
        yield name, rule, what, plain(index_bytes=spelled(old, new)).build()
    yield (
        "index_behind",
        19,
        "a byte behind an index",
        plain(index_bytes=lambda b: b + b"\xc0").build(),
    )
    yield "index_cut", 19, "an index without its end", plain(index_bytes=lambda b: b[:-1]).build()
    yield (
        "root_behind",
        19,
        "a byte behind the root",
        plain(root_bytes=lambda b: b + b"\xc0").build(),
    )
    long = spelled(b"\xabgram_length\x0c", b"\xabgram_length\xcd\0\x0c")
    yield "root_long_integer", 20, "a long form in the root", plain(root_bytes=long).build()


def keys_and_types() -> Iterator[Broken]:
    def reverse(value: dict[str, object]) -> dict[str, object]:
        return dict(reversed(value.items()))

    indexes = {
        "key_missing": (21, "no key small", lambda v: {k: v[k] for k in v if k != "small"}),
        "key_unknown": (21, "an unknown key", lambda v: {**v, "zeta": 0}),
        "key_order": (21, "keys in another order", reverse),
        "index_array": (22, "an array in place of an index", lambda v: list(v.values())),
        "key_binary": (22, "a binary key", lambda v: {**v, "metadata": {b"k": "v"}}),
        "text_binary": (22, "binary in place of text", put("metadata", to={"k": b"v"})),
        "nil_list": (22, "nil in place of an array", put("missing", to=None)),
        "digest_short": (22, "a digest of 31 bytes", put("digest", to=bytes(31))),
        "digest_text": (22, "a digest as text", put("digest", to="0" * 32)),
        "entry_short": (22, "an entry of 7 values", first("entries", 0, to=lambda v: v[:7])),
        "entry_long": (22, "an entry of 9 values", first("entries", 0, to=lambda v: [*v, 0])),
        "bool_number": (22, "true in place of 1", first("small", 3, 0, 0, to=True)),
        "text_number": (22, "text in place of a number", first("entries", 0, 0, to="0")),
        "float_number": (22, "a float in place of 0", first("entries", 0, 0, to=0.0)),
        "integer_float": (22, "1 in place of 1.0", first("entries", 0, 3, to=1)),
        "stream_nil": (22, "nil in place of a stream", first("entries", 0, 5, 0, 2, to=None)),
        "part_empty": (22, "a part of no values", first("entries", 0, 5, 0, to=[])),
        "part_long": (
            22,
            "a part of one value more",
            first("entries", 0, 5, 0, to=lambda v: [*v, 0]),
        ),
        "crc_33_bits": (23, "a checksum of 33 bits", first("entries", 0, 7, to=1 << 32)),
        "crc_negative": (23, "a negative checksum", first("entries", 0, 7, to=-1)),
        "length_2_48": (23, "a section of 2^48 bytes", first("small", 0, to=1 << 48)),
        "scale_nan": (24, "a scale that is not a number", first("small", 3, 0, 4, to=math.nan)),
        "gain_infinite": (24, "an infinite gain", first("entries", 0, 3, to=math.inf)),
        "stage_infinite": (24, "an infinite scale", first("entries", 0, 5, 0, 1, to=-math.inf)),
        "norm_nan": (24, "a norm that is not a number", first("entries", 0, 1, to=math.nan)),
        "norm_negative": (25, "a negative norm", first("entries", 0, 1, to=-1.0)),
        "error_minus_zero": (25, "an error of -0.0", first("small", 3, 0, 2, to=-0.0)),
    }
    for name, (rule, what, hook) in indexes.items():
        yield name, rule, what, plain(index=hook).build()
    roots = {
        "root_key_missing": (21, "no key shared", lambda v: {k: v[k] for k in v if k != "shared"}),
        "root_key_unknown": (21, "an unknown key", lambda v: {**v, "zeta": 0}),
        "root_task_long": (22, "a task of 7 values", put("tasks", 0, to=lambda v: [*v, 0])),
        "root_shared": (22, "a shared group of 2 values", put("shared", to=[0, 1])),
        "index_length_0": (23, "an index of no bytes", put("tasks", 0, 2, to=0)),
        "index_too_long": (23, "an index above 64 MiB", put("tasks", 0, 2, to=(1 << 26) + 1)),
        "sections_negative": (23, "a negative length", put("tasks", 0, 1, to=-8)),
        "sections_2_63": (23, "a length of 2^63", put("tasks", 0, 1, to=1 << 63)),
        "gram_digest_short": (22, "a digest of 31 bytes", put("gram_sha256", to=bytes(31))),
        "task_norm_nan": (24, "a norm that is not a number", put("tasks", 0, 4, to=math.nan)),
        "task_error_negative": (25, "a negative error", put("tasks", 0, 5, to=-0.5)),
    }
    for name, (rule, what, hook) in roots.items():
        yield name, rule, what, plain(root=hook).build()
    assert pack(1.0) == struct.pack(">Bf", 202, 1)


def broken_bytes() -> Iterator[Broken]:
    yield from prologues()
    yield from trailers()
    yield from places()
    yield from spellings()
    yield from keys_and_types()
