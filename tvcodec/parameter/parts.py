"""A parameter's task vector before it is summed, and weighted sums of several tasks'.

    sum_t w_t tau_t  =  parts of unmasked tasks, times w_t
                     +  sum_j (sum_t w_t c_tj) V_j, their coefficients c being combined first
                     +  sum_t w_t mask_t (parts of masked tasks)

What is not masked shares one product, and one inverse rotation of each block size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tvcodec.file.index import Extent
from tvcodec.maths import dense, rotated
from tvcodec.maths.basis import Coefficients
from tvcodec.maths.scratch import Scratch
from tvcodec.parameter import summands

_ROTATED = rotated.Largest | rotated.Uniform
_NEEDS_MORE = Coefficients | dense.Exact


@dataclass(frozen=True, slots=True)
class Parts:
    """A parameter's task vector as the sum of `contents` over its `extent`, which is what a mask
    leaves: the rows numbered `kept`, or the flat positions where `by_row` is false; None keeps all.
    """

    contents: tuple[summands.Content, ...]
    extent: Extent
    kept: Tensor | None = None
    by_row: bool = True

    @property
    def exact(self) -> dense.Exact | None:
        """The bit-exact difference, where that is what is stored."""
        return self.contents[0] if isinstance(self.contents[0], dense.Exact) else None

    def structured(self) -> Parts | None:
        """What is left without rotated parts; None where that is nothing."""
        left = tuple(content for content in self.contents if not isinstance(content, _ROTATED))
        return replace(self, contents=left) if left else None

    @property
    def few(self) -> bool:
        """Whether they can be added to a base model's parameter one by one, without their sum, or
        to some of its rows."""
        if self.kept is None:
            return summands.few(self.contents)
        return self.by_row and not any(isinstance(one, _NEEDS_MORE) for one in self.contents)

    def add_to(self, total: Tensor, seed: int) -> None:
        """Adds all to contiguous float32 `total`, of any shape, in place, where they are `few`;
        `seed` is that of the parameter's rotation."""
        if self.kept is None:
            summands.add_to(total, self.contents, self.extent, seed)
        else:
            rows = summands.expand(self.contents, self.extent, seed)
            total.view(-1, self.extent.columns).index_add_(0, self.kept, rows)


Weighted = Sequence[tuple[float, Parts]]


class Basis:
    """The vectors of one parameter that tasks take multiples of."""

    def __init__(self, vectors: Sequence[Parts], shape: Extent, seed: int) -> None:
        self.vectors, self.shape, self.seed = tuple(vectors), shape, seed

    @cached_property
    def structured(self) -> Basis:
        """The same without rotated parts."""
        nothing = torch.zeros(self.shape.count, dtype=torch.float32)
        empty = Parts((dense.Values(nothing),), self.shape)
        vectors = [vector.structured() or empty for vector in self.vectors]
        return Basis(vectors, self.shape, self.seed)

    @cached_property
    def decoded(self) -> list[Tensor]:
        """Each vector in full, float32: masked tasks take their values from these."""
        return [weighted_sum([(1.0, vector)], self.shape, self.seed) for vector in self.vectors]


def weighted_sum(
    weighted: Weighted,
    shape: Extent,
    seed: int,
    basis: Basis | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """The sum of weight * task vector of one parameter of `shape`, float32 [rows, columns].

    `seed` is that of the parameter's rotation; `basis` is needed where parts have coefficients;
    with `scratch` the sum may lie there, as for `summands.expand`. TypeError for exact differences.
    """
    together = [*weighted, *_combined(weighted, basis)]
    whole: list[summands.Content] = []
    for weight, parts in together:
        if parts.kept is None:
            others = (item for item in parts.contents if not isinstance(item, Coefficients))
            whole += (summands.scaled(item, weight) for item in others)
    total = summands.expand(whole, shape, seed, scratch=scratch)
    for weight, parts in together:
        if parts.kept is not None:
            _add_masked(total, weight, parts, parts.kept, seed, basis)
    return total


def _combined(weighted: Weighted, basis: Basis | None) -> Iterator[tuple[float, Parts]]:
    """What the unmasked tasks take of each vector of the basis, together."""
    together: Tensor | None = None
    for weight, parts in weighted:
        for content in parts.contents if parts.kept is None else ():
            if isinstance(content, Coefficients):
                taken = content.values.double() * weight
                together = taken if together is None else together + taken
    if together is not None:
        assert basis is not None
        yield from zip(together.tolist(), basis.vectors, strict=True)


def _add_masked(
    total: Tensor, weight: float, parts: Parts, kept: Tensor, seed: int, basis: Basis | None
) -> None:
    contents = [
        _taken(item, parts, kept, basis) if isinstance(item, Coefficients) else item
        for item in parts.contents
    ]
    scaled = [summands.scaled(content, weight) for content in contents]
    if parts.by_row:
        total.index_add_(0, kept, summands.expand(scaled, parts.extent, seed))
    else:
        total.view(-1).index_add_(0, kept, summands.expand(scaled, parts.extent, seed, kept))


def _taken(
    coefficients: Coefficients, parts: Parts, kept: Tensor, basis: Basis | None
) -> dense.Values:
    """What a masked task takes of the basis: of each vector, the values that its mask keeps."""
    assert basis is not None
    values = torch.zeros(parts.extent.count, dtype=torch.float32)
    for coefficient, vector in zip(coefficients.values.tolist(), basis.decoded, strict=True):
        seen = vector if parts.by_row else vector.view(-1)
        values.add_(seen[kept].view(-1), alpha=coefficient)
    return dense.Values(values)
