"""BitDelta: the sign of each value, and one magnitude for all of a matrix.

Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit" (NeurIPS 2024, arXiv 2402.10193),
without its distillation of the magnitudes, which needs data. What differs: rows that did not change
stay as they are instead of moving by a sign that they do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tvcodec.encoding.family import Family, Sum
from tvcodec.encoding.published.settings import Published
from tvcodec.maths.dense import as_half
from tvcodec.maths.quantize import Grouped


@dataclass(frozen=True, kw_only=True)
class BitDelta(Published):
    """The magnitude is the mean of the absolute values; a zero counts as negative."""

    name: ClassVar[str] = "bitdelta"

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        if not family.is_matrix:
            return self.floats(tau)
        changed = tau.any(1)
        values = tau[changed]
        mean = values.abs().mean()
        both = as_half(torch.stack([2 * mean, -mean]), self.fp16)
        signs = (values > 0).to(torch.uint8)
        return Sum((Grouped(signs, both[:1], both[1:], 0, 2),), changed)
