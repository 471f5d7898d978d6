"""The published quantisers that we are measured against, from their formulas.

TVQ and RTVQ: Kim et al., "Task Vector Quantization for Memory-Efficient Model Merging" (ICCV 2025):
asymmetric min-max rounding per tensor; RTVQ codes a shared mean and, with error correction, what
each task adds to the *decoded* mean. As in the authors' code only weights are quantised; what is
not a matrix stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import zstandard
from torch import Tensor

Taus = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Coded:
    """Decoded task vectors, and the bytes of their codes: bit-packed, then zstd level 19."""

    tau: dict[str, dict[str, Tensor]]
    size: int


def quantise(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes (uint8) and decoded values; a constant tensor decodes to itself."""
    low, high = values.min(), values.max()
    if low == high:
        return torch.zeros_like(values, dtype=torch.uint8), values.clone()
    scale = (2**bits - 1) / (high - low)
    zero_point = -torch.round(scale * low)
    codes = torch.clamp(torch.round(scale * values + zero_point), 0, 2**bits - 1)
    return codes.to(torch.uint8), (codes - zero_point) / scale


def tvq(taus: Taus, bits: int) -> Coded:
    """Every matrix of every task vector on its own."""
    coded = Coded({}, 0)
    for task, tau in taus.items():
        coded.tau[task] = {}
        for name, values in tau.items():
            coded.tau[task][name] = _code(coded, values, bits)
    return coded


def rtvq(taus: Taus, base_bits: int, offset_bits: int) -> Coded:
    """One base vector for all tasks and an offset each, with error correction."""
    coded = Coded({task: {} for task in taus}, 0)
    for name in next(iter(taus.values())):
        shared = torch.stack([tau[name] for tau in taus.values()]).mean(0)
        base = _code(coded, shared, base_bits)
        for task, tau in taus.items():
            coded.tau[task][name] = base + _code(coded, tau[name] - base, offset_bits)
    return coded


def _code(coded: Coded, values: Tensor, bits: int) -> Tensor:
    """The decoded values; their bytes are counted."""
    if values.dim() < 2:
        coded.size += len(zstandard.compress(values.numpy().tobytes(), 19))
        return values
    codes, decoded = quantise(values, bits)
    spread = np.unpackbits(codes.numpy().reshape(-1, 1), axis=1, count=bits, bitorder="little")
    coded.size += 8 + len(zstandard.compress(np.packbits(spread).tobytes(), 19))
    return decoded
