"""Open a checkpoint in whatever form it comes."""

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from tvcodec.checkpoint.directory import read_directory
from tvcodec.checkpoint.dtypes import accepted_dtype, dtype_name
from tvcodec.checkpoint.safetensors_file import read_safetensors
from tvcodec.checkpoint.stored import FileTensor, MemoryTensor, StoredTensor
from tvcodec.checkpoint.torch_file import read_torch
from tvcodec.errors import CheckpointError
from tvcodec.file.index.fields import NAME_MAX, valid_parameter_name
from tvcodec.file.location import is_url, shown
from tvcodec.maths.product import Product


class Checkpoint:
    """A model's tensors by name, each read when it is asked for and held by nobody but the caller.

    Reads may come from several threads. Reading raises CheckpointError when a file changed since it
    was opened, KeyError for an unknown name.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredTensor],
        label: str,
        directory: Path | None = None,
        path: Path | None = None,
    ) -> None:
        for name in stored:
            _check_name(name, label)
        if not stored:
            raise CheckpointError(
                f"{label}: expected at least one tensor, got none", "give the model's weights"
            )
        self.names: tuple[str, ...] = tuple(sorted(stored))
        self.label = label
        self.directory = directory
        self.path = path
        self._stored = dict(stored)

    def dtype(self, name: str) -> str:
        """The format's name of the dtype, such as 'bfloat16'."""
        return dtype_name(self._stored[name].dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def tensor(self, name: str) -> Tensor:
        """The whole tensor on the CPU, contiguous; only its own bytes are read."""
        return self._stored[name].read()

    def tensor_into(self, name: str, out: Tensor) -> None:
        """The same in the place of `out`, contiguous, on the CPU, of its shape and dtype."""
        stored = self._stored[name]
        if isinstance(stored, FileTensor):
            stored.read_into(out)
        else:
            out.copy_(stored.read())

    def stored(self, name: str) -> StoredTensor:
        """Where the tensor lies, to be read later."""
        return self._stored[name]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the first dimension; only their bytes are read."""
        shape = self.shape(name)
        if not shape or not 0 <= start <= stop <= shape[0]:
            raise IndexError(f"{name!r}: rows {start}:{stop} of shape {shape}")
        return self._stored[name].rows(start, stop)

    def place(self, name: str) -> object | None:
        """Where a file has the tensor, and which file: equal where the bytes are. None for one in
        memory, where `tensor` gives what is the caller's own."""
        stored = self._stored[name]
        return stored if isinstance(stored, FileTensor) else None

    def product(self, name: str) -> Product | None:
        """What an adapter adds to the base model's tensor, where it is a thin product; None where
        it is not, or this is no adapter."""
        return None

    def borrows(self, name: str) -> bool:
        """Whether the tensor is the base model's own, to which an adapter adds nothing."""
        return False

    def elsewhere(self, name: str) -> "Checkpoint":
        """The same for another process: where the tensor of that name lies, if there is one, by
        absolute path. CheckpointError for one in memory."""
        only = copy(self)
        only._stored = {key: self._stored[key].elsewhere() for key in (name,) if key in self}
        only.names = tuple(only._stored)
        return only

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights where they are stored; tensors that share storage count once."""
        runs = {_run(stored) for stored in self._stored.values()}
        return sum(length for _, _, length in runs)

    @property
    def is_directory(self) -> bool:
        """Whether it was opened as a directory, with what lies beside the weights."""
        return self.path is not None and self.path == self.directory

    @property
    def files(self) -> dict[Path, list[str]]:
        """The names of the tensors in each file; none for a mapping."""
        found: dict[Path, list[str]] = {}
        for name, stored in self._stored.items():
            if isinstance(stored, FileTensor):
                found.setdefault(stored.file.path, []).append(name)
        return found

    @property
    def paths(self) -> frozenset[Path]:
        """The files that hold the tensors, and the path it was opened by; none for a mapping."""
        files = {item.file.path for item in self._stored.values() if isinstance(item, FileTensor)}
        return frozenset(files if self.path is None else {self.path, *files})

    def shared_with(self, tensors: Iterable[Tensor]) -> str | None:
        """The first name whose tensor lies in the memory of one of `tensors`: writing to that one
        would change it. None where nothing does, as for all files."""
        taken = {_storage(tensor) for tensor in tensors} - {(None, 0)}
        for name in self.names:
            stored = self._stored[name]
            if isinstance(stored, MemoryTensor) and _storage(stored.tensor) in taken:
                return name
        return None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def keys(self) -> tuple[str, ...]:
        return self.names

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to do: files are open only while a tensor is read."""


CheckpointSource = str | os.PathLike[str] | Mapping[str, Tensor] | Checkpoint


def open_checkpoint(source: CheckpointSource) -> Checkpoint:
    """A lazy view of a checkpoint: a file, a directory, or a mapping of names to tensors.

    Files are .safetensors, or .pt, .pth and .bin as torch.save writes them; directories are laid
    out as Hugging Face does. A Checkpoint comes back as it is. Raises CheckpointError for a file
    that is damaged, hostile or something else, FileNotFoundError, and TypeError.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return _open_mapping(source)
    if is_url(source):
        raise CheckpointError(
            f"{shown(source)}: expected a checkpoint on a local disk, got a URL",
            "download it first: only .tvq files are read from URLs",
        )
    path = Path(source)
    if path.is_dir():
        return Checkpoint(read_directory(path, _check_kind), str(path), path, path)
    directory = path.parent if (path.parent / "config.json").is_file() else None
    _check_kind(path)
    read = read_safetensors if _is_safetensors(path) else read_torch
    return Checkpoint(read(path), str(path), directory, path)


def _open_mapping(source: Mapping[str, Tensor]) -> Checkpoint:
    label = "the mapping in memory"
    stored = {}
    for name, tensor in source.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = f"{type(name).__name__}: {type(tensor).__name__}"
            raise TypeError(f"expected a mapping of str to torch.Tensor, got {found}")
        where = f"{label}: {name!r}"
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(
                f"{where}: expected a dense tensor, got a sparse or packed one",
                "convert it with .to_dense() or .dequantize() first",
            )
        if tensor.device.type != "cpu":
            raise CheckpointError(
                f"{where}: expected a tensor on the CPU, got {tensor.device.type}",
                "move the tensors with .cpu() first",
            )
        accepted_dtype(tensor.dtype, where)
        stored[name] = MemoryTensor(tensor)
    return Checkpoint(stored, label)


def _check_kind(path: Path) -> None:
    """Refuse what is plainly not a checkpoint, and say what it is."""
    head = _head(path)
    expected = f"{path}: expected a .safetensors file or a torch state dict, got"
    if head.startswith(b"\x89TVQ"):
        raise CheckpointError(
            f"{expected} a .tvq file", "decode a task from it first: tvcodec decode"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{expected} a Git LFS pointer", "fetch the weights: git lfs pull")
    if not head:
        raise CheckpointError(f"{expected} an empty file", "fetch the file again")
    if path.suffix == ".safetensors" or head[8:9] == b"{" or head.startswith(b"PK\x03\x04"):
        return
    if head[:1] == b"\x80":
        raise CheckpointError(
            f"{expected} a bare pickle, as torch before 1.6 wrote it",
            "load it where you trust it and save its state dict as .safetensors",
        )
    if head.startswith(b"GGUF"):
        raise CheckpointError(f"{expected} a GGUF file", "give the model it was converted from")
    raise CheckpointError(
        f"{expected} a file that begins with {head[:8]!r}",
        "load it with what wrote it and save its state dict as .safetensors",
    )


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors" or not _head(path).startswith(b"PK\x03\x04")


def _head(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"{path}: expected a regular file, got a device or pipe",
            "write it to a file first: tensors are read in any order",
        )
    with open(path, "rb") as handle:
        return handle.read(64)


def _check_name(name: str, label: str) -> None:
    if not valid_parameter_name(name):
        raise CheckpointError(
            f"{label}: expected names of 1 to {NAME_MAX} printable characters in NFC, "
            f"got {name[:NAME_MAX]!a}",
            "rename the tensor and save the checkpoint again",
        )


def _storage(tensor: Tensor) -> tuple[str | None, int]:
    """Device and address of the memory that a tensor lies in; (None, 0) where it takes none."""
    address = tensor.untyped_storage().data_ptr()
    return (str(tensor.device), address) if address else (None, 0)


def _run(stored: StoredTensor) -> tuple[object, int, int]:
    """(file or storage, start, length) of the bytes that a tensor occupies."""
    length = prod(stored.shape) * stored.dtype.itemsize
    if isinstance(stored, FileTensor):
        return stored.file.path, stored.start, length
    if isinstance(stored, MemoryTensor):
        return None, stored.tensor.data_ptr() if length else 0, length
    return stored, 0, length
