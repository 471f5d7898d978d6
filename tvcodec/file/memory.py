"""What a file claims and this machine has not: an error with a name, in place of whatever a failed
allocation raises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tvcodec.errors import TvqError


@contextmanager
def granted(needed: int, where: str) -> Iterator[None]:
    """Runs what needs so many bytes or more; TvqError where memory is short of it, at once where
    the machine has less in all: some kernels grant that and then kill."""
    try:
        if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise MemoryError
        yield
    except MemoryError:
        raise _too_much(needed, where) from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise _too_much(needed, where) from None


def _too_much(needed: int, where: str) -> TvqError:
    hint = "see whether the dimensions that `tvcodec info --parameters` shows make sense"
    return TvqError(f"{where}: expected memory for {needed} bytes and more, got none", hint)
