"""The format by hand: what spec/tvq.md says of streams, in numpy and Python's integers; and the
second reader, which shares no code with the first."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from tvcodec.file import index
from tvcodec.file.index import Stream


def second_reader() -> Any:
    """spec/reader.py, which shares no code with the first."""
    path = Path(__file__).parent.parent / "spec" / "reader.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unframed(stream: Stream, data: bytes, length: int) -> bytes:
    """The packed bytes of one stream: zstd frames, or as they are."""
    assert len(data) == stream.length
    if len(data) == length:
        return data
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    packed: bytes = reader.read(length + 1)
    assert len(packed) == length
    return packed


def symbols_by_hand(packed: bytes, alphabet: int, count: int) -> npt.NDArray[np.int64]:
    """Digits of each byte in base `alphabet`, the lowest first."""
    per_byte = 1
    while alphabet ** (per_byte + 1) <= 256:
        per_byte += 1
    digits = [byte // alphabet**place % alphabet for byte in packed for place in range(per_byte)]
    assert not any(digits[count:])
    return np.array(digits[:count], np.int64)


def codes_by_hand(stream: Stream, data: bytes, count: int) -> npt.NDArray[np.int64]:
    """Signed codes from a stream of symbols or of integers."""
    if stream.kind == index.SYMBOLS:
        per_byte = max(n for n in range(1, 9) if stream.size**n <= 256)
        packed = unframed(stream, data, -(-count // per_byte))
        return symbols_by_hand(packed, stream.size, count) - (stream.size - 1) // 2
    assert stream.kind == index.INTEGERS
    packed = unframed(stream, data, count * stream.size)
    folded = [
        sum(packed[plane * count + at] << 8 * plane for plane in range(stream.size))
        for at in range(count)
    ]
    return np.array([n // 2 if n % 2 == 0 else -(n + 1) // 2 for n in folded], np.int64)


def floats_by_hand(stream: Stream, data: bytes, count: int) -> npt.NDArray[np.float64]:
    """Floats from byte planes."""
    width = 2 if stream.kind == index.FLOAT16 else 4
    packed = unframed(stream, data, count * width)
    joined = bytes(packed[plane * count + at] for at in range(count) for plane in range(width))
    return np.frombuffer(joined, f"<f{width}").astype(np.float64)
