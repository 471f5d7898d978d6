"""What writers that were killed left beside their targets: locks tell it from what is in use."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

STALE_SECONDS = 3600


def lock(descriptor: int) -> bool:
    """Whether this process now holds the lock; some network file systems have none to give."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def put_back(path: Path) -> None:
    """Undoes what a crash between two renames left: the old directory is the target again, or goes
    if there is a new one. A writer that is between them now holds the lock of its draft."""
    pattern = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{8}}\.old")
    for aside in path.parent.glob(f".{glob.escape(path.name)}-*.old"):
        if not pattern.fullmatch(aside.name) or _in_use(aside.with_suffix(".tmp")):
            continue
        with suppress(OSError):
            if path.exists():
                shutil.rmtree(aside)
            else:
                os.rename(aside, path)


def _in_use(draft: Path) -> bool:
    try:
        descriptor = os.open(draft, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(path: Path) -> None:
    """Removes temporaries of `path` that are an hour old and that nobody holds the lock of."""
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
        if not lock(descriptor):
            return
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    finally:
        os.close(descriptor)
