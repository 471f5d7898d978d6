"""Where one tensor lies, and how to get at it without the rest.

Files are read, never mapped: pages of a mapping count as resident until it goes, so that a walk
over fifty mapped checkpoints would hold all of them; and a file truncated under a mapping kills
the process. A file is opened for each read, so that any number of shards costs no file
descriptors, and is refused once it has changed since its header was read.
"""

import mmap
import os
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tvcodec.errors import CheckpointError, naming

_OWN_PAGES = 1 << 20
_HUGE_PAGES = 2 << 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when its header was read; machines may number its `inode` differently."""

    path: Path
    size: int
    modified: int
    inode: int | None

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Note what the file at `path` looks like now; OSError when it is not there."""
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def read(self, start: int, length: int) -> Tensor:
        """Bytes [start, start + length) as a new uint8 tensor; CheckpointError if it changed."""
        buffer = _buffer(length)
        self.read_into(start, buffer)
        return buffer

    def read_into(self, start: int, buffer: Tensor) -> None:
        """Fills a flat uint8 tensor with the bytes from `start` on; CheckpointError as `read`."""
        length = len(buffer)
        if not length:
            return
        rest: memoryview = buffer.numpy().data
        with naming(self.path), open(self.path, "rb", buffering=0) as handle:
            self._refuse_change(os.fstat(handle.fileno()))
            handle.seek(start)
            while rest:
                count = handle.readinto(rest)
                if not count:
                    found = start + length - len(rest)
                    raise CheckpointError(
                        f"{self.path}: expected {start + length} bytes, got {found}",
                        "fetch the file again",
                    )
                rest = rest[count:]

    def _refuse_change(self, status: os.stat_result) -> None:
        inode = None if self.inode is None else status.st_ino
        if (status.st_size, status.st_mtime_ns, inode) != (self.size, self.modified, self.inode):
            raise CheckpointError(
                f"{self.path}: expected the file as it was opened, got a changed file",
                "run again once nothing writes to the checkpoint",
            )


class StoredTensor(Protocol):
    """A tensor that is read, or made, when it is asked for."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self) -> Tensor:
        """The tensor, contiguous."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the first dimension."""

    def elsewhere(self) -> "StoredTensor":
        """The same by absolute path, as another process may know it."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor whose elements lie in a file, from byte `start` on, `stride` elements apart."""

    file: SourceFile
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    where: str

    def read(self) -> Tensor:
        """The tensor, contiguous, in memory of its own; CheckpointError as SourceFile.read."""
        flat = self._elements(0, span(self.shape, self.stride))
        return flat.as_strided(self.shape, self.stride).contiguous()

    def read_into(self, out: Tensor) -> None:
        """The same into a contiguous tensor on the CPU that has its shape and dtype."""
        if self.dtype == torch.bool or self.stride != contiguous_stride(self.shape):
            out.copy_(self.read())
        else:
            self.file.read_into(self.start, out.view(-1).view(torch.uint8))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the first dimension."""
        shape = (stop - start, *self.shape[1:])
        flat = self._elements(start * self.stride[0], span(shape, self.stride))
        return flat.as_strided(shape, self.stride).contiguous()

    def elsewhere(self) -> "FileTensor":
        """The same by absolute path, as another process may know it."""
        return replace(self, file=replace(self.file, path=self.file.path.absolute(), inode=None))

    def _elements(self, first: int, count: int) -> Tensor:
        itemsize = self.dtype.itemsize
        raw = self.file.read(self.start + first * itemsize, count * itemsize)
        if self.dtype == torch.bool and count and int(raw.max()) > 1:
            raise CheckpointError(
                f"{self.where}: expected bools 0 or 1, got byte {int(raw.max())}",
                "fetch the file again",
            )
        return raw.view(self.dtype)


@dataclass(frozen=True, slots=True)
class MemoryTensor:
    """A tensor that the caller holds; read without a copy where it is contiguous."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self) -> Tensor:
        """The tensor itself, detached and contiguous."""
        return self.tensor.detach().resolve_neg().contiguous()

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the first dimension."""
        return self.tensor.detach()[start:stop].resolve_neg().contiguous()

    def elsewhere(self) -> FileTensor:
        """CheckpointError: no other process has it."""
        raise CheckpointError("expected a tensor in a file, got one in memory")


def _buffer(length: int) -> Tensor:
    """Uninitialised uint8 memory. From a mebibyte on in pages of its own, which go back to the
    system when the tensor goes; malloc would keep several of the largest tensors for itself."""
    if length < _OWN_PAGES:
        return torch.empty(length, dtype=torch.uint8)
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and length >= _HUGE_PAGES:
        pages.madvise(mmap.MADV_HUGEPAGE)  # saves a third of the time that filling them takes
    return torch.frombuffer(pages, dtype=torch.uint8)


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a tensor whose elements lie one after another."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last that a strided tensor touches, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
