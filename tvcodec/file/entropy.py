"""Small integers <-> bytes: radix and bit packing, byte planes, and bounded zstd frames.

    symbols --radix--> bytes --+
    integers --bits--> bytes --+--> zstd frames where that is shorter, as they are where it is not
    elements --planes-> bytes -+

Everything here is host memory and numpy; tensors and their meaning live in `codec`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from tvcodec.errors import FormatError

FRAME = 8 << 20  # packed bytes per zstd frame: the window that every zstd decoder must support
PIECE = 1 << 18  # elements turned at a time
WINDOW_LOG2 = 17
WINDOW = 1 << WINDOW_LOG2  # bytes in which codes repeat, if they do
FAST = 1  # Huffman codes for every 128 kB, next to no search: to compare sizes by
BLOCKS = 2  # and for shorter blocks that differ, as the components of factors do: 3 % less
THOROUGH = 3  # and runs in sparse codes: up to a fifth less, at a twentieth of the speed

Bytes = npt.NDArray[np.uint8]


@functools.cache
def symbols_per_byte(alphabet: int) -> int:
    """How many symbols of `alphabet` (2..256) values fit one byte."""
    count = 1
    while alphabet ** (count + 1) <= 256:
        count += 1
    return count


@functools.cache
def _digits(alphabet: int) -> Bytes:
    """Row b holds the symbols in byte b, first symbol least significant; [256, per byte]."""
    powers = alphabet ** np.arange(symbols_per_byte(alphabet))
    return np.ascontiguousarray(np.arange(256)[:, None] // powers % alphabet).astype(np.uint8)


def pack_symbols(symbols: Bytes, alphabet: int) -> Bytes:
    """Radix-packed bytes of uint8 symbols below `alphabet`; the last byte is filled with zeros."""
    per_byte = symbols_per_byte(alphabet)
    if per_byte == 1:
        return symbols
    full = np.zeros(-(-symbols.size // per_byte) * per_byte, np.uint8)
    full[: symbols.size] = symbols
    columns = full.reshape(-1, per_byte)
    packed: Bytes = columns[:, per_byte - 1].copy()
    for column in range(per_byte - 2, -1, -1):
        packed *= np.uint8(alphabet)
        packed += columns[:, column]
    return packed


def unpack_symbols(packed: Bytes, alphabet: int, count: int) -> Bytes:
    """The `count` symbols of radix-packed bytes; FormatError where a byte holds no such symbols."""
    per_byte = symbols_per_byte(alphabet)
    if packed.size and int(packed.max()) >= alphabet**per_byte:
        raise FormatError(
            f"a packed byte is {int(packed.max())}, below {alphabet**per_byte} expected"
        )
    if per_byte == 1:
        return packed
    symbols = np.take(_digits(alphabet), packed, axis=0).reshape(-1)
    if symbols[count:].any():
        raise FormatError("the last byte of the symbols is not filled with zeros")
    return symbols[:count]


def pack_bits(values: npt.NDArray[np.uint32], bits: int) -> Bytes:
    """Unsigned integers of `bits` bits each, least significant bit first, last byte zero-filled."""
    if bits == 1:
        return np.packbits(values.astype(np.uint8), bitorder="little")
    spread = values[:, None] >> np.arange(bits, dtype=np.uint32) & np.uint32(1)
    return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_bits(packed: Bytes, bits: int, count: int) -> npt.NDArray[np.uint32]:
    """The `count` integers that `pack_bits` packed; FormatError where the last byte is not filled
    with zeros."""
    flat = np.unpackbits(packed, bitorder="little")
    if flat[count * bits :].any():
        raise FormatError("the last byte of the packed integers is not filled with zeros")
    spread = flat[: count * bits].reshape(count, bits)
    values = np.zeros(count, np.uint32)
    for bit in range(bits):
        values |= spread[:, bit].astype(np.uint32) << np.uint32(bit)
    return values


def pack_planes(elements: npt.NDArray[Any], fold: bool = False) -> Bytes:
    """All lowest bytes of the little-endian elements, then the next ones, up to the highest; signed
    integers are first put through `zigzag` if `fold`."""
    width = elements.dtype.itemsize
    flat = elements.reshape(-1)
    planes = np.empty((width, flat.size), np.uint8)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        piece = zigzag(piece) if fold else piece
        little = piece.astype(piece.dtype.newbyteorder("<"), copy=False)
        planes[:, start : start + PIECE] = little.view(np.uint8).reshape(-1, width).T
    return planes.reshape(-1)


def unpack_planes(packed: Bytes, dtype: npt.DTypeLike, fold: bool = False) -> npt.NDArray[Any]:
    """The elements of numpy `dtype` whose byte planes are `packed`, in memory of their own; `fold`
    as in `pack_planes`."""
    native = np.dtype(dtype)
    planes = packed.reshape(native.itemsize, -1)
    elements = np.empty(planes.shape[1], native)
    for start in range(0, elements.size, PIECE):
        joined = np.ascontiguousarray(planes[:, start : start + PIECE].T).reshape(-1)
        piece = joined.view(native.newbyteorder("<"))
        if fold:
            piece = unzigzag(piece.view(f"<u{native.itemsize}"))
        elements[start : start + PIECE] = piece
    return elements


def zigzag(integers: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ... in the same width: small magnitudes share planes."""
    width = integers.dtype.itemsize
    folded = integers << integers.dtype.type(1) ^ integers >> integers.dtype.type(8 * width - 1)
    return np.asarray(folded).view(f"u{width}")


def unzigzag(unsigned: npt.NDArray[Any]) -> npt.NDArray[np.signedinteger]:
    """The integers that `zigzag` folded."""
    one, signed = unsigned.dtype.type(1), f"i{unsigned.dtype.itemsize}"
    halved: npt.NDArray[np.signedinteger] = (unsigned >> one).view(signed)
    halved ^= -(unsigned & one).view(signed)
    return halved


@functools.cache
def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    """Tables are those of a short window; zstd's own choice for high levels would take 100 MB."""
    if level == FAST:
        return zstandard.ZstdCompressionParameters.from_level(1, source_size=WINDOW)
    thorough = level == THOROUGH
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_BTULTRA if thorough else zstandard.STRATEGY_BTOPT,
        window_log=WINDOW_LOG2,
        hash_log=WINDOW_LOG2 if thorough else 6,
        chain_log=WINDOW_LOG2 if thorough else 6,
        search_log=1,
        min_match=3 if thorough else 6,
        target_length=32 if thorough else 4,
    )


def compress(packed: Bytes, level: int = FAST) -> bytes:
    """zstd frames of `packed`, or the same bytes where frames would not be shorter; at a `level`
    (FAST, BLOCKS or THOROUGH) or FAST, whichever gives less."""
    if packed.size < 16:
        return packed.tobytes()
    whole = np.ascontiguousarray(packed).data
    levels = sorted({FAST, level})
    compressors = [zstandard.ZstdCompressor(compression_params=_parameters(n)) for n in levels]
    frames = [
        min((one.compress(whole[at : at + FRAME]) for one in compressors), key=len)
        for at in range(0, len(whole), FRAME)
    ]
    shorter = sum(map(len, frames)) < len(whole)
    return b"".join(frames) if shorter else whole.tobytes()


def decompress(stored: bytes | memoryview, length: int) -> Bytes:
    """The `length` packed bytes behind `stored`.

    Frames are opened one by one through a bounded decoder, so that a damaged or hostile frame
    costs no more memory than the `length` that the index asked for.

    Raises FormatError for anything but frames of exactly the expected sizes.
    """
    if len(stored) == length:
        return np.frombuffer(stored, np.uint8)
    if length <= FRAME:
        return _only_frame(memoryview(stored), length)
    packed = np.empty(length, np.uint8)
    start = 0
    for piece in unframed(stored, length):
        packed[start : start + piece.size] = piece
        start += piece.size
    return packed


def unframed(stored: bytes | memoryview, length: int) -> Iterator[Bytes]:
    """The same a frame at a time, in the memory of one, for whoever does not know whether to
    believe in `length`."""
    data, at = memoryview(stored), 0
    if len(data) == length:
        yield np.frombuffer(data, np.uint8)
        return
    for start in range(0, length, FRAME):
        piece = np.empty(min(FRAME, length - start), np.uint8)
        at += _frame(data[at:], piece)
        yield piece
    if at != len(data):
        raise FormatError(f"{len(data) - at} bytes behind the last zstd frame")


def _only_frame(data: memoryview, length: int) -> Bytes:
    """What the frame that `data` is holds. Its header says how much memory that takes."""
    try:
        _check_header(data, length)
        packed = _this.decoder.decompress(data, length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame: {error}") from None
    if len(packed) != length:
        raise FormatError(f"a zstd frame holds {len(packed)} bytes, {length} expected")
    return np.frombuffer(packed, np.uint8)


class _Decoder(threading.local):
    """One for each thread: making it takes longer than most frames do."""

    def __init__(self) -> None:
        self.decoder = zstandard.ZstdDecompressor(max_window_size=FRAME)


_this = _Decoder()


def _frame(data: memoryview, out: Bytes) -> int:
    """Fills `out` from the frame that `data` begins with; the bytes that the frame takes."""
    try:
        _check_header(data, len(out))
        # .decompress() would trust the frame's own size; decompressobj stops where the frame ends
        decoder = zstandard.ZstdDecompressor().decompressobj()
        taken = filled = 0
        while not decoder.eof and taken < len(data):
            piece = decoder.decompress(data[taken : taken + WINDOW])
            taken += min(WINDOW, len(data) - taken)
            if filled + len(piece) > len(out):
                raise FormatError(f"a zstd frame holds more than the {len(out)} bytes expected")
            out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame: {error}") from None
    if not decoder.eof or filled != len(out):
        raise FormatError(f"a zstd frame holds {filled} bytes, {len(out)} expected")
    return taken - len(decoder.unused_data)


def _check_header(data: memoryview, size: int) -> None:
    header = zstandard.get_frame_parameters(data)
    if header.has_checksum:
        raise FormatError("a zstd frame has a checksum of its own, none expected")
    if header.content_size != size:
        raise FormatError(f"a zstd frame claims {header.content_size} bytes, {size} expected")
    if header.window_size > FRAME:
        raise FormatError(f"a zstd frame wants a window of {header.window_size} bytes")
