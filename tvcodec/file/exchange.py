"""Two names exchanged in one step."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def exchange(one: Path, other: Path) -> bool:
    """Whether two names were exchanged in one step, for which system and disk must have a way."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not of this C library
        return False
    names = os.fsencode(one), os.fsencode(other)
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, names[0], here, names[1], both) == 0)
