"""One parameter <-> its section: the only place where maths meets bytes.

Each part of the sum that stands for a task vector has a record in `parts` (where its numbers lie)
and an object in a maths module (what they mean). `store` and `load` mirror case by case.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from tvcodec import dense, entropy, index, lowrank, quantize, rotated
from tvcodec.errors import FormatError
from tvcodec.index import (
    ELEMENTS,
    FLOAT16,
    FLOAT32,
    INTEGERS,
    SYMBOLS,
    UNSIGNED,
    Extent,
    Part,
    Stream,
)

Content = (
    lowrank.Factors
    | rotated.Largest
    | rotated.Uniform
    | quantize.Stage
    | dense.Values
    | dense.Exact
)
Stored = tuple[Part, bytes]


def store(content: Content) -> Stored:
    """The record and the section bytes of one part."""
    match content:
        case lowrank.Factors():
            (left, right, scales), data = _store_all(
                content.left.T, content.right.T, content.scales
            )
            return index.Factors(len(content.scales), left, right, scales), data
        case rotated.Largest():
            codes, code_bytes = store_bits(content.codes, content.run_log2 + 1)
            scales, scale_bytes = store_stream(content.scales)
            largest = index.RotatedLargest(
                content.block_log2, content.run_log2, content.gain, scales, codes
            )
            return largest, scale_bytes + code_bytes
        case rotated.Uniform():
            (scales, codes), data = _store_all(content.scales, content.codes)
            return index.RotatedUniform(content.block_log2, content.gain, scales, codes), data
        case quantize.Stage():
            codes, data = store_stream(content.codes)
            return index.Stage(content.scale, codes), data
        case dense.Values():
            values, data = store_stream(content.values)
            return index.Values(values), data
        case dense.Exact():
            differences, data = store_integers(content.differences)
            return index.Exact(differences), data


class Section:
    """The bytes of one section, taken stream by stream in the order of its record."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, stream: Stream, count: int) -> Tensor:
        """The next stream's `count` numbers, as `load_stream` gives them."""
        data, self._data = self._data[: stream.length], self._data[stream.length :]
        return load_stream(stream, data, count)


def load(part: Part, section: Section, extent: Extent) -> Content:
    """The part that `store` made, from the next streams of `section`; FormatError where the bytes
    are not what the record says."""
    match part:
        case index.Factors():
            left = section.take(part.left, part.rank * extent.rows).view(part.rank, -1)
            right = section.take(part.right, part.rank * extent.columns).view(part.rank, -1)
            scales = _finite(section.take(part.scales, part.rank)).to(torch.float32)
            return lowrank.Factors(left.T, right.T, scales)
        case index.RotatedLargest():
            blocks = -(-extent.count >> part.block_log2)
            scales = _finite(section.take(part.scales, blocks))
            codes = section.take(part.codes, blocks << part.block_log2 - part.run_log2)
            return rotated.Largest(codes, scales, part.gain, part.block_log2, part.run_log2)
        case index.RotatedUniform():
            blocks = -(-extent.count >> part.block_log2)
            scales = _finite(section.take(part.scales, blocks))
            codes = section.take(part.codes, blocks << part.block_log2).view(blocks, -1)
            return rotated.Uniform(codes, scales, part.gain, part.block_log2)
        case index.Stage():
            return quantize.Stage(section.take(part.codes, extent.count), part.scale)
        case index.Values():
            return dense.Values(_finite(section.take(part.values, extent.count)))
        case index.Exact():
            return dense.Exact(section.take(part.differences, extent.count))
    raise FormatError(f"a part of kind {part.kind} is not decoded by this program")


def store_stream(numbers: Tensor) -> tuple[Stream, bytes]:
    """Floats (float16, float32) as they are, integers (int32) as symbols where 256 suffice."""
    if numbers.is_floating_point():
        kind = FLOAT16 if numbers.dtype == torch.float16 else FLOAT32
        return _stream(kind, entropy.pack_planes(_host(numbers)))
    largest = int(numbers.abs().max()) if numbers.numel() else 0
    if largest > 127:
        return store_integers(numbers.to(torch.int16) if largest < 1 << 15 else numbers)
    alphabet = max(2 * largest + 1, 2)
    symbols = _host((numbers + largest).to(torch.uint8))
    return _stream(SYMBOLS, entropy.pack_symbols(symbols, alphabet), alphabet)


def store_integers(numbers: Tensor) -> tuple[Stream, bytes]:
    """Signed integers of any width as zigzag byte planes."""
    folded = entropy.zigzag(_host(numbers))
    return _stream(INTEGERS, entropy.pack_planes(folded), folded.dtype.itemsize)


def store_bits(numbers: Tensor, bits: int) -> tuple[Stream, bytes]:
    """Unsigned integers below 2^bits."""
    return _stream(UNSIGNED, entropy.pack_bits(_host(numbers).astype(np.uint32), bits), bits)


def store_elements(tensor: Tensor) -> tuple[Stream, bytes]:
    """The values of a tensor of any dtype, bit for bit."""
    width = tensor.element_size()
    opaque = tensor.contiguous().view(torch.uint8).cpu().numpy().reshape(-1).view(f"<u{width}")
    return _stream(ELEMENTS, entropy.pack_planes(opaque), width)


def load_stream(stream: Stream, data: memoryview, count: int) -> Tensor:
    """The `count` numbers of a stream, flat: floats as stored, symbols and integers signed (int32
    or wider), unsigned ones as int64."""
    packed = entropy.decompress(bytes(data), stream.packed(count))
    match stream.kind:
        case index.FLOAT16 | index.FLOAT32:
            floats = np.float16 if stream.kind == FLOAT16 else np.float32
            return torch.from_numpy(entropy.unpack_planes(packed, floats).copy())
        case index.SYMBOLS:
            symbols = torch.from_numpy(entropy.unpack_symbols(packed, stream.size, count).copy())
            return symbols.to(torch.int32) - (stream.size - 1) // 2
        case index.UNSIGNED:
            return torch.from_numpy(
                entropy.unpack_bits(packed, stream.size, count).astype(np.int64)
            )
        case index.INTEGERS:
            folded = entropy.unpack_planes(packed, f"<u{stream.size}")
            return torch.from_numpy(entropy.unzigzag(folded))
    raise FormatError(f"a stream of kind {stream.kind} holds no numbers")


def load_elements(
    stream: Stream, data: memoryview, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """The tensor that `store_elements` stored."""
    count = int(np.prod(shape, dtype=object))
    packed = entropy.decompress(bytes(data), stream.packed(count))
    opaque = entropy.unpack_planes(packed, f"<u{stream.size}").view(np.uint8)
    return torch.from_numpy(opaque.copy()).view(dtype).view(shape)


def expand(contents: Iterable[Content], extent: Extent, seed: int) -> Tensor:
    """The sum of parts, float32 [rows, columns]; one inverse rotation for all rotated parts of a
    block size, so that a merge of many tasks costs no more of them than one task does."""
    total = torch.zeros(extent.rows, extent.columns)
    frames: dict[int, Tensor] = {}
    for content in contents:
        match content:
            case lowrank.Factors():
                content.add_to(total)
            case quantize.Stage():
                total.view(-1).add_(content.codes.view(-1), alpha=content.scale)
            case dense.Values():
                total.view(-1).add_(content.values.view(-1))
            case rotated.Largest() | rotated.Uniform():
                coefficients = content.coefficients()
                held = frames.get(content.block_log2)
                frames[content.block_log2] = coefficients if held is None else held + coefficients
            case dense.Exact():
                raise TypeError("exact differences need the base model")
    for frame in frames.values():
        total.view(-1).add_(rotated.unrotate(frame, seed, extent.count))
    return total


def _store_all(*numbers: Tensor) -> tuple[list[Stream], bytes]:
    stored = [store_stream(one) for one in numbers]
    return [stream for stream, _ in stored], b"".join(data for _, data in stored)


def _stream(kind: int, packed: entropy.Bytes, size: int = 0) -> tuple[Stream, bytes]:
    data = entropy.compress(packed)
    return Stream(kind, len(data), size), data


def _host(numbers: Tensor) -> np.ndarray:
    return numbers.contiguous().view(-1).cpu().numpy()


def _finite(numbers: Tensor) -> Tensor:
    if not torch.isfinite(numbers).all():
        raise FormatError("a scale or value is not a finite number")
    return numbers
