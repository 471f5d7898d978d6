"""TALL-masks: the sum of all task vectors, and which of its entries each task keeps.

Wang et al., "Localizing Task Information for Improved Model Merging and Compression" (ICML 2024,
arXiv 2405.07813). What differs: the paper chooses lambda for each task by its own validation
accuracy; here it is fixed, or chosen without data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.encoding.published.settings import Published, in_range, whole_in_range
from tvcodec.errors import TvqError
from tvcodec.maths import dense
from tvcodec.maths.dense import as_half
from tvcodec.maths.merge.consensus import tall_mask
from tvcodec.maths.merge.methods import LAMBDA, VOTES

FIT = "fit"
CANDIDATES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Tall(Published):
    """The sum of the task vectors is shared; a task keeps of it what its mask says, which is given
    or |tau_t| > mask_lambda * |sum - tau_t|. `mask_lambda` "fit" takes for each task and parameter
    the lambda of least squared error, the sum being scaled to the task."""

    name: ClassVar[str] = "tall"
    joint: ClassVar[bool] = True
    uses_masks: ClassVar[bool] = True

    mask_lambda: float | str = LAMBDA

    def __post_init__(self) -> None:
        _check_lambda(self.mask_lambda, FIT)

    def share(self, family: Family) -> Tensor | None:
        total = _total(family)
        return family.share(total, self.floats(total))

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        assert shared is not None
        mask, scale = self._mask(family, task, tau, shared)
        if scale:
            family.take(task, shared, scale, self.fp16)
        return Sum((), mask)

    def _mask(
        self, family: Family, task: int, tau: Tensor, total: Tensor
    ) -> tuple[Tensor | None, float]:
        if family.masked:
            return family.mask(task), 1.0
        if isinstance(self.mask_lambda, str):
            return max(_fitted(tau, total), key=lambda found: found[2])[:2]
        return tall_mask(tau, total, self.mask_lambda), 1.0


@dataclass(frozen=True, kw_only=True)
class Consensus(Published):
    """Every task that changed a parameter stands as the same vector: the sum of the task vectors,
    of those entries that the masks of at least `votes` tasks keep, times the number of all tasks
    over that of those. Merging all tasks by uniform weights with a scaling is the paper's Consensus
    Task Arithmetic. TvqError where `votes` are more than there are tasks."""

    name: ClassVar[str] = "consensus"
    joint: ClassVar[bool] = True
    uses_masks: ClassVar[bool] = True

    mask_lambda: float = LAMBDA
    votes: int = VOTES

    def __post_init__(self) -> None:
        _check_lambda(self.mask_lambda)
        whole_in_range("votes", self.votes, 0, 2**15 - 1)

    def share(self, family: Family) -> Tensor | None:
        if self.votes > family.of:
            raise TvqError(
                f"recipe {self.name!r}: votes: expected at most {family.of}, the number of tasks,"
                f" got {self.votes}"
            )
        total = _total(family)
        keep = self._votes(family, total) >= self.votes
        if keep.any():
            values = dense.Values(as_half(total[keep], self.fp16))
            vector = family.share(total.mul_(keep), Sum((values,), keep))
            for task in range(len(family.tasks)):
                family.take(task, vector, family.of / len(family.tasks), half=False)
        return None

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        return Sum(())

    def _votes(self, family: Family, total: Tensor) -> Tensor:
        votes, given = family.votes()
        if votes is None and given:
            return torch.full(total.shape, given, dtype=torch.int16)
        if votes is None:
            votes = torch.zeros(total.shape, dtype=torch.int16)
            for tau in family.left:
                votes += tall_mask(tau, total, self.mask_lambda)
        return votes


def _fitted(tau: Tensor, total: Tensor) -> Iterator[tuple[Tensor, float, float]]:
    """Masks, the scale of the sum that is closest to the task under each, and the energy won."""
    for threshold in CANDIDATES:
        mask = tall_mask(tau, total, threshold)
        kept = total[mask].double()
        energy, along = float(kept.dot(kept)), float(kept.dot(tau[mask].double()))
        scale = along / energy if energy else 0.0
        yield mask, scale, scale * along


def _total(family: Family) -> Tensor:
    total = family.left[0].clone()
    for tau in family.left[1:]:
        total.add_(tau)
    return total


def _check_lambda(value: float | str, *words: str) -> None:
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f"mask_lambda: expected a number or {FIT!r}, got {value!r:.40}")
    else:
        in_range("mask_lambda", value, 0, 1e6)
