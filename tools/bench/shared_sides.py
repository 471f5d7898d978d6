"""Vectors that tasks share under the auto codec beside left and right bases that they would share.

usage: shared_sides.py [--vit8 DIR] [--tasks N ...] [--only WORD]

Shared sides are Tucker-2, A_t = U C_t V^T with U and V for all tasks. Each task is in units of its
own root mean square. Bits are those of the streams, per value and task, of up to three matrices:
with nothing shared, with shared vectors at the same step and at the step of the same error (root of
the tasks' mean squared error), and with shared sides at that error. The run of 64 moments trains
for 960 steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import corpora
import torch
from safetensors.torch import load_file
from sample.evaluate import BASE_MODEL
from shared_basis import State, mixed, mixtures, related, run
from tabulate import tabulate
from torch import Tensor

import tvcodec
from tvcodec.maths import quantize
from tvcodec.parameter import codec

BASIS_PEAK = 31  # largest code of a shared side
CUTS = (0.9, 0.7, 0.5, 0.35, 0.25)  # of the error, what bases may cut off
COARSER = 8.0  # steps that may have the error which one has with nothing shared
ROUNDS = 7
HEADS = ("family, tasks", "step", "error", "bits alone", "bits", "error", "step", "bits", "sides")


class Coded(NamedTuple):
    """Bits of the streams per value and task, mean squared error of a task, shared vectors."""

    bits: float
    lost: float
    vectors: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vit8", type=Path)
    parser.add_argument("--tasks", type=int, nargs="*", default=[16])
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(", ".join(HEADS), "and ranks")
    rows = []
    for count in options.tasks:
        for name, matrices in families(options.vit8, count):
            if options.only not in name:
                continue
            evened = evenly(matrices())
            for step in (1.0, 2.0):
                rows.append((f"{name}, {count}", step, *compared(evened, step)))
                print(tabulate(rows[-1:], tablefmt="plain", floatfmt=".3f"), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")


def families(vit8: Path | None, count: int) -> Iterator[tuple[str, Callable[[], list[Tensor]]]]:
    """Names, and what makes the matrices [tasks, m, n] of each."""
    for correlation in (0.0, 0.5):
        name = f"low rank in noise, correlation {correlation:.1f}"
        yield name, functools.partial(low_rank, correlation, count)
    sample = load_file(BASE_MODEL)
    base = {n: tensor.float() for n, tensor in sample.items() if tensor.is_floating_point()}
    yield "moments of one run", lambda: stacked(base, run({**sample, **base}, count))
    if vit8:
        corpus = corpora.load("vit8", vit8)
        model = load_file(corpus.base_model)
        tunes = {task: load_file(path) for task, path in corpus.fine_tunes.items()}
        yield "mixtures of vit8", lambda: stacked(model, mixtures(model, tunes, count))
        yield "noisy copies of vit8", lambda: stacked(model, noisy_copies(model, tunes, count))


def low_rank(correlation: float, count: int) -> list[Tensor]:
    tunes = related("low rank", correlation, count).values()
    return [torch.stack([tune["w"][:256, :256] for tune in tunes])]


def stacked(base: State, tunes: Mapping[str, State]) -> list[Tensor]:
    """The task vectors of three matrices."""
    large = [name for name in base if base[name].dim() == 2 and base[name].numel() >= 1 << 13]
    chosen = large[1 :: max(len(large) // 3, 1)][:3]
    return [torch.stack([tune[name] - base[name] for tune in tunes.values()]) for name in chosen]


def noisy_copies(base: State, tunes: Mapping[str, State], count: int) -> Mapping[str, State]:
    """Each fine-tune several times, a little weaker each time and with white noise of half of each
    task vector's size."""
    chance = torch.Generator().manual_seed(3)
    copies: dict[str, State] = {}
    for n in range(count // len(tunes)):
        for task in tunes:
            weaker = mixed(base, {0: tunes[task]}, {0: 1.0 - 0.01 * n})
            copies[f"{task}{n}"] = {
                name: tensor
                + 0.5 * (tensor - base[name]).std() * torch.randn(tensor.shape, generator=chance)
                for name, tensor in weaker.items()
                if tensor.is_floating_point() and tensor.dim() == 2
            }
    return copies


def evenly(matrices: list[Tensor]) -> list[Tensor]:
    """The same with each task in units of its root mean square over all of them."""
    energies = torch.stack([stack.square().sum((1, 2)) for stack in matrices]).sum(0)
    rms = (energies / sum(stack[0].numel() for stack in matrices)).sqrt()
    return [stack / rms[:, None, None] for stack in matrices]


def compared(matrices: list[Tensor], step: float) -> tuple[object, ...]:
    """The cells of a row, from the error on."""
    alone, shared = coded(matrices, step, False), coded(matrices, step, True)
    low, high, same, at = step / 2, COARSER * step, shared, step
    for _ in range(ROUNDS if shared.vectors else 0):
        middle = (low * high) ** 0.5
        tried = coded(matrices, middle, True)
        if tried.lost > alone.lost:
            high = middle
        else:
            low, same, at = middle, tried, middle
    sides = [with_sides(stack, alone.lost) for stack in matrices]
    values = sum(stack.numel() for stack in matrices)
    ranks = ", ".join(f"{left}x{right}" for _, left, right in sides)
    bits = sum(row[0] for row in sides) / values
    cells = (alone.lost**0.5, alone.bits, shared.bits, shared.lost**0.5)
    return (*cells, at, same.bits, bits, ranks)


def coded(matrices: list[Tensor], step: float, share: bool) -> Coded:
    """As a file of these matrices has it."""
    names = [f"w{n}" for n in range(len(matrices))]
    base = {name: torch.zeros(one.shape[1:]) for name, one in zip(names, matrices, strict=True)}
    tunes = {
        f"t{task:02}": dict(zip(names, each, strict=True))
        for task, each in enumerate(zip(*matrices, strict=True))
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.tvq"
        recipe = tvcodec.Recipe(step=step, share=share)
        summary = tvcodec.encode(base, tunes, path, recipe=recipe, jobs=1)
        with tvcodec.open(path) as bank:
            root, vectors = bank.archive.root, bank.archive.vectors.total()
    streams = sum(record.group.sections_length for record in root.tasks)
    streams += root.shared.sections_length if root.shared else 0
    lost = sum(task.error**2 for task in summary.tasks) / len(tunes)
    return Coded(8 * streams / sum(stack.numel() for stack in matrices), lost, vectors)


def with_sides(stack: Tensor, lost: float) -> tuple[float, int, int]:
    """Bits and ranks of the shared sides of a matrix that take the fewest, at the mean squared
    error `lost` of its values."""
    lost *= stack.numel()
    tried = (sides_cut_at(stack, cut * lost, lost) for cut in CUTS)
    return min(found for found in tried if found)


def sides_cut_at(stack: Tensor, cut: float, lost: float) -> tuple[float, int, int] | None:
    """Bits and ranks of shared sides that cut off about the energy `cut` and whose cores are coded
    so that `lost` is lost in all; None where they cannot."""
    left = side(torch.einsum("tij,tkj->ik", stack, stack), cut / 2)
    right = side(torch.einsum("tij,tik->jk", stack, stack), cut / 2)
    seen, bits = [], 0
    for basis in (left, right):
        codes = quantize.stage(basis, float(basis.abs().max()) / BASIS_PEAK, 0.5)
        bits += 8 * len(codec.store(codes)[1])
        seen.append(torch.linalg.qr(codes.values().view(basis.shape))[0])
    cores = torch.einsum("ip,tij,jq->tpq", seen[0], stack, seen[1])
    outside = float(stack.square().sum() - cores.square().sum())
    if outside >= lost:
        return None
    low, high = 1e-3, 32.0
    for _ in range(24):
        step = (low * high) ** 0.5
        codes = quantize.stage(cores.reshape(-1), step, quantize.DEAD_ZONE)
        missed = float((codes.values().view(cores.shape) - cores).square().sum())
        low, high = (low, step) if outside + missed > lost else (step, high)
    codes = quantize.stage(cores.reshape(-1), low, quantize.DEAD_ZONE)
    return bits + 8 * len(codec.store(codes)[1]), left.shape[1], right.shape[1]


def side(gram: Tensor, cut: float) -> Tensor:
    """The eigenvectors [n, r] of all directions but the weakest, which hold `cut` of the energy."""
    energies, vectors = torch.linalg.eigh(gram.double())
    outside = int((energies.clamp_min(0).cumsum(0) <= cut).sum())
    kept: Tensor = vectors[:, min(outside, len(energies) - 1) :].float()
    return kept


if __name__ == "__main__":
    main()
