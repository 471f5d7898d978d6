"""What a machine could do at best: bytes that must move at the rate of a copy, and multiply-adds at
that of a large matrix product, with all cores at each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

import tvcodec
from tvcodec.file.index import Entry, Factors

COPIED = 1 << 26  # values of a copy, so many that no cache has them
PIECES = 16  # which they are copied in, as tensors of a model are
SIDE = 2048  # of the matrices of a product


@dataclass(frozen=True)
class Roofline:
    """Rates of a machine: bytes per second that are read and written again, and multiply-adds."""

    moved: float
    multiplied: float

    @classmethod
    def measured(cls) -> Roofline:
        """Of this machine, in float32."""
        source = torch.zeros(PIECES, COPIED // PIECES)
        target = torch.zeros_like(source)
        one, other = torch.randn(2, SIDE, SIDE)

        def copy() -> None:
            for piece, place in zip(source, target, strict=True):
                place.copy_(piece)

        return cls(2 * source.nbytes / _best(copy), SIDE**3 / _best(lambda: one @ other))

    def seconds(self, moved: float, multiplied: float) -> float:
        """The least that so many bytes, in and out, and multiply-adds can take."""
        return moved / self.moved + multiplied / self.multiplied

    def __str__(self) -> str:
        return f"{self.moved / 1e9:.1f} GB/s and {self.multiplied / 1e9:.0f} G multiply-adds/s"


def _best(way: Callable[[], object]) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times)


def of_factors(bank: Path, task: str) -> int:
    """Multiply-adds of the factors of a task: those that decoding it cannot do without."""
    total = 0
    with tvcodec.open(bank) as opened:
        parameters = opened.archive.root.base_model
        for section, _ in opened.archive.sections(task):
            if isinstance(section, Entry):
                ranks = sum(part.rank for part in section.parts if isinstance(part, Factors))
                extent = section.extent(parameters[section.parameter].dims)
                total += ranks * extent.rows * extent.columns
    return total


def of_gram_matrices(model: Path) -> int:
    """Multiply-adds of one half of the matrix of inner products of each matrix's shorter side: what
    finding its strongest directions begins with."""
    total = 0
    with safe_open(model, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - no mapping
            shape = opened.get_slice(name).get_shape()
            if len(shape) > 1:
                rows, columns = shape[0], math.prod(shape[1:])
                total += rows * columns * min(rows, columns) // 2
    return total
