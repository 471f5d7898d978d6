"""Numbers -> streams and parts, as pairs of a record and the bytes that it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Run = tuple[list[Any], bytes]  # a record and its bytes
FRAME = 1 << 23
BLOCK = 1 << 17


def planes(values: np.ndarray) -> bytes:
    """Byte planes of little-endian elements."""
    little = values.astype(values.dtype.newbyteorder("<")).reshape(-1)
    data: bytes = little.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()
    return data


def float16(*values: float) -> Run:
    data = planes(np.array(values, np.float16))
    return [0, len(data)], data


def float32(*values: float) -> Run:
    data = planes(np.array(values, np.float32))
    return [1, len(data)], data


def symbols(values: Iterable[int], alphabet: int) -> Run:
    per_byte = max(n for n in range(1, 9) if alphabet**n <= 256)
    flat = list(values)
    data = bytes(
        sum(symbol * alphabet**n for n, symbol in enumerate(flat[at : at + per_byte]))
        for at in range(0, len(flat), per_byte)
    )
    return [2, len(data), alphabet], data


def unsigned(values: Iterable[int], bits: int) -> Run:
    flat = list(values)
    number = sum(value << n * bits for n, value in enumerate(flat))
    data = number.to_bytes(-(-len(flat) * bits // 8), "little")
    return [3, len(data), bits], data


def integers(values: Iterable[int], width: int) -> Run:
    folded = [2 * value if value >= 0 else -2 * value - 1 for value in values]
    data = planes(np.array(folded, f"u{width}"))
    return [4, len(data), width], data


def elements(bits: np.ndarray) -> Run:
    data = planes(bits)
    return [5, len(data), bits.itemsize], data


def stored(run: Run, data: bytes) -> Run:
    """The same stream with other stored bytes."""
    kind, _, *size = run[0]
    return [kind, len(data), *size], data


def zipped(run: Run) -> Run:
    """The same stream as zstd frames."""
    data = run[1]
    return stored(run, b"".join(frame(data[at : at + FRAME]) for at in range(0, len(data), FRAME)))


def frame(data: bytes, *, claim: int | None = None) -> bytes:
    """One zstd frame of raw and run-length blocks, the same in every version of every library; it
    may `claim` another size."""
    size = len(data) if claim is None else claim
    if size < 256:
        head = bytes([0x20, size])
    elif size < 65792:
        head = bytes([0x60]) + (size - 256).to_bytes(2, "little")
    else:
        head = bytes([0xA0]) + size.to_bytes(4, "little")
    return b"\x28\xb5\x2f\xfd" + head + _blocks(data)


def _blocks(data: bytes) -> bytes:
    pieces = list(_pieces(data)) or [b""]
    out = b""
    for number, piece in enumerate(pieces):
        same = len(piece) > 1 and piece == piece[:1] * len(piece)
        last = number == len(pieces) - 1
        out += (len(piece) << 3 | same << 1 | last).to_bytes(3, "little")
        out += piece[:1] if same else piece
    return out


def _pieces(data: bytes) -> Iterable[bytes]:
    """Long runs of one byte, and what lies between them."""
    start = at = 0
    while at < len(data):
        end = at
        limit = min(len(data), at + BLOCK)
        while end < limit and data[end] == data[at]:
            end += 4096 if data[end : end + 4096] == data[at : at + 1] * 4096 else 1
        if end - at >= 16:
            if at > start:
                yield data[start:at]
            yield data[at:end]
            start = end
        at = end
    if start < len(data):
        yield data[start:]


def _part(kind: int, *values: Any) -> Run:
    """A part of settings and streams in the order of its record."""
    record: list[Any] = [kind]
    data = b""
    for value in values:
        if isinstance(value, tuple):
            record.append(value[0])
            data += value[1]
        else:
            record.append(value)
    return record, data


def factors(rank: int, left: Run, right: Run, scales: Run) -> Run:
    return _part(1, rank, left, right, scales)


def largest(block_log2: int, run_log2: int, gain: float, scales: Run, codes: Run) -> Run:
    return _part(2, block_log2, run_log2, gain, scales, codes)


def uniform(block_log2: int, gain: float, scales: Run, codes: Run) -> Run:
    return _part(3, block_log2, gain, scales, codes)


def stage(scale: float, codes: Run) -> Run:
    return _part(4, scale, codes)


def grouped(group: int, scales: Run, minimums: Run, codes: Run) -> Run:
    return _part(5, group, scales, minimums, codes)


def values(run: Run) -> Run:
    return _part(6, run)


def coefficients(run: Run) -> Run:
    return _part(7, run)


def exact(run: Run) -> Run:
    return _part(8, run)


def mask(kind: int, flags: Sequence[int]) -> Run:
    """Rows (kind 0) or entries (kind 1) kept, by flags."""
    record, data = unsigned(flags, 1)
    return [kind, sum(flags), record], data


def cycle(count: int, below: int, step: int = 7) -> list[int]:
    """`count` numbers under `below` that look like nothing much."""
    return [(n * n + step * n + step // 2) % 9973 % below for n in range(count)]


def waves(count: int, scale: float = 1.0) -> np.ndarray:
    """`count` float32 values within `scale` of zero, the same everywhere."""
    numbers = np.array(cycle(count, 2001, 31), np.float32) - 1000
    numbers *= np.float32(scale / 1024)
    return numbers
