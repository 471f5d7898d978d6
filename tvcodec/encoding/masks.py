"""Which entries of each parameter matter to each task, as given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvcodec.checkpoint import Checkpoint
from tvcodec.errors import CheckpointError


class Masks:
    """Masks by task: checkpoints of truth values with the names and shapes of the base model's
    parameters. A parameter that one lacks matters as a whole."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint] | None = None) -> None:
        self.checkpoints = dict(sorted((checkpoints or {}).items()))

    @property
    def given(self) -> bool:
        return bool(self.checkpoints)

    def elsewhere(self, name: str) -> Masks:
        """The same for another process and a single parameter."""
        return Masks({task: mask.elsewhere(name) for task, mask in self.checkpoints.items()})

    def of(self, task: str, name: str, dims: tuple[int, ...]) -> Tensor | None:
        """That of one task, bool [rows, columns]; None where all of the parameter matters.
        CheckpointError where it is not what it should be."""
        checkpoint = self.checkpoints.get(task)
        if checkpoint is None or name not in checkpoint:
            return None
        dtype, shape = checkpoint.dtype(name), checkpoint.shape(name)
        if dtype not in ("bool", "uint8") or shape != dims:
            raise CheckpointError(
                f"mask of task {task!r}, {checkpoint.label}: parameter {name!r}: expected truth"
                f" values {list(dims)}, got {dtype} {list(shape)}",
                hint="save masks as bool, in the shapes of the parameters",
            )
        mask = checkpoint.tensor(name).to(torch.bool)
        return mask.reshape(dims[0], -1) if dims else mask.reshape(1, 1)

    def votes(self, name: str, dims: tuple[int, ...]) -> Tensor | None:
        """How many tasks each entry matters to, int16 [rows, columns]; None where it is all of
        them everywhere."""
        masks = [self.of(task, name, dims) for task in self.checkpoints]
        if all(mask is None for mask in masks):
            return None
        found = [mask for mask in masks if mask is not None]
        count = torch.full(found[0].shape, len(masks) - len(found), dtype=torch.int16)
        for mask in found:
            count += mask
        return count
