"""Numbers <-> indices and signs in a randomly rotated frame, unbiased.

A vector is sign-flipped and Hadamard-transformed in blocks, which spreads whatever structure it
had evenly over white coefficients. Of those it is enough to keep very little, as long as what is
kept is scaled so that the reconstruction has the full length along the true vector: the rest is
white noise, which a network forgives a thousand times more easily than shrinkage.

Sources: DRIVE (Vargaftik et al., NeurIPS 2021) and EDEN (ICML 2022) for rotation with an unbiased
scale; splitmix64 (Steele et al., OOPSLA 2014) for the signs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tvcodec.maths.dense import squared_norm
from tvcodec.maths.quantize import float32, uniform_codes
from tvcodec.maths.scratch import Scratch

BLOCK_LOG2 = 14
PIECE = 1 << 18  # values transformed at a time
TABLED = 8  # log2 of the longest run whose transforms lie ready: 512 rows of 256
_SIGNS = 1 - 2 * np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], 1, bitorder="little"
).astype(np.float32)  # of the bits of a byte


_scratch = Scratch()


def signs(seed: int, count: int, start: int = 0, out: Tensor | None = None) -> Tensor:
    """Signs number `start` (a multiple of 64) to `start + count` of a frame: float32 values 1.0, or
    -1.0 where bit i % 64 of splitmix64's output i // 64 is set; in the place of `out`, if that is
    given, which has room for the next multiple of 64."""
    first = start // 64 + 1
    with np.errstate(over="ignore"):
        step = np.uint64(0x9E3779B97F4A7C15)
        word = np.arange(first, first + -(-count // 64), dtype=np.uint64)
        word = (word + np.uint64(seed << 32)) * step
        word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    bits = word.astype("<u8", copy=False).view(np.uint8)
    room = None if out is None else out[: 8 * len(bits)].view(-1, 8).numpy()
    eight = _SIGNS.take(bits, axis=0, out=room, mode="clip")  # all are there: nothing is clipped
    return torch.from_numpy(eight.reshape(-1)[:count])


@functools.cache
def _hadamard(log2: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float32)
    for _ in range(log2):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix * 2 ** (-log2 / 2)


def _transform(blocks: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of each row. As the transform of 2^(a+b+c) values is
    the Kronecker product of three, each small enough to stay cheap, and wide products are fast."""
    log2 = blocks.shape[1].bit_length() - 1
    sides = log2 // 3, (log2 + 1) // 3, (log2 + 2) // 3
    high, middle, low = (_hadamard(side).to(blocks.device) for side in sides)
    count = len(blocks)
    last = torch.mm(blocks.reshape(-1, len(low)), low)
    both = torch.matmul(middle, last.view(-1, len(middle), len(low)))
    across = both.view(count, len(high), -1).transpose(0, 1).reshape(len(high), -1)
    whole = torch.mm(high, across).view(len(high), count, -1)
    return whole.transpose(0, 1).reshape(blocks.shape)


def best_block_log2(count: int) -> int:
    """The largest block (a power of two up to 2^14) whose padding stays under 1/32 of `count`."""
    for log2 in range(BLOCK_LOG2, 4, -1):
        if -count % (1 << log2) <= count / 32:
            return log2
    return 4


def rotate(values: Tensor, seed: int, block_log2: int) -> Tensor:
    """Coefficients [blocks, 2^block_log2] float32 of flat `values`, zero-padded to whole blocks."""
    size, count = 1 << block_log2, values.numel()
    padded = values.new_zeros(-(-count // size) * size)
    for start, piece in _pieces(padded, size):
        inside = max(min(len(piece), count - start), 0)
        flips = signs(seed, inside, start).to(values.device)
        torch.mul(values[start : start + inside], flips, out=piece[:inside])
        piece.copy_(_transform(piece.view(-1, size)).view(-1))
    return padded.view(-1, size)


def add_unrotated(parts: Sequence[Largest | Uniform], seed: int, total: Tensor) -> None:
    """Adds the flat values that parts of one block size stand for together to `total` [count]
    float32, in place, on the CPU: what `rotate` turned into the sum of their coefficients."""
    size = 1 << parts[0].block_log2
    together = max(PIECE >> parts[0].block_log2, 1)
    for first in range(0, -(-len(total) // size), together):
        pieces = [part.blocks(first, first + together) for part in parts]
        start, held = first * size, size * len(pieces[0].scales)
        inside = total[start : start + held]
        room = _scratch.values(2 * held + -(-held // 64) * 64)
        one, other, flips = room[:held], room[held : 2 * held], room[2 * held :]
        if len(pieces) == 1 and isinstance(pieces[0], Largest) and pieces[0].run_log2 <= TABLED:
            _turned_back(pieces[0], one, other)
        else:
            one.zero_()
            for piece in pieces:
                piece.add_to(one)
            one = _transform(one.view(-1, size)).view(-1)
        inside.addcmul_(one[: len(inside)], signs(seed, len(inside), start, flips))


def _turned_back(part: Largest, out: Tensor, room: Tensor) -> None:
    """The transform of a part's coefficients, into flat `out`. Of a run, in which one is not zero,
    it is a row of the transform's matrix; what is left is a transform across runs."""
    low, blocks = part.run_log2, len(part.scales)
    middle = (part.block_log2 - low) // 2
    high = part.block_log2 - low - middle
    torch.index_select(_signed_rows(low), 0, part.codes, out=out.view(-1, 1 << low))
    values = (part.scales.to(torch.float32) * part.gain)[:, None, None]
    shape = blocks, 1 << high, -1
    torch.bmm(_hadamard(high) * values, out.view(shape), out=room.view(shape))
    shape = blocks << high, 1 << middle, -1
    torch.bmm(_hadamard(middle).expand(shape[0], -1, -1), room.view(shape), out=out.view(shape))


@functools.cache
def _signed_rows(log2: int) -> Tensor:
    """Row `position | negative << log2` is what a run of 2^log2 with 1 or -1 there turns into."""
    return torch.cat([_hadamard(log2), -_hadamard(log2)])


def _pieces(flat: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Runs of whole blocks small enough that what is made of them is small beside the whole."""
    length = max(size, PIECE)
    for start in range(0, len(flat), length):
        yield start, flat[start : start + length]


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
        count, device = len(self.codes) << self.run_log2, self.codes.device
        flat = torch.zeros(count, dtype=torch.float32, device=device)
        self.add_to(flat)
        return flat.view(-1, 1 << self.block_log2)

    def add_to(self, flat: Tensor) -> None:
        """Adds the coefficients to those in flat float32 `flat`, in place."""
        runs = flat.view(-1, 1 << self.run_log2)
        value = _per_run(self.scales, self.gain, len(runs))
        value = torch.where(self.codes >> self.run_log2 > 0, -value, value)
        at = self.codes & (1 << self.run_log2) - 1
        runs.scatter_add_(1, at[:, None], value[:, None])

    def blocks(self, start: int, stop: int) -> Largest:
        """The same of blocks [start, stop) only."""
        runs = self.block_log2 - self.run_log2
        codes = self.codes[start << runs : stop << runs]
        return replace(self, codes=codes, scales=self.scales[start:stop])

    def squared_norm(self) -> float:
        """Of the coefficients, without making them."""
        value = _per_run(self.scales, self.gain, len(self.codes))
        return float(torch.dot(value, value))

    def scaled(self, factor: float) -> Largest:
        """The same part times `factor`."""
        return replace(self, gain=float32(self.gain * factor))


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform codes of all coefficients: integer `codes` [blocks, 2^block_log2], float16 `scales`
    [blocks]; a value is gain * scale * code."""

    codes: Tensor
    scales: Tensor
    gain: float
    block_log2: int

    def coefficients(self) -> Tensor:
        """What the rotated frame holds, [blocks, 2^block_log2] float32."""
        return self.codes * (self.scales.to(torch.float32) * self.gain)[:, None]

    def add_to(self, flat: Tensor) -> None:
        """Adds the coefficients to those in flat float32 `flat`, in place."""
        flat.add_(self.coefficients().view(-1))

    def blocks(self, start: int, stop: int) -> Uniform:
        """The same of blocks [start, stop) only."""
        return replace(self, codes=self.codes[start:stop], scales=self.scales[start:stop])

    def scaled(self, factor: float) -> Uniform:
        """The same part times `factor`."""
        return replace(self, gain=float32(self.gain * factor))


def _per_run(scales: Tensor, gain: float, runs: int) -> Tensor:
    return (scales.to(torch.float32) * gain).repeat_interleave(runs // len(scales))


def block_scales(coefficients: Tensor) -> tuple[Tensor, float]:
    """Root mean square of each block relative to that of all, float16 [blocks], and that of all."""
    flat = coefficients.view(-1)
    whole = math.sqrt(float(torch.dot(flat, flat)) / len(flat))
    size = math.sqrt(coefficients.shape[1])
    return (torch.linalg.vector_norm(coefficients, dim=1) / (size * whole)).half(), whole


def noise_of_largest(coefficients: Tensor, runs_log2: Iterable[int]) -> Iterator[tuple[int, float]]:
    """For each of rising run lengths that fit a block: the squared norm of what `keep_largest`
    would keep."""
    scales, _ = block_scales(coefficients)
    wide = scales.double()
    energy = squared_norm(coefficients)
    blocks, run = coefficients.shape[0], 0
    largest = coefficients
    for run_log2 in runs_log2:
        if 1 << run_log2 > coefficients.shape[1]:
            break
        pieces = torch.split(largest.reshape(-1, 1 << run_log2 - run), PIECE >> run_log2 - run)
        ends = [torch.aminmax(piece, dim=1) for piece in pieces]
        largest = torch.cat([torch.maximum(most, -least) for least, most in ends])
        run = run_log2
        kept = float(largest.view(blocks, -1).sum(1, dtype=torch.float64) @ wide)
        squares = float(wide @ wide) * (coefficients.shape[1] >> run_log2)
        yield run_log2, (energy / kept) ** 2 * squares if kept else 0.0


def keep_largest(coefficients: Tensor, run_log2: int) -> Largest:
    """The largest coefficient of each run, scaled so that the inner product with `coefficients`
    is their squared norm (unbiased); coefficients must not be all zero."""
    block = coefficients.shape[1]
    runs = coefficients.view(-1, 1 << run_log2)
    at = torch.cat(
        [piece.abs().argmax(1) for piece in torch.split(runs, max(PIECE >> run_log2, 1))]
    )
    value = runs.gather(1, at[:, None])[:, 0]
    scales, _ = block_scales(coefficients)
    kept = float(torch.dot(value.abs(), _per_run(scales, 1.0, len(runs))))
    flat = coefficients.view(-1)
    gain = float(torch.dot(flat, flat)) / kept if kept > 0 else 0.0
    codes = at | (value < 0).to(torch.int64) << run_log2
    return Largest(codes, scales, float32(gain), block.bit_length() - 1, run_log2)


def keep_uniform(coefficients: Tensor, step: float, offset: float) -> Uniform:
    """Uniform codes with `step` in units of each block's root mean square, unbiased like
    `keep_largest`; gain 0.0 where every code is zero."""
    scales, whole = block_scales(coefficients)
    per_block = scales.to(torch.float32).clamp_min(1e-3)[:, None] * (whole * step)
    codes = uniform_codes(coefficients, per_block, offset)
    unit = Uniform(codes, scales, 1.0, coefficients.shape[1].bit_length() - 1)
    flat = coefficients.view(-1)
    kept = float(torch.dot(flat, unit.coefficients().view(-1)))
    gain = float(torch.dot(flat, flat)) / kept if kept > 0 else 0.0
    return replace(unit, gain=float32(gain))
