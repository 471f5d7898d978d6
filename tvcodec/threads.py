"""Tensors computed side by side, each by one thread, so that their bits are the same anywhere."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch
from torch import Tensor

AHEAD = 16  # tensors by thread: small ones are done while a large one is waited for
ROOM = 24 << 20  # bytes of tensors that are made at a time, unless a single one is larger
SMALL = (
    1 << 20
)  # bytes of tensors that one thread sees to by itself: handing each over takes longer

_lock = threading.Lock()
_outside: list[int] = []  # the counts to go back to, of the threads that are inside `one_thread`
_this = threading.local()  # `inside`: whether this thread computes by itself already


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: inside, each stays in the thread that asks for
    it, also in those of a `pool`.

    PyTorch counts by thread, and a new thread starts with the count that any other set last. So
    one that meets 1 while another is inside goes back to what that one goes back to.
    """
    if getattr(_this, "inside", False):
        yield
        return
    with _lock:
        before = torch.get_num_threads()
        if before == 1 and _outside:
            before = _outside[0]
        _outside.append(before)
        _compute_alone()
    try:
        yield
    finally:
        with _lock:
            _outside.remove(before)
            _this.inside = False
            torch.set_num_threads(before)


def pool(jobs: int | None = None) -> ThreadPoolExecutor:
    """`jobs` threads, or as many as there are processors, each of which computes by itself."""
    return ThreadPoolExecutor(jobs or os.cpu_count() or 1, initializer=_compute_alone)


def _compute_alone() -> None:
    torch.set_num_threads(1)
    _this.inside = True


def computed(
    compute: Callable[[str], Tensor],
    sizes: Sequence[tuple[str, int]],
    jobs: int | None = None,
    kept: bool = False,
) -> Iterator[Tensor]:
    """`compute(name)` of each name, in order, by as many threads as there are processors, or
    `jobs`. They go ahead of the tensor that is taken as far as fits in ROOM or twice the size of
    the largest, or, where all are `kept` anyway, further; `sizes` are in bytes.
    """
    workers = jobs or os.cpu_count() or 1
    room = sys.maxsize if kept else max([ROOM, *(2 * size for _, size in sizes)])
    begun: deque[tuple[Future[Tensor], int]] = deque()
    held = 0
    with one_thread(), pool(workers) as threads:
        try:
            for name, size in sizes:
                while begun and (len(begun) >= AHEAD * workers or held + size > room):
                    yield begun[0][0].result()
                    held -= begun.popleft()[1]
                begun.append((threads.submit(compute, name), size))
                held += size
            while begun:
                yield begun.popleft()[0].result()
        finally:
            for future, _ in begun:
                future.cancel()


def for_each(run: Callable[[str], object], sizes: Sequence[tuple[str, int]]) -> None:
    """`run(name)` of each name, by as many threads as there are processors, in an order that keeps
    them busy: small ones together, then the largest, so that none is left with one at the end;
    `sizes` are in bytes. Raises what one raised, and then begins no others."""
    with one_thread(), pool() as threads:
        futures = [threads.submit(_run_all, run, names) for names in _batches(sizes)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        for future in done:
            future.result()


def _run_all(run: Callable[[str], object], names: Sequence[str]) -> None:
    for name in names:
        run(name)


def _batches(sizes: Sequence[tuple[str, int]]) -> list[list[str]]:
    small: list[list[str]] = []
    room = 0
    for name, size in sizes:
        if size < SMALL // 4:
            if size > room:
                small.append([])
                room = SMALL
            small[-1].append(name)
            room -= size
    large = sorted((named for named in sizes if named[1] >= SMALL // 4), key=lambda one: -one[1])
    return [*small, *([name] for name, _ in large)]
