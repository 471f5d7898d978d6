"""The contents of companion files in an open .tvq file: configurations, tokenizers, model cards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from tvcodec.errors import FormatError
from tvcodec.file.container import Container, Writer, aligned
from tvcodec.file.index import (
    KEPT_MAX,
    Blob,
    CompanionIndex,
    Group,
    Root,
    TaskIndex,
    pack_companions,
    unpack_companions,
)

CALLED = "companion files"


class StoredFiles:
    """The blobs of one file by their SHA-256; each byte is checked when it is read."""

    def __init__(self, container: Container, root: Root, pinned: bool) -> None:
        self._container = container
        self._group = root.companions
        self._start = root.companions_offset
        self._unverified = pinned
        self._index: CompanionIndex | None = None

    @property
    def index(self) -> CompanionIndex | None:
        """Where all of them are, read at its first use; None where there are none."""
        group = self._group
        if self._index is None and group is not None:
            at = self._start + group.sections_length
            data = self._container.read_apart(at, group.index_length, group.index_sha256, CALLED)
            self._index = unpack_companions(data, f"{self._container.path}: {CALLED}", group)
        return self._index

    @cached_property
    def blobs(self) -> dict[bytes, tuple[Blob, int]]:
        """Each with its offset."""
        if self.index is None:
            return {}
        return {blob.sha256: (blob, at) for blob, at in self.index.sections(self._start)}

    def stored(self, sha256: bytes) -> tuple[int, bytes]:
        """A blob's size, and its bytes as they lie in the file."""
        if self._unverified:
            self._verify_digest()
        blob, at = self.blobs[sha256]
        return blob.size, self._container.read(at, blob.length, blob.crc, CALLED)

    def content(self, sha256: bytes) -> bytes:
        """The bytes of a blob."""
        from tvcodec.file import entropy

        size, data = self.stored(sha256)
        where = f"{self._container.path}: {CALLED}: {sha256.hex()}"
        try:
            content = entropy.decompress(data, size).tobytes()
        except FormatError as error:
            raise FormatError(f"{where}: {error}", error.hint) from None
        if hashlib.sha256(content).digest() != sha256:
            raise FormatError(f"{where}: expected bytes of this SHA-256, got others")
        return content

    def raw(self) -> Iterator[bytes]:
        """All bytes of them, as they lie in the file; FormatError behind the last of them where
        these are not what the indexes say."""
        group = self._group
        if group is None or self.index is None:
            return
        yield from self._container.pieces(
            self._start, group.sections_length, self.index.digest, CALLED
        )
        at = self._start + group.sections_length
        index = self._container.read_apart(at, group.index_length, group.index_sha256, CALLED)
        yield index.ljust(aligned(len(index)), b"\0")

    def check(self, task: str, index: TaskIndex) -> None:
        """FormatError unless a task's files are there, and not too much of them."""
        if not (needed := index.blobs()):
            return
        where, blobs = f"{self._container.path}: task {task!r}: {CALLED}", self.blobs
        for sha256 in needed:
            if sha256 not in blobs:
                raise FormatError(f"{where}: expected {sha256.hex()} in the file, got none")
        if (size := sum(blobs[sha256][0].size for sha256 in needed)) > KEPT_MAX:
            raise FormatError(f"{where}: expected at most {KEPT_MAX} bytes, got {size}")

    def verify(self, tasks: Mapping[str, TaskIndex]) -> None:
        """FormatError unless every checksum holds, every blob is what it is said to be, and tasks
        need just these."""
        for task, index in tasks.items():
            self.check(task, index)
        if self._group is None:
            return
        self._verify_digest()
        used = {sha256 for index in tasks.values() for sha256 in index.blobs()}
        for sha256 in self.blobs:
            self.content(sha256)
            if sha256 not in used:
                where = f"{self._container.path}: {CALLED}"
                raise FormatError(f"{where}: expected what a task needs, got {sha256.hex()}")

    def _verify_digest(self) -> None:
        if self._group is not None and self.index is not None:
            length = self._group.sections_length
            self._container.verify(self._start, length, self.index.digest, CALLED)
        self._unverified = False


def put_blobs(
    writer: Writer, blobs: Mapping[bytes, Callable[[], tuple[int, bytes]]]
) -> Group | None:
    """Writes the group of companion files: of each blob, by SHA-256, its size and its stored bytes,
    asked for when it is its turn; nothing where there are none."""
    if not blobs:
        return None
    start, records = writer.offset, []
    for sha256 in sorted(blobs):
        size, data = blobs[sha256]()
        records.append(Blob(sha256, size, *writer.put(data)))
    index = CompanionIndex(blobs=tuple(records), digest=writer.end_group())
    length = writer.offset - start
    return Group(length, *writer.put_index(pack_companions(index)))
