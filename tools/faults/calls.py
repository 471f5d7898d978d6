"""A disk that fails once, when an output is about to appear."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from faults.crash import checked, ended, forked, fresh_place, succeeds_over
from faults.jobs import Job, jobs
from faults.outcome import Tally

CALLS = ("fsync", "rename", "replace", "link")


def failing(scratch: Path, amount: int) -> Tally:
    """Each call of every `amount`-th job fails: over an old output and over none, on a system that
    has hard links and exchanges names, and on one that does neither."""
    tally, place = Tally(), fresh_place(scratch)
    for job, fresh, bare in list(_ways(jobs(scratch)))[::amount]:
        what = f"{job.name}, {'new' if fresh else 'replaced'}{', bare' * bare}"
        job.prepare(place)
        for number in range(_calls(partial(job.run, place, not fresh), bare, scratch / "total")):
            job.prepare(place)
            problem, code = _one(job, place, not fresh, bare, number)
            tally.add(f"{what}, call {number}", problem, bool(code))
    return tally


def _ways(every: list[Job]) -> Iterator[tuple[Job, bool, bool]]:
    """Jobs, whether there is no old output, whether the system is bare."""
    for job in every:
        for fresh in (False,) if job.in_place else (False, True):
            for bare in (False, True):
                yield replace(job, old={}) if fresh else job, fresh, bare


def _one(job: Job, place: Path, force: bool, bare: bool, number: int) -> tuple[str | None, int]:
    def run() -> None:
        _break(bare, number)
        job.run(place, force)

    code = ended(forked(run))
    if code not in (0, errno.EIO):
        return f"ended with {code}", code
    problem = checked(job, place, {"old", "new"} if code else {"new"})
    return problem or succeeds_over(job, place), code


def _calls(run: Callable[[], object], bare: bool, report: Path) -> int:
    """How many calls there are where none fails."""

    def inside() -> None:
        made = _break(bare, -1)
        run()
        report.write_text(str(made[0]))

    if code := ended(forked(inside)):
        raise RuntimeError(f"ended with {code}")
    return int(report.read_text())


def _break(bare: bool, fatal: int) -> list[int]:
    """Lets the call of that number fail, in this process for good; the count of calls."""
    made = [0]

    def fails(call: Callable[..., Any]) -> Callable[..., Any]:
        def once(*values: Any, **options: Any) -> Any:
            made[0] += 1
            if made[0] - 1 == fatal:
                raise OSError(errno.EIO, "input/output error")
            return call(*values, **options)

        return once

    def missing(*values: Any, **options: Any) -> Any:
        raise PermissionError(errno.EPERM, "not on this system")

    for name in CALLS:
        setattr(os, name, fails(getattr(os, name)))
    if bare:
        os.link = missing
        ctypes.CDLL = missing  # type: ignore[assignment, misc]
    return made
