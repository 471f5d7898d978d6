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
from collections.abc import Mapping

import msgpack

from tvcodec.errors import FormatError
from tvcodec.file.index import companions, root_rules, task_rules
from tvcodec.file.index.companions import (
    BLOB_MAX,
    FILES_MAX,
    FROM_BASE,
    KEPT,
    KEPT_MAX,
    Blob,
    CompanionIndex,
    File,
    WeightFile,
    valid_file_name,
)
from tvcodec.file.index.counts import counted_streams
from tvcodec.file.index.fields import valid_parameter_name, valid_task_name
from tvcodec.file.index.parts import (
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
from tvcodec.file.index.records import (
    DTYPES,
    OPTIONAL,
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
from tvcodec.file.index.spelling import unpack
from tvcodec.file.index.streams import (
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
from tvcodec.file.index.task_rules import VECTORS_MAX

__all__ = [
    "BLOB_MAX",
    "DTYPES",
    "ELEMENTS",
    "ENTRIES",
    "FILES_MAX",
    "FLOAT16",
    "FLOAT32",
    "FROM_BASE",
    "INTEGERS",
    "KEPT",
    "KEPT_MAX",
    "ROOT_START",
    "ROWS",
    "SYMBOLS",
    "UNSIGNED",
    "VECTORS_MAX",
    "BaseParameter",
    "Blob",
    "Coefficients",
    "CompanionIndex",
    "Entry",
    "Exact",
    "Extent",
    "Factors",
    "File",
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
    "WeightFile",
    "counted_streams",
    "pack_companions",
    "pack_root",
    "pack_task",
    "root_at",
    "single",
    "unpack_companions",
    "unpack_root",
    "unpack_shared",
    "unpack_task",
    "valid_file_name",
    "valid_parameter_name",
    "valid_task_name",
]

ROOT_START = b"\xaabase_model"  # of the bytes of every root index, behind the first one


def pack_root(root: Root) -> bytes:
    """The root index as bytes; ValueError for a float that is not finite in float32."""
    return _pack(_as_map(root))


def pack_task(index: TaskIndex) -> bytes:
    """A task's index, or the shared one, as bytes; ValueError as `pack_root`."""
    return _pack(_as_map(index))


def pack_companions(index: CompanionIndex) -> bytes:
    """The index of companion files as bytes."""
    return _pack({"blobs": index.blobs, "digest": index.digest})


def unpack_root(data: bytes, where: str, offset: int | None = None) -> Root:
    """The root index in `data`, which lies at `offset` of the file. FormatError, its message
    beginning with `where`, if it is not a valid one or does not fit that place."""
    root = unpack(data, where, root_rules.read)
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
    index = unpack(data, where, lambda value: task_rules.read(value, context))
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
    index = unpack(data, where, lambda value: task_rules.read(value, context))
    _check_group(index, group, where)
    return index


def unpack_companions(data: bytes, where: str, group: Group) -> CompanionIndex:
    """The index of companion files, of which the root says `group`. FormatError as
    `unpack_root`."""
    index = unpack(data, where, companions.read)
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


def _check_group(index: TaskIndex | CompanionIndex, group: Group | None, where: str) -> None:
    if group is not None and index.sections_length != group.sections_length:
        lengths = f"{group.sections_length} bytes, got {index.sections_length}"
        raise FormatError(f"{where}: expected sections of {lengths}")


def _pack(value: dict[str, object]) -> bytes:
    packed: bytes = msgpack.packb(value, default=_as_array, use_single_float=True)
    return packed


def _as_map(record: Root | TaskIndex) -> dict[str, object]:
    """The record's fields, which are declared in the order of the sorted keys."""
    value = {name: getattr(record, name) for name in record.__slots__}
    value = {key: held for key, held in value.items() if held is not None or key not in OPTIONAL}
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
