"""One writer at a time for a file that is changed by replacing it.

The lock is on the file itself, so nothing is left behind, not even by a killed writer. Whoever
waited for it may hold that of a file which has been replaced meanwhile, and then tries the new one.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tvcodec.errors import TvqError

PATIENCE = 2.0  # seconds of waiting that need no explanation

_log = logging.getLogger("tvcodec")


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Waits until no other process changes the file at `path`, then keeps others waiting; the log
    says so where that takes long.

    Gives the path to be replaced, and a check to be made right before it is: TvqError if somebody
    who does not wait for locks has replaced or changed it. OSError where there is no such file,
    TvqError where files cannot be locked.
    """
    target = resolved(path)
    while True:
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _wait_for(descriptor, target)
            status = os.fstat(descriptor)
            if _still_there(status, target):
                yield target, functools.partial(_check, status, target)
                return
        finally:
            os.close(descriptor)


@contextmanager
def only_writer_if_there(path: str | os.PathLike[str]) -> Iterator[None]:
    """As `only_writer` where there is a file that can be locked; else there is nothing to wait for,
    as for whoever replaces a file whatever it is."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError, TvqError):
            stack.enter_context(only_writer(path))
        yield


def resolved(path: str | os.PathLike[str]) -> Path:
    """The file that a symbolic link at `path` leads to; any other path as it is."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _wait_for(descriptor: int, target: Path) -> None:
    said = f"{target}: waiting for another process that is changing it"
    notice = threading.Timer(PATIENCE, _log.warning, [said])
    notice.daemon = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice.start()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            notice.cancel()
    except OSError as error:
        raise TvqError(
            f"{target}: cannot be locked: {error.strerror}",
            hint="write to another file with -o, where nobody else writes to it",
        ) from None


def _still_there(status: os.stat_result, target: Path) -> bool:
    """Whether the file at `target` is the one of that `status`, as it was then."""
    now = os.stat(target)
    same = os.path.samestat(status, now) and status.st_size == now.st_size
    return same and status.st_mtime_ns == now.st_mtime_ns


def _check(status: os.stat_result, target: Path) -> None:
    if not _still_there(status, target):
        raise TvqError(
            f"{target}: was replaced or changed by another program meanwhile",
            hint="run the command again",
        )
