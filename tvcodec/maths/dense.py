"""Values that need no model: raw floats, integer differences of bits, sums and conversions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PIECE = 1 << 18  # values turned at a time
RUN = 1 << 15  # values whose products float32 sums well
SOUND = (1e-24, 1e30)  # sums of products that float32 neither lost nor could not hold
SQUARES_FIT = 2.0**40  # root mean square whose squares, and those of 1 / it, float32 sums well
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Values:
    """Float16 or float32 `values` of any shape, as they are."""

    values: Tensor

    def scaled(self, factor: float) -> Values:
        """The same part times `factor`, float32."""
        return replace(self, values=self.values.to(torch.float32) * factor)


@dataclass(frozen=True, slots=True)
class Exact:
    """Integer `differences` (int8 to int64, wrapping) between ordered bit patterns."""

    differences: Tensor


HALF_ERROR = 2.0**-10  # relative, above which float16 has no room for what it should hold


def as_half(values: Tensor, half: bool = True, exactly: bool = False) -> Tensor:
    """Float32 `values` as float16, where `half` is asked for and its range holds them: to within
    its precision, or bit for bit if `exactly`."""
    if not half:
        return values
    short = values.to(torch.float16)
    lost = short.to(torch.float32).sub_(values)
    if not lost.isfinite().all():
        return values
    bound = 0.0 if exactly else HALF_ERROR * math.sqrt(squared_norm(values))
    return short if math.sqrt(squared_norm(lost)) <= bound else values


def _mirror(bits: Tensor) -> Tensor:
    """Bit patterns of floats <-> integers that grow with the value, in place: the negative ones
    have all bits but the sign flipped."""
    flips = bits >> (8 * bits.element_size() - 1)
    return bits.bitwise_xor_(flips.bitwise_and_(torch.iinfo(bits.dtype).max))


def _bits(tensor: Tensor) -> Tensor:
    """A copy of the bit patterns as flat integers."""
    return tensor.reshape(-1).view(_INTEGER[tensor.element_size()]).clone()


def exact_difference(fine_tune: Tensor, base: Tensor) -> Exact:
    """Differences that restore `fine_tune` bit for bit from `base`, both of one float dtype (NaN
    payloads, infinities, signed zeros and subnormals included)."""
    differences = _bits(fine_tune)
    for start in range(0, len(differences), PIECE):
        piece = differences[start : start + PIECE]
        _mirror(piece).sub_(_mirror(_bits(base.reshape(-1)[start : start + PIECE])))
    return Exact(differences.view(fine_tune.shape))


def exact_restore(base: Tensor, exact: Exact) -> Tensor:
    """The fine-tune behind `exact_difference`, in the dtype and shape of `base`."""
    bits = _bits(base)
    for start in range(0, len(bits), PIECE):
        piece = bits[start : start + PIECE]
        _mirror(_mirror(piece).add_(exact.differences.view(-1)[start : start + PIECE]))
    return bits.view(base.dtype).view(base.shape)


def task_vector(fine_tune: Tensor, base: Tensor) -> Tensor:
    """fine_tune - base, float32, for float tensors of one shape; subtracted in float64 where either
    has that dtype."""
    if fine_tune.dtype == base.dtype == torch.float32:
        return fine_tune - base
    wide = _wide(fine_tune.dtype, base.dtype)
    return fine_tune.to(wide, copy=True).sub_(base).to(torch.float32)


def fine_tune(base: Tensor, tau: Tensor, dtype: torch.dtype, reuse: bool = False) -> Tensor:
    """base + tau in `dtype`, for float tensors of one shape; added in float64 where that is the
    dtype of the base or of the result, and else in float32. With `reuse` in the memory of `base`,
    if that has the dtype in which they are added."""
    return converted(base.to(_wide(base.dtype, dtype), copy=not reuse).add_(tau), dtype)


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in another dtype of floats, rounded to nearest even; float64 goes by way of float32,
    so that every machine rounds it alike."""
    if tensor.dtype == torch.float64 and dtype != torch.float64:
        tensor = tensor.to(torch.float32)
    return tensor.to(dtype)


def inner_product(one: Tensor, other: Tensor) -> float:
    """Of two float32 tensors of one shape, as good as in float64: summed in runs of float32, or
    wholly in float64 where squares of that size do not fit."""
    flats = one.reshape(-1), other.reshape(-1)
    pieces = (torch.split(flat, RUN) for flat in flats)
    total = sum(float(torch.dot(a, b)) for a, b in zip(*pieces, strict=True))
    if SOUND[0] < abs(total) < SOUND[1]:
        return total
    total = 0.0
    for a, b in zip(*(torch.split(flat, PIECE) for flat in flats), strict=True):
        wide = a.double()
        total += float(torch.dot(wide, wide if one is other else b.double()))
    return total


def squared_norm(values: Tensor) -> float:
    """`inner_product` of float32 values of any shape with themselves."""
    return inner_product(values, values)


def unit(rms: float) -> float:
    """What to divide values of that root mean square by, so that float32 has room for their
    squares: 1.0 almost always, else the power of two below."""
    if not rms or 1 / SQUARES_FIT <= rms <= SQUARES_FIT:
        return 1.0
    return 2.0 ** math.floor(math.log2(rms))


def divided(values: Tensor, by: float) -> Tensor:
    """Float32 `values` in units of a power of two `by`, which may pass the range of float32."""
    return values if by == 1.0 else values.double().div_(by).to(torch.float32)


def _wide(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32
