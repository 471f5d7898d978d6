"""Small integers <-> bytes: radix and bit packing, byte planes, and bounded zstd frames.

    symbols --radix--> bytes --+
    integers --bits--> bytes --+--> zstd frames where that is shorter, as they are where it is not
    elements --planes-> bytes -+

Everything here is host memory and numpy; tensors and their meaning live in `codec`.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import zstandard

from tvcodec.errors import FormatError

FRAME = 8 << 20  # packed bytes per zstd frame: the window that every zstd decoder must support
LEVEL = 1  # radix-packed codes are literals: higher levels search for matches that are not there

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
    packed = columns[:, per_byte - 1].copy()
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
    """The `count` integers that `pack_bits` packed; FormatError where the last byte is not filled."""
    flat = np.unpackbits(packed, bitorder="little")
    if flat[count * bits :].any():
        raise FormatError("the last byte of the packed integers is not filled with zeros")
    spread = flat[: count * bits].reshape(count, bits)
    values = np.zeros(count, np.uint32)
    for bit in range(bits):
        values |= spread[:, bit].astype(np.uint32) << np.uint32(bit)
    return values


def pack_planes(elements: npt.NDArray[np.generic]) -> Bytes:
    """All lowest bytes of the little-endian elements, then the next bytes, up to the highest."""
    width = elements.dtype.itemsize
    little = elements.astype(elements.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little.reshape(-1).view(np.uint8).reshape(-1, width).T).reshape(-1)


def unpack_planes(packed: Bytes, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """The elements of numpy `dtype` whose byte planes are `packed`."""
    width = np.dtype(dtype).itemsize
    joined = np.ascontiguousarray(packed.reshape(width, -1).T).reshape(-1)
    return joined.view(np.dtype(dtype).newbyteorder("<"))


def zigzag(integers: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ... in the same width, so that small magnitudes share planes."""
    bits = integers.dtype.itemsize * 8
    return ((integers << 1) ^ (integers >> (bits - 1))).view(f"u{bits // 8}")


def unzigzag(unsigned: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.signedinteger]:
    """The integers that `zigzag` folded."""
    one = unsigned.dtype.type(1)
    folded: npt.NDArray[np.signedinteger] = (unsigned >> one).view(f"i{unsigned.dtype.itemsize}")
    return folded ^ -(unsigned & one).view(folded.dtype)


def compress(packed: Bytes) -> bytes:
    """zstd frames of `packed`, or the same bytes where frames would not be shorter."""
    raw = packed.tobytes()
    if len(raw) < 16:
        return raw
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
    frames = [compressor.compress(raw[at : at + FRAME]) for at in range(0, len(raw), FRAME)]
    stored = b"".join(frames)
    return stored if len(stored) < len(raw) else raw


def decompress(stored: bytes, length: int) -> Bytes:
    """The `length` packed bytes behind `stored`.

    Frames are opened one by one through a bounded decoder, so that a damaged or hostile frame
    costs no more memory than the `length` that the index asked for.

    Raises FormatError for anything but frames of exactly the expected sizes.
    """
    if len(stored) == length:
        return np.frombuffer(stored, np.uint8)
    parts, rest = [], stored
    for at in range(0, length, FRAME):
        part, rest = _frame(rest, min(FRAME, length - at))
        parts.append(part)
    if rest:
        raise FormatError(f"{len(rest)} bytes behind the last zstd frame")
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def _frame(data: bytes, size: int) -> tuple[bytes, bytes]:
    try:
        header = zstandard.get_frame_parameters(data)
        if header.content_size != size or header.dict_id or header.has_checksum:
            raise FormatError(f"a zstd frame claims {header.content_size} bytes, {size} expected")
        # .decompress() would trust the frame's own size; decompressobj stops where the frame ends
        decoder = zstandard.ZstdDecompressor().decompressobj()
        out = decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame: {error}") from None
    if not decoder.eof or len(out) != size:
        raise FormatError(f"a zstd frame holds {len(out)} bytes, {size} expected")
    return out, decoder.unused_data
