"""The .safetensors files of a model as they were: everything but the values of the tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tvcodec.checkpoint.dtypes import SAFETENSORS_DTYPES
from tvcodec.checkpoint.opening import Checkpoint
from tvcodec.checkpoint.safetensors_file import Plan, tensor_bytes
from tvcodec.errors import CheckpointError, FormatError
from tvcodec.file.index import BLOB_MAX

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """One file: its name, all that comes before the values, and the SHA-256 of the whole."""

    name: str
    header: bytes
    sha256: bytes


def layouts(checkpoint: Checkpoint) -> list[Layout]:
    """The files that hold a checkpoint's weights. CheckpointError where they are not .safetensors,
    or hold what the checkpoint does not."""
    found = []
    for path, names in sorted(checkpoint.files.items()):
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path.name}: is no .safetensors file")
        layout = _read(path)
        plan = [(name, checkpoint.dtype(name), checkpoint.shape(name)) for name in names]
        try:
            ordered([layout], plan)
        except FormatError as problem:
            raise CheckpointError(str(problem)) from None
        found.append(layout)
    return found


def _read(path: Path) -> Layout:
    with open(path, "rb") as handle:
        field = handle.read(8)
        length = int.from_bytes(field, "little")
        if length > BLOB_MAX - 8:
            raise CheckpointError(f"{path.name}: has a header of {length} bytes")
        header = field + handle.read(length)
        digest = hashlib.sha256(header)
        while piece := handle.read(_CHUNK):
            digest.update(piece)
    return Layout(path.name, header, digest.digest())


def ordered(files: Sequence[Layout], plan: Plan) -> list[Plan]:
    """The tensors of each file as they follow each other in it. FormatError unless these are just
    the tensors of `plan`."""
    wanted = {name: (dtype, tuple(shape)) for name, dtype, shape in plan}
    out: list[Plan] = []
    for file in files:
        entries: list[tuple[str, str, tuple[int, ...]]] = []
        position = 0
        for name, entry in _entries(file):
            dtype, shape = wanted.pop(name, ("", ()))
            end = position + tensor_bytes(dtype, shape) if dtype else -1
            if not isinstance(entry, dict) or (
                entry.get("dtype") != SAFETENSORS_DTYPES.get(dtype)
                or entry.get("shape") != list(shape)
                or entry.get("data_offsets") != [position, end]
            ):
                raise FormatError(f"{file.name}: {name[:99]!a}: is not the tensor that it was")
            entries.append((name, dtype, shape))
            position = end
        out.append(entries)
    if wanted:
        raise FormatError(f"expected a place for {min(wanted)!r}, got none in the weight files")
    return out


def _entries(file: Layout) -> list[tuple[str, object]]:
    """What a header says of each tensor, in the order of their values."""
    length = int.from_bytes(file.header[:8], "little")
    try:
        header = json.loads(file.header[8:])
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: list(map(int, item[1]["data_offsets"])))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found = type(error).__name__
        raise FormatError(f"{file.name}: expected a safetensors header, got {found}") from None
    if length != len(file.header) - 8:
        raise FormatError(f"{file.name}: expected a header of {length} bytes, got another")
    return entries


class Hashed:
    """A file that is written, and the SHA-256 of what was."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._handle.write(data)

    def check(self, file: Layout) -> None:
        """FormatError unless it is that file."""
        if self._digest.digest() != file.sha256:
            raise FormatError(
                f"{file.name}: expected SHA-256 {file.sha256.hex()}, got {self._digest.hexdigest()}"
            )
