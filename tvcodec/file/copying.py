"""One .tvq file -> the same bytes elsewhere, there only once every checksum has held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive
from tvcodec.file.assembly import Written
from tvcodec.file.container import Container, aligned, trailer
from tvcodec.file.durable import StrPath, durable_file
from tvcodec.file.location import is_url, shown
from tvcodec.file.remote import NoRanges, RemoteSource, download, upload
from tvcodec.file.source import FileSource

Progress = Callable[[int], None]


def copy(
    source: StrPath,
    target: StrPath,
    *,
    force: bool = False,
    expected_root: str | None = None,
    progress: Progress = lambda count: None,
) -> Written:
    """Copies a file from a path or URL to another one. A local `target` appears whole, durably and
    checked, or not at all; so does a remote one, where the store can do that.

    `progress` is told of bytes that were read. Raises FormatError for a damaged file, or one of
    another root digest; TvqError where `target` exists and `force` is not set, or either cannot be
    reached; OSError.
    """
    if not is_url(target) and (str(target).endswith(os.sep) or Path(target).is_dir()):
        raise TvqError(
            f"{os.fspath(target)}: expected the name of a file, got a directory",
            hint=f"copy to {Path(target) / 'bank.tvq'}",
        )
    if is_url(target):
        return _to_url(source, str(target), force, expected_root, progress)
    with durable_file(target, force) as handle:
        _fill(handle, source, expected_root, progress)
        handle.flush()
        # Named as the source: what is wrong with these bytes was wrong there.
        copied = Archive(shown(source), expected_root=expected_root, source=FileSource(handle.name))
        with closing(copied):
            _check(copied, progress)
            written = _written(target, copied)
    return written


def _fill(handle: BinaryIO, source: StrPath, expected_root: str | None, progress: Progress) -> None:
    """Writes all bytes of the source."""
    try:
        opened = RemoteSource(str(source)) if is_url(source) else FileSource(source)
    except NoRanges:
        download(str(source), handle, progress)
        return
    with Container(source, expected_root=expected_root, source=opened):  # or else no need to start
        for piece in opened.whole():
            handle.write(piece)
            progress(len(piece))


def _to_url(
    source: StrPath, target: str, force: bool, expected_root: str | None, progress: Progress
) -> Written:
    if target.endswith("/"):
        raise TvqError(f"{shown(target)}: expected the name of a file, got that of a directory")

    def counted() -> Iterator[bytes]:
        for piece in _bytes(archive):
            yield piece
            progress(len(piece))

    with closing(Archive(source, expected_root=expected_root)) as archive:
        _check(archive, progress)
        upload(target, counted(), force=force)
        written = _written(target, archive)
    Container(target, expected_root=written.root).close()  # what is there now says that it is this
    return written


def _check(archive: Archive, progress: Progress) -> None:
    for task in archive.groups:
        archive.verify_group(task)
        progress(archive.group(task).length)
    archive.verify_apart()


def _bytes(archive: Archive) -> Iterator[bytes]:
    """All bytes of a file, checked once more as they are read: it may be one that changes."""
    container, root = archive.container, archive.root
    yield container.prologue
    for task in archive.groups:
        yield from archive.raw_group(task)
    yield from archive.companions.raw()
    if root.gram_length:
        place = root.gram_offset, root.gram_length, root.gram_sha256
        gram = container.read_apart(*place, "similarity of tasks")
        yield gram.ljust(aligned(len(gram)), b"\0")
    yield container.root.ljust(aligned(len(container.root)), b"\0")
    yield trailer(container.root_offset, container.root, container.prologue)


def _written(target: StrPath, archive: Archive) -> Written:
    size, root = archive.container.size, archive.container.root_digest.hex()
    common = size - sum(task.group.length for task in archive.root.tasks)
    return Written(shown(target), size, root, archive.tasks, common)
