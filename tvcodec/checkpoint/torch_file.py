"""One .pt, .pth or .bin file: a state dict that torch.save wrote. Hostile until checked.

torch.load keeps code from running, and no more: it accepts compressed archives, storages viewed as
tensors a million times their size, sparse and quantized tensors. So the archive is checked first,
then only names, shapes and places are loaded, then these are checked against the archive.
"""

import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvcodec.checkpoint.dtypes import accepted_dtype
from tvcodec.checkpoint.stored import FileTensor, SourceFile, span
from tvcodec.errors import CheckpointError

_OLDEST_SAFE = (2, 10)
_OLDEST_WITH_PLACES = (2, 11)
_MAX_PICKLE = 16 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_RESAVE = "load it where you trust it and save its state dict as .safetensors"


def read_torch(path: Path) -> dict[str, FileTensor]:
    """Name -> place of every tensor of the state dict; CheckpointError for anything but one."""
    version = _torch_version()
    if version < _OLDEST_SAFE:
        raise CheckpointError(
            f"{path}: expected torch 2.10 or newer to read it safely, got {torch.__version__}",
            "upgrade torch, or save the checkpoint as .safetensors",
        )
    file = SourceFile.at(path)
    storages = dict(_storages(path, file.size))
    state = _load_places(path, version)
    tensors = {}
    for name, tensor in _state_dict(state, path).items():
        if type(name) is not str:
            raise CheckpointError(
                f"{path}: expected names as keys, got {type(name).__name__}", _RESAVE
            )
        tensors[name] = _place(tensor, file, storages, f"{path}: {name!r}")
    return tensors


def _torch_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _storages(path: Path, file_size: int) -> Iterator[tuple[int, int]]:
    """(start, size) of every storage in the archive, which must be a plain torch.save archive."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as handle:
            entries = archive.infolist()
            _check_archive(entries, archive, path, file_size)
            for entry in entries:
                if "/data/" in entry.filename:
                    yield _data_start(handle, entry.header_offset), entry.file_size
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a torch.save archive, got a damaged one ({error})",
            "fetch the file again",
        ) from error


def _check_archive(
    entries: list[zipfile.ZipInfo], archive: zipfile.ZipFile, path: Path, file_size: int
) -> None:
    if not all(0 <= e.header_offset < file_size for e in entries):
        raise zipfile.BadZipFile("an entry outside the file")
    packed = [e for e in entries if e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1]
    if packed:
        raise CheckpointError(
            f"{path}: expected stored entries only, got a compressed {packed[0].filename!r}",
            "torch.save never compresses: do not trust this file",
        )
    pickles = [e for e in entries if e.filename.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: expected one data.pkl, got {len(pickles)}", _RESAVE)
    if pickles[0].file_size > _MAX_PICKLE:
        raise CheckpointError(
            f"{path}: expected a data.pkl of at most {_MAX_PICKLE} bytes, "
            f"got {pickles[0].file_size}",
            _RESAVE,
        )
    claimed = sum(e.file_size for e in entries)
    if claimed > file_size:
        raise CheckpointError(
            f"{path}: expected at most {file_size} bytes inside, got {claimed}",
            "torch.save writes no such file: do not trust this one",
        )
    order = [e for e in entries if e.filename.split("/")[-1] == "byteorder"]
    if order and (order[0].file_size > 6 or archive.read(order[0]) != b"little"):
        raise CheckpointError(
            f"{path}: expected little-endian tensors, got another byte order", _RESAVE
        )


def _data_start(handle: Any, header: int) -> int:
    """Where the bytes of an entry begin: behind its local header, name and padding."""
    handle.seek(header)
    signature, name, extra = _LOCAL_HEADER.unpack(handle.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header where the directory says")
    return header + int(_LOCAL_HEADER.size) + int(name) + int(extra)


def _load_places(path: Path, version: tuple[int, int]) -> object:
    """The pickled object with tensors that know shape and place but hold no data."""
    places: AbstractContextManager[object] = nullcontext()
    if version < _OLDEST_WITH_PLACES:
        # Without it torch 2.10 reads the data even for the meta device, and forgets the place. It
        # costs a second and 70 MB (sympy), so newer versions do without.
        from torch._subclasses.fake_tensor import FakeTensorMode

        places = FakeTensorMode()
    try:
        with places:
            return torch.load(path, map_location="meta", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # A hostile pickle can make the unpickler raise anything at all.
        raise CheckpointError(
            f"{path}: expected a state dict of plain tensors, got {_reason(error)}", _RESAVE
        ) from error


def _reason(error: Exception) -> str:
    """What torch stumbled over, on one line."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return f"a pickle that calls {found[1]}"
    line = text.strip().split("\n")[0][:120]
    return f"{type(error).__name__} ({line!r})" if line else type(error).__name__


def _state_dict(state: object, path: Path) -> dict[object, object]:
    """The map of names to tensors: the object itself, or what it has under 'state_dict'."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: expected a map of names to tensors, got {type(state).__name__}", _RESAVE
        )
    return state


def _place(tensor: object, file: SourceFile, storages: dict[int, int], where: str) -> FileTensor:
    """Check one tensor against the archive; CheckpointError unless it is dense and all there."""
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{where}: expected a tensor, got {type(tensor).__name__}", _RESAVE)
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"{where}: expected a dense tensor, got {kind}", _RESAVE)
    if tensor.is_quantized:
        raise CheckpointError(f"{where}: expected a dense tensor, got a quantized one", _RESAVE)
    dtype = accepted_dtype(tensor.dtype, where)
    storage = tensor.untyped_storage()
    start = storage._checkpoint_offset
    if start is None or storages.get(start) != storage.nbytes():
        raise CheckpointError(f"{where}: expected its data in the file, got none", _RESAVE)
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    first = int(tensor.storage_offset())
    reach = (first + span(shape, stride)) * dtype.itemsize
    logical = prod(shape) * dtype.itemsize
    if first < 0 or min(stride, default=0) < 0:
        raise CheckpointError(
            f"{where}: expected a tensor inside its storage, got one before it", _RESAVE
        )
    if max(reach, logical) > storage.nbytes():
        raise CheckpointError(
            f"{where}: expected at most the {storage.nbytes()} bytes stored, "
            f"got a view of {max(reach, logical)}",
            "save the tensor with .contiguous()",
        )
    return FileTensor(file, start + first * dtype.itemsize, dtype, shape, stride, where)
