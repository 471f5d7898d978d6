"""The file's indexes <-> typed records; untrusted structure is checked here, once.

Indexes are canonical msgpack: `pack(unpack(data)) == data`, so that every meaning has exactly one
byte string. All that can be known without reading a section is checked: types, ranges, names,
order, and that every length fits what it has to hold. The records themselves are in `records`,
`parts` and `streams`; what a task may say in `task_rules`, a root in `root_rules`. All names that
others need are to be had from here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgpack

from tvcodec.errors import FormatError
from tvcodec.index import root_rules, task_rules
from tvcodec.index.counts import counted_streams
from tvcodec.index.fields import TEXT_MAX, Malformed, valid_parameter_name, valid_task_name
from tvcodec.index.parts import (
    Coefficients,
    Exact,
    Factors,
    GroupedStage,
    Part,
    RotatedLargest,
    RotatedUniform,
    Stage,
    Values,
)
from tvcodec.index.records import (
    DTYPES,
    BaseParameter,
    Entry,
    Group,
    Kept,
    Root,
    Rows,
    Section,
    Small,
    SmallMember,
    TaskIndex,
    TaskRecord,
)
from tvcodec.index.streams import (
    ELEMENTS,
    ENTRIES,
    FLOAT16,
    FLOAT32,
    INTEGERS,
    ROWS,
    SYMBOLS,
    UNSIGNED,
    Extent,
    Mask,
    Stream,
)
from tvcodec.index.task_rules import VECTORS_MAX

__all__ = [
    "DTYPES",
    "ELEMENTS",
    "ENTRIES",
    "FLOAT16",
    "FLOAT32",
    "INTEGERS",
    "ROOT_START",
    "ROWS",
    "SYMBOLS",
    "UNSIGNED",
    "VECTORS_MAX",
    "BaseParameter",
    "Coefficients",
    "Entry",
    "Exact",
    "Extent",
    "Factors",
    "Group",
    "GroupedStage",
    "Kept",
    "Mask",
    "Part",
    "Root",
    "RotatedLargest",
    "RotatedUniform",
    "Rows",
    "Section",
    "Small",
    "SmallMember",
    "Stage",
    "Stream",
    "TaskIndex",
    "TaskRecord",
    "Values",
    "counted_streams",
    "pack_root",
    "pack_task",
    "root_at",
    "single",
    "unpack_root",
    "unpack_shared",
    "unpack_task",
    "valid_parameter_name",
    "valid_task_name",
]

ROOT_START = b"\x86\xaabase_model"  # of the bytes of every root index
ARRAY_MAX = 2**18
CONTAINERS_MAX = 2**22  # a byte of msgpack can be an array, which takes 56 bytes or more in memory
CONTAINERS_COUNTED_FROM = 2**20  # bytes of index; below, counting them costs more than it saves

T = TypeVar("T")


def pack_root(root: Root) -> bytes:
    """The root index as bytes; ValueError for a float that is not finite in float32."""
    return _pack(_as_map(root))


def pack_task(index: TaskIndex) -> bytes:
    """A task's index, or the shared one, as bytes; ValueError as `pack_root`."""
    return _pack(_as_map(index))


def unpack_root(data: bytes, where: str, offset: int | None = None) -> Root:
    """The root index in `data`, which lies at `offset` of the file. FormatError, its message
    beginning with `where`, if it is not a valid one or does not fit that place."""
    root = _unpack(data, where, root_rules.read)
    if offset is not None and root.offset != offset:
        raise FormatError(f"{where}: expected the root index at {root.offset}, got {offset}")
    return root


def root_at(data: memoryview, where: str, offset: int) -> tuple[bytes | None, int]:
    """The bytes of the root index that `data`, from `offset` of a file, begins with; None where it
    begins with something else, or one that does not fit that place. And how many were looked at."""
    looked_at, size = 0, 4096
    while True:
        window = data[:size]
        looked_at += len(window)
        unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1), strict_map_key=True)
        try:
            unpacker.feed(window)
            unpacker.skip()
            found = bytes(window[: unpacker.tell()])
            unpack_root(found, where, offset)
        except msgpack.OutOfData:
            if size >= len(data):
                return None, looked_at
            size *= 4
        except (FormatError, ValueError, msgpack.UnpackException):
            return None, looked_at
        else:
            return found, looked_at


def unpack_task(
    data: bytes,
    base_model: Root | tuple[BaseParameter, ...],
    where: str,
    *,
    group: Group | None = None,
    vectors: Mapping[int, int] | None = None,
) -> TaskIndex:
    """The index of a task. `group` is what the root says of it; `vectors` is that of the shared
    index (`TaskIndex.vectors`), needed where there is one. FormatError as `unpack_root`."""
    context = task_rules.Context(_parameters(base_model), vectors or {}, shared=False)
    index = _unpack(data, where, lambda value: task_rules.read(value, context))
    _check_group(index, group, where)
    return index


def unpack_shared(
    data: bytes,
    base_model: Root | tuple[BaseParameter, ...],
    where: str,
    *,
    group: Group | None = None,
) -> TaskIndex:
    """The shared index: entries only, several per parameter. FormatError as `unpack_root`."""
    context = task_rules.Context(_parameters(base_model), {}, shared=True)
    index = _unpack(data, where, lambda value: task_rules.read(value, context))
    _check_group(index, group, where)
    return index


def single(number: float) -> float:
    """The nearest float32, which is what an index keeps of `number`; ValueError if not finite."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise ValueError(f"expected a number that is finite in float32, got {number}")
    return rounded


def _parameters(base_model: Root | tuple[BaseParameter, ...]) -> tuple[BaseParameter, ...]:
    return base_model.base_model if isinstance(base_model, Root) else base_model


def _check_group(index: TaskIndex, group: Group | None, where: str) -> None:
    if group is not None and index.sections_length != group.sections_length:
        lengths = f"{group.sections_length} bytes, got {index.sections_length}"
        raise FormatError(f"{where}: expected sections of {lengths}")


def _pack(value: dict[str, object]) -> bytes:
    packed: bytes = msgpack.packb(value, default=_as_array, use_single_float=True)
    return packed


def _as_map(record: Root | TaskIndex) -> dict[str, object]:
    """The record's fields, which are declared in the order of the sorted keys."""
    value = {name: getattr(record, name) for name in record.__slots__}
    value["metadata"] = dict(sorted(record.metadata.items()))
    return value


def _as_array(record: object) -> list[object]:
    """The fields of a record inside an index, in order; msgpack asks for each that it meets."""
    if isinstance(record, Stream):
        detail = [record.size] if record.size else []
        return [record.kind, record.length, *detail]
    names: tuple[str, ...] = getattr(record, "__slots__", ())
    if not names:
        raise TypeError(f"expected a record, got {type(record).__name__}")
    values = [getattr(record, name) for name in names]
    for value in values:
        if isinstance(value, float):
            single(value)
    return [record.kind, *values] if isinstance(record, Part) else values


def _unpack(data: bytes, where: str, read: Callable[[object], T]) -> T:
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
