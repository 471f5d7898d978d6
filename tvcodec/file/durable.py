"""Outputs that appear whole or not at all, and that survive a power cut once they appeared.

    temporary beside the target -> write -> fsync -> rename -> fsync of the directory

A temporary is named `.NAME-RANDOM.tmp` and flocked by its writer. What a killed writer left behind
is removed by the next writer of the same target, once it is an hour old and its lock is free.

A directory that replaces another one is exchanged with it in one step where the system can do that.
Where it cannot, a crash between two renames leaves the old directory aside, as `.NAME-RANDOM.old`;
the next writer puts it back.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tvcodec.errors import TvqError, naming
from tvcodec.file import exchange
from tvcodec.file.leftovers import lock, put_back, remove_stale
from tvcodec.file.location import refuse_url

StrPath = str | os.PathLike[str]
Foreign = Callable[[Path], Iterable[Path]]  # what in a directory its kind of draft would not hold


def everything(directory: Path) -> Iterable[Path]:
    """A Foreign with which only an empty directory is replaced."""
    return directory.iterdir()


class Draft(ABC):
    """A temporary beside `path` that becomes `path` by `publish` or vanishes by `discard`.

    Creating one raises TvqError where `path` may not be written: it exists and `force` is not set,
    or it is a symlink, a device or of the other kind (file, directory).
    """

    def __init__(self, path: StrPath, force: bool) -> None:
        refuse_url(
            path, "a local path to write to", "write there, then: tvcodec copy LOCAL.tvq URL"
        )
        self.path = Path(path)
        self.force = force
        if not self.path.parent.is_dir():
            raise FileNotFoundError(2, "no such directory", str(self.path.parent))
        self.refuse_target()
        remove_stale(self.path)
        self.temporary = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}.tmp")

    def refuse_target(self) -> None:
        """TvqError if the target as it stands now must not be replaced."""
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        self.refuse_kind(mode)
        if not self.force:
            raise TvqError(f"{self.path}: exists already", hint="--force overwrites it")

    @abstractmethod
    def refuse_kind(self, mode: int) -> None:
        """TvqError if something of that `st_mode` must not be replaced, `force` or not."""

    @abstractmethod
    def publish(self) -> None:
        """Makes the draft the target, durably; on an error the old target stays."""

    @abstractmethod
    def discard(self) -> None:
        """Removes the draft, whatever state it is in."""


class FileDraft(Draft):
    """A draft of one file; `handle` writes to it."""

    def __init__(self, path: StrPath, force: bool = False) -> None:
        super().__init__(path, force)
        with naming(self.path, self.temporary):
            self.handle: BinaryIO = open(self.temporary, "xb")  # noqa: SIM115 - closed with the draft
        lock(self.handle.fileno())
        # That of what is replaced, or what the kernel made of 0666 and the umask; reading the umask
        # itself would have to set it.
        modelled = self.path if self.path.exists() else self.temporary
        self._mode = stat.S_IMODE(os.stat(modelled).st_mode)

    def refuse_kind(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise TvqError(
                f"{self.path}: expected a file or nothing there, got {_kind(mode)}",
                hint="choose another output",
            )

    def publish(self, check: Callable[[], None] = lambda: None) -> None:
        """As `Draft.publish`; `check` is called right before the rename, and may raise."""
        if not self.handle.closed:
            with naming(self.path):
                self.handle.flush()
        # By name: a library told to write to `temporary` may have put a file of its own there.
        os.chmod(self.temporary, self._mode)
        _sync(self.temporary)
        self.refuse_target()
        check()
        if self.force:
            os.replace(self.temporary, self.path)
        else:
            self._publish_new()
        _sync(self.path.parent)
        self.handle.close()

    def _publish_new(self) -> None:
        try:
            os.link(self.temporary, self.path)
        except FileExistsError:
            self.refuse_target()
            raise
        except OSError:  # no hard links here
            self._publish_claimed()
            return
        with suppress(OSError):  # it is published; the next writer removes what stays
            os.unlink(self.temporary)

    def _publish_claimed(self) -> None:
        """Claims the name with an empty file first, so that nothing is overwritten."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            self.refuse_target()
            raise
        try:
            os.replace(self.temporary, self.path)
        except BaseException:
            os.unlink(self.path)
            raise

    def discard(self) -> None:
        with suppress(OSError):
            os.unlink(self.temporary)
        with suppress(OSError):  # the flush of a full disk fails once more
            self.handle.close()


class DirectoryDraft(Draft):
    """A draft of a directory; with `force` it replaces one in which `foreign` finds nothing, and no
    other, so that a slip of the hand cannot cost a home directory."""

    def __init__(self, path: StrPath, force: bool = False, foreign: Foreign = everything) -> None:
        self._foreign = foreign
        self._holds_draft = True
        put_back(Path(path))
        super().__init__(path, force)
        with naming(self.path, self.temporary):
            self.temporary.mkdir()
        self._lock = os.open(self.temporary, os.O_RDONLY)
        lock(self._lock)

    def refuse_kind(self, mode: int) -> None:
        if not stat.S_ISDIR(mode):
            raise TvqError(
                f"{self.path}: expected a directory or nothing there, got {_kind(mode)}",
                hint="choose another output, or a name that ends in .safetensors",
            )
        foreign = min(self._foreign(self.path), default=None) if self.force else None
        if foreign is not None:
            name = foreign.relative_to(self.path)
            raise TvqError(
                f"{self.path}: --force would delete {name}, which this command does not write",
                hint="choose another output: --force only replaces a directory that was written so",
            )

    def publish(self) -> None:
        """Makes the draft the target, durably; the old target goes once that is so."""
        for directory, _, names in os.walk(self.temporary, topdown=False):
            for name in names:
                _sync(Path(directory, name))
            _sync(Path(directory))
        self.refuse_target()
        replaced = self.force and self.path.exists()
        aside = self.temporary.with_suffix(".old")
        exchanged = replaced and self._exchange()
        if not exchanged:
            self._publish_stepwise(aside if replaced else None)
        try:
            _sync(self.path.parent)
        except BaseException:
            self._take_back(aside if replaced else None, exchanged)
            raise
        os.close(self._lock)
        if replaced:
            shutil.rmtree(self.temporary if exchanged else aside, ignore_errors=True)

    def _exchange(self) -> bool:
        """Exchanges the draft and the target, if the system can; until that is settled, it is not
        known which of them has the draft's name, so none may be discarded."""
        before, self._holds_draft = self._holds_draft, False
        exchanged = exchange.exchange(self.temporary, self.path)
        self._holds_draft = before != exchanged
        return exchanged

    def _take_back(self, aside: Path | None, exchanged: bool) -> None:
        """The old target is the target again; where even that fails, it keeps another name."""
        if exchanged:
            self._exchange()
            return
        os.rename(self.path, self.temporary)
        if aside is not None:
            os.rename(aside, self.path)

    def _publish_stepwise(self, aside: Path | None) -> None:
        """Renames the old target to `aside` and the draft to the target."""
        if aside is not None:
            os.rename(self.path, aside)
        try:
            os.rename(self.temporary, self.path)
        except BaseException:
            if aside is not None:
                os.rename(aside, self.path)
            raise

    def discard(self) -> None:
        if self._holds_draft:
            shutil.rmtree(self.temporary, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


@contextmanager
def durable_file(path: StrPath, force: bool = False) -> Iterator[BinaryIO]:
    """A handle whose file appears as `path` when the block ends well; `handle.name` is the
    temporary's path, for libraries that want to write to a path. TvqError as `Draft`."""
    draft = FileDraft(path, force)
    try:
        yield draft.handle
        draft.publish()
    except BaseException:
        draft.discard()
        raise


@contextmanager
def durable_directory(
    path: StrPath, force: bool = False, foreign: Foreign = everything
) -> Iterator[Path]:
    """A directory to fill that appears as `path` when the block ends well. TvqError as `Draft`, and
    where `force` would cost what is `foreign`."""
    draft = DirectoryDraft(path, force, foreign)
    try:
        yield draft.temporary
        draft.publish()
    except BaseException:
        draft.discard()
        raise


@contextmanager
def scratch_directory(path: StrPath) -> Iterator[Path]:
    """A directory beside `path` that is gone when the block ends. What a killed process leaves of
    it is removed like a draft of `path`."""
    path = Path(path)
    remove_stale(path)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    scratch.mkdir()
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        lock(descriptor)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "a device, pipe or socket"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
