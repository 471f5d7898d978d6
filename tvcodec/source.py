"""Where the bytes of a file come from."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from tvcodec.errors import FormatError, naming


class Source(Protocol):
    """Where a file's bytes come from: a local file here, a range-reading client elsewhere."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or fewer if the file ends there. OSError if it fails."""

    def close(self) -> None: ...


class FileSource:
    """A local file, read by position through one descriptor, so a replaced file does not matter."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            raise FormatError(f"{os.fspath(path)}: expected a .tvq file, got {kind}")

    def read_at(self, offset: int, length: int) -> bytes:
        pieces = []
        with naming(self._path):
            while length and (piece := os.pread(self._descriptor, length, offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
