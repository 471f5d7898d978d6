"""Errands run by whatever executor there is: what goes to a worker and what comes back.

A worker is told where some tensors lie, reads them from storage that it shares with this machine,
and answers with what it made of them.
"""

from __future__ import annotations

import pickle
import platform
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, Protocol

from tvcodec.checkpoint import Checkpoint
from tvcodec.errors import CheckpointError, TvqError
from tvcodec.threads import one_thread

AHEAD = 64  # errands on their way, unless somebody knows better


class Errand(Protocol):
    """Something to be done, here or, once it is turned into that, by another process."""

    def elsewhere(self) -> Errand: ...

    def __call__(self) -> Any: ...


def check_file(checkpoint: Checkpoint) -> None:
    """CheckpointError unless it comes from files, which workers can read too."""
    if not checkpoint.paths:
        raise CheckpointError(
            f"{checkpoint.label}: expected a path that workers can read, got tensors in memory",
            hint="save it as .safetensors where all workers see it, and give the path",
        )


def spread(executor: Executor, ahead: int, errands: Iterable[Errand]) -> Iterator[Any]:
    """What errands come to, in their order, with no more than `ahead` of them on their way.

    TvqError where a worker dies and the executor gives up, CheckpointError where one cannot read
    what this machine can.
    """
    begun: deque[Future[bytes]] = deque()
    try:
        for errand in errands:
            while len(begun) >= ahead:
                yield pickle.loads(begun.popleft().result())
            begun.append(executor.submit(_run, errand.elsewhere()))
        while begun:
            yield pickle.loads(begun.popleft().result())
    except BrokenExecutor as error:
        raise TvqError(
            f"expected workers that live to the end, got a dead one ({error})",
            hint="had it the memory for its largest parameter?",
        ) from error
    finally:
        for future in begun:
            future.cancel()


def _run(errand: Errand) -> bytes:
    """Runs on a worker. Bytes, since executors differ in how they send tensors."""
    where = f"worker {platform.node()}"
    try:
        with one_thread():
            return pickle.dumps(errand())
    except OSError as error:
        raise CheckpointError(
            f"{where}: {error.filename}: {error.strerror or error}",
            hint="workers need the same paths: keep checkpoints on storage that all of them share",
        ) from None
    except TvqError as error:
        raise type(error)(f"{where}: {error}", error.hint) from None
