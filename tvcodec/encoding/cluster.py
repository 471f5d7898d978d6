"""The workers of a dask cluster as an executor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from tvcodec.errors import TvqError

TIMEOUT = 10  # seconds until a scheduler that does not answer is given up
_START = "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"


@contextmanager
def connected(address: str) -> Iterator[tuple[Executor, int]]:
    """An executor of the cluster whose scheduler is at `address`, and how many errands suit it.

    Lost workers are dask's affair, which sends their work to others. TvqError where dask is not
    installed, the scheduler does not answer or has no workers, and where dask gives up.
    """
    try:
        import distributed
    except ImportError:
        raise TvqError(
            f"{address}: expected dask, which a cluster needs, got none installed",
            hint="pip install 'tvcodec[dask]', here and where the workers are",
        ) from None
    start: Any = distributed.Client  # which has no types
    try:
        client = start(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise TvqError(
            f"{address}: expected a dask scheduler, got no answer within {TIMEOUT} s", hint=_START
        ) from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise TvqError(f"{address}: expected workers of the scheduler, got none", hint=_START)
        try:
            yield client.get_executor(pure=False), 4 * threads
        except distributed.KilledWorker as error:
            raise TvqError(
                f"{address}: expected workers that live, got one lost after another ({error})",
                hint="had they the memory for the largest parameter? see their logs",
            ) from None
