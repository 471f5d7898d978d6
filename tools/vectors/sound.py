"""Files that every reader must read: name -> (what it shows, the file)."""

from __future__ import annotations

import numpy as np

from vectors import streams as s
from vectors.files import (
    BASE,
    SPECIAL,
    WIDTHS,
    Draft,
    Group,
    bits_of,
    entry,
    imagined,
    kept,
    rows,
    small,
    subset,
)
from vectors.streams import cycle, float16, float32, integers, symbols, unsigned, waves, zipped

ALPHABETS = (2, 3, 4, 5, 6, 7, 15, 16, 17, 128, 255, 256)
# Bytes that are not equally likely, so that coding them pays.
ZSTD_WORDS = bytes(bin(n).count("1") for n in cycle(600, 9973))


def smallest() -> Draft:
    """One task that changes a parameter of two values."""
    task = Group(small=small(symbols([2, 1], 3), (0, 0.25)))
    return Draft(subset("l"), {"a": task})


def _one(names: str, *entries: s.Run, **more: object) -> Draft:
    return Draft(subset(names), {"one": Group(entries=list(entries), **more)})  # type: ignore[arg-type]


def _part(part: s.Run, mask: s.Run | None = None, names: str = "a") -> Draft:
    return _one(names, entry(0, part, mask=mask))


def _all_parts(rows_: int, columns: int, count: int, at: int = 0) -> list[s.Run]:
    """A part of every kind that takes no shared basis, for `count` values kept of a matrix."""
    blocks = -(-count // 16)
    return [
        s.factors(
            2,
            symbols(cycle(2 * rows_, 5, 3 + at), 5),
            integers([n - 20 for n in cycle(2 * columns, 40)], 1),
            float16(0.5, -0.125),
        ),
        s.largest(
            4, 2, 0.75, float16(*np.linspace(0.5, 2, blocks)), unsigned(cycle(4 * blocks, 8), 3)
        ),
        s.uniform(4, -0.5, float16(*np.linspace(1, 2, blocks)), symbols(cycle(16 * blocks, 7), 7)),
        s.stage(0.0625, symbols(cycle(count, 3), 3)),
        s.grouped(
            5,
            float16(*waves(-(-count // 5))),
            float32(*waves(-(-count // 5), 0.1)),
            symbols(cycle(count, 16), 16),
        ),
        s.values(float16(*waves(count, 0.01))),
    ]


def _masks() -> dict[str, tuple[str, Draft]]:
    row_flags = [1, 0, 1, 1, 0, 1]
    entry_flags = [int(n % 3 != 1) for n in cycle(42, 3)]
    kept_entries = sum(entry_flags)
    return {
        "mask_rows": (
            "rows that are kept, under parts of every kind",
            _one("a", entry(0, *_all_parts(4, 7, 28), mask=s.mask(0, row_flags))),
        ),
        "mask_rows_vector": (
            "rows of a parameter of one dimension",
            _one(
                "j", entry(0, s.stage(0.5, symbols([2, 0, 1], 3)), mask=s.mask(0, [0, 1, 1, 0, 1]))
            ),
        ),
        "mask_entries": (
            "entries that are kept, under parts of every kind; factors multiply out in full",
            _one("a", entry(0, *_all_parts(6, 7, kept_entries), mask=s.mask(1, entry_flags))),
        ),
        "mask_zstd": (
            "a mask as a zstd frame",
            Draft(
                [imagined("m", "float32", 4096, 1)],
                {"one": Group(entries=[_masked_rows(4096)])},
            ),
        ),
    }


def _masked_rows(count: int) -> s.Run:
    flags = [int(n in (7, 3000)) for n in range(count)]
    record, data = zipped(unsigned(flags, 1))
    return entry(0, s.values(float32(1.5, -2.5)), mask=([0, 2, record], data))


def _shared() -> dict[str, tuple[str, Draft]]:
    row_flags = [1, 0, 1, 1, 0, 1]
    entry_flags = [int(n % 3 != 1) for n in cycle(42, 3)]
    basis = Group(
        entries=[
            entry(0, s.values(float16(*waves(42)))),
            entry(0, *_all_parts(6, 7, 42, 2)),
            entry(0, s.stage(0.25, symbols(cycle(28, 5), 5)), mask=s.mask(0, [0, 1, 1, 0, 1, 1])),
            entry(1, s.factors(1, float16(*waves(12)), float16(*waves(10)), float32(0.5))),
        ],
        metadata={"made": "by hand"},
    )
    coefficients = s.coefficients(float16(0.5, -1.0, 2.0))
    tasks = {
        "alone": Group(entries=[entry(0, coefficients)]),
        "both": Group(
            entries=[
                entry(0, coefficients, s.stage(0.5, symbols(cycle(42, 3), 3))),
                entry(1, s.coefficients(float32(-0.75))),
            ]
        ),
        "entries": Group(
            entries=[
                entry(
                    0,
                    s.stage(0.5, symbols(cycle(sum(entry_flags), 3), 3)),
                    coefficients,
                    *_all_parts(6, 7, sum(entry_flags)),
                    mask=s.mask(1, entry_flags),
                )
            ]
        ),
        "none": Group(small=small(symbols(cycle(120, 3), 3), (1, 0.125))),
        "rows": Group(
            entries=[
                entry(0, *_all_parts(4, 7, 28), coefficients, mask=s.mask(0, row_flags)),
            ]
        ),
    }
    return {
        "shared": (
            "a shared basis, its vectors coded in many ways, under tasks with and without masks",
            Draft(subset("a c"), tasks, shared=basis),
        )
    }


def _parts() -> dict[str, tuple[str, Draft]]:
    left, right = cycle(18, 15), cycle(21, 15)
    scales = float32(0.5, 0.25, -0.125)
    out = {
        "factors_symbols": s.factors(3, symbols(left, 15), symbols(right, 15), float16(1, 2, -3)),
        "factors_floats": s.factors(3, float16(*waves(18)), float32(*waves(21)), scales),
        "factors_integers": s.factors(
            3,
            integers([n * 99 - 700 for n in left], 2),
            integers([n - 7 for n in right], 1),
            scales,
        ),
        "largest": s.largest(5, 4, 0.3, float16(1, 0.5), unsigned(cycle(4, 32), 5)),
        "largest_one_run": s.largest(4, 4, 1.0, float16(1, 0.5, 2), unsigned([3, 31, 0], 5)),
        "largest_shortest_run": s.largest(4, 1, -2.0, float16(1, 0, 2), unsigned(cycle(24, 4), 2)),
        "uniform_symbols": s.uniform(4, 0.3, float16(1, 0.5, 2), symbols(cycle(48, 3), 3)),
        "uniform_integers": s.uniform(
            6, 0.3, float16(1.25), integers([n - 300 for n in cycle(64, 600)], 2)
        ),
        "stage_negative_scale": s.stage(-0.5, symbols(cycle(42, 3), 3)),
        "stage_integers1": s.stage(0.01, integers([n - 128 for n in cycle(42, 256)], 1)),
        "stage_integers2": s.stage(0.01, integers([n * 7 - 32768 for n in cycle(42, 9000)], 2)),
        "stage_integers4": s.stage(
            1e-9, integers([n * 431 * 431 - 2**30 for n in cycle(42, 9000)], 4)
        ),
        "stage_integers8": s.stage(
            1e-18, integers([n * 431**5 - 2**56 for n in cycle(42, 9000)], 8)
        ),
        "grouped": s.grouped(
            8, float16(*waves(6)), float16(*waves(6, 2)), symbols(cycle(42, 16), 16)
        ),
        "grouped_whole": s.grouped(0, float32(0.1), float32(-0.8), symbols(cycle(42, 256), 256)),
        "grouped_long": s.grouped(99, float32(0.1), float16(-0.8), symbols(cycle(42, 2), 2)),
        "values_float16": s.values(float16(*waves(42))),
        "values_float32": s.values(float32(*waves(42))),
    }
    widest = s.largest(16, 12, 3.0, float16(0.25), unsigned(cycle(16, 8192), 13))
    return {
        "largest_block16": (
            "one part, largest, in a block of 2^16",
            Draft([imagined("w", "float32", 40000)], {"one": Group([entry(0, widest)])}),
        ),
        **{
            name: (f"one part, {name.replace('_', ', ')}", _part(part))
            for name, part in out.items()
        },
    }


def _alphabets() -> Draft:
    stages = [s.stage(0.5**n, symbols(cycle(42, size), size)) for n, size in enumerate(ALPHABETS)]
    return _one("a", entry(0, *stages))


def _small() -> dict[str, tuple[str, Draft]]:
    members = small(symbols(cycle(48, 15), 15), (0, 0.25), (1, -0.5), (2, 0.125))
    even = small(symbols(cycle(6, 4), 4), (1, 0.25), (2, 2.0))
    return {
        "small": (
            "small parameters in one section",
            Draft(subset("a f j"), {"one": Group(small=members)}),
        ),
        "small_even": (
            "symbols of an even alphabet: the middle is rounded down",
            Draft(subset("a f j"), {"one": Group(small=even)}),
        ),
        "small_zstd": (
            "small parameters as a zstd frame",
            Draft(
                [imagined("p", "bfloat16", 300), imagined("q", "float16", 200)],
                {
                    "one": Group(
                        small=small(zipped(symbols([7] * 300 + [9] * 200, 15)), (0, 1.0), (1, 1.0))
                    )
                },
            ),
        ),
    }


def _differences(dtype: str) -> list[int]:
    limit = 8 * WIDTHS[dtype]
    return [0, 1, -1, 1 << limit - 2, -(1 << limit - 1), 3, -300, (1 << limit - 1) - 1]


def _exact() -> dict[str, tuple[str, Draft]]:
    out = {}
    for name in ["x16", "x32", "x64", "xb16"]:
        dtype = BASE[name].dtype
        part = s.exact(integers(_differences(dtype), WIDTHS[dtype]))
        out[f"exact_{dtype}"] = (
            f"bit-exact differences of {dtype}: infinities, NaN, signed zeros, wrapping",
            _one(name, entry(0, part)),
        )
    wide = s.exact(integers([n * 1000 - 40000 for n in cycle(42, 80)], 8))
    narrow = s.exact(integers([n - 40 for n in cycle(120, 80)], 4))
    fine = s.exact(integers([n * 10**9 for n in cycle(15, 80)], 8))
    out["exact_other_dtype"] = (
        "bit-exact differences to the base model in the fine-tune's dtype",
        _one("a c", entry(0, wide), entry(1, narrow), dtypes=[[0, "float64"], [1, "float32"]]),
    )
    out["exact_fine"] = (
        "bit-exact differences that float32 is too coarse for",
        _one("e", entry(0, fine)),
    )
    return out


def _whole() -> dict[str, tuple[str, Draft]]:
    stage = s.stage(0.125, symbols(cycle(42, 15), 15))
    extra = bits_of(waves(14), "float16")
    every = [
        kept(f"new.{dtype}", dtype, (2, 3), np.array(cycle(6, 2), f"u{width}"))
        for dtype, width in sorted(WIDTHS.items())
    ]
    every += [
        kept("new.scalar", "float32", (), bits_of(np.array([2.5]), "float32")),
        kept("new.void", "float32", (4, 0), np.zeros(0, "u4")),
        kept("new.zeros", "int64", (64,), zipped(s.elements(np.zeros(64, "u8")))),
    ]
    every.sort(key=lambda run: run[0][0])
    integers_ = kept(4, "int64", (3,), np.array([1, 2, 1 << 63], "u8"))
    reshaped = kept(0, "float16", (2, 2), bits_of(np.array([1.0, -2.0, 0.5, 65504]), "float16"))
    special = kept(5, "float32", (8,), bits_of(np.array(SPECIAL), "float32"))
    return {
        "aliases": (
            "a tied parameter: parts, dtype and extra rows are those of the other",
            _one(
                "a b",
                entry(0, stage),
                aliases=[[1, 0]],
                dtypes=[[0, "float16"]],
                rows=[rows(0, 2, extra)],
            ),
        ),
        "aliases_exact": (
            "a tied parameter stored bit-exact",
            _one("a b", entry(0, s.exact(integers(cycle(42, 99), 4))), aliases=[[1, 0]]),
        ),
        "aliases_seed": (
            "a tied parameter is rotated with the number of the other",
            _one(
                "a b",
                entry(0, s.largest(4, 2, 1.0, float16(1, 2, 3), unsigned(cycle(12, 8), 3))),
                aliases=[[1, 0]],
            ),
        ),
        "rows": (
            "extra rows of a changed, an unchanged, an empty and an integer parameter",
            _one(
                "a c g h",
                entry(0, stage),
                rows=[
                    rows(0, 1, bits_of(waves(7), "float32")),
                    rows(1, 3, bits_of(waves(30), "bfloat16")),
                    rows(2, 2, bits_of(waves(8), "float32")),
                    rows(3, 1, np.array([7], "u8")),
                ],
            ),
        ),
        "added": (
            "parameters that the base model lacks, of every dtype and of odd shapes",
            _one("a", added=every),
        ),
        "replaced": (
            "integers that changed, another shape, special values, beside a missing parameter",
            _one(
                "a d f g h x32",
                replaced=[reshaped, integers_, special],
                missing=[1, 3],
                small=small(symbols([0], 2), (2, 1.0)),
            ),
        ),
        "dtypes": (
            "another dtype: with a task vector, small, and else unchanged",
            _one(
                "a c d e j k",
                entry(0, stage),
                small=small(symbols(cycle(5, 15), 15), (4, 0.5)),
                dtypes=[
                    [0, "bfloat16"],
                    [1, "float32"],
                    [2, "bfloat16"],
                    [3, "float16"],
                    [4, "float16"],
                    [5, "float64"],
                ],
            ),
        ),
        "float64": (
            "parameters of float64: the sum is formed in float64",
            _one(
                "a e j",
                small=small(symbols(cycle(20, 15), 15), (1, 1e-6), (2, 1e-6)),
                dtypes=[[2, "float64"]],
            ),
        ),
        "shapes": (
            "matrices of four dimensions, of one, and of none",
            _one(
                "f j k",
                entry(0, s.factors(1, symbols([2], 3), symbols([0], 3), float32(0.5))),
                entry(1, s.factors(1, symbols(cycle(5, 3), 3), symbols([2], 3), float32(0.5))),
                entry(
                    2,
                    s.factors(
                        4, symbols(cycle(16, 9), 9), symbols(cycle(48, 9), 9), float16(1, 2, 3, 4)
                    ),
                ),
            ),
        ),
    }


def _containers() -> dict[str, tuple[str, Draft]]:
    gram = [1.0, 0.5, 2.0, -0.25, 0.0, 0.0]
    three = {
        name: Group(small=small(symbols(cycle(5, 7, n), 7), (0, 0.5)))
        for n, name in enumerate(["B.2", "a"])
    }
    three["c-3_x"] = Group()
    names = ["a b", "a.b", "\u00e9", "\u4e2d.\u6587", "\uffee", "\U0001f600"]
    metadata = {"text": "any \u0000 text\n", "\u00e9": "\U0001f600" * 9}
    newer = smallest()
    newer.prologue = newer.prologue[:10] + b"\x07\0" + newer.prologue[12:]
    return {
        "smallest": ("one task, one small parameter", smallest()),
        "empty": ("no task and no parameter", Draft([], {})),
        "unchanged": ("a task that changed nothing", Draft(subset("a h"), {"one": Group()})),
        "minor": ("a newer minor version", newer),
        "three_tasks": (
            "three tasks and the inner products of their task vectors",
            Draft(subset("j"), three, gram=gram),
        ),
        "gram_of_one": ("an inner product for a single task", _gram_of_one()),
        "metadata": (
            "text in the root, tasks and the shared index",
            Draft(
                subset("j"),
                {"one": Group(metadata=metadata)},
                shared=Group(metadata={"k": "v"}),
                metadata=metadata,
            ),
        ),
        "names": (
            "names beyond ASCII, sorted by code points and not by UTF-16",
            Draft(
                [imagined(name, "float32", 2) for name in names],
                {"A" * 128: Group(small=small(symbols([0, 1, 2, 2], 3), (4, 1.0), (5, 1.0)))},
            ),
        ),
        "frames": (
            "two zstd frames, of 8 MiB and of the rest",
            Draft(
                [imagined("w", "float32", 1030, 8192)],
                {"one": Group(entries=[entry(0, s.stage(0.5, zipped(_long(1030 * 8192))))])},
            ),
        ),
        "entropy": (
            "a zstd frame with matches and entropy coding",
            Draft(
                [imagined("w", "float32", len(ZSTD_WORDS))],
                {"one": Group(entries=[entry(0, s.stage(0.5, _entropy()))])},
            ),
        ),
    }


def _gram_of_one() -> Draft:
    draft = smallest()
    draft.gram = [0.125]
    return draft


def _long(count: int) -> s.Run:
    data = bytearray(b"\x7f" * count)
    data[5], data[(1 << 23) + 9] = 1, 200
    return [2, count, 256], bytes(data)


def _entropy() -> s.Run:
    frame = bytes.fromhex(ZSTD_FRAME)
    return s.stored(symbols(ZSTD_WORDS, 256), frame)


# ZSTD_WORDS by zstd 1.5.7 at level 19.
ZSTD_FRAME = (
    "28b52ffd605801850700c624398a0114456654303500360036008bde1feb75dc4aa256ae594ba547a246408f"
    "6f3578820d7b2fb3ad09ae6bd8b85da07352c926a756a5b93654a9441489122a10110852644b30efdbcc9758"
    "8df6692792f1cf617bba0666d41e912e4b22aecf1c74dcb8c26449b684cd672701b92e51c8e733bf83ed1dfb"
    "194be954918bf0710e72e4f66b91fc09d3c6b98ca6974a6243a736d19539a88902b442f8b7359dc882964862"
    "8913cc68fa5a7a99f36306aeff5209ba9fcaac28b45bc22c220a7b0a68b09fb5aca74e731f4a66d34bc6b54a"
    "49928824d9044a1b8d357edef29183562bd926e80302006910926e66410a"
)


def sound() -> dict[str, tuple[str, Draft]]:
    """All of them, without the y_ and the suffix."""
    return {
        **_containers(),
        **_small(),
        **_parts(),
        "alphabets": ("stages of many alphabets", _alphabets()),
        "all_parts": (
            "parts of every kind but shared ones, summed",
            _one("a", entry(0, *_all_parts(6, 7, 42))),
        ),
        **_masks(),
        **_shared(),
        **_exact(),
        **_whole(),
    }
