"""How alike tasks are, as their sketches tell: the inner products that a file keeps.

A sketch is a task's own, made from its true task vector alone, so a task that joins others later
has the same place among them as one that was encoded with them.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

KEY = "sketch"  # of a task's metadata
FLOAT32_MAX = 3.4e38
VALUES_PER_BIT = 4096
LOG2_RANGE = (10, 14)

Stored = Callable[[int, int], float | None]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a task vector: its norm, and its sketch if it has one."""

    norm: float
    sketch: bytes | None = None


def bits(values: int) -> int:
    """How many bits a sketch has, for a base model of so many `values`."""
    least, most = LOG2_RANGE
    return 1 << min(max(round(math.log2(max(values, 1) / VALUES_PER_BIT)), least), most)


def as_metadata(sketch: bytes | None) -> dict[str, str]:
    """A sketch as metadata of its task."""
    return {} if sketch is None else {KEY: base64.b64encode(sketch).decode("ascii")}


def from_metadata(metadata: Mapping[str, str], values: int) -> bytes | None:
    """The sketch in a task's metadata, for a base model of so many `values`; None where there is
    none, or something else, such as a sketch of another length."""
    try:
        sketch = base64.b64decode(metadata[KEY], validate=True)
    except (KeyError, binascii.Error, ValueError):
        return None
    return sketch if 8 * len(sketch) == bits(values) else None


def deviation(sketch: bytes) -> float:
    """Standard deviation of the cosine of two orthogonal task vectors, from sketches like this."""
    return math.pi / 2 / math.sqrt(8 * len(sketch))


def triangle(tasks: Sequence[Known], stored: Stored = lambda row, column: None) -> bytes:
    """Inner products of task vectors as a file keeps them: float32, the lower triangle row by row.
    Those that `stored` has stay; empty for a single task, and where a sketch that is needed is
    missing."""
    products: list[float] = []
    for row, one in enumerate(tasks if len(tasks) > 1 else ()):
        for column, other in enumerate(tasks[: row + 1]):
            product = stored(row, column)
            if product is None:
                product = one.norm**2 if row == column else _product(one, other)
            if product is None:
                return b""
            products.append(product)
    bounded = [max(-FLOAT32_MAX, min(product, FLOAT32_MAX)) for product in products]
    return struct.pack(f"<{len(bounded)}f", *bounded)


def _product(one: Known, other: Known) -> float | None:
    """Estimated; exact where the task vectors are equal, or one of them is zero."""
    scale = one.norm * other.norm
    if not scale:
        return 0.0
    if not one.sketch or not other.sketch or len(one.sketch) != len(other.sketch):
        return None
    differ = int.from_bytes(one.sketch, "little") ^ int.from_bytes(other.sketch, "little")
    return scale * math.cos(math.pi * differ.bit_count() / (8 * len(one.sketch)))
