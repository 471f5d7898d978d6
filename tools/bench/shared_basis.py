"""What a basis that tasks share is worth to the auto codec: bits and error with it and without.

usage: shared_basis.py [--text4 DIR] [--vit8 DIR] [--step STEP | --max-error ERROR] [--only WORD]

Families: tau_t = common + own at several correlations, as white noise and of low rank; moments of
one training run of the sample's network; mixtures of the real task vectors of vit8. Unrelated
tasks: the corpora. Bits are of the whole file, per parameter and task.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
    parser.add_argument("--max-error", type=float)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    print("tasks, bits and error alone, bits and error shared, vectors, of how many parameters")
    for name, base, tunes in families(options):
        if options.only not in name:
            continue
        row = measured(name, base, tunes(), options)
        rows.append(row)
        print(tabulate([row], tablefmt="plain", floatfmt=".3f"), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


def families(
    options: argparse.Namespace,
) -> Iterator[tuple[str, State, Callable[[], Mapping[str, State]]]]:
    """Name, base model and what makes the fine-tunes of each."""
    base = {"w": torch.zeros(SHAPE)}
    for kind in ("white", "low rank"):
        for correlation in CORRELATIONS:
            name = f"{kind}, correlation {correlation:.2f}"
            yield name, base, functools.partial(related, kind, correlation)
    sample = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(BASE_MODEL).items()
    }
    yield "moments of one run", sample, functools.partial(run, sample)
    for name in ("text4", "vit8"):
        if root := getattr(options, name):
            corpus = corpora.load(name, root)
            model = load_file(corpus.base_model)
            tunes = {task: load_file(path) for task, path in corpus.fine_tunes.items()}
            yield f"{name}, {len(tunes)} tasks", model, functools.partial(dict, tunes)
            for count in options.mixtures if name == "vit8" else ():
                mixed_tasks = functools.partial(mixtures, model, tunes, count)
                yield f"{name}, {count} mixtures", model, mixed_tasks


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


def measured(
    name: str, base: State, tunes: Mapping[str, State], options: argparse.Namespace
) -> tuple[object, ...]:
    """One row of the table."""
    values = sum(tensor.numel() for tensor in base.values())
    goal = tvcodec.Goal(max_error=options.max_error) if options.max_error else None
    cells: list[object] = [name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.tvq"
        for share in (False, True):
            recipe = tvcodec.Recipe(step=options.step, share=share)
            summary = tvcodec.encode(base, tunes, path, recipe=recipe, goal=goal, force=True)
            error = sum(task.error for task in summary.tasks) / len(tunes)
            cells += [8 * summary.bytes / values / len(tunes), error]
        with tvcodec.open(path) as bank:
            vectors = bank.archive.vectors
    return (*cells, vectors.total(), len(vectors))


if __name__ == "__main__":
    main()
