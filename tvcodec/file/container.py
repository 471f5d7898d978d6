"""Numbered sections of bytes <-> one file. Knows no tensors and not what an index says.

    0        prologue, 64 bytes: magic, major, minor, required features, zeros
    64       sections, each at the next multiple of 8 behind the one before, zero padding
             root index
    EOF-72   trailer: root offset, root length, file length, SHA-256 of prologue + root index,
             CRC-32 of those 56 bytes, zeros, end magic

Whatever is read is checked: the trailer and the root index when a file is opened, every section by
its CRC-32 and every other index by its SHA-256 when it is read. That they lie where they should is
what the lengths in the indexes add up to.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from tvcodec.errors import FormatError, TvqError, UnsupportedError, naming
from tvcodec.file.durable import FileDraft, StrPath
from tvcodec.file.location import shown
from tvcodec.file.memory import granted
from tvcodec.file.source import Source, open_source

MAGIC = b"\x89TVQ\r\n\x1a\n"
END_MAGIC = b"TVQ1END\n"
MAJOR, MINOR, FEATURES = 1, 0, 0
ALIGNMENT = 8
PROLOGUE_SIZE = 64
TRAILER_SIZE = 72
INDEX_MAX = 64 << 20
CHUNK = 1 << 20  # bytes hashed at a time
WEIGHTS = {".bin", ".ckpt", ".gguf", ".npz", ".pt", ".pth", ".safetensors"}

_PROLOGUE = struct.Struct("<8sHHI48s")
_TRAILER = struct.Struct("<QQQ32sII8s")
_TRAILER_CHECKED = 56

PROLOGUE = _PROLOGUE.pack(MAGIC, MAJOR, MINOR, FEATURES, bytes(48))


def aligned(length: int) -> int:
    """`length` with the padding behind it."""
    return -(-length // ALIGNMENT) * ALIGNMENT


class Container:
    """An open .tvq file: `root` is its root index, `root_digest` identifies all of its content.

    FormatError if it is damaged, is no .tvq, or its digest is not `expected_root` (hexadecimal);
    UnsupportedError if it needs a newer version. `path` may be a URL; `source` replaces what is
    there, which it then only names in messages.
    """

    def __init__(
        self, path: StrPath, *, expected_root: str | None = None, source: Source | None = None
    ) -> None:
        self.path = shown(path)
        self._source: Source = open_source(path) if source is None else source
        self.size = self._source.size
        try:
            self._open(expected_root)
        except BaseException:
            self.close()
            raise

    def _open(self, expected_root: str | None) -> None:
        prologue = self._bytes(0, min(self.size, PROLOGUE_SIZE), "prologue")
        check_prologue(prologue, self.path)
        self.prologue = prologue
        if self.size < PROLOGUE_SIZE + TRAILER_SIZE:
            raise self._damaged("file", f"expected 136 bytes or more, got {self.size}")
        end = self.size - TRAILER_SIZE
        fields = self._bytes(end, TRAILER_SIZE, "trailer")
        offset, length, size, digest, crc, zero, magic = _TRAILER.unpack(fields)
        if magic != END_MAGIC:
            raise self._damaged("trailer", "missing, the file is cut or was not finished")
        if crc != zlib.crc32(fields[:_TRAILER_CHECKED]) or zero:
            raise self._damaged("trailer", "checksum mismatch")
        if size != self.size:
            raise self._damaged("file", f"expected {size} bytes, got {self.size}")
        if length > INDEX_MAX:
            raise self._damaged("root index", f"expected 1..{INDEX_MAX} bytes, got {length}")
        if offset + aligned(length) != end:
            raise self._damaged("root index", f"expected it right before the trailer, got {offset}")
        self.root = self._unpadded(offset, length, "root index")
        self.root_offset = offset
        self.root_digest: bytes = digest
        if hashlib.sha256(prologue + self.root).digest() != digest:
            raise self._damaged("root index", "checksum mismatch")
        if expected_root is not None and expected_root.lower() != digest.hex():
            message = f"{self.path}: expected root {expected_root}, got {digest.hex()}"
            raise FormatError(message, hint="this is not the file that was pinned")

    def read(self, offset: int, length: int, crc: int, what: str) -> bytes:
        """The section at `offset`, if it has that CRC-32; FormatError, naming `what`, if not."""
        data = self._unpadded(offset, length, what)
        if zlib.crc32(data) != crc:
            raise self._damaged(what, "checksum mismatch")
        return data

    def read_apart(self, offset: int, length: int, sha256: bytes, what: str) -> bytes:
        """What lies at `offset` and is in no group's digest, such as an index, if it has that
        SHA-256; FormatError, naming `what`, if not."""
        data = self._unpadded(offset, length, what)
        if hashlib.sha256(data).digest() != sha256:
            raise self._damaged(what, "checksum mismatch")
        return data

    def verify(self, offset: int, length: int, sha256: bytes, what: str) -> None:
        """FormatError unless a group's sections, padding included, have that SHA-256."""
        for _ in self.pieces(offset, length, sha256, what):
            pass

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Told what (offset, length) will be read soon, so that it takes fewer requests."""
        self._source.prefetch(places)

    def close(self) -> None:
        """Closes the file; what was read stays."""
        self._source.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unpadded(self, offset: int, length: int, what: str) -> bytes:
        data = self._bytes(offset, aligned(length), what)
        if any(data[length:]):
            raise self._damaged(what, "expected zeros behind it, got other bytes")
        return data[:length]

    def pieces(self, offset: int, length: int, sha256: bytes, what: str) -> Iterator[bytes]:
        """Sections as they lie in the file, padding included, a few at a time; FormatError behind
        the last of them unless these very bytes have that SHA-256."""
        digest = hashlib.sha256()
        self._source.prefetch([(offset, length)])
        for start in range(offset, offset + length, CHUNK):
            piece = self._bytes(start, min(CHUNK, offset + length - start), what)
            digest.update(piece)
            yield piece
        if digest.digest() != sha256:
            raise self._damaged(what, "checksum mismatch")

    def _bytes(self, offset: int, length: int, what: str) -> bytes:
        with granted(length, f"{self.path}: {what}"):
            data = self._source.read_at(offset, length)
        if len(data) != length:
            raise self._damaged(what, f"expected {length} bytes at {offset}, got {len(data)}")
        return data

    def _damaged(self, what: str, problem: str) -> FormatError:
        hint = "the file is damaged: fetch it again, or keep its intact tasks with tvcodec salvage"
        return FormatError(f"{self.path}: {what}: {problem}", hint=hint)


def check_prologue(prologue: bytes, where: str) -> None:
    """FormatError unless these first bytes (up to 64) of a file are those of a .tvq file;
    UnsupportedError if they are, but of a version that this reader does not know."""
    if not prologue.startswith(MAGIC):
        raise FormatError(f"{where}: expected a .tvq file, got {_looks_like(prologue)}")
    if len(prologue) < PROLOGUE_SIZE:
        raise FormatError(f"{where}: prologue: expected 64 bytes, got {len(prologue)}")
    _, major, _, features, reserved = _PROLOGUE.unpack(prologue)
    hint = "a newer version of tvcodec reads this file: pip install --upgrade tvcodec"
    if major != MAJOR:
        raise UnsupportedError(f"{where}: expected format version {MAJOR}, got {major}", hint=hint)
    if unknown := features & ~FEATURES:
        raise UnsupportedError(f"{where}: needs unknown features {unknown:#x}", hint=hint)
    if any(reserved):
        raise FormatError(f"{where}: prologue: expected zeros, got other bytes")


def trailer(offset: int, root: bytes, prologue: bytes = PROLOGUE) -> bytes:
    """The trailer of a file whose root index `root` lies at `offset`."""
    digest = hashlib.sha256(prologue + root).digest()
    size = offset + aligned(len(root)) + TRAILER_SIZE
    fields = _TRAILER.pack(offset, len(root), size, digest, 0, 0, END_MAGIC)
    crc = zlib.crc32(fields[:_TRAILER_CHECKED])
    return _TRAILER.pack(offset, len(root), size, digest, crc, 0, END_MAGIC)


def _looks_like(start: bytes) -> str:
    if not start:
        return "an empty file"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive, such as PyTorch writes"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "a .safetensors file"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer in place of the file"
    if start[1:4] == b"TVQ" or start[:3] == b"TVQ":
        return "one that was damaged as if it were text"
    return "something else"


def check_name(path: str) -> None:
    """TvqError for a name by which other programs would take the file for a model."""
    suffix = os.path.splitext(path)[1]
    if suffix.lower() in WEIGHTS:
        raise TvqError(
            f"{path}: expected a name that ends in .tvq, got {suffix}",
            hint="tvcodec decode writes models: this is the file that it reads",
        )


class Writer:
    """Writes a .tvq file that appears at `path` whole, on `close`, or not at all.

    A context manager: leaving the block without `close` removes what was written. TvqError if
    `path` exists and `force` is not set, is not a regular file, or has the name of one of weights.
    """

    def __init__(self, path: StrPath, *, force: bool = False) -> None:
        self.path = os.fspath(path)
        check_name(self.path)
        self._draft = FileDraft(path, force)
        self._open = True
        self._group = hashlib.sha256()
        self.offset = 0
        try:
            self._write(PROLOGUE)
        except BaseException:
            self.abort()
            raise

    def put(self, data: bytes) -> tuple[int, int]:
        """Writes a section, padded; its length and CRC-32."""
        self._group.update(data)
        self._group.update(self._write(data))
        return len(data), zlib.crc32(data)

    def end_group(self) -> bytes:
        """SHA-256 of the sections put since the last call, padding included."""
        digest = self._group.digest()
        self._group = hashlib.sha256()
        return digest

    def put_index(self, data: bytes) -> tuple[int, bytes]:
        """Writes a group's index, which is in no group's digest; its length and SHA-256."""
        if not 0 < len(data) <= INDEX_MAX:
            raise ValueError(f"expected an index of 1..{INDEX_MAX} bytes, got {len(data)}")
        return self.put_apart(data)

    def put_apart(self, data: bytes) -> tuple[int, bytes]:
        """Writes what is in no group's digest; its length and SHA-256."""
        self._write(data)
        return len(data), hashlib.sha256(data).digest()

    def copy(self, pieces: Iterable[bytes]) -> None:
        """Writes whole groups as they are, padding and index included."""
        for piece in pieces:
            self._draft.handle.write(piece)
            self.offset += len(piece)

    def close(self, root: bytes, check: Callable[[], None] = lambda: None) -> bytes:
        """Writes the root index and publishes the file; the digest that identifies its content.
        TvqError if, without `force`, a file has appeared at the path meanwhile. `check` is called
        right before the file replaces another, and may raise."""
        end = trailer(self.offset, root)
        self.put_index(root)
        self._write(end)
        self._draft.publish(check)
        self._open = False
        return hashlib.sha256(PROLOGUE + root).digest()

    def abort(self) -> None:
        """Removes what was written, unless it is published; leaves the old target as it was."""
        if self._open:
            self._open = False
            self._draft.discard()

    def _write(self, data: bytes) -> bytes:
        """Writes `data` and its padding, which it returns."""
        padding = bytes(aligned(len(data)) - len(data))
        with naming(self.path):
            self._draft.handle.write(data)
            self._draft.handle.write(padding)
        self.offset += len(data) + len(padding)
        return padding

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()
