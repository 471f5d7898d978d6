"""Files that fsspec opens, by byte ranges: what was fetched stays in a temporary file, so that no
byte is fetched twice and none has to stay in memory.

Retries are those of the libraries underneath: s3fs and huggingface_hub make several attempts; over
HTTP, aiohttp repeats what a connection that had been idle has lost, and nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from threading import Lock

from tvcodec.errors import naming
from tvcodec.file.remote.objects import HEAD, download, opened
from tvcodec.file.remote.problems import NoRanges
from tvcodec.file.remote.ranges import Range, Ranges, joined, split
from tvcodec.file.remote.uploading import upload

__all__ = ["NoRanges", "RemoteSource", "download", "upload"]

TAIL = 64 << 10  # bytes at the end read at once: the root index of up to about 900 parameters
GAP = 64 << 10  # bytes between two ranges that are worth less than a request
RANGE = 8 << 20  # bytes of a request, at most
AT_A_TIME = 4  # requests


class RemoteSource:
    """An object at a URL, read in few requests. TvqError where it cannot be read, or is no longer
    what it was when it was opened; NoRanges where the server knows no byte ranges."""

    def __init__(self, url: str) -> None:
        self._object = opened(url)
        self.size = self._object.size
        self._held = Ranges()
        self._lock = Lock()
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the source
        try:
            if self._object.head:
                self._keep((0, len(self._object.head)), self._object.head)
            tail = max(self.size - TAIL, 0)
            self.prefetch([(0, min(HEAD, self.size)), (tail, self.size - tail)])
        except BaseException:
            self.close()
            raise

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        with self._lock:
            self._fetch([(offset, end)])
            self._spool.seek(offset)
            return self._spool.read(end - offset)

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        ends = [(offset, min(offset + length, self.size)) for offset, length in places]
        with self._lock:
            self._fetch(ends)

    def whole(self) -> Iterator[bytes]:
        """All bytes in order, kept nowhere."""
        for batch in self._batches([(0, self.size)]):
            yield from self._object.read(batch)

    def close(self) -> None:
        self._object.close()
        self._spool.close()

    def _fetch(self, wanted: Sequence[Range]) -> None:
        missing = [gap for start, end in wanted for gap in self._held.missing(start, end)]
        for batch in self._batches(joined(missing, GAP)):
            for found, data in zip(batch, self._object.read(batch), strict=True):
                self._keep(found, data)

    def _batches(self, wanted: Sequence[Range]) -> Iterator[list[Range]]:
        """Ranges of a request each, as many as are made at a time."""
        pieces = [piece for start, end in wanted for piece in split(start, end, RANGE)]
        for first in range(0, len(pieces), AT_A_TIME):
            yield pieces[first : first + AT_A_TIME]

    def _keep(self, found: Range, data: bytes) -> None:
        start, end = found
        with naming(tempfile.gettempdir()):
            self._spool.seek(start)
            self._spool.write(data)
            self._spool.flush()
        self._held.add(start, end)
