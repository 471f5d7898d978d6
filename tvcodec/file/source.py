"""Where the bytes of a file come from: a disk, or whatever a URL leads to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Protocol

from tvcodec.errors import FormatError, naming
from tvcodec.file.location import is_url

PIECE = 8 << 20  # bytes


class Source(Protocol):
    """Where a file's bytes come from: a local file here, a range-reading client elsewhere."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or fewer if the file ends there. OSError if it fails."""

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Told that what lies there (offset, length) will be read: now is the time to fetch it."""

    def close(self) -> None: ...


def open_source(path: str | os.PathLike[str]) -> Source:
    """The file at a path or URL; TvqError and OSError if it cannot be opened."""
    if not is_url(path):
        return FileSource(path)
    from tvcodec.file.remote import (
        RemoteSource,  # here, since fsspec takes longer than reading a file
    )

    return RemoteSource(os.fspath(path))


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

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Nothing: a disk is near."""

    def whole(self) -> Iterator[bytes]:
        """All bytes in order."""
        for start in range(0, self.size, PIECE):
            yield self.read_at(start, min(PIECE, self.size - start))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
