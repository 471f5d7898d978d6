"""Models for benchmarks: the shapes of a vision transformer, spectra of real fine-tunes.

usage: models.py DIR --text4 DIR [--tasks N] [--shape 22m|85m|1b]

Writes DIR/base/ and DIR/tasks/NAME/ as directories that transformers and mergekit load: the CLIP
image encoder of ViT-B/32, 87 million parameters. Values are made up but for their sizes: a task
vector's matrix has the singular values of a real one of its role (text4, the layers of its tasks in
turn), stretched over its own rank, and random directions, and every parameter has the root mean
square of its role's. The same DIR gets the same bytes whenever it is written by one torch version.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import corpora
import torch
from safetensors.torch import load_file
from torch import Tensor

from tvcodec.checkpoint import save_safetensors
from tvcodec.threads import one_thread

SEED = 20261122
WHOLE = "config.json"  # written last
VECTORS = "vectors"  # the role of what is no matrix
ROLES = {  # of matrices, the first that fits: names in a vision transformer, and in text4
    "query": ("q_proj", "attention.self.query"),
    "key": ("k_proj", "attention.self.key"),
    "value": ("v_proj", "attention.self.value"),
    "out": ("out_proj", "attention.output.dense"),
    "up": ("fc1", "intermediate.dense"),
    "down": ("fc2", "output.dense"),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a vision transformer."""

    width: int
    layers: int
    patch: int
    image: int
    heads: int

    @property
    def config(self) -> dict[str, object]:
        """What transformers calls it: config.json."""
        return {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "patch_size": self.patch,
            "image_size": self.image,
            "projection_dim": 2 * self.width // 3,
            "hidden_act": "quick_gelu",
            "torch_dtype": "float32",
        }

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names, as transformers' module has them (mergekit knows no others), and dimensions."""
        width = self.width
        yield "embeddings.class_embedding", (width,)
        yield "embeddings.patch_embedding.weight", (width, 3, self.patch, self.patch)
        positions = (self.image // self.patch) ** 2 + 1
        yield "embeddings.position_embedding.weight", (positions, width)
        for norm in ("pre_layrnorm", "post_layernorm"):
            yield from _with_bias(norm, (width,))
        for layer in range(self.layers):
            at = f"encoder.layers.{layer}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from _with_bias(f"{at}self_attn.{name}", (width, width))
            yield from _with_bias(f"{at}mlp.fc1", (4 * width, width))
            yield from _with_bias(f"{at}mlp.fc2", (width, 4 * width))
            for norm in ("layer_norm1", "layer_norm2"):
                yield from _with_bias(f"{at}{norm}", (width,))


VIT_B_32 = Shape(width=768, layers=12, patch=32, image=224, heads=12)
SHAPES = {  # by millions of parameters
    "22m": Shape(width=384, layers=12, patch=16, image=224, heads=6),
    "85m": VIT_B_32,
    "1b": Shape(width=2048, layers=20, patch=32, image=224, heads=16),
}
TOY = Shape(width=24, layers=2, patch=4, image=8, heads=2)


@dataclass(frozen=True)
class Sizes:
    """What real parameters of one role look like: singular values of task vectors' matrices, and
    root mean squares of task vectors and of the base model."""

    spectra: list[Tensor]
    changes: list[float]
    base: float


def make(root: Path, shape: Shape, sizes: dict[str, Sizes], tasks: int) -> list[Path]:
    """Writes base/ and tasks/ under `root`, a few tensors at a time; the directories of the
    fine-tunes."""
    shapes = dict(sorted(shape.parameters()))

    def base(name: str) -> Tensor:
        return _base(name, shapes[name], sizes)

    def tuned(name: str, task: int) -> Tensor:
        return base(name) + _change(name, shapes[name], sizes, task)

    _save(root / "base", shape, base)
    folders = _folders(root, tasks)
    for task, folder in enumerate(folders):
        _save(folder, shape, partial(tuned, task=task))
    return folders


def whole(root: Path, tasks: int) -> bool:
    """Whether `make` has been there, to the end."""
    return all((folder / WHOLE).exists() for folder in (root / "base", *_folders(root, tasks)))


@one_thread()  # or the last digits would depend on how many there are
def sizes_of(corpus: corpora.Corpus) -> dict[str, Sizes]:
    """By role, of text4's fine-tunes."""
    base = load_file(corpus.base_model)
    encoder = {name: tensor for name, tensor in base.items() if "encoder.layer" in name}
    found = {role: Sizes([], [], 0.0) for role in (*ROLES, VECTORS)}
    squares: dict[str, list[Tensor]] = {role: [] for role in found}
    for path in corpus.fine_tunes.values():
        tuned = load_file(path)
        for name, original in sorted(encoder.items()):
            role = next((r for r, (_, part) in ROLES.items() if f"{part}.weight" in name), VECTORS)
            change = tuned[name] - original
            if role != VECTORS:
                found[role].spectra.append(_spectrum(change.double()))
            found[role].changes.append(_rms(change))
            squares[role].append(original.square().mean())
    return {
        role: Sizes(one.spectra, one.changes, float(torch.stack(squares[role]).mean().sqrt()))
        for role, one in found.items()
    }


def made_up_sizes() -> dict[str, Sizes]:
    """Without a corpus, for tests: spectra that fall by powers."""
    spectra = [torch.arange(1, 65, dtype=torch.float64).pow(-power) for power in (0.5, 0.8, 1.1)]
    return {role: Sizes(spectra, [0.002, 0.003], 0.03) for role in (*ROLES, VECTORS)}


def _folders(root: Path, tasks: int) -> list[Path]:
    return [root / "tasks" / f"task{task}" for task in range(tasks)]


def _with_bias(name: str, dims: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", dims
    yield f"{name}.bias", dims[:1]


def _role(name: str, dims: tuple[int, ...]) -> str:
    if len(dims) == 1:
        return VECTORS
    return next((role for role, (part, _) in ROLES.items() if part in name), "up")


def _base(name: str, dims: tuple[int, ...], sizes: dict[str, Sizes]) -> Tensor:
    return torch.randn(dims, generator=_chance(name, -1)) * sizes[_role(name, dims)].base


def _change(name: str, dims: tuple[int, ...], sizes: dict[str, Sizes], task: int) -> Tensor:
    """One parameter's task vector."""
    chance = _chance(name, task)
    real = sizes[_role(name, dims)]
    layer = re.search(r"layers\.(\d+)", name)
    turn = 13 * task + (int(layer[1]) if layer else 0)
    size = real.changes[turn % len(real.changes)]
    if len(dims) == 1:
        return torch.randn(dims, generator=chance) * size
    rows, columns = dims[0], math.prod(dims[1:])
    rank = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(side, rank, generator=chance))[0] for side in (rows, columns)
    )
    values: Tensor = (left * _stretched(real.spectra[turn % len(real.spectra)], rank)) @ right.T
    return values.mul_(size / _rms(values)).view(dims)


def _spectrum(matrix: Tensor) -> Tensor:
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    sigma: Tensor = torch.linalg.eigvalsh(short @ short.T).clamp_min(0).sqrt().flip(0)
    return sigma


def _stretched(spectrum: Tensor, rank: int) -> Tensor:
    """A spectrum with `rank` values, interpolated."""
    at = (torch.arange(rank) + 0.5) * len(spectrum) / rank - 0.5
    at = at.clamp(0, len(spectrum) - 1).double()
    low = at.floor().long()
    high = (low + 1).clamp_max(len(spectrum) - 1)
    values: Tensor = torch.lerp(spectrum[low], spectrum[high], at - low)
    return values.float()


def _chance(name: str, task: int) -> torch.Generator:
    return torch.Generator().manual_seed(SEED + zlib.crc32(f"{task} {name}".encode()))


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _save(folder: Path, shape: Shape, tensor_of: Callable[[str], Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(name, "float32", dims) for name, dims in sorted(shape.parameters())]
    save_safetensors(folder / "model.safetensors", plan, tensor_of, force=True)
    (folder / WHOLE).write_text(json.dumps(shape.config, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text4", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--shape", choices=SHAPES, default="85m")
    options = parser.parse_args()
    if not whole(options.folder, options.tasks):
        sizes = sizes_of(corpora.load("text4", options.text4))
        make(options.folder, SHAPES[options.shape], sizes, options.tasks)


if __name__ == "__main__":
    main()
