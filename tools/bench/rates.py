"""Where the bytes of a file go, beside what information theory asks for.

usage: rates.py --text4 DIR [--steps "1,2,3"] [--qualities "small,balanced"] [--json FILE]

Encodes text4 and looks at the matrices of its tasks. Of factors: bytes as stored; `bytes` and
`codes`, the zero-order entropy of the packed bytes and of the codes of each stream; `component`,
that of the codes of each singular component by itself, an adaptive coder's ideal; and `Gaussian`,
the rate-distortion function of the same spectra at the same squared error: left and right factors
of a component of energy s^2 as m and n independent Gaussians of variance s^2 / m and s^2 / n, all
with one distortion d (reverse water-filling; Cover and Thomas, 10.3.3), components whose rate does
not pay being dropped. Of rotated codes: as stored, and 1/2 log2(1 + 1 / NSR) for each value, which
an unbiased reconstruction with that ratio of noise to signal takes at least.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import corpora
import numpy as np
import torch
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

import tvcodec
from tvcodec.decoding.stored_task import load_entry
from tvcodec.file import entropy
from tvcodec.file.index import Entry, Factors
from tvcodec.maths import rotated
from tvcodec.maths.lowrank import Factors as Codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path, required=True)
    parser.add_argument("--steps", default="1,2,3")
    parser.add_argument("--qualities", default="balanced")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpus = corpora.load("text4", options.text4)
    recipes = {f"step {s}": tvcodec.Recipe(step=float(s)) for s in options.steps.split(",")}
    recipes |= {name: tvcodec.QUALITIES[name] for name in options.qualities.split(",") if name}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in recipes.items():
            path = Path(folder, "bank.tvq")
            recipe = replace(recipe, share=False)
            tvcodec.encode(corpus.base_model, corpus.fine_tunes, path, recipe=recipe, force=True)
            found[name] = looked_at(path, corpus)
    rows = [[name, *(f"{value:,.0f}" for value in one.values())] for name, one in found.items()]
    titles = ["bytes", *next(iter(found.values()))]
    print(tabulate(rows, titles, disable_numparse=True))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def looked_at(path: Path, corpus: corpora.Corpus) -> dict[str, float]:
    """Bytes by what they are, and what they could be."""
    base = load_file(corpus.base_model)
    total: defaultdict[str, float] = defaultdict(float)
    with tvcodec.open(path) as bank:
        parameters = bank.archive.root.base_model
        for task in bank.tasks:
            tuned, tau = load_file(corpus.fine_tunes[task]), bank.task_vector(task)
            for entry, offset in bank.archive.sections(task):
                total["others"] += entry.length
                if not isinstance(entry, Entry) or not entry.parts or entry.mask:
                    continue
                name = parameters[entry.parameter].name
                matrix = (tuned[name] - base[name]).reshape(len(tuned[name]), -1)
                contents = load_entry(bank.archive, task, entry, offset).contents
                left = matrix
                for part, content in zip(entry.parts, contents, strict=True):
                    stored = sum(stream.length for stream in part.streams())
                    total["others"] -= stored
                    if isinstance(content, Codes):
                        assert isinstance(part, Factors)
                        total["factors"] += stored
                        for key, value in entropies(part, content).items():
                            total[key] += value
                        left = left - content.values()
                    elif isinstance(content, rotated.Largest | rotated.Uniform):
                        total["rotated"] += stored
                        noise = (tau[name].reshape(matrix.shape) - matrix).square().sum()
                        ratio = float(noise / left.square().sum())
                        total["rotated: bound"] += matrix.numel() * math.log2(1 + 1 / ratio) / 16
                    else:
                        total["others"] += stored
                if all(isinstance(content, Codes) for content in contents):
                    lost = (tau[name].reshape(matrix.shape) - matrix).square().sum()
                    total["factors: Gaussian"] += bound(matrix, float(lost))
                    total["factors alone"] += entry.length
    return {
        key: total[key]
        for key in (
            *("factors", "factors: bytes", "factors: codes", "factors: component"),
            *("factors alone", "factors: Gaussian", "rotated", "rotated: bound", "others"),
        )
    }


def entropies(part: Factors, codes: Codes) -> dict[str, float]:
    """Zero-order entropies in bytes, scales as stored."""
    found = dict.fromkeys(
        ("factors: bytes", "factors: codes", "factors: component"), float(part.scales.length)
    )
    for stream, numbers in ((part.left, codes.left), (part.right, codes.right)):
        symbols = (numbers.T.reshape(-1).to(torch.int16) + (stream.size - 1) // 2).to(torch.uint8)
        packed = entropy.pack_symbols(symbols.numpy(), stream.size)
        found["factors: bytes"] += zero_order(packed)
        found["factors: codes"] += zero_order(symbols.numpy())
        found["factors: component"] += sum(zero_order(row) for row in _rows(numbers))
    return found


def _rows(numbers: Tensor) -> Iterator[np.ndarray]:
    for column in numbers.T.to(torch.int16):
        yield (column - column.min()).numpy()


def zero_order(symbols: np.ndarray) -> float:
    """Bytes that symbols take at least when each is coded by itself, tables left out."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def bound(matrix: Tensor, lost: float) -> float:
    """Bytes of the Gaussian rate-distortion function of the matrix's spectrum at that error."""
    rows, columns = matrix.shape
    energy = torch.linalg.svdvals(matrix.double()).square()
    low, high = 0.0, float(energy.max())
    for _ in range(60):
        d = (low + high) / 2
        rate, distortion = _filled(energy, rows, columns, d)
        low, high = (d, high) if distortion < lost else (low, d)
    return rate / 8


def _filled(energy: Tensor, rows: int, columns: int, d: float) -> tuple[float, float]:
    """Bits and squared error where each factor value that is coded has distortion d."""
    bits = torch.zeros_like(energy)
    kept = torch.zeros_like(energy)
    for side in (rows, columns):
        ratio = (energy / (side * d)).clamp_min(1.0)
        bits += side / 2 * torch.log2(ratio)
        kept += torch.minimum(energy, torch.full_like(energy, side * d))
    # a component is coded where the error that this saves is worth its bits at that slope
    pays = (energy - kept) > 2 * math.log(2) * d * bits
    return float(bits[pays].sum()), float(kept[pays].sum() + energy[~pays].sum())


if __name__ == "__main__":
    main()
