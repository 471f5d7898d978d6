"""Power cuts while an output is written: over an older one with force, and where there is none."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from faults.crash import ended, forked, fresh_place
from faults.jobs import Job, jobs
from faults.oplog import Disk, Recorder, Step, Tree, tree_of
from faults.outcome import Tally


def cuts(scratch: Path, amount: int) -> Tally:
    """Every state that a cut may leave, after each step of each job, forced and new."""
    tally = Tally()
    for name, job, before, steps, after in _logs(scratch):
        disk = Disk.of(before)
        for step in steps:
            disk.take(step)
        problem = None if disk.whole() == after else "the log is not what happened"
        tally.add(f"{name}, replayed", problem)
        for what, problem in _all_cuts(job, before, steps):
            tally.add(f"{name}, {what}", problem)
    return tally


def without_fsync(scratch: Path, amount: int) -> Tally:
    """The same logs with one fsync taken out, or written in place: the simulator must object."""
    tally = Tally()
    for name, job, before, steps, _ in _logs(scratch):
        for number, step in enumerate(steps):
            if step.kind.startswith("sync") and not _of_scratch(job, step):
                without = steps[:number] + steps[number + 1 :]
                bad = any(problem for _, problem in _all_cuts(job, before, without))
                tally.add(f"{name} without step {number}", None if bad else "not noticed")
        if any(data is None for data in job.new.values()):
            continue
        (data,) = (data for data in job.new.values() if data is not None)
        in_place = [
            Step("create", (job.name,), 1),
            Step("write", file=1, data=data),
            Step("sync", (job.name,), 1),
            Step("sync directory", ("",)),
        ]
        bad = any(problem for _, problem in _all_cuts(job, before, in_place))
        tally.add(f"{name} in place", None if bad else "not noticed")
    return tally


def _of_scratch(job: Job, step: Step) -> bool:
    """Whether a fsync is of a file that is only made to be copied."""
    folder = step.paths[0] if step.kind == "sync directory" else os.path.dirname(step.paths[0])
    return job.in_place and folder != ""


Log = tuple[str, Job, Tree, list[Step], Tree]


def _logs(scratch: Path) -> Iterator[Log]:
    """Of each job, over an old output and over none: the tree before, the steps, the tree after."""
    place = fresh_place(scratch)
    for job in jobs(scratch):
        for fresh in (False,) if job.in_place else (False, True):
            job.prepare(place)
            if fresh:
                Job(job.name, job.run, {}, job.new).prepare(place)
            before, kept = tree_of(place), scratch / "log"

            def run(job: Job = job, kept: Path = kept, force: bool = not fresh) -> None:
                recorder = Recorder(place)
                job.run(place, force)
                kept.write_bytes(pickle.dumps(recorder.steps))

            if code := ended(forked(run)):
                raise RuntimeError(f"{job.name}: ended with {code}")
            steps = [*pickle.loads(kept.read_bytes()), Step("acknowledged")]
            seen = replace(job, old={}) if fresh else job
            kind = "new" if fresh else "replaced"
            yield f"{job.name}, {kind}", seen, before, steps, tree_of(place)


def _all_cuts(job: Job, before: Tree, steps: list[Step]) -> Iterator[tuple[str, str | None]]:
    disk, allowed = Disk.of(before), {"old", "new"}
    for number, step in enumerate(steps):
        disk.take(step)
        if step.kind == "acknowledged":
            allowed = {"new"}
        for tree in disk.cuts():
            found = job.seen(tree)
            problem = None if found in allowed else f"{found} is there"
            yield f"after step {number} ({step.kind})", problem
