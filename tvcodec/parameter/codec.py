"""One parameter <-> its section: the only place where maths meets bytes.

Each part of the sum that stands for a task vector has a record in `parts` (where its numbers lie)
and an object in a maths module (what they mean). `store` and `load` mirror case by case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tvcodec.errors import FormatError
from tvcodec.file import entropy, index
from tvcodec.file.index import (
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
from tvcodec.maths import basis, dense, lowrank, quantize, rotated
from tvcodec.parameter.summands import Content

Stored = tuple[Part, bytes]

TABLES_WEIGH = 1 << 16  # symbols up to which zstd's code tables are a visible part of a stream
SPARSE = 8  # symbols of codes in ranges, up to which most are one and the same
WIDER_ALPHABETS = (5, 7, 17)  # the least odd ones of which 3, 2 and 1 symbols fit a byte


def store(content: Content, level: int = entropy.FAST) -> Stored:
    """The record and the section bytes of one part, its codes compressed at a `level` of
    `entropy.compress`."""
    match content:
        case lowrank.Factors():
            numbers = content.left.T, content.right.T, content.scales
            (left, right, scales), data = _store_all(numbers, min(level, entropy.BLOCKS))
            return index.Factors(len(content.scales), left, right, scales), data
        case rotated.Largest():
            codes, code_bytes = store_bits(content.codes, content.run_log2 + 1)
            scales, scale_bytes = store_stream(content.scales)
            largest = index.RotatedLargest(
                content.block_log2, content.run_log2, content.gain, scales, codes
            )
            return largest, scale_bytes + code_bytes
        case rotated.Uniform():
            (scales, codes), data = _store_all((content.scales, content.codes), level)
            return index.RotatedUniform(content.block_log2, content.gain, scales, codes), data
        case quantize.Stage():
            codes, data = store_stream(content.codes, level)
            return index.Stage(content.scale, codes), data
        case quantize.Grouped():
            (scales, minimums), data = _store_all((content.scales, content.minimums), level)
            if content.alphabet > SPARSE:
                level = entropy.FAST  # finds no more than a thorough search would
            codes, code_bytes = store_symbols(content.codes, content.alphabet, level)
            return index.GroupedStage(content.group, scales, minimums, codes), data + code_bytes
        case dense.Values():
            values, data = store_stream(content.values)
            return index.Values(values), data
        case basis.Coefficients():
            coefficients, data = store_stream(content.values)
            return index.Coefficients(coefficients), data
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

    def symbols(self, stream: Stream, count: int) -> Tensor:
        """The next stream's `count` symbols as they are, uint8."""
        data, self._data = self._data[: stream.length], self._data[stream.length :]
        return load_symbols(stream, data, count)


def load(part: Part, section: Section, extent: Extent, vectors: int = 0) -> Content:
    """The part that `store` made, from the next streams of `section`; `vectors` is how many the
    basis of the parameter has. FormatError where the bytes are not what the record says."""
    match part:
        case index.Factors():
            left = section.take(part.left, part.rank * extent.rows).view(part.rank, -1)
            right = section.take(part.right, part.rank * extent.columns).view(part.rank, -1)
            scales = section.take(part.scales, part.rank).to(torch.float32)
            return lowrank.Factors(left.T, right.T, scales)
        case index.RotatedLargest():
            blocks = -(-extent.count >> part.block_log2)
            scales = section.take(part.scales, blocks)
            codes = section.take(part.codes, blocks << part.block_log2 - part.run_log2)
            return rotated.Largest(codes, scales, part.gain, part.block_log2, part.run_log2)
        case index.RotatedUniform():
            blocks = -(-extent.count >> part.block_log2)
            scales = section.take(part.scales, blocks)
            codes = section.take(part.codes, blocks << part.block_log2).view(blocks, -1)
            return rotated.Uniform(codes, scales, part.gain, part.block_log2)
        case index.Stage():
            return quantize.Stage(section.take(part.codes, extent.count), part.scale)
        case index.GroupedStage():
            groups = -(-extent.count // part.group) if part.group else 1
            scales = section.take(part.scales, groups)
            minimums = section.take(part.minimums, groups)
            symbols = section.symbols(part.codes, extent.count)
            return quantize.Grouped(symbols, scales, minimums, part.group, part.codes.size)
        case index.Values():
            return dense.Values(section.take(part.values, extent.count))
        case index.Coefficients():
            return basis.Coefficients(section.take(part.coefficients, vectors))
        case index.Exact():
            return dense.Exact(section.take(part.differences, extent.count))


def store_stream(numbers: Tensor, level: int = entropy.FAST) -> tuple[Stream, bytes]:
    """Floats (float16, float32) as they are, integers as symbols where 255 suffice."""
    if numbers.is_floating_point():
        kind = FLOAT16 if numbers.dtype == torch.float16 else FLOAT32
        return _stream(kind, entropy.pack_planes(_host(numbers)))
    least, most = (int(end) for end in torch.aminmax(numbers)) if numbers.numel() else (0, 0)
    largest = max(-least, most)
    if largest > 127:
        return store_integers(numbers)
    symbols = _host((numbers.to(torch.int8) + largest).view(torch.uint8))  # wraps into place
    alphabets = list(_alphabets(symbols, largest))
    if len(alphabets) > 1:
        alphabets.sort(key=lambda one: len(entropy.compress(one[1])))
    alphabet, packed = alphabets[0]
    return _stream(SYMBOLS, packed, alphabet, level)


def _alphabets(symbols: entropy.Bytes, largest: int) -> Iterator[tuple[int, entropy.Bytes]]:
    """The symbols packed in their own alphabet and, where zstd's tables weigh, in wider ones: fewer
    symbols per byte make a longer stream but a shorter table."""
    own = max(2 * largest + 1, 3)
    wider = WIDER_ALPHABETS if symbols.size < TABLES_WEIGH else ()
    for alphabet in (own, *(size for size in wider if size > own)):
        centred = symbols + np.uint8((alphabet - 1) // 2 - largest)
        yield alphabet, entropy.pack_symbols(centred, alphabet)


def store_symbols(
    symbols: Tensor, alphabet: int, level: int = entropy.FAST
) -> tuple[Stream, bytes]:
    """Symbols below `alphabet`, uint8, as they are."""
    return _stream(SYMBOLS, entropy.pack_symbols(_host(symbols), alphabet), alphabet, level)


def store_integers(numbers: Tensor) -> tuple[Stream, bytes]:
    """Signed integers of any width as zigzag byte planes."""
    packed = entropy.pack_planes(_host(numbers), fold=True)
    return _stream(INTEGERS, packed, numbers.element_size())


def store_bits(numbers: Tensor, bits: int) -> tuple[Stream, bytes]:
    """Unsigned integers below 2^bits."""
    return _stream(UNSIGNED, entropy.pack_bits(_host(numbers).astype(np.uint32), bits), bits)


def store_elements(tensor: Tensor) -> tuple[Stream, bytes]:
    """The values of a tensor of any dtype, bit for bit."""
    width = tensor.element_size()
    opaque = _host(tensor.contiguous().view(-1).view(torch.uint8)).view(f"<u{width}")
    return _stream(ELEMENTS, entropy.pack_planes(opaque), width)


def load_stream(stream: Stream, data: memoryview, count: int) -> Tensor:
    """The `count` numbers of a stream, flat: floats as stored, symbols as codes, integers signed,
    unsigned ones as int64."""
    if stream.kind == SYMBOLS:
        symbols = _symbols(stream, data, count)
        if stream.size == 256:
            return torch.from_numpy(symbols.astype(np.int16) - np.int16(127))
        half = np.int8((stream.size - 1) // 2)
        return torch.from_numpy(symbols.view(np.int8) - half)  # wraps into place
    packed = entropy.decompress(data, stream.packed(count))
    match stream.kind:
        case index.FLOAT16 | index.FLOAT32:
            floats = np.float16 if stream.kind == FLOAT16 else np.float32
            return torch.from_numpy(_finite(entropy.unpack_planes(packed, floats)))
        case index.UNSIGNED:
            return torch.from_numpy(
                entropy.unpack_bits(packed, stream.size, count).astype(np.int64)
            )
        case index.INTEGERS:
            signed = f"i{stream.size}"
            return torch.from_numpy(entropy.unpack_planes(packed, signed, fold=True))
    raise FormatError(f"a stream of kind {stream.kind} holds no numbers")


def load_symbols(stream: Stream, data: memoryview, count: int) -> Tensor:
    """The symbols that `store_symbols` stored."""
    return torch.from_numpy(_symbols(stream, data, count).copy())


def _symbols(stream: Stream, data: memoryview, count: int) -> entropy.Bytes:
    packed = entropy.decompress(data, stream.packed(count))
    return entropy.unpack_symbols(packed, stream.size, count)


def load_elements(
    stream: Stream, data: memoryview, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """The tensor that `store_elements` stored."""
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    packed = entropy.decompress(data, stream.packed(count))
    opaque = entropy.unpack_planes(packed, f"u{stream.size}").view(np.uint8)
    if dtype == torch.bool and opaque.max() > 1:
        raise FormatError(f"a truth value is stored as {opaque.max()}, 0 or 1 expected")
    return torch.from_numpy(opaque).view(dtype).view(shape)


def _store_all(numbers: Sequence[Tensor], level: int) -> tuple[list[Stream], bytes]:
    stored = [store_stream(one, level) for one in numbers]
    return [stream for stream, _ in stored], b"".join(data for _, data in stored)


def _stream(
    kind: int, packed: entropy.Bytes, size: int = 0, level: int = entropy.FAST
) -> tuple[Stream, bytes]:
    data = entropy.compress(packed, level)
    return Stream(kind, len(data), size), data


def _host(numbers: Tensor) -> np.ndarray:
    return numbers.contiguous().view(-1).cpu().numpy()


def _finite(numbers: np.ndarray) -> np.ndarray:
    if not np.isfinite(numbers).all():
        raise FormatError("a scale or value is not a finite number")
    return numbers
