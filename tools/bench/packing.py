"""What other ways of packing the same codes of factors would take: bytes of text4.

usage: packing.py --text4 DIR [--steps "2,3"] [--tasks N] [--json FILE]

Encodes text4 and looks at the codes of its factors, stored component by component, strong ones
first. What zstd and LZMA make of them is measured; the rest are lengths of ideal arithmetic codes
(code_lengths.py says which).
"""

from __future__ import annotations

import argparse
import functools
import json
import lzma
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import corpora
import numpy as np
import zstandard
from code_lengths import (
    above,
    beside,
    both,
    by_counts,
    by_row,
    gauss,
    histogram,
    laplace,
    width_by_energy,
    width_each,
    zero_order,
)
from factor_streams import Side, Stream, sides
from tabulate import tabulate

import tvcodec
from tvcodec.file import entropy

DICTIONARY = 1 << 15
WHOLE = ("file", "codes")  # which are no ways: bytes of the file, and how many codes it has
RECORD = 24  # bytes of one more part, which has two sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path, required=True)
    parser.add_argument("--steps", default="2,3")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpus = corpora.load("text4", options.text4)
    tunes = dict(sorted(corpus.fine_tunes.items())[: options.tasks])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in map(float, options.steps.split(",")):
            path, recipe = Path(folder, "bank.tvq"), tvcodec.Recipe(step=step, share=False)
            tvcodec.encode(corpus.base_model, tunes, path, recipe=recipe, force=True)
            with tvcodec.open(path) as bank:
                known = list(sides(bank, bank.tasks))
            found[f"step {step:g}"] = compared(known, path.stat().st_size)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Bytes of each way; and change of the codes' bytes, and of the whole file's."""
    first = next(iter(found.values()))
    rows = []
    for way in first:
        row = [way]
        for one in found.values():
            changes = [(one[way] - one["as stored"]) / one[of] for of in ("as stored", "file")]
            row.append(f"{one[way]:,.0f}")
            row += ["" if way in WHOLE else f"{100 * change:+.1f} %" for change in changes]
        rows.append(row)
    titles = [title for name in found for title in (name, "of codes", "of the file")]
    return tabulate(rows, ["bytes", *titles], disable_numparse=True)


def compared(found: Sequence[Side], file: int) -> dict[str, float]:
    """Bytes of the codes by each way."""
    streams = [stream for side in found for stream in side]
    total = {"file": float(file), "codes": float(sum(one.codes.size for one in streams))}
    for name, one_stream in OF_STREAMS.items():
        total[name] = float(sum(map(one_stream, streams)))
    total["zstd 19, one dictionary"] = with_dictionary([one.packed() for one in streams])
    for name, one_side in OF_SIDES.items():
        total[name] = float(sum(map(one_side, found)))
    return total


def zstd(packed: entropy.Bytes, level: int = 0) -> int:
    """Bytes as tvcodec compresses them, or by a level of zstd's own."""
    if not level:
        return len(entropy.compress(packed, entropy.BLOCKS))
    return min(packed.size, len(_compressor(level).compress(packed.tobytes())))


@functools.cache
def _compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level)


def lzma_alone(packed: entropy.Bytes) -> int:
    """LZMA without a container: an adaptive binary coder by the byte before."""
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
    return len(lzma.compress(packed.tobytes(), lzma.FORMAT_RAW, filters=chain))


def with_dictionary(packed: Sequence[entropy.Bytes]) -> float:
    samples: list[bytes | bytearray | memoryview] = [one.tobytes() for one in packed]
    trained = zstandard.train_dictionary(min(DICTIONARY, sum(map(len, samples)) // 8), samples)
    coder = zstandard.ZstdCompressor(level=19, dict_data=trained)
    return len(trained.as_bytes()) + sum(min(len(coder.compress(one)), len(one)) for one in samples)


def best_alphabet(stream: Stream) -> int:
    alphabets = {stream.own, *(one for one in (3, 5, 7, 15, 17, 255) if one > stream.own)}
    return min(zstd(stream.packed(one)) for one in alphabets)


def in_halves(stream: Stream) -> int:
    """Strong components and weak ones apart, again and again, where that pays for a record."""
    whole = zstd(stream.packed(stream.own))
    if len(stream.codes) < 2:
        return whole
    half = len(stream.codes) // 2
    parts = (stream.codes[:half], stream.codes[half:])
    return min(whole, sum(in_halves(replace(stream, codes=one)) for one in parts) + RECORD // 2)


def signs_apart(stream: Stream) -> int:
    """Sizes of codes packed as symbols, a bit for each sign."""
    sizes = np.abs(stream.codes)
    symbols = sizes.reshape(-1).astype(np.uint8)
    packed = entropy.pack_symbols(symbols, max(int(sizes.max()) + 1, 2))
    return zstd(packed) + -(-int((sizes > 0).sum()) // 8)


def thorough(packed: entropy.Bytes) -> int:
    """Bytes as tvcodec compresses dense codes."""
    return len(entropy.compress(packed, entropy.THOROUGH))


def row_by_row(stream: Stream) -> int:
    return zstd(stream.packed(codes=stream.codes.T))


def rows_sorted(side: Side) -> float:
    """Rows with most in them first; which order that is takes log2 of how many there are."""
    sizes = np.concatenate([np.abs(one.codes) for one in side]).astype(float)
    order = np.argsort(-(sizes / sizes.mean(1, keepdims=True).clip(1e-9)).sum(0))
    price = math.lgamma(len(order) + 1) / math.log(2) / 8
    return price + sum(zstd(one.packed(codes=one.codes[:, order])) for one in side)


def without_zeros(side: Side) -> float:
    """A bit for each row that says whether it has a code but zero, and the codes of such rows."""
    some = np.concatenate([one.codes for one in side]).any(0)
    mask = thorough(np.packbits(some))
    return mask + sum(zstd(one.packed(codes=one.codes[:, some])) for one in side)


OF_STREAMS: dict[str, Callable[[Stream], float]] = {
    "as stored": lambda one: one.length,
    "zstd 3": lambda one: zstd(one.packed(), 3),
    "zstd 9": lambda one: zstd(one.packed(), 9),
    "zstd 19": lambda one: zstd(one.packed(), 19),
    "LZMA": lambda one: lzma_alone(one.packed()),
    "alphabet of 3, 5, 7, 15, 17 or 255": best_alphabet,
    "strong and weak apart, where it pays": in_halves,
    "signs apart": signs_apart,
    "longest search, where it pays": lambda one: min(one.length, thorough(one.packed())),
    "row by row": row_by_row,
    "row by row, where it pays": lambda one: min(one.length, row_by_row(one)),
    "entropy, stream": lambda one: zero_order(histogram(one.codes).sum(0)),
    "entropy, component": lambda one: zero_order(histogram(one.codes)),
    "Laplace": functools.partial(width_each, laplace),
    "Gauss": functools.partial(width_each, gauss),
    "by energies": width_by_energy,
}
OF_SIDES: dict[str, Callable[[Side], float]] = {
    "rows of zeros left out, where it pays": lambda side: min(
        sum(one.length for one in side), without_zeros(side)
    ),
    "rows sorted": rows_sorted,
    "tables before": functools.partial(by_counts, adaptive=False),
    "tables before; row": functools.partial(by_counts, adaptive=False, context=by_row),
    "adaptive": functools.partial(by_counts, adaptive=True),
    "adaptive; above": functools.partial(by_counts, adaptive=True, context=above),
    "adaptive; beside": functools.partial(by_counts, adaptive=True, context=beside),
    "adaptive; row": functools.partial(by_counts, adaptive=True, context=by_row),
    "adaptive; row, beside": functools.partial(by_counts, adaptive=True, context=both),
}


if __name__ == "__main__":
    main()
