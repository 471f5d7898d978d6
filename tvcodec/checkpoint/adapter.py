"""A peft LoRA adapter as the fine-tune that it makes of its base model.

    base_model.model.encoder.0.query.lora_A.weight [r, n]   encoder.0.query.weight [m, n]
    base_model.model.encoder.0.query.lora_B.weight [m, r]   + scaling * B @ A
    base_model.model.classifier.weight                      in place of classifier.weight

Sources: LoRA (Hu et al., ICLR 2022); rsLoRA (Kalajdzievski, 2023) for its scaling; names and
settings as peft writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tvcodec.checkpoint.adapter_config import CONFIG_NAME, LoraConfig, read_config
from tvcodec.checkpoint.adapter_names import BaseNames
from tvcodec.checkpoint.directory import INDEX_NAME, SINGLE_NAME
from tvcodec.checkpoint.opening import Checkpoint, CheckpointSource, open_checkpoint
from tvcodec.checkpoint.stored import StoredTensor
from tvcodec.errors import CheckpointError
from tvcodec.maths.dense import fine_tune
from tvcodec.maths.product import Product

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.(lora|lora_embedding)_([AB])(\.weight)?")
_MERGE = "merge it with peft (merge_and_unload), save the model and encode that"


def open_fine_tune(source: CheckpointSource, base: Checkpoint) -> Checkpoint:
    """A fine-tune of `base`: the directory of a LoRA adapter, or whatever `open_checkpoint` opens.
    CheckpointError as there, and for an adapter that is more than LoRA or of another base model."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.name in WEIGHTS and path.is_file():
            path = path.parent
        if (path / CONFIG_NAME).is_file() and not _has_weights(path):
            return Adapter(path, base)
    return open_checkpoint(source)


def _has_weights(path: Path) -> bool:
    names = (SINGLE_NAME, INDEX_NAME, "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any((path / name).exists() for name in names)


@dataclass(frozen=True, slots=True)
class Delta:
    """scaling * b @ a, with a [r, n] and b [m, r]; of a `transposed` parameter its transpose."""

    a: StoredTensor
    b: StoredTensor
    scaling: float
    transposed: bool

    def elsewhere(self) -> Delta:
        """The same by absolute paths, as another process may know it."""
        return replace(self, a=self.a.elsewhere(), b=self.b.elsewhere())

    def product(self) -> Product:
        """What is added to the parameter."""
        left = (self.b.read().double() * self.scaling).float()
        product = Product(left, self.a.read().float().T.contiguous())
        return product.T if self.transposed else product


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """A tensor with what an adapter adds to it, rounded to its dtype."""

    original: StoredTensor
    delta: Delta

    @property
    def dtype(self) -> torch.dtype:
        return self.original.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.original.shape

    def read(self) -> Tensor:
        """The sum."""
        return fine_tune(self.original.read(), self.delta.product().dense(), self.dtype)

    def elsewhere(self) -> AdaptedTensor:
        """The same by absolute paths, as another process may know it."""
        return AdaptedTensor(self.original.elsewhere(), self.delta.elsewhere())

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the sum."""
        product = self.delta.product()
        some = Product(product.left[start:stop], product.right).dense()
        return fine_tune(self.original.rows(start, stop), some, self.dtype)


class Adapter(Checkpoint):
    """The base model's tensors with those of an adapter on top of them or in their place."""

    def __init__(self, path: Path, base: Checkpoint) -> None:
        config = read_config(path)
        self._file = open_checkpoint(_weights(path))
        whole, deltas = _changes(self._file, config, base)
        stored = {name: base.stored(name) for name in base.names} | whole
        stored |= {name: AdaptedTensor(stored[name], delta) for name, delta in deltas.items()}
        super().__init__(stored, str(path), None, path)
        self._deltas = {name: delta for name, delta in deltas.items() if name not in whole}
        self._borrowed = frozenset(base.names) - whole.keys() - deltas.keys()

    def product(self, name: str) -> Product | None:
        """What is added to the base model's tensor, where its factors are small beside it."""
        if name not in self._deltas:
            return None
        product = self._deltas[name].product()
        return product if product.thin else None

    def elsewhere(self, name: str) -> Adapter:
        """The same for another process, with the tensor of that name alone."""
        only = super().elsewhere(name)
        assert isinstance(only, Adapter)
        only._file = self._file.elsewhere(name)
        only._deltas = {
            key: self._deltas[key].elsewhere() for key in (name,) if key in self._deltas
        }
        only._borrowed = self._borrowed & {name}
        return only

    def borrows(self, name: str) -> bool:
        """Whether the adapter leaves the base model's tensor alone."""
        return name in self._borrowed

    @property
    def stored_bytes(self) -> int:
        """Bytes of the adapter's own tensors."""
        return self._file.stored_bytes

    @property
    def paths(self) -> frozenset[Path]:
        """Files of the adapter and of the base model, and the adapter's directory."""
        return super().paths | self._file.paths


def _weights(path: Path) -> Path:
    for name in WEIGHTS:
        if (path / name).exists():
            return path / name
    raise CheckpointError(
        f"{path}: expected {WEIGHTS[0]} beside {CONFIG_NAME}, got none", "fetch the adapter again"
    )


def _changes(
    file: Checkpoint, config: LoraConfig, base: Checkpoint
) -> tuple[dict[str, StoredTensor], dict[str, Delta]]:
    """What an adapter puts in place of tensors, and what it adds to tensors, by their names in the
    base model; the first also has those that the base model lacks."""
    factors: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    saved: dict[str, StoredTensor] = {}
    for name in file.names:
        key = name.removeprefix(_PREFIX)
        if match := _FACTOR.fullmatch(key):
            factors.setdefault((match[1], match[2]), {})[match[3]] = file.stored(name)
        elif "lora_" in key or "trainable_tokens" in key:
            raise CheckpointError(
                f"{file.label}: {name!r}: expected tensors of plain LoRA, got this one", _MERGE
            )
        else:
            saved[key.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = file.stored(
                name
            )
    if not factors:
        raise CheckpointError(f"{file.label}: expected lora_A and lora_B tensors, got none", _MERGE)
    names = BaseNames(base.names, file.label)
    parameters = {module: names.of_factors(f"{module}.weight") for module, _ in factors}
    whole = {names.of_saved(key): tensor for key, tensor in saved.items()}
    # Saved unchanged beside their factors, as peft does with embeddings.
    whole = {n: tensor for n, tensor in whole.items() if not _same(tensor, n, base)}
    deltas = {}
    for (module, kind), sides in factors.items():
        name = parameters[module]
        where = f"{file.label}: module {module!r}"
        deltas[name] = _delta(
            where, config, module, kind, sides, whole.get(name) or base.stored(name)
        )
    return whole, deltas


def _delta(
    where: str,
    config: LoraConfig,
    module: str,
    kind: str,
    sides: Mapping[str, StoredTensor],
    original: StoredTensor,
) -> Delta:
    if sides.keys() != {"A", "B"}:
        raise CheckpointError(f"{where}: expected lora_A and lora_B, got one of them")
    a, b = sides["A"], sides["B"]
    if len(original.shape) != 2 or (len(a.shape), len(b.shape)) != (2, 2):
        raise CheckpointError(
            f"{where}: expected LoRA of a matrix, got it of shape {list(original.shape)}", _MERGE
        )
    if not all(tensor.dtype.is_floating_point for tensor in (a, b, original)):
        raise CheckpointError(
            f"{where}: expected floats, got {original.dtype} with {a.dtype} and {b.dtype}",
            "encode against the base model before it was quantised",
        )
    rank, made = a.shape[0], (b.shape[0], a.shape[1])
    transposed = kind == "lora_embedding" or (config.fan_in_fan_out and made[0] == made[1])
    transposed = transposed or (made != original.shape and made[::-1] == original.shape)
    if b.shape[1] != rank or (made[::-1] if transposed else made) != original.shape:
        raise CheckpointError(
            f"{where}: expected factors of a matrix {list(original.shape)}, got"
            f" {list(b.shape)} and {list(a.shape)}",
            "is this an adapter of that base model?",
        )
    if config.rank(module) != rank:
        raise CheckpointError(
            f"{where}: expected rank {config.rank(module)} as {config.path} says, got {rank}"
        )
    return Delta(a, b, config.scaling(module, rank), transposed)


def _same(tensor: StoredTensor, name: str, base: Checkpoint) -> bool:
    """Whether a saved tensor has the values of the base model's."""
    if name not in base or base.shape(name) != tensor.shape:
        return False
    return torch.equal(tensor.read(), base.tensor(name).to(tensor.dtype))
