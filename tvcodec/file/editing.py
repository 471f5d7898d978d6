"""Files with other tasks made of files: what stays is copied, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive
from tvcodec.file.assembly import Taken, Written, copy_tasks, publish
from tvcodec.file.container import Writer
from tvcodec.file.location import refuse_edit
from tvcodec.file.locking import only_writer

StrPath = str | os.PathLike[str]


class Edit:
    """A file that is read, and the one that takes its place or goes elsewhere."""

    def __init__(self, archive: Archive, writer: Writer, check: Callable[[], None]) -> None:
        self.archive = archive
        self._writer = writer
        self._check = check

    def finish(
        self, tasks: Sequence[Taken], sketches: Mapping[str, bytes] | None = None
    ) -> Written:
        """Publishes the new file, of these tasks and with what tasks of the old one share."""
        root = copy_tasks(self._writer, tasks, self.archive, self.archive.root, sketches)
        return publish(self._writer, root, self._check)


@contextmanager
def edit(
    path: StrPath, output: StrPath | None, force: bool, expected_root: str | None
) -> Iterator[Edit]:
    """An Edit of the file at `path`, which no other one changes until it is done; with another
    `output`, the new file goes there and `path` stays as it is."""
    if output is None:
        refuse_edit(path)
    if output is None or (force and os.path.realpath(output) == os.path.realpath(path)):
        with (
            only_writer(path) as (target, check),
            closing(Archive(target, expected_root=expected_root)) as archive,
            Writer(target, force=True) as writer,
        ):
            yield Edit(archive, writer, check)
    else:
        with (
            closing(Archive(path, expected_root=expected_root)) as archive,
            Writer(output, force=force) as writer,
        ):
            yield Edit(archive, writer, lambda: None)


def remove(
    path: StrPath,
    tasks: Sequence[str],
    *,
    output: StrPath | None = None,
    force: bool = False,
    expected_root: str | None = None,
) -> Written:
    """Takes tasks out of a file; the others are copied, none is decoded.

    Without `output` the file is replaced, whole or not at all; whoever has it open goes on reading
    the old one. A shared basis stays, whether a task is left that uses it or not.

    Raises UnknownTaskError; TvqError where no task would be left, or `output` exists and `force` is
    not set; FormatError and OSError as `open`.
    """
    with edit(path, output, force, expected_root) as editing:
        archive = editing.archive
        for task in tasks:
            archive.record(task)
        left = [Taken(archive, task) for task in archive.tasks if task not in tasks]
        if not left:
            raise TvqError(
                f"{archive.path}: expected a task to be left, got none",
                hint="a file holds one task or more: delete it instead",
            )
        return editing.finish(left)
