"""What a file says, but for how its streams are compressed, as one digest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from tvcodec.errors import FormatError
from tvcodec.file import entropy
from tvcodec.file.archive import Archive, called
from tvcodec.file.index import (
    Entry,
    Section,
    counted_streams,
    pack_companions,
    pack_root,
    pack_task,
)

START = b"tvq-file-content-v1\0"
OF_STORED_BYTES = {  # fields of records that tell of them, and what is taken in their place
    "crc": 0,
    "digest": bytes(32),
    "index_length": 0,
    "index_sha256": bytes(32),
    "length": 0,
    "sections_length": 0,
}


def content_digest(archive: Archive, progress: Callable[[int], None] = lambda size: None) -> bytes:
    """SHA-256 of the root index, of each group's index and of its packed bytes (of companion files,
    of the index), with whatever tells
    of stored bytes set to zero: it stays when the streams are compressed by another zstd.

    Reads the whole file, and is told how many bytes it has read. FormatError for one that is
    damaged.
    """
    digest = hashlib.sha256(START)
    digest.update(pack_root(_stripped(archive.root)))
    for task in archive.groups:
        digest.update(pack_task(_stripped(archive.index(task))))
        for section, offset in archive.sections(task):
            for packed in _packed(archive, task, section, offset):
                digest.update(packed.data)
            progress(section.length)
    if (companions := archive.companions.index) is not None:
        digest.update(pack_companions(_stripped(companions)))  # has the SHA-256 of each file
    return digest.digest()


def _stripped(value: Any) -> Any:
    """A record, or a tuple of them, without what depends on the compressor."""
    if isinstance(value, tuple):
        return tuple(map(_stripped, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = [field.name for field in dataclasses.fields(value)]
    kept = {name: _stripped(getattr(value, name)) for name in names if name not in OF_STORED_BYTES}
    zeros = {name: OF_STORED_BYTES[name] for name in names if name in OF_STORED_BYTES}
    return type(value)(**kept, **zeros)


def _packed(
    archive: Archive, task: str | None, section: Section, offset: int
) -> Iterator[entropy.Bytes]:
    """The packed bytes of each stream of a section, in order, a few at a time: without the base
    model, nothing bears out what a parameter claims to hold."""
    vectors = archive.vectors[section.parameter] if isinstance(section, Entry) else 0
    left = memoryview(archive.read(task, section, offset))
    for stream, count in counted_streams(section, archive.root.base_model, vectors):
        try:
            yield from entropy.unframed(left[: stream.length], stream.packed(count))
        except FormatError as error:
            where = f"{archive.path}: {called(task)}, {archive.describe(section)}"
            raise FormatError(f"{where}: {error}", error.hint) from None
        left = left[stream.length :]
