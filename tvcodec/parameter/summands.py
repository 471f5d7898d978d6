"""What the parts of a parameter's task vector stand for, and their sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tvcodec.file.index import Extent
from tvcodec.maths import basis, dense, lowrank, quantize, rotated
from tvcodec.maths.scratch import Scratch

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
_SINGLE = quantize.Stage | quantize.Grouped | dense.Values


ROUNDED = 2  # sums that may be rounded at the base model's magnitude: one unit in the last place


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
    if product is not None and kept is None:
        total = product.view(-1)
    else:
        total = torch.zeros(extent.count, dtype=torch.float32)
        if product is not None:
            total.add_(product.view(-1)[kept])
    _add_others(parts, total, seed)
    return total.view(extent.rows, extent.columns) if kept is None else total


def few(contents: Sequence[Content]) -> bool:
    """Whether the parts can be added to something larger, one after another, without more
    rounding than one unit in its last place."""
    factors = [part for part in contents if isinstance(part, lowrank.Factors)]
    needs_more = any(isinstance(part, basis.Coefficients | dense.Exact) for part in contents)
    others = len(_frames(contents)) + sum(isinstance(part, _SINGLE) for part in contents)
    return not needs_more and lowrank.products(factors) + others <= ROUNDED


def add_to(total: Tensor, contents: Sequence[Content], extent: Extent, seed: int) -> None:
    """Adds the parts to contiguous float32 `total`, of any shape, in place; see `few`."""
    factors = [part for part in contents if isinstance(part, lowrank.Factors)]
    if factors:
        lowrank.add_all(factors, total.view(extent.rows, extent.columns))
    _add_others(contents, total.view(-1), seed)


def _product(factors: Sequence[lowrank.Factors], extent: Extent, scratch: Scratch | None) -> Tensor:
    count = extent.rows * extent.columns
    values = (scratch or Scratch()).values(count)
    product = values.view(extent.rows, extent.columns)
    lowrank.add_all(factors, product, add=False)
    return product


def _add_others(parts: Iterable[Content], total: Tensor, seed: int) -> None:
    """Adds what are no factors to flat `total`."""
    for frame in _frames(parts):
        rotated.add_unrotated(frame, seed, total)
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


def _frames(parts: Iterable[Content]) -> list[list[rotated.Largest | rotated.Uniform]]:
    """The rotated parts, those of one block size together."""
    frames: dict[int, list[rotated.Largest | rotated.Uniform]] = {}
    for part in parts:
        if isinstance(part, rotated.Largest | rotated.Uniform):
            frames.setdefault(part.block_log2, []).append(part)
    return list(frames.values())


def scaled(content: Content, factor: float) -> Content:
    """The part times `factor`; TypeError for exact differences, which have no multiple."""
    if isinstance(content, dense.Exact):
        raise TypeError("exact differences need the base model")
    return content if factor == 1 else content.scaled(factor)
