"""A progress bar with rate and time left, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY = 0.5  # seconds: what is done by then needs no bar


@contextmanager
def progress(
    *phases: tuple[str, int | None], unit: str = " values"
) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more values (or whatever `unit` says) are done.

    Each phase is what is being done and for how many values, if that is known; the next one starts,
    with a rate of its own, when they are through.
    """
    if not sys.stderr.isatty():
        yield lambda values: None
        return
    from threading import Timer

    from tqdm import tqdm

    left = list(phases)
    what, total = left.pop(0)
    with tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        delay=DELAY,
        dynamic_ncols=True,
        leave=False,
        file=sys.stderr,
    ) as bar:

        def advance(values: int) -> None:
            bar.update(values)
            if left and bar.total is not None and bar.n >= bar.total:
                what, total = left.pop(0)
                bar.set_description_str(what, refresh=False)
                bar.total = total
                bar.reset()

        def appear() -> None:  # however long it takes until there is something to tell
            bar.delay = 0
            bar.refresh()

        first = Timer(DELAY, appear)
        first.start()
        try:
            yield advance
        finally:
            first.cancel()
            first.join()
