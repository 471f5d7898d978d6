"""Runs of numbers in a section: how they are stored, and how long they can be.

How many numbers a stream holds is never written down. It follows from the shape, the mask and the
settings of a part, so a length that cannot hold them is found before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvcodec.file.index.fields import Malformed, array, integer

FLOAT16, FLOAT32, SYMBOLS, UNSIGNED, INTEGERS, ELEMENTS = range(6)
ROWS, ENTRIES = range(2)  # kinds of masks

FLOATS = (FLOAT16, FLOAT32)
_WIDTHS = (1, 2, 4, 8)
_MOST_PER_BYTE = 1 << 15  # a block of zstd gives at most 128 KiB and takes 4 bytes or more
_SIZES = ((0,), (0,), range(2, 257), range(1, 33), _WIDTHS, _WIDTHS)
_SYMBOLS_PER_BYTE = [0, 0] + [
    max(n for n in range(1, 9) if alphabet**n <= 256) for alphabet in range(2, 257)
]


@dataclass(frozen=True, slots=True)
class Stream:
    """A run of numbers in a section: `length` stored bytes. `size` is the alphabet of symbols, the
    bits of unsigned integers or the width of integers and elements; 0 for floats."""

    kind: int
    length: int
    size: int = 0

    def packed(self, count: int) -> int:
        """Bytes of `count` numbers before zstd; a stream that stores as many has no zstd in it."""
        return packed_length(self.kind, self.size, count)


@dataclass(frozen=True, slots=True)
class Mask:
    """A bit per row (kind ROWS) or per value (kind ENTRIES) of a parameter, `kept` of them set."""

    kind: int
    kept: int
    bits: Stream


@dataclass(frozen=True, slots=True)
class Extent:
    """What the mask leaves of a parameter: the matrix that factors see, and the values in order
    that all other parts see. A mask of rows shortens both; a mask of entries only the values."""

    rows: int
    columns: int
    count: int


def read_stream(value: object, path: str, kinds: tuple[int, ...], count: int) -> Stream:
    """A Stream of one of `kinds` whose stored bytes can be those of `count` numbers."""
    if type(value) is not list or len(value) not in (2, 3):
        raise Malformed(f"expected a stream, got {value!r:.40}", path)
    kind, length, size = value if len(value) == 3 else (*value, 0)
    if type(kind) is not int or kind not in kinds:
        raise Malformed(f"expected a stream of kind {kinds}, got {kind!r:.40}", path)
    if len(value) != (2 if kind in FLOATS else 3):
        raise Malformed(f"expected a stream of kind {kind}, got {len(value)} values", path)
    if type(size) is not int or size not in _SIZES[kind]:
        raise Malformed(f"expected {_SIZES[kind]}, got {size!r:.40}", path + ".size")
    packed = packed_length(kind, size, count)
    least = least_length(packed)
    if type(length) is not int or not least <= length <= packed:
        raise Malformed(f"expected {least}..{packed}, got {length!r:.40}", path + ".length")
    return Stream(kind, length, size)


def read_mask(value: object, whole: Extent) -> Mask | None:
    """The mask of a parameter of extent `whole`, or None."""
    if value is None:
        return None
    try:
        raw_kind, raw_kept, raw_bits = array(value, 3)
        kind = integer(raw_kind, ".kind", ENTRIES)
        flags = whole.count if kind == ENTRIES else whole.rows
        kept = integer(raw_kept, ".kept", flags, least=1)
        bits = read_stream(raw_bits, ".bits", (UNSIGNED,), flags)
        if bits.size != 1:
            raise Malformed(f"expected 1 bit, got {bits.size}", ".bits.size")
    except Malformed as problem:
        raise problem.under(".mask") from None
    return Mask(kind, kept, bits)


def least_length(packed: int) -> int:
    """Stored bytes that so many packed ones take at the least."""
    return -(-packed // _MOST_PER_BYTE)


def packed_length(kind: int, size: int, count: int) -> int:
    """Bytes of `count` numbers in a stream of that kind and size, before zstd."""
    if kind == SYMBOLS:
        return -(-count // _SYMBOLS_PER_BYTE[size])
    if kind == UNSIGNED:
        return -(-count * size // 8)
    if kind == FLOAT16:
        return 2 * count
    return 4 * count if kind == FLOAT32 else size * count
