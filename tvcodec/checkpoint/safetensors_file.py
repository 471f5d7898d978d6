"""One .safetensors file: which tensors it holds and where, and the header of a new one."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tvcodec.checkpoint.dtypes import SAFETENSORS_DTYPES, TORCH_DTYPES, from_safetensors
from tvcodec.checkpoint.stored import FileTensor, SourceFile, contiguous_stride
from tvcodec.errors import CheckpointError

Plan = Sequence[tuple[str, str, tuple[int, ...]]]
"""What a file is going to hold: (name, dtype name, shape) of each tensor."""

_LENGTH_FIELD = 8
_DTYPE_ORDER = {name: position for position, name in enumerate(SAFETENSORS_DTYPES)}


def read_safetensors(path: Path) -> dict[str, FileTensor]:
    """Name -> place of every tensor of the file; CheckpointError when it is damaged.

    The library parses and checks the header; as it accepts neither holes nor overlap, the sizes in
    the order of the data say where each tensor starts.
    """
    file = SourceFile.at(path)
    with open(path, "rb") as handle:
        position = _LENGTH_FIELD + int.from_bytes(handle.read(_LENGTH_FIELD), "little")
    tensors: dict[str, FileTensor] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.offset_keys():
                entry = opened.get_slice(name)
                where = f"{path}: {name!r}"
                dtype = from_safetensors(entry.get_dtype(), where)
                shape = tuple(entry.get_shape())
                stride = contiguous_stride(shape)
                tensors[name] = FileTensor(file, position, dtype, shape, stride, where)
                position += prod(shape) * dtype.itemsize
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, got a damaged one ({str(error)[:200]!r})",
            "fetch the file again",
        ) from error
    if position != file.size:
        raise CheckpointError(
            f"{path}: expected {position} bytes, got {file.size}",
            "save the checkpoint again: its header names tensors twice",
        )
    return tensors


def file_order(plan: Plan) -> list[tuple[str, str, tuple[int, ...]]]:
    """The plan in the order of the data in the file: by dtype, the widest first, then by name."""
    return sorted(plan, key=lambda entry: (_DTYPE_ORDER[entry[1]], entry[0]))


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of one tensor of a plan."""
    return prod(shape) * TORCH_DTYPES[dtype].itemsize


def safetensors_header(plan: Plan, metadata: Mapping[str, str]) -> bytes:
    """Everything before the data of a file that holds `plan` in the order of `file_order`.

    Written here because the library wants all tensors at once, and because its output depends on
    hash order as soon as there are two metadata keys.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, dtype, shape in file_order(plan):
        start, end = end, end + tensor_bytes(dtype, shape)
        if name in header or name == "__metadata__":
            raise ValueError(f"{name!r}: expected each name once and no reserved name")
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_FIELD, "little") + text
