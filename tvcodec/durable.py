"""Outputs that appear whole or not at all, and that survive a power cut once they appeared.

    temporary beside the target -> write -> fsync -> rename -> fsync of the directory

A temporary is named `.NAME-RANDOM.tmp` and flocked by its writer. What a killed writer left behind
is removed by the next writer of the same target, once it is an hour old and its lock is free.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tvcodec.errors import TvqError, naming

STALE_SECONDS = 3600
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".tvq"}
MODEL_FILE = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)")

StrPath = str | os.PathLike[str]


class Draft(ABC):
    """A temporary beside `path` that becomes `path` by `publish` or vanishes by `discard`.

    Creating one raises TvqError where `path` may not be written: it exists and `force` is not set,
    or it is a symlink, a device or of the other kind (file, directory).
    """

    def __init__(self, path: StrPath, force: bool) -> None:
        self.path = Path(path)
        self.force = force
        if not self.path.parent.is_dir():
            raise FileNotFoundError(2, "no such directory", str(self.path.parent))
        self.refuse_target()
        _remove_stale(self.path)
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
        _lock(self.handle.fileno())
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

    def publish(self) -> None:
        if not self.handle.closed:
            with naming(self.path):
                self.handle.flush()
        # By name: a library told to write to `temporary` may have put a file of its own there.
        os.chmod(self.temporary, self._mode)
        _sync(self.temporary)
        self.refuse_target()
        if self.force:
            os.replace(self.temporary, self.path)
        else:
            self._publish_new()
        _sync(self.path.parent)
        self.handle.close()

    def _publish_new(self) -> None:
        try:
            os.link(self.temporary, self.path)
            os.unlink(self.temporary)
        except FileExistsError:
            self.refuse_target()
            raise
        except OSError:  # no hard links here: claim the name, so that nothing is overwritten
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                self.refuse_target()
                raise
            os.replace(self.temporary, self.path)

    def discard(self) -> None:
        with suppress(OSError):
            os.unlink(self.temporary)
        with suppress(OSError):  # the flush of a full disk fails once more
            self.handle.close()


class DirectoryDraft(Draft):
    """A draft of a directory; with `force` it replaces a directory that is empty or holds a file
    matching `marker`, and no other, so that a slip of the hand cannot cost a home directory."""

    def __init__(self, path: StrPath, force: bool = False, marker: str = "*.safetensors") -> None:
        self._marker = marker
        super().__init__(path, force)
        with naming(self.path, self.temporary):
            self.temporary.mkdir()
        self._lock = os.open(self.temporary, os.O_RDONLY)
        _lock(self._lock)

    def refuse_kind(self, mode: int) -> None:
        if not stat.S_ISDIR(mode):
            raise TvqError(
                f"{self.path}: expected a directory or nothing there, got {_kind(mode)}",
                hint="choose another output, or a name that ends in .safetensors",
            )
        if self.force and any(self.path.iterdir()) and not any(self.path.glob(self._marker)):
            raise TvqError(
                f"{self.path}: expected a directory with {self._marker}, got one without",
                hint="choose another output: --force only replaces a checkpoint",
            )
        foreign = [entry.name for entry in self.path.iterdir() if _is_foreign(entry)]
        if self.force and foreign:
            raise TvqError(
                f"{self.path}: --force would delete {min(foreign)}, which is no part of a model",
                hint="choose another output",
            )

    def publish(self) -> None:
        """Makes the draft the target, durably; an old target stands aside until the new one is in
        place, so at every moment one of the two is whole."""
        for directory, _, names in os.walk(self.temporary, topdown=False):
            for name in names:
                _sync(Path(directory, name))
            _sync(Path(directory))
        self.refuse_target()
        aside = self.temporary.with_suffix(".old")
        if self.force and self.path.exists():
            os.rename(self.path, aside)
        try:
            os.rename(self.temporary, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.rename(aside, self.path)
            raise
        _sync(self.path.parent)
        os.close(self._lock)
        shutil.rmtree(aside, ignore_errors=True)

    def discard(self) -> None:
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
def durable_directory(path: StrPath, force: bool = False) -> Iterator[Path]:
    """A directory to fill that appears as `path` when the block ends well. TvqError as `Draft`."""
    draft = DirectoryDraft(path, force)
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
    _remove_stale(path)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    scratch.mkdir()
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _is_foreign(entry: Path) -> bool:
    """Whether a model's directory would not hold this: other weights, or a folder with weights."""
    if entry.is_dir():
        return any(entry.rglob("*.safetensors"))
    return entry.suffix in WEIGHT_SUFFIXES and not MODEL_FILE.fullmatch(entry.name)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "a device, pipe or socket"


def _lock(descriptor: int) -> bool:
    """Whether this process now holds the lock; some network file systems have none to give."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{8}}\.tmp")
    for entry in os.scandir(path.parent):
        if not pattern.fullmatch(entry.name) or entry.is_symlink():
            continue
        with suppress(OSError):  # somebody else's, or gone by now: not our business
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                _remove_unlocked(entry)


def _remove_unlocked(entry: os.DirEntry[str]) -> None:
    descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not _lock(descriptor):
            return
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    finally:
        os.close(descriptor)
