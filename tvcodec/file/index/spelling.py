"""Indexes are spelled in canonical msgpack: values <-> the one byte string that stands for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgpack

from tvcodec.errors import FormatError
from tvcodec.file.index.fields import TEXT_MAX, Malformed

ARRAY_MAX = 2**18
CONTAINERS_MAX = 2**22  # a byte of msgpack can be an array, which takes 56 bytes or more in memory
CONTAINERS_COUNTED_FROM = 2**20  # bytes of index; below, counting them costs more than it saves

T = TypeVar("T")


def unpack(data: bytes, where: str, read: Callable[[object], T]) -> T:
    """What `read` makes of the value in `data`; FormatError, its message beginning with `where`,
    for one that it refuses or that could be spelled otherwise."""
    try:
        value = _decode(data)
        record = read(value)
    except Malformed as problem:
        raise FormatError(f"{where}: {problem.message} - at ${problem.path}") from None
    except (ValueError, RecursionError, MemoryError, msgpack.UnpackException) as problem:
        raise FormatError(f"{where}: expected an index, got {_reason(problem)}") from None
    # Checked values, repacked: catches long forms, wide floats, repeated keys - whatever a second
    # spelling of the same meaning could be.
    if msgpack.packb(value, use_single_float=True) != data:
        raise FormatError(f"{where}: expected an index in canonical form, got another spelling")
    return record


def _decode(data: bytes) -> object:
    hooks: dict[str, object] = {}
    if len(data) >= CONTAINERS_COUNTED_FROM:
        hooks = _counting_hooks()
    value: object = msgpack.unpackb(
        data,
        raw=False,
        strict_map_key=True,
        max_array_len=ARRAY_MAX,
        max_map_len=ARRAY_MAX,
        max_str_len=TEXT_MAX,
        max_bin_len=32,
        max_ext_len=0,
        ext_hook=_refuse_extension,
        **hooks,
    )
    return value


def _counting_hooks() -> dict[str, object]:
    left = CONTAINERS_MAX

    def count(container: T) -> T:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {CONTAINERS_MAX} arrays and maps")
        return container

    return {"list_hook": count, "object_hook": count}


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _reason(problem: BaseException) -> str:
    text = str(problem) or type(problem).__name__
    return ascii(text[:200])[1:-1]
