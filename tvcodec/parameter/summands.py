"""What the parts of a parameter's task vector stand for, and their sum."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tvcodec.file.index import Extent
from tvcodec.maths import basis, dense, lowrank, quantize, rotated

Content = (
    lowrank.Factors
    | rotated.Largest
    | rotated.Uniform
    | quantize.Stage
    | quantize.Grouped
    | dense.Values
    | basis.Coefficients
    | dense.Exact
)


class Scratch(threading.local):
    """Memory that each thread uses again: the system takes longer to hand out pages than it takes
    to fill them."""

    def __init__(self) -> None:
        self._held = torch.empty(0)

    def values(self, count: int) -> Tensor:
        """`count` float32 values, uninitialised, good until they are next asked for."""
        if len(self._held) < count:
            self._held = torch.empty(0)  # goes before the larger one comes
            self._held = torch.empty(count)
        return self._held[:count]


def expand(
    contents: Iterable[Content],
    extent: Extent,
    seed: int,
    kept: Tensor | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """The sum of parts, float32 [rows, columns]; under a mask of entries, which keeps the flat
    positions `kept`, it is flat, and factors are those of the whole. With `scratch` it may lie
    there, and stays until the next sum that does.

    One inverse rotation serves all rotated parts of a block size, so that a merge of many tasks
    costs no more of them than one task does.
    """
    parts = list(contents)
    factors = [part for part in parts if isinstance(part, lowrank.Factors)]
    product = _product(factors, extent, scratch) if factors else None
    total = None if product is None or kept is not None else product.view(-1)
    for frame in _frames(parts):
        values = rotated.unrotate(frame, seed, extent.count)
        total = values if total is None else total.add_(values)
    if total is None:
        total = torch.zeros(extent.count)
    if product is not None and kept is not None:
        total.add_(product.view(-1)[kept])
    for content in parts:
        match content:
            case quantize.Stage():
                total.add_(content.codes.view(-1), alpha=content.scale)
            case quantize.Grouped():
                total.add_(content.values().view(-1))
            case dense.Values():
                total.add_(content.values.view(-1))
            case basis.Coefficients() | dense.Exact():
                raise TypeError(f"{type(content).__name__}: need more than the parts themselves")
    return total.view(extent.rows, extent.columns) if kept is None else total


def _product(factors: Sequence[lowrank.Factors], extent: Extent, scratch: Scratch | None) -> Tensor:
    count = extent.rows * extent.columns
    values = torch.empty(count) if scratch is None else scratch.values(count)
    product = values.view(extent.rows, extent.columns)
    lowrank.add_all(factors, product, add=False)
    return product


def _frames(parts: Iterable[Content]) -> Iterable[Tensor]:
    """What rotated frames hold together, one of each block size."""
    frames: dict[int, Tensor] = {}
    for part in parts:
        if isinstance(part, rotated.Largest | rotated.Uniform):
            coefficients, held = part.coefficients(), frames.get(part.block_log2)
            frames[part.block_log2] = coefficients if held is None else held.add_(coefficients)
    return frames.values()


def scaled(content: Content, factor: float) -> Content:
    """The part times `factor`; TypeError for exact differences, which have no multiple."""
    if isinstance(content, dense.Exact):
        raise TypeError("exact differences need the base model")
    return content if factor == 1 else content.scaled(factor)
