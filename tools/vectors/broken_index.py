"""Files whose indexes say what they must not (R26 to R54)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vectors import streams as s
from vectors.broken_bytes import Broken, first, plain
from vectors.files import Draft, Group, entry, imagined, kept, put, rows, small, subset
from vectors.streams import cycle, float16, float32, integers, symbols, unsigned


def _one(names: str, *entries: s.Run, **more: Any) -> bytes:
    return Draft(subset(names), {"one": Group(entries=list(entries), **more)}).build()


def _stage(number: int, count: int) -> s.Run:
    return entry(number, s.stage(0.5, symbols(cycle(count, 3), 3)))


def names() -> Iterator[Broken]:
    parameters = {
        "empty": "",
        "of_513": "x" * 513,
        "line_break": "a\nb",
        "escape": "\x1b[31mred",
        "nul": "a\0b",
        "delete": "a\x7f",
        "right_to_left": "a\u202eb",
        "joiner": "a\u200db",
        "no_break_space": "a\u00a0b",
        "private": "\ue000",
        "decomposed": "e\u0301",
    }
    for label, name in parameters.items():
        draft = Draft([imagined(name, "float32", 2)], {"one": Group()})
        yield f"name_{label}", 26, f"a parameter's name, {label.replace('_', ' ')}", draft.build()
    added = kept("a\tb", "uint8", (1,), np.array([1], "u1"))
    yield "name_added", 26, "an added parameter's name with a tab", _one("j", added=[added])
    tasks = {
        "parent": "../x",
        "absolute": "/x",
        "backslash": "a\\b",
        "drive": "C:x",
        "empty": "",
        "hidden": ".x",
        "dash": "-x",
        "dot_behind": "x.",
        "space": "a b",
        "accent": "\u00e9",
        "of_129": "x" * 129,
        "device": "con",
        "device_suffix": "COM1.txt",
        "line_break": "x\n",
    }
    for label, name in tasks.items():
        task = Draft(subset("l"), {name: Group()}).build()
        yield f"task_{label}", 27, f"a task's name, {label.replace('_', ' ')}", task
    metadata: dict[str, tuple[str, dict[str, str]]] = {
        "unsorted": ("keys that are not sorted", {"b": "", "a": ""}),
        "escape": ("a key with an escape", {"\x1b": ""}),
        "empty_key": ("an empty key", {"": ""}),
        "many": ("1025 pairs", {chr(48 + n // 40) + chr(48 + n % 40): "" for n in range(1025)}),
    }
    for label, (what, pairs) in metadata.items():
        draft = Draft([], {}, metadata=pairs)
        yield f"metadata_{label}", 28, what, draft.build()
    group = Group(metadata={"b": "", "a": ""})
    yield "metadata_task", 28, "unsorted keys of a task", Draft([], {"one": group}).build()


def roots() -> Iterator[Broken]:
    dims = {
        "rank_9": ("nine dimensions", [1] * 9),
        "negative": ("a negative dimension", [-1]),
        "two_negative": ("two negative dimensions", [-2, -2]),
        "2_48": ("a dimension of 2^48", [1 << 48, 0]),
        "2_64": ("a dimension of 2^64 - 1", [(1 << 64) - 1]),
        "2_40": ("2^40 values", [1 << 20, 1 << 20]),
        "overflow": ("2^64 values", [1 << 32, 1 << 32]),
        "of_nothing": ("no values, with strides of 2^94", [0, 1 << 47, 1 << 47]),
    }
    for label, (what, value) in dims.items():
        draft = Draft([imagined("w", "float32", *value)], {})
        yield f"dims_{label}", 30, what, draft.build()
    hooks = {
        "dtype_unknown": (29, "an unknown dtype", put("base_model", 0, 1, to="float8")),
        "dtype_case": (29, "a dtype in capitals", put("base_model", 0, 1, to="Float32")),
        "base_unsorted": (31, "parameters not sorted", put("base_model", to=lambda v: v[::-1])),
        "base_twice": (31, "a parameter twice", put("base_model", 1, 0, to="a")),
        "tasks_unsorted": (32, "tasks not sorted", put("tasks", 0, 0, to="uno")),
        "tasks_twice": (32, "a task twice", put("tasks", 0, 0, to="two")),
        "tasks_case": (32, "tasks that differ in case", put("tasks", 0, 0, to="TWO")),
        "sections_unpadded": (33, "sections of 12 bytes", put("tasks", 1, 1, to=12)),
        "gram_short": (34, "inner products of one task of two", put("gram_length", to=4)),
        "gram_long": (34, "inner products of many tasks", put("gram_length", to=40)),
    }
    for label, (rule, what, hook) in hooks.items():
        yield label, rule, what, plain(root=hook).build()
    other = put("gram_sha256", to=bytes(31) + b"\1")
    alone = Draft(subset("l"), {"one": Group()}, root=other).build()
    yield "gram_of_nothing", 34, "a digest of no inner products", alone


def lists() -> Iterator[Broken]:
    two = [
        kept("n.a", "int8", (1,), np.zeros(1, "u1")),
        kept("n.b", "int8", (1,), np.zeros(1, "u1")),
    ]
    whole = kept(0, "int8", (1,), np.zeros(1, "u1"))
    row = np.zeros(7, "u4")
    tied = {"aliases": [[1, 0]]}
    basis = Group([_stage(1, 42), _stage(0, 42)])
    cases: dict[str, tuple[int, str, bytes]] = {
        "number": (
            35,
            "an entry of no parameter",
            plain(index=first("entries", 0, 0, to=3)).build(),
        ),
        "number_negative": (
            35,
            "an entry of parameter -1",
            plain(index=first("entries", 0, 0, to=-1)).build(),
        ),
        "number_missing": (35, "missing what there is not", _one("j", missing=[1])),
        "number_alias": (35, "an alias of no parameter", _one("j", aliases=[[1, 0]])),
        "number_replaced": (
            35,
            "replaced what there is not",
            _one("j", replaced=[kept(9, *_BYTE)]),
        ),
        "number_rows": (35, "rows of no parameter", _one("a", rows=[rows(1, 1, row)])),
        "number_dtype": (35, "the dtype of no parameter", _one("a", dtypes=[[1, "float16"]])),
        "entries_unsorted": (36, "entries not sorted", _one("a b", _stage(1, 42), _stage(0, 42))),
        "entries_twice": (36, "an entry twice", _one("a", _stage(0, 42), _stage(0, 42))),
        "missing_twice": (36, "missing twice", _one("a", missing=[0, 0])),
        "added_unsorted": (36, "added not sorted", _one("j", added=two[::-1])),
        "aliases_unsorted": (36, "aliases not sorted", _one("a b j", aliases=[[2, 1], [1, 0]])),
        "dtypes_twice": (36, "a dtype twice", _one("j", dtypes=[[0, "float16"], [0, "float16"]])),
        "replaced_unsorted": (
            36,
            "replaced not sorted",
            _one("a b", replaced=[kept(1, *_BYTE), whole]),
        ),
        "rows_twice": (36, "rows twice", _one("a", rows=[rows(0, 1, row), rows(0, 1, row)])),
        "members_unsorted": (
            36,
            "small parameters not sorted",
            _one("f j", small=small(symbols(cycle(6, 3), 3), (1, 1.0), (0, 1.0))),
        ),
        "shared_unsorted": (
            36,
            "shared entries not sorted",
            Draft(subset("a b"), {}, shared=basis).build(),
        ),
        "entry_and_small": (37, "an entry that is small too", _both()),
        "entry_and_missing": (
            37,
            "an entry that is missing",
            _one("a", _stage(0, 42), missing=[0]),
        ),
        "entry_and_alias": (
            37,
            "an entry that is an alias",
            _one("a b", _stage(0, 42), _stage(1, 42), **tied),
        ),
        "replaced_and_missing": (
            37,
            "replaced and missing",
            _one("a", replaced=[whole], missing=[0]),
        ),
        "alias_of_itself": (38, "an alias of itself", _one("a", aliases=[[0, 0]])),
        "alias_forward": (38, "an alias of a later one", _one("a b", aliases=[[0, 1]])),
        "alias_of_alias": (38, "an alias of an alias", _twins(aliases=[[1, 0], [2, 1]])),
        "alias_of_missing": (38, "an alias of a missing one", _one("a b", missing=[0], **tied)),
        "alias_of_replaced": (
            38,
            "an alias of a replaced one",
            _one("a b", replaced=[whole], **tied),
        ),
        "alias_dims": (38, "an alias of another shape", _one("a j", _stage(0, 42), **tied)),
        "alias_dtype": (38, "an alias of another dtype", _one("x16 xb16", _stage(0, 8), **tied)),
        "alias_with_dtype": (
            38,
            "an alias with a dtype of its own",
            _one("a b", _stage(0, 42), dtypes=[[1, "float16"]], **tied),
        ),
        "dtype_same": (39, "the base model's dtype", _one("j", dtypes=[[0, "float32"]])),
        "dtype_integer": (39, "floats become integers", _one("j", dtypes=[[0, "int32"]])),
        "dtype_of_integer": (39, "integers become floats", _one("h", dtypes=[[0, "float32"]])),
        "dtype_of_missing": (39, "a missing one", _one("j", dtypes=[[0, "float16"]], missing=[0])),
        "dtype_of_replaced": (
            39,
            "a replaced one",
            _one("j", dtypes=[[0, "float16"]], replaced=[whole]),
        ),
        "rows_of_scalar": (40, "rows of a single value", _one("f", rows=[rows(0, 1, row[:1])])),
        "rows_of_nothing": (
            40,
            "rows of no values, with strides of 2^40 and more",
            Draft(
                [imagined("w", "float32", 0, 0, 1 << 30)],
                {"one": Group(rows=[rows(0, 1 << 10, row[:0])])},
            ).build(),
        ),
        "rows_none": (40, "no rows", _one("a", rows=[rows(0, 0, row[:0])])),
        "rows_of_missing": (40, "a missing one", _one("a", missing=[0], rows=[rows(0, 1, row)])),
        "rows_of_replaced": (
            40,
            "a replaced one",
            _one("a", replaced=[whole], rows=[rows(0, 1, row)]),
        ),
        "rows_of_alias": (
            40,
            "an alias",
            _one("a b", _stage(0, 42), rows=[rows(1, 1, row)], **tied),
        ),
        "rows_2_40": (
            40,
            "rows of 2^40 values and more",
            plain(index=first("rows", to=[[0, 1 << 39, 8, 0, [5, 8, 4]]])).build(),
        ),
        "added_known": (41, "added what is there", _one("j", added=[kept("j", *_BYTE)])),
        "entry_of_integers": (42, "an entry of integers", _one("h", _stage(0, 3))),
        "entry_of_nothing": (42, "an entry of no values", _one("g", entry(0, s.values(float16())))),
        "small_of_bools": (
            42,
            "small of bools",
            _one("i", small=small(symbols([0] * 4, 3), (0, 1.0))),
        ),
        "shared_small": (43, "small ones in the shared index", _sharing(small=_small())),
        "shared_aliases": (43, "aliases in the shared index", _sharing(aliases=[[1, 0]])),
        "shared_missing": (43, "missing in the shared index", _sharing(missing=[0])),
        "shared_513": (43, "513 vectors of a parameter", _sharing(entries=[_stage(0, 42)] * 513)),
        "shared_exact": (43, "exact differences in the shared index", _sharing(entries=[_exact()])),
        "no_members": (54, "small parameters of none", _one("j", small=small(symbols([], 3)))),
    }
    for label, (rule, what, data) in cases.items():
        yield label, rule, what, data


_BYTE = ("int8", (1,), np.zeros(1, "u1"))


def _twins(**more: Any) -> bytes:
    base = [imagined(name, "float32", 2) for name in "abc"]
    return Draft(base, {"one": Group(**more)}).build()


def _small() -> s.Run:
    return small(symbols(cycle(42, 3), 3), (0, 1.0))


def _exact() -> s.Run:
    return entry(0, s.exact(integers(cycle(42, 99), 4)))


def _both() -> bytes:
    return _one("a", _stage(0, 42), small=_small())


def _sharing(**more: Any) -> bytes:
    return Draft(subset("a b"), {}, shared=Group(**more)).build()


def streams() -> Iterator[Broken]:
    code = ("entries", 0, 5, 0, 2)
    hooks = {
        "entry_length": (
            44,
            "an entry longer than its streams",
            ("entries", 0, 6),
            lambda n: n + 1,
        ),
        "small_length": (44, "a section longer than its stream", ("small", 0), lambda n: n + 1),
        "stream_kind": (45, "a stream of kind 6", code, [6, 9, 3]),
        "stream_place": (45, "floats in place of codes", code, [0, 9]),
        "stream_elements": (45, "elements in place of codes", code, [5, 42, 1]),
        "stream_unsigned": (45, "unsigned ones in place of codes", code, [3, 9, 1]),
        "stream_short": (45, "symbols without an alphabet", code, [2, 9]),
        "alphabet_1": (46, "an alphabet of one", code, [2, 9, 1]),
        "alphabet_257": (46, "an alphabet of 257", code, [2, 9, 257]),
        "width_3": (46, "integers of 3 bytes", code, [4, 9, 3]),
        "width_0": (46, "integers of 0 bytes", code, [4, 9, 0]),
        "stream_empty": (47, "no bytes for 42 symbols", code, [2, 0, 3]),
        "stream_long": (47, "more bytes than 42 symbols take", code, [2, 10, 3]),
        "stream_negative": (47, "a negative length", code, [2, -9, 3]),
    }
    for label, (rule, what, path, value) in hooks.items():
        yield label, rule, what, plain(index=first(*path, to=value)).build()
    byte = kept("n", *_BYTE)
    row = rows(0, 1, np.zeros(7, "u4"))
    void = kept("n", "int8", (0,), np.zeros(0, "u1"))
    others: dict[str, tuple[int, str, dict[str, Any], tuple[Any, ...], Any]] = {
        "added_length": (
            44,
            "a section longer than its stream",
            {"added": [byte]},
            ("added", 0, 3),
            2,
        ),
        "rows_length": (
            44,
            "a section longer than its stream",
            {"rows": [row]},
            ("rows", 0, 2),
            29,
        ),
        "added_width": (46, "elements of another width", {"added": [byte]}, ("added", 0, 5, 2), 2),
        "rows_width": (46, "elements of another width", {"rows": [row]}, ("rows", 0, 4, 2), 8),
        "added_kind": (
            45,
            "symbols in place of elements",
            {"added": [byte]},
            ("added", 0, 5, 0),
            2,
        ),
        "stream_of_none": (47, "a byte for no values", {"added": [void]}, ("added", 0, 5, 1), 1),
    }
    for label, (rule, what, group, path, value) in others.items():
        draft = Draft(subset("a"), {"one": Group(**group)}, index=put(*path, to=value))
        yield label, rule, what, draft.build()

    thin = entry(0, s.stage(0.5, ([2, 31, 17], b"\x28\xb5\x2f\xfd" + bytes(27))))
    draft = Draft([imagined("w", "float32", 1 << 20)], {"one": Group([thin])})
    yield "stream_thin", 47, "fewer bytes than any frame of so many takes", draft.build()


def parts() -> Iterator[Broken]:
    stage = s.stage(0.5, symbols(cycle(42, 3), 3))
    exact = s.exact(integers(cycle(42, 99), 4))
    factors = s.factors(1, float16(*range(6)), float16(*range(7)), float16(1))
    largest = s.largest(4, 2, 1.0, float16(1, 1, 1), unsigned(cycle(12, 8), 3))
    masked = s.mask(0, [1, 0, 1, 1, 0, 1])
    wide = s.uniform(6, 1.0, float16(1), symbols(cycle(64, 3), 3))
    halves = s.stage(0.5, symbols(cycle(28, 3), 3))
    hooks: dict[str, tuple[int, str, s.Run, s.Run | None, tuple[Any, ...], Any]] = {
        "mask_kind": (48, "a mask of kind 2", halves, masked, (4, 0), 2),
        "mask_none": (48, "a mask that keeps nothing", halves, masked, (4, 1), 0),
        "mask_more": (48, "a mask that keeps 7 rows of 6", halves, masked, (4, 1), 7),
        "mask_bits": (46, "a mask of two bits each", halves, masked, (4, 2, 2), 2),
        "parts_none": (49, "no parts", stage, None, (5,), []),
        "parts_17": (49, "17 parts", stage, None, (5,), [stage[0]] * 17),
        "part_kind_0": (49, "a part of kind 0", stage, None, (5, 0, 0), 0),
        "part_kind_9": (49, "a part of kind 9", stage, None, (5, 0, 0), 9),
        "rank_0": (51, "factors of rank 0", factors, None, (5, 0, 1), 0),
        "rank_7": (51, "rank 7 of 6 rows", factors, None, (5, 0, 1), 7),
        "block_3": (52, "blocks of 8", largest, None, (5, 0, 1), 3),
        "block_17": (52, "blocks of 2^17", largest, None, (5, 0, 1), 17),
        "block_64": (52, "blocks of 64 for 28 values", wide, masked, (5, 0, 1), 6),
        "run_0": (52, "runs of 1", largest, None, (5, 0, 2), 0),
        "run_5": (52, "runs longer than blocks", largest, None, (5, 0, 2), 5),
        "code_bits": (46, "codes of 4 bits for runs of 4", largest, None, (5, 0, 5, 2), 4),
        "exact_width": (46, "differences of another width", exact, None, (5, 0, 1, 2), 8),
        "group_2_40": (23, "groups of 2^40 values", _grouped(), None, (5, 0, 1), 1 << 40),
        "group_negative": (23, "groups of -1 values", _grouped(), None, (5, 0, 1), -1),
        "block_gain_nan": (24, "a gain that is not a number", largest, None, (5, 0, 3), math.nan),
        "scales_float32": (45, "block scales of float32", largest, None, (5, 0, 4), [1, 12]),
    }
    for label, (rule, what, part, mask, path, value) in hooks.items():
        group = Group([entry(0, part, mask=mask)])
        draft = Draft(subset("a"), {"one": group}, index=put("entries", 0, *path, to=value))
        yield label, rule, what, draft.build()
    coefficients = s.coefficients(float32(1))
    every_row = s.mask(0, [1] * 6)
    yield "exact_masked", 50, "exact under a mask", _one("a", entry(0, exact, mask=every_row))
    yield "exact_and_stage", 50, "exact with another part", _one("a", entry(0, exact, stage))
    basis = Group([entry(0, stage)])
    twice = Group([entry(0, coefficients, coefficients)])
    draft = Draft(subset("a"), {"one": twice}, shared=basis)
    yield "coefficients_twice", 50, "coefficients twice", draft.build()
    yield "no_basis", 53, "coefficients of no basis", _one("a", entry(0, coefficients))
    draft = Draft(subset("a b"), {"one": Group([entry(1, coefficients)])}, shared=basis)
    yield "other_basis", 53, "coefficients of another one's basis", draft.build()
    draft = Draft(subset("a"), {}, shared=Group([entry(0, stage), entry(0, coefficients)]))
    yield "shared_coefficients", 53, "coefficients in the shared index", draft.build()


def _grouped() -> s.Run:
    return s.grouped(0, float16(1), float16(0), symbols(cycle(42, 3), 3))


def broken_index() -> Iterator[Broken]:
    for case in (names, roots, lists, streams, parts):
        yield from case()
