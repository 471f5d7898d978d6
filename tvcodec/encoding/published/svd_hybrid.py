"""SVD-Hybrid: a basis shared by all tasks, each task's coefficients, and a residual in stages.

After github.com/mgradyn/SVD-Quantization-Task-Merging. Of each parameter's (masked, optionally
centred) matrix of values x tasks, the strongest left singular vectors are kept, as many as hold a
share of its energy. What differs: the original also stores all other singular vectors, which takes
as much room as the task vectors themselves, and quantises their few coefficients; here it is the
*residual in parameter space* that is coded in stages. The masks are kept with the task vectors,
what is not a matrix stays in floats, and a parameter that one task or none changed is no exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.encoding.published.settings import Published, in_range, one_of, whole_in_range
from tvcodec.maths import dense
from tvcodec.maths.dense import as_half, inner_product, squared_norm
from tvcodec.maths.quantize import Grouped, min_max
from tvcodec.parameter import auto, summands
from tvcodec.parameter.judging import Target

STRATEGIES = ("union", "intersection", "majority")
BASES = ("fp16", "coded")
STAGES_MOST = 15
MOST_RANK = 255  # two bases and their means are as many vectors of a parameter as a file may hold
NOTHING = 1e-10  # of the largest energy: directions that are rounding


@dataclass(frozen=True, kw_only=True)
class SvdHybrid(Published):
    """The settings are the original's. `energy_threshold` is the share of the energy that the
    basis holds, of at most `max_rank` vectors; `center` stores the mean apart; the residual takes
    `stages` of `low_bits` each, with a range for each `group` values (0: for all).

    Where masks are given, `mask_strategy` says how many tasks an entry has to matter to; the others
    are zero, or with `include_noise` coded in the same way after shrinking by `noise_shrink`.

    `basis` "fp16" stores vectors as floats (float32 unless `fp16`), "coded" by the auto codec with
    a `step` as there. Vectors in floats that hold all of the task vectors leave no residual; what
    coded ones lose goes into the residual.
    """

    name: ClassVar[str] = "svd-hybrid"
    joint: ClassVar[bool] = True
    uses_masks: ClassVar[bool] = True

    fp16: bool = True
    energy_threshold: float = 0.9
    max_rank: int = 128
    center: bool = True
    low_bits: int = 4
    stages: int = 2
    group: int = 0
    mask_strategy: str = "union"
    include_noise: bool = False
    noise_shrink: float = 0.5
    basis: str = "fp16"
    step: float = 1.0

    def __post_init__(self) -> None:
        in_range("energy_threshold", self.energy_threshold, 0, 1)
        whole_in_range("max_rank", self.max_rank, 1, MOST_RANK)
        whole_in_range("low_bits", self.low_bits, 1, 8)
        whole_in_range("stages", self.stages, 0, STAGES_MOST)
        whole_in_range("group", self.group, 0, 2**40 - 1)
        in_range("noise_shrink", self.noise_shrink, 0, 1)
        in_range("step", self.step, 1e-3, 1e3)
        one_of("mask_strategy", self.mask_strategy, STRATEGIES)
        one_of("basis", self.basis, BASES)

    def share(self, family: Family) -> Tensor | None:
        signal = self._signal(family)
        if signal is not None and self.include_noise:
            for left in family.left:
                left.mul_(torch.where(signal, 1.0, self.noise_shrink))
        if family.is_matrix:
            family.complete = self.basis == "fp16"
            family.basis = self._share(family, signal)
            if signal is not None and self.include_noise:
                self._share(family, ~signal)
        return signal

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        left = family.left[task]
        if shared is None or not self.include_noise:
            return Sum(self._own(family, left if shared is None else left[shared]), shared)
        contents = self._own(family, left.clone())
        left.add_(torch.where(shared, 0.0, 1 - self.noise_shrink) * tau)  # lost on purpose
        return Sum(contents)

    def _own(self, family: Family, values: Tensor) -> tuple[summands.Content, ...]:
        if not values.numel():
            return ()
        if not family.is_matrix:
            return self.floats(values).contents
        return () if family.complete else tuple(self._residual(values))

    def _residual(self, values: Tensor) -> Iterator[Grouped]:
        for _ in range(self.stages):
            if not values.any():
                return
            part = min_max(values, self.low_bits, self.group)
            decoded = part.values()
            values = torch.sub(values, decoded, out=decoded)
            yield part

    def _signal(self, family: Family) -> Tensor | None:
        """The entries that matter to enough tasks; None where all do."""
        votes, tasks = family.votes()
        if votes is None:
            return None
        wanted = {"union": 1, "intersection": tasks, "majority": tasks / 2}[self.mask_strategy]
        return votes >= wanted

    def _share(self, family: Family, mask: Tensor | None) -> tuple[int, float]:
        """Shares the basis of what is under a mask; its rank and the share of the energy that it
        keeps."""
        gram = family.gram(mask)
        if self.center and gram.trace() > 0:
            self._share_mean(family, mask)
            gram = gram - gram.mean(0, keepdim=True)
            gram = gram - gram.mean(1, keepdim=True)
        energies, directions = torch.linalg.eigh(gram)
        energies, directions = energies.flip(0).clamp_min(0), directions.flip(1)
        available = int((energies > NOTHING * energies[0]).sum()) if energies[0] > 0 else 0
        held = energies[:available].cumsum(0) / energies.sum()
        rank = int((held < self.energy_threshold).sum()) + 1
        rank = min(rank, available, self.max_rank)
        for column, energy in zip(directions[:, :rank].T.tolist(), energies.tolist(), strict=False):
            self._share_direction(family, mask, column, math.sqrt(energy))
        family.complete &= rank == available
        if self.basis == "coded" and rank:  # of which not all may have been worth their bits
            left = float(family.gram(mask).trace() / energies.sum())
            return rank, max(0.0, 1 - left)
        return rank, float(held[rank - 1]) if rank else 1.0

    def _share_mean(self, family: Family, mask: Tensor | None) -> None:
        count = len(family.left)
        mean = _combined(family, [1 / count] * count, mask)
        vector = self._stored(family, mean, mask, math.sqrt(count))
        if vector is not None:
            for task in range(count):
                family.take(task, vector, 1.0)

    def _share_direction(
        self, family: Family, mask: Tensor | None, column: list[float], sigma: float
    ) -> None:
        wanted = _combined(family, column, mask)
        # coded vectors keep their strength, by which the step is the same for all
        vector = self._stored(family, wanted if self.basis == "coded" else wanted.div_(sigma), mask)
        if vector is not None and (energy := squared_norm(vector)):
            for task, left in enumerate(family.left):
                family.take(task, vector, inner_product(vector, left) / energy, self.fp16)

    def _stored(
        self, family: Family, vector: Tensor, mask: Tensor | None, weight: float = 1.0
    ) -> Tensor | None:
        """A vector as it decodes, now shared; `weight` is what an error in it costs all tasks."""
        if self.basis == "fp16":
            values = vector if mask is None else vector[mask]
            return family.share(vector, Sum((dense.Values(as_half(values, self.fp16)),), mask))
        rms = math.sqrt(sum(rms**2 for rms in family.rms) / len(family.rms))
        target = Target(self.step * rms / weight)
        choice = auto.choose(vector, 0.0, target, family.number)
        return family.share(vector, Sum(choice.contents)) if choice.contents else None


def _combined(family: Family, column: list[float], mask: Tensor | None) -> Tensor:
    """The sum of column[t] * what is left of task t, under a mask."""
    total = torch.zeros_like(family.left[0])
    for left, factor in zip(family.left, column, strict=True):
        total.add_(left, alpha=factor)
    return total if mask is None else total.mul_(mask)
