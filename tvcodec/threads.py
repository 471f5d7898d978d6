"""Tensors computed side by side, each by one thread, so that their bits are the same anywhere."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

ROOM = 24 << 20  # bytes of tensors that are made at a time, unless a single one is larger


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: inside, each stays in one, also in threads that
    are started there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def computed(
    compute: Callable[[str], Tensor], sizes: Sequence[tuple[str, int]]
) -> Iterator[Tensor]:
    """`compute(name)` of each name, in order, some ahead of the one that is taken: as many as there
    are processors, and no more than fit in ROOM or the size of the largest; `sizes` are in bytes.
    """
    workers = os.cpu_count() or 1
    room = max([ROOM, *(size for _, size in sizes)])
    begun: deque[tuple[Future[Tensor], int]] = deque()
    held = 0
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            for name, size in sizes:
                while begun and (len(begun) >= workers or held + size > room):
                    yield begun[0][0].result()
                    held -= begun.popleft()[1]
                begun.append((pool.submit(compute, name), size))
                held += size
            while begun:
                yield begun.popleft()[0].result()
        finally:
            for future, _ in begun:
                future.cancel()
