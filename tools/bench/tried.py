"""What other ways of quantising factors would change: bytes at equal error, text4.

usage: tried.py --text4 DIR [--steps "2,3,6"] [--tasks N] [--every N] [--json FILE]

Every N-th matrix of each task's encoder, coded as factors alone with the number of components that
costs least: steps as recipes give them, and 6, which is that of factors in front of rotated coding.
All is by code of this file, that fits and rounds factors as tvcodec did when it was written, and in
other ways:

rounding offset   of uniform_codes, in place of 0.44
refits            how often a side is fitted to what the decoder sees of the other, in turn, the
                  first time being the longer side: 1 is what tvcodec did
rate              rounded to the code that costs least in bits and squared error together, by the
                  frequencies of each component's codes (Ortega, Ramchandran 1998)

Each way is coded at steps around the one given; its bytes are those at the error of the first way
at that step, by a quadratic fit of their logarithm.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import corpora
import numpy as np
import torch
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

from tvcodec.file import entropy
from tvcodec.maths import lowrank, quantize
from tvcodec.maths.spectrum import Spectrum, spectrum
from tvcodec.parameter import codec

AROUND = (0.9, 1.0, 1.1)
PRUNINGS = (1.5, 4.0)
LEAST = 1e-6  # of a square, added so that a system of unused columns can be solved
RECORD = 24  # bytes of one more part


@dataclass(frozen=True)
class Way:
    """How numbers become codes, and how often sides are fitted to each other."""

    offset: float = 0.44
    refits: int = 1
    rate: bool = False
    scales: bool = True
    split: bool = True


WAYS = {
    "1 refit, offset 0.44": Way(),
    "rounding offset 0.50": Way(offset=0.5),
    "rounding offset 0.40": Way(offset=0.4),
    "rounding offset 0.36": Way(offset=0.36),
    "all components in one stream": Way(split=False),
    "scales not fitted": Way(scales=False),
    "no refit": Way(refits=0),
    "2 refits": Way(refits=2),
    "3 refits": Way(refits=3),
    "5 refits": Way(refits=5),
    "rate": Way(rate=True),
    "rate, 3 refits": Way(rate=True, refits=3),
    "rate, 5 refits": Way(rate=True, refits=5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path, required=True)
    parser.add_argument("--steps", default="2,3,6")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpus = corpora.load("text4", options.text4)
    paths = [path for _, path in sorted(corpus.fine_tunes.items())][: options.tasks]
    matrices = [one for path in paths for one in some(corpus.base_model, path, options.every)]
    found: dict[str, dict[str, float]] = {name: {} for name in WAYS}
    for step in map(float, options.steps.split(",")):
        for way, change in compared(matrices, step, WAYS).items():
            found[way][f"step {step:g}"] = change
    rows = [[way, *(f"{100 * x:+.1f} %" for x in one.values())] for way, one in found.items()]
    titles = ["bytes at equal error", *next(iter(found.values()))]
    print(tabulate(rows, titles, disable_numparse=True))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def some(base_model: Path, path: Path, every: int) -> list[Tensor]:
    """Matrices of a task vector in units of its root mean square, embeddings left out."""
    base, tune = load_file(base_model), load_file(path)
    tau = {
        name: tune[name].float() - base[name].float()
        for name in base
        if name in tune and base[name].dim() == 2
    }
    energy = sum(float(one.square().sum()) for one in tau.values())
    rms = math.sqrt(energy / sum(one.numel() for one in tau.values()))
    names = [name for name in tau if "embed" not in name and tau[name].any()]
    return [tau[name] / rms for name in names[::every]]


def compared(matrices: Sequence[Tensor], step: float, ways: Mapping[str, Way]) -> dict[str, float]:
    """The change of bytes by each way, at the error of the first at `step`."""
    known = [spectrum(m, _floor(m, step * AROUND[0], min(PRUNINGS))) for m in matrices]
    curves: dict[str, np.ndarray] = {}
    wanted = 0.0
    for name, way in ways.items():
        points = [coded(matrices, known, step * factor, way) for factor in AROUND]
        wanted = wanted or points[AROUND.index(1.0)][1]
        errors = [error / wanted - 1 for _, error in points]
        curves[name] = np.polyfit(errors, [math.log(size) for size, _ in points], 2)
    first = float(next(iter(curves.values()))[-1])
    return {name: math.exp(float(curve[-1]) - first) - 1 for name, curve in curves.items()}


def _floor(matrix: Tensor, step: float, pruning: float) -> float:
    """The singular value above which a component gains `pruning` times what its error costs."""
    return step * math.sqrt(pruning * (matrix.shape[0] + matrix.shape[1]) / 12)


def coded(
    matrices: Sequence[Tensor], known: Sequence[Spectrum], step: float, way: Way
) -> tuple[float, float]:
    """Bytes of all matrices and the squared error that they leave."""
    slope = 6 / math.log(2) / step**2
    total = lost = 0.0
    for matrix, triplets in zip(matrices, known, strict=True):
        energy = float(matrix.square().sum())
        best = (slope * energy, 0.0, energy)
        for pruning in PRUNINGS:
            factors = factored(matrix, triplets, step, pruning, way)
            if factors is None:
                continue
            size = stored(factors, way.split)
            left = float((matrix - factors.values()).square().sum())
            best = min(best, (8 * size + slope * left, size, left))
        total += best[1]
        lost += best[2]
    return total, lost


def stored(factors: lowrank.Factors, split: bool) -> float:
    """Bytes of the factors as they would be stored."""

    def size(parts: Sequence[lowrank.Factors]) -> int:
        bodies = sum(len(codec.store(part, entropy.BLOCKS)[1]) for part in parts)
        return bodies + RECORD * (len(parts) - 1)

    whole = size([factors])
    return min(whole, size(factors.split())) if split else whole


def factored(
    matrix: Tensor, known: Spectrum, step: float, pruning: float, way: Way
) -> lowrank.Factors | None:
    """Factors of the components that are worth it, quantised the one way or the other."""
    rows, columns = matrix.shape
    strong = known.sigma > _floor(matrix, step, pruning)
    sigma, vectors = known.sigma[strong], known.vectors[:, strong]
    tall = matrix if rows >= columns else matrix.T
    sides = [rounded(vectors * sigma, step, way)]
    if not len(sigma) or not sides[0].any():
        return None
    sides.append(rounded(tall @ vectors, step, way))
    for turn in range(way.refits):
        sides, sigma = used(sides, sigma)
        at = 1 - turn % 2
        other = tall if at else tall.T
        sides[at] = rounded(fitted(other, sides[1 - at], sigma, step), step, way)
    sides, sigma = used(sides, sigma)
    if not len(sigma):
        return None
    short, long = sides
    left, right = (long, short) if rows >= columns else (short, long)
    scales = fitted_scales(matrix, left, right) if way.scales else step**2 / sigma
    return lowrank.Factors(left, right, scales)


def used(sides: Sequence[Tensor], sigma: Tensor) -> tuple[list[Tensor], Tensor]:
    """Without components of which a side is zero."""
    kept = sides[0].any(0) & sides[1].any(0)
    return [side[:, kept] for side in sides], sigma[kept]


def fitted(matrix: Tensor, codes: Tensor, sigma: Tensor, step: float) -> Tensor:
    """The one side by least squares to the `codes` of the other."""
    seen = codes.float() * step
    gram = seen.T @ seen
    gram.diagonal().mul_(1 + LEAST)
    found: Tensor = matrix @ (torch.linalg.solve(gram, seen.T).T * sigma)
    return found


def fitted_scales(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Least-squares scales of both."""
    a, b = left.float(), right.float()
    system = ((a.T @ a) * (b.T @ b)).double()
    system.diagonal().mul_(1 + LEAST)
    scales: Tensor = torch.linalg.solve(system, ((matrix @ b) * a).sum(0).double())
    return scales.float()


def rounded(values: Tensor, step: float, way: Way) -> Tensor:
    """Codes of one side [rows, components]."""
    codes = quantize.uniform_codes(values, step, way.offset)
    if not way.rate or not codes.any():
        return codes
    scaled, most = values / step, int(codes.abs().max())
    for _ in range(2):
        counts = torch.zeros(2 * most + 1, codes.shape[1])
        counts.scatter_add_(0, codes.long() + most, torch.ones(codes.shape))
        everywhere = counts.sum(1, keepdim=True) / counts.sum()
        lengths = -torch.log2((counts + 4 * everywhere + 1e-3) / (len(codes) + 4))
        below = scaled.abs().floor()
        choices = torch.stack([torch.zeros_like(below), below, below + 1])
        choices = (choices.clamp(max=most) * scaled.sign()).long()
        rates = torch.stack([lengths.gather(0, one + most) for one in choices])
        costs = (scaled - choices).square() + math.log(2) / 6 * rates
        codes = choices.gather(0, costs.argmin(0, keepdim=True))[0]
    return codes.to(torch.int8 if most < 128 else torch.int16)


if __name__ == "__main__":
    main()
