"""A damaged file -> what is left of it: the root index is found, every task is checked, the intact
ones are copied to a new file.

Without its root index nothing in a file has a name or a shape, so there is nothing to be saved. It
lies at the end, before the trailer: a file that was cut off has lost it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from tvcodec.errors import FormatError, TvqError
from tvcodec.file.archive import Archive
from tvcodec.file.assembly import Taken, Written, copy_tasks, publish
from tvcodec.file.container import (
    INDEX_MAX,
    PROLOGUE,
    PROLOGUE_SIZE,
    TRAILER_SIZE,
    Writer,
    aligned,
    check_prologue,
    trailer,
)
from tvcodec.file.index import ROOT_START, root_at
from tvcodec.file.location import is_url, shown
from tvcodec.file.source import Source, open_source

TAIL = INDEX_MAX + (1 << 20)  # bytes at the end of a file that its root index is looked for in
EFFORT = INDEX_MAX  # bytes of what may be root indexes that are looked at before it is given up
UNREADABLE = 4096  # bytes that a disk loses at a time

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was written; the tasks that were lost, and why; and what else was found wrong."""

    written: Written
    lost: dict[str, str]
    notes: tuple[str, ...]


def salvage(path: StrPath, output: StrPath, *, force: bool = False) -> Salvaged:
    """Copies every task that is intact, with all that it shares, to a new file at `output`.

    FormatError where nothing can be saved; TvqError where `output` exists and `force` is not set,
    or is the damaged file itself; OSError.
    """
    if not is_url(path) and os.path.exists(output) and os.path.samefile(path, output):
        raise TvqError(f"{os.fspath(path)}: is the damaged file", hint="choose another output")
    with (
        closing(open_source(path)) as damaged,
        Writer(output, force=force) as writer,
    ):
        source, notes = _repaired(damaged, shown(path))
        archive = Archive(path, source=source)
        lost: dict[str, str] = {}
        shared = _shared(archive, notes)
        for task in archive.tasks:
            try:
                archive.verify_group(task)
            except (FormatError, OSError) as problem:
                lost[task] = _short(problem, archive, f"task {task!r}")
        intact = [
            Taken(archive, task, _bare(archive, task, notes))
            for task in archive.tasks
            if task not in lost
        ]
        if not intact:
            problems = "; ".join(dict.fromkeys(lost.values()))
            raise FormatError(f"{archive.path}: no task is intact: {problems}")
        _check_similarity(archive, notes)
        written = publish(writer, copy_tasks(writer, intact, shared, archive.root))
    return Salvaged(written, lost, tuple(notes))


def _shared(archive: Archive, notes: list[str]) -> Archive | None:
    """Where to take what tasks share from, if they do and it is intact."""
    if archive.root.shared is None:
        return None
    try:
        archive.verify_group(None)
    except (FormatError, OSError) as problem:
        notes.append(f"{_short(problem, archive, 'shared basis')}; tasks that use it are lost")
        archive.vectors = Counter()  # those that do not use it can be read
        return None
    return archive


def _bare(archive: Archive, task: str, notes: list[str]) -> bool:
    """Whether a task has to do without its companion files, which are damaged."""
    index = archive.index(task)
    try:
        archive.companions.check(task, index)
        for sha256 in index.blobs():
            archive.companions.content(sha256)
    except (FormatError, OSError) as problem:
        wrong = _short(problem, archive, "companion files")
        notes.append(f"task {task!r}: left without companion files: {wrong}")
        return True
    return False


def _check_similarity(archive: Archive, notes: list[str]) -> None:
    try:
        archive.gram()
    except (FormatError, OSError) as problem:
        wrong = _short(problem, archive, "similarity of tasks")
        notes.append(f"{wrong}; estimated anew, where tasks have sketches")


def _short(problem: FormatError | OSError, archive: Archive, what: str) -> str:
    """What is wrong with the file; what the disk says of `what`, it does not name."""
    if isinstance(problem, OSError):
        return f"{what}: {problem.strerror or problem}"
    return str(problem).removeprefix(f"{archive.path}: ")


def _repaired(source: Source, path: str) -> tuple[Source, list[str]]:
    """The file with the prologue and the trailer that it should have, and what was wrong there."""
    offset, root = _find_root(source, path)
    end, notes = offset + aligned(len(root)), list[str]()
    prologue, found = _readable(source, 0, PROLOGUE_SIZE), _readable(source, end, TRAILER_SIZE)
    if found == trailer(offset, root, prologue):
        check_prologue(prologue, path)
    elif found == trailer(offset, root):
        notes.append("prologue: damaged")
    else:
        with suppress(FormatError):
            check_prologue(prologue, path)  # which may be that of a newer version
        notes.append("root index and trailer do not agree: what the root index says is unchecked")
    if source.size > end + TRAILER_SIZE:
        notes.append(f"file: {source.size - end - TRAILER_SIZE} bytes behind its end")
    return _Repaired(source, offset, root), notes


def _find_root(source: Source, path: str) -> tuple[int, bytes]:
    """Where the trailer says it is, or else the last place that holds a root index which says of
    itself that it belongs there."""
    end = _readable(source, max(source.size - TRAILER_SIZE, 0), TRAILER_SIZE)
    told, length = int.from_bytes(end[:8], "little"), int.from_bytes(end[8:16], "little")
    if told + length <= source.size and length <= INDEX_MAX:
        root, _ = root_at(memoryview(_readable(source, told, length)), path, told)
        if root is not None:
            return told, root
    first = aligned(max(source.size - TAIL, PROLOGUE_SIZE))
    tail = _readable(source, first, max(source.size - first, 0))
    found, left = tail.rfind(ROOT_START), EFFORT
    while found >= 0 and left > 0:
        at = found - 1
        if at % 8 == 0:
            root, looked_at = root_at(memoryview(tail)[at : at + INDEX_MAX], path, first + at)
            if root is not None:
                return first + at, root
            left -= looked_at
        found = tail.rfind(ROOT_START, 0, found + len(ROOT_START) - 1)
    raise FormatError(
        f"{path}: its root index is damaged or missing, without which nothing can be told apart",
        hint="fetch the file again; a file that was cut off has lost its end, where that index is",
    )


def _readable(source: Source, offset: int, length: int) -> bytes:
    """Bytes of the file, with zeros where the disk fails."""
    try:
        return source.read_at(offset, length)
    except OSError:
        if length <= UNREADABLE:
            return bytes(length)
        starts = range(offset, offset + length, UNREADABLE)
        pieces = (min(UNREADABLE, offset + length - start) for start in starts)
        return b"".join(map(_readable, [source] * len(starts), starts, pieces))


class _Repaired:
    """A file with its prologue and its trailer as they should be."""

    def __init__(self, source: Source, offset: int, root: bytes) -> None:
        self._source = source
        self._end = offset + len(root)
        self._tail = bytes(aligned(self._end) - self._end) + trailer(offset, root)
        self.size = self._end + len(self._tail)

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        data = self._source.read_at(offset, max(min(end, self._end) - offset, 0))
        if offset < PROLOGUE_SIZE:
            data = PROLOGUE[offset : offset + len(data)] + data[PROLOGUE_SIZE - offset :]
        if end > self._end:
            start = max(offset, self._end)
            data += self._tail[start - self._end : end - self._end]
        return data

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        self._source.prefetch(places)

    def close(self) -> None:
        self._source.close()
