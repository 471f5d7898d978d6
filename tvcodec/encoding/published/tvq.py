"""Task vector quantisation: each task vector's codes, or a base vector's and the offsets from it.

Kim et al., "Task Vector Quantization for Memory-Efficient Model Merging" (ICCV 2025). The authors
leave biases, normalisation and some other parameters unquantised, by name, where their quantiser
would give NaN; here what is not a matrix stays in floats, and constants are coded as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.encoding.published.settings import Published, whole_in_range
from tvcodec.maths.quantize import min_max

GROUP_MOST = 2**40 - 1


@dataclass(frozen=True, kw_only=True)
class Tvq(Published):
    """TVQ: codes of `bits` (1 to 8) between the least and the greatest value of each matrix, or of
    each `group` values in it (0: of all)."""

    name: ClassVar[str] = "tvq"

    bits: int = 4
    group: int = 0

    def __post_init__(self) -> None:
        whole_in_range("bits", self.bits, 1, 8)
        whole_in_range("group", self.group, 0, GROUP_MOST)

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        if not family.is_matrix:
            return self.floats(tau)
        return Sum((min_max(tau, self.bits, self.group, self.fp16),))


@dataclass(frozen=True, kw_only=True)
class Rtvq(Published):
    """RTVQ: codes of `base_bits` for the mean of the task vectors and of `offset_bits` for what
    each differs from it. With `error_correction` it is the mean as decoded that offsets are from,
    so that they make up for its error. Tasks that did not change a parameter have no part in its
    mean."""

    name: ClassVar[str] = "rtvq"
    joint: ClassVar[bool] = True

    base_bits: int = 3
    offset_bits: int = 2
    error_correction: bool = True
    group: int = 0

    def __post_init__(self) -> None:
        whole_in_range("base_bits", self.base_bits, 1, 8)
        whole_in_range("offset_bits", self.offset_bits, 1, 8)
        whole_in_range("group", self.group, 0, GROUP_MOST)

    def share(self, family: Family) -> Tensor | None:
        if not family.is_matrix:
            return None
        mean = torch.zeros_like(family.left[0])
        for tau in family.left:
            mean.add_(tau, alpha=1 / len(family.left))
        codes = min_max(mean, self.base_bits, self.group, self.fp16)
        decoded = family.share(mean, Sum((codes,)))
        for task in range(len(family.tasks)):
            family.take(task, decoded, 1.0)
        return None if self.error_correction else mean.neg_()  # which is what was missing of it

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        if not family.is_matrix:
            return self.floats(tau)
        offset = family.left[task] if shared is None else family.left[task] + shared
        return Sum((min_max(offset, self.offset_bits, self.group, self.fp16),))
