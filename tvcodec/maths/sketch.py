"""A task vector in a few hundred bytes, from which cosines between task vectors can be estimated.

Each value is added to one of 2^k sums with a random sign; two rotations spread the sums, so that a
change of few values does not stay in few of them; the signs of the result are the sketch. Two
sketches differ in a share of their bits that is the angle between the task vectors over pi, give or
take a standard deviation of 1.6 / sqrt(bits) in the cosine of nearly orthogonal ones.

Sources: SimHash (Charikar, STOC 2002) for signs and angles; feature hashing (Weinberger et al.,
ICML 2009) for the sums; products of rotations (Andoni et al., NeurIPS 2015) for the spreading.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tvcodec.maths import rotated
from tvcodec.maths.product import Product

ROTATIONS = (2**32 - 1, 2**32 - 2)  # seeds of signs that no parameter's number is


def sums(tau: Tensor | Product, number: int, bits: int) -> Tensor:
    """What a sketch of so many `bits` takes of a task vector, float32 and finite, of the base
    model's parameter of that number: float64 [bits]."""
    total, start = torch.zeros(bits, dtype=torch.float64), 0
    for piece in _pieces(tau):
        flipped = rotated.signs(number, len(piece), start).mul_(piece)
        whole = len(piece) - len(piece) % bits
        total += flipped[:whole].view(-1, bits).sum(0, dtype=torch.float64)
        total[: len(piece) - whole] += flipped[whole:]
        start += len(piece)
    return total


class Sketch:
    """Takes a task vector parameter by parameter, in any order; `packed` is its sketch, of so many
    `bits`, a power of two."""

    def __init__(self, bits: int) -> None:
        self._sums = torch.zeros(bits, dtype=torch.float64)

    def add(self, tau: Tensor | Product, number: int) -> None:
        """The task vector, float32 and finite, of the base model's parameter of that number."""
        self.take(sums(tau, number, len(self._sums)))

    def take(self, part: Tensor) -> None:
        """A parameter's `sums`."""
        self._sums += part

    def packed(self) -> npt.NDArray[np.uint8]:
        """A bit for each rotated sum, the lowest bit of a byte first: set where it is negative."""
        log2 = len(self._sums).bit_length() - 1
        largest = self._sums.abs().max().clamp_min(1e-300)
        spread = (self._sums / largest).to(torch.float32)
        for seed in ROTATIONS:
            spread = rotated.rotate(spread, seed, log2).view(-1)
        return np.packbits((spread < 0).numpy(), bitorder="little")


def _pieces(tau: Tensor | Product) -> Iterable[Tensor]:
    if isinstance(tau, Product):
        return tau.pieces(rotated.PIECE)
    return torch.split(tau.reshape(-1), rotated.PIECE)
