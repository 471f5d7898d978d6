"""Numbers <-> indices and signs in a randomly rotated frame, unbiased.

A vector is sign-flipped and Hadamard-transformed in blocks, which spreads whatever structure it had
evenly over white coefficients. Of those it is enough to keep very little, as long as what is kept is
scaled so that the reconstruction has the full length along the true vector: the rest is white noise,
which a network forgives a thousand times more easily than shrinkage.

Sources: DRIVE (Vargaftik et al., NeurIPS 2021) and EDEN (ICML 2022) for rotation with an unbiased
scale; splitmix64 (Steele et al., OOPSLA 2014) for the signs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tvcodec.quantize import float32, uniform_codes

BLOCK_LOG2 = 14


def signs(seed: int, count: int) -> Tensor:
    """`count` values of -1.0 or 1.0, float32: bit i % 64 of splitmix64's output i // 64 (1 is -1.0)."""
    with np.errstate(over="ignore"):
        step = np.uint64(0x9E3779B97F4A7C15)
        word = (np.arange(1, -(-count // 64) + 1, dtype=np.uint64) + np.uint64(seed << 32)) * step
        word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    bits = np.unpackbits(word.astype("<u8").view(np.uint8), bitorder="little")[:count]
    return torch.from_numpy(bits).to(torch.float32).mul_(-2).add_(1)


@functools.cache
def _hadamard(log2: int) -> Tensor:
    matrix = torch.ones(1, 1)
    for _ in range(log2):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix * 2 ** (-log2 / 2)


def _transform(blocks: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of each row; as two small matrix products, since
    the transform of 2^(a+b) values is the Kronecker product of those of 2^a and of 2^b."""
    log2 = blocks.shape[1].bit_length() - 1
    high, low = _hadamard(log2 // 2), _hadamard(log2 - log2 // 2)
    high, low = high.to(blocks.device), low.to(blocks.device)
    square = blocks.view(-1, len(high), len(low))
    return torch.matmul(torch.matmul(high, square), low).view(blocks.shape)


def best_block_log2(count: int) -> int:
    """The largest block (as a power of two up to 2^14) whose padding stays under 1/32 of `count`."""
    for log2 in range(BLOCK_LOG2, 4, -1):
        if -count % (1 << log2) <= count / 32:
            return log2
    return 4


def rotate(values: Tensor, seed: int, block_log2: int) -> Tensor:
    """Coefficients [blocks, 2^block_log2] float32 of flat `values`, zero-padded to whole blocks."""
    size = 1 << block_log2
    padded = values.new_zeros(-(-values.numel() // size) * size)
    torch.mul(values, signs(seed, values.numel()).to(values.device), out=padded[: values.numel()])
    return _transform(padded.view(-1, size))


def unrotate(coefficients: Tensor, seed: int, count: int) -> Tensor:
    """The flat values [count] float32 that `rotate` turned into `coefficients`."""
    values = _transform(coefficients).reshape(-1)[:count]
    return values.mul_(signs(seed, count).to(values.device))


@dataclass(frozen=True, slots=True)
class Largest:
    """Of each run of 2^run_log2 coefficients the position of the largest and its sign.

    `codes` int64 [runs] are position | sign << run_log2; `scales` float16 [blocks] are the blocks'
    root mean squares relative to the whole; a value is gain * scale * sign.
    """

    codes: Tensor
    scales: Tensor
    gain: float
    block_log2: int
    run_log2: int

    def coefficients(self) -> Tensor:
        """What the rotated frame holds, [blocks, 2^block_log2] float32."""
        runs = torch.zeros(len(self.codes), 1 << self.run_log2, device=self.codes.device)
        value = _per_run(self.scales, self.gain, len(runs))
        value = torch.where(self.codes >> self.run_log2 > 0, -value, value)
        runs.scatter_(1, (self.codes & (1 << self.run_log2) - 1)[:, None], value[:, None])
        return runs.view(-1, 1 << self.block_log2)

    def scaled(self, factor: float) -> Largest:
        """The same part times `factor`."""
        return replace(self, gain=float32(self.gain * factor))


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform codes of all coefficients: int32 `codes` [blocks, 2^block_log2], float16 `scales`
    [blocks]; a value is gain * scale * code."""

    codes: Tensor
    scales: Tensor
    gain: float
    block_log2: int

    def coefficients(self) -> Tensor:
        """What the rotated frame holds, [blocks, 2^block_log2] float32."""
        return self.codes * (self.scales.to(torch.float32) * self.gain)[:, None]

    def scaled(self, factor: float) -> Uniform:
        """The same part times `factor`."""
        return replace(self, gain=float32(self.gain * factor))


def _per_run(scales: Tensor, gain: float, runs: int) -> Tensor:
    return (scales.to(torch.float32) * gain).repeat_interleave(runs // len(scales))


def block_scales(coefficients: Tensor) -> tuple[Tensor, float]:
    """Root mean square of each block relative to that of all, float16 [blocks], and that of all."""
    whole = float(coefficients.square().mean(dtype=torch.float64).sqrt())
    return (coefficients.square().mean(1).sqrt() / whole).to(torch.float16), whole


def keep_largest(coefficients: Tensor, run_log2: int) -> Largest:
    """The largest coefficient of each run, scaled so that the inner product with `coefficients`
    is their squared norm (unbiased); coefficients must not be all zero."""
    blocks, block = coefficients.shape
    runs = coefficients.view(-1, 1 << run_log2)
    at = runs.abs().argmax(1)
    value = runs.gather(1, at[:, None])[:, 0]
    scales, _ = block_scales(coefficients)
    kept = torch.sum(value.abs() * _per_run(scales, 1.0, len(runs)), dtype=torch.float64)
    gain = float(coefficients.square().sum(dtype=torch.float64) / kept) if kept > 0 else 0.0
    codes = at | (value < 0).to(torch.int64) << run_log2
    return Largest(codes, scales, float32(gain), block.bit_length() - 1, run_log2)


def keep_uniform(coefficients: Tensor, step: float, offset: float) -> Uniform:
    """Uniform codes with `step` in units of each block's root mean square, unbiased like
    `keep_largest`; gain 0.0 where every code is zero."""
    scales, whole = block_scales(coefficients)
    per_block = scales.to(torch.float32).clamp_min(1e-3)[:, None] * (whole * step)
    codes = uniform_codes(coefficients, per_block, offset)
    unit = Uniform(codes, scales, 1.0, coefficients.shape[1].bit_length() - 1)
    kept = torch.sum(coefficients * unit.coefficients(), dtype=torch.float64)
    gain = float(coefficients.square().sum(dtype=torch.float64) / kept) if kept > 0 else 0.0
    return replace(unit, gain=float32(gain))
