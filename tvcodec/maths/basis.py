"""One parameter, all tasks: vectors that tasks share, and each task's multiples of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Coefficients:
    """sum_j values[j] * V_j over the shared vectors of the parameter, in their order: `values` is
    float16 or float32, one for each."""

    values: Tensor

    def scaled(self, factor: float) -> Coefficients:
        """The same part times `factor`, float32."""
        return Coefficients(self.values.to(torch.float32) * factor)
