"""What a basis that tasks share is worth to the auto codec: bits and error with it and without.

usage: shared_basis.py [--text4 DIR] [--vit8 DIR] [--step STEP]
       shared_basis.py --sides [--vit8 DIR]

Families: tau_t = common + own at several correlations, as white noise and of low rank; moments of
one training run of the sample's network; mixtures of the real task vectors of vit8. Unrelated
tasks: the corpora. Bits are of the whole file, per parameter and task.

With --sides: what left and right bases of matrices that all tasks share (Tucker-2: A_t = U C_t V^T)
would cost at the error that the auto codec has without, for 16 and 64 tasks. Bits are those of the
streams, per value and task, of a few matrices.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import corpora
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sample.evaluate import BASE_MODEL, HEADS, TEST
from sample.model import ViT
from tabulate import tabulate
from torch import Tensor

import tvcodec
from tvcodec.maths import quantize
from tvcodec.parameter import auto, codec, judging

BASIS_PEAK = 31  # largest code of a shared side
TASKS = 8
SHAPE = (512, 512)
CORRELATIONS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.99)
State = Mapping[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text4", type=Path)
    parser.add_argument("--vit8", type=Path)
    parser.add_argument("--mixtures", type=int, nargs="*", default=[16])
    parser.add_argument("--step", type=float, default=1.0)
    parser.add_argument("--sides", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    if options.sides:
        print("tasks, step, error, bits separate, bits with shared sides, ranks")
        found = sides(options.vit8)
    else:
        print("tasks, bits and error alone, bits and error shared, vectors, of how many parameters")
        found = (measured(*family, options.step) for family in families(options))
    for row in found:
        rows.append(row)
        print(tabulate([row], tablefmt="plain", floatfmt=".3f"), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


def families(options: argparse.Namespace) -> Iterator[tuple[str, State, Mapping[str, State]]]:
    """Name, base model and fine-tunes of each."""
    base = {"w": torch.zeros(SHAPE)}
    for kind in ("white", "low rank"):
        for correlation in CORRELATIONS:
            yield f"{kind}, correlation {correlation:.2f}", base, related(kind, correlation)
    sample = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(BASE_MODEL).items()
    }
    yield "moments of one run", sample, run(sample)
    for name in ("text4", "vit8"):
        if root := getattr(options, name):
            corpus = corpora.load(name, root)
            model = load_file(corpus.base_model)
            tunes = {task: load_file(path) for task, path in corpus.fine_tunes.items()}
            yield f"{name}, {len(tunes)} tasks", model, tunes
            for count in options.mixtures if name == "vit8" else ():
                yield f"{name}, {count} mixtures", model, mixtures(model, tunes, count)


def related(kind: str, correlation: float, count: int = TASKS) -> dict[str, State]:
    """Task vectors that have `correlation` in pairs."""
    common = drawn(kind, 0)
    return {
        f"t{n}": {"w": correlation**0.5 * common + (1 - correlation) ** 0.5 * drawn(kind, n + 1)}
        for n in range(count)
    }


def drawn(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator)
    if kind == "white":
        return noise
    left, right = (torch.randn(SHAPE[0], 16, generator=generator) for _ in range(2))
    return 0.7 * left @ right.T / 4 + 0.7 * noise


def run(base: State, count: int = TASKS) -> Mapping[str, State]:
    """Moments of one training run, 15 steps of AdamW from one to the next."""
    with safe_open(HEADS, "pt") as file:
        weight, bias = file.get_tensor("mnist.weight"), file.get_tensor("mnist.bias")
    with safe_open(TEST, "pt") as file:
        images, labels = file.get_tensor("mnist.images"), file.get_tensor("mnist.labels").long()
    torch.manual_seed(0)
    model = ViT()
    model.load_state_dict(dict(base))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    moments: dict[str, State] = {}
    for step in range(1, 15 * count + 1):
        rows = torch.randint(len(images), (32,))
        features = model(images[rows])
        loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 15 == 0:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            moments[f"m{step:03}"] = state
    return moments


def mixtures(base: State, tunes: Mapping[str, State], count: int) -> Mapping[str, State]:
    """Random mixtures of all task vectors, with a little noise of their own."""
    numbered = dict(enumerate(tunes[task] for task in sorted(tunes)))
    weights = torch.randn(count, len(tunes), generator=torch.Generator().manual_seed(1)) / 3
    noise = torch.Generator().manual_seed(2)
    made: dict[str, State] = {}
    for n, row in enumerate(weights.tolist()):
        state = mixed(base, numbered, dict(enumerate(row)))
        made[f"m{n:02}"] = {
            name: tensor
            + 0.2
            * (tensor - base[name]).float().std(unbiased=False)
            * torch.randn(tensor.shape, generator=noise)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in state.items()
        }
    return made


def mixed(base: State, tunes: Mapping[int, State], weights: Mapping[int, float]) -> State:
    """base + sum of weight * task vector."""
    state = {}
    for name, tensor in base.items():
        if tensor.is_floating_point():
            taus = ((tunes[n][name] - tensor) * weight for n, weight in weights.items())
            tensor = tensor + torch.stack(list(taus)).sum(0)
        state[name] = tensor
    return state


def measured(name: str, base: State, tunes: Mapping[str, State], step: float) -> tuple[object, ...]:
    """One row of the table."""
    values = sum(tensor.numel() for tensor in base.values())
    cells: list[object] = [name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.tvq"
        for share in (False, True):
            recipe = tvcodec.Recipe(step=step, share=share)
            summary = tvcodec.encode(base, tunes, path, recipe=recipe, force=True)
            error = sum(task.error for task in summary.tasks) / len(tunes)
            cells += [8 * summary.bytes / values / len(tunes), error]
        with tvcodec.open(path) as bank:
            vectors = bank.archive.vectors
    return (*cells, vectors.total(), len(vectors))


def sides(vit8: Path | None) -> Iterator[tuple[object, ...]]:
    """For each family and two steps, error and bits of separate coding and of shared sides, and the
    ranks of the bases that cost least."""
    for count in (16, 64):
        for name, matrices in sided(vit8, count):
            for step in (1.0, 2.0):
                stacks = [stack / stack.square().mean().sqrt() for stack in matrices]
                found = [against(stack, step) for stack in stacks]
                error, alone, shared = (sum(row[i] for row in found) / len(found) for i in range(3))
                ranks = ", ".join(f"{row[3]}x{row[4]}" for row in found)
                yield f"{name}, {count}", step, error, alone, shared, ranks


def sided(vit8: Path | None, count: int) -> Iterator[tuple[str, list[Tensor]]]:
    """Families of many tasks, and matrices [tasks, m, n] of each."""
    for correlation in (0.0, 0.5):
        related_tasks = related("low rank", correlation, count)
        stack = torch.stack([tune["w"][:256, :256] for tune in related_tasks.values()])
        yield f"low rank, correlation {correlation:.1f}", [stack]
    sample = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(BASE_MODEL).items()
    }
    yield "moments of one run", stacked(sample, run(sample, count))
    if vit8:
        corpus = corpora.load("vit8", vit8)
        model = load_file(corpus.base_model)
        tunes = {task: load_file(path) for task, path in corpus.fine_tunes.items()}
        yield "mixtures of vit8", stacked(model, mixtures(model, tunes, count))
        drifted = {
            f"{task}{n}": mixed(model, {0: tunes[task]}, {0: 1.0 - 0.01 * n})
            for n in range(count // len(tunes))
            for task in tunes
        }
        yield "vit8, noise of their own", stacked(model, noised(model, drifted))


def stacked(base: State, tunes: Mapping[str, State]) -> list[Tensor]:
    """The task vectors of three matrices."""
    large = [name for name in base if base[name].dim() == 2 and base[name].numel() >= 1 << 13]
    chosen = large[1 :: max(len(large) // 3, 1)][:3]
    return [torch.stack([tune[name] - base[name] for tune in tunes.values()]) for name in chosen]


def noised(base: State, tunes: Mapping[str, State]) -> Mapping[str, State]:
    """The same with white noise of half of each task vector's size."""
    chance = torch.Generator().manual_seed(3)
    return {
        task: {
            name: tensor
            + 0.5 * (tensor - base[name]).std() * torch.randn(tensor.shape, generator=chance)
            for name, tensor in tune.items()
            if tensor.is_floating_point() and tensor.dim() == 2
        }
        for task, tune in tunes.items()
    }


def against(stack: Tensor, step: float) -> tuple[float, float, float, int, int]:
    """Error and bits of each task coded by itself, bits of shared sides at that error, ranks."""
    energy = float(stack.square().sum())
    bits = lost = 0.0
    for matrix in stack:
        choice = auto.choose(matrix, 1.0, judging.Target(step), 0)
        bits += choice.bits
        lost += float((matrix - (0 if choice.values is None else choice.values)).square().sum())
    best = (float("inf"), 0, 0)
    for share in (0.9, 0.7, 0.5, 0.35, 0.25):
        tried = with_sides(stack, share * lost, lost)
        best = min(best, tried) if tried else best
    values = stack.numel()
    return (lost / energy) ** 0.5, bits / values, best[0] / values, best[1], best[2]


def with_sides(stack: Tensor, cut: float, lost: float) -> tuple[float, int, int] | None:
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
        coded = quantize.stage(cores.reshape(-1), step, quantize.DEAD_ZONE)
        missed = float((coded.values().view(cores.shape) - cores).square().sum())
        low, high = (low, step) if outside + missed > lost else (step, high)
    coded = quantize.stage(cores.reshape(-1), low, quantize.DEAD_ZONE)
    return bits + 8 * len(codec.store(coded)[1]), left.shape[1], right.shape[1]


def side(gram: Tensor, cut: float) -> Tensor:
    """The eigenvectors [n, r] of all directions but the weakest, which hold `cut` of the energy."""
    energies, vectors = torch.linalg.eigh(gram.double())
    outside = int((energies.clamp_min(0).cumsum(0) <= cut).sum())
    kept: Tensor = vectors[:, min(outside, len(energies) - 1) :].float()
    return kept


if __name__ == "__main__":
    main()
