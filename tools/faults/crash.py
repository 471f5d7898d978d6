"""Kills, full disks and failing reads while an output replaces an older one."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from faults.jobs import Job, age, jobs, left_over
from faults.oplog import Recorder, tree_of
from faults.outcome import Tally

NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
TMPFS = 4 << 20
PAGE = 4096


def forked(work: Callable[[], object]) -> int:
    """A child that does the work and ends: with 0, or the errno of an OSError, or 255."""
    child = os.fork()
    if child:
        return child
    code = 255
    try:
        work()
        code = 0
    except OSError as error:
        code = error.errno or 254
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checked(job: Job, place: Path, allowed: set[str], tidy: bool = False) -> str | None:
    """What is wrong with an output: it has to be one of `allowed`, and whole."""
    found = job.seen(tree_of(place))
    if found not in allowed:
        return f"{found} is there, expected {' or '.join(sorted(allowed))}"
    rest = left_over(place, job)
    return f"{[entry.name for entry in rest]} left over" if tidy and rest else None


def succeeds_over(job: Job, place: Path) -> str | None:
    """What is wrong after another run, an hour after whatever went wrong."""
    for entry in left_over(place, job):
        age(entry)
    if job.in_place:
        job.prepare(place, keep_temporaries=True)
    if code := ended(forked(partial(job.run, place, True))):
        return f"the next run ended with {code}"
    return checked(job, place, {"new"}, tidy=True)


def kills(scratch: Path, amount: int) -> Tally:
    """kill -9 at random moments: `amount` of encode, a fifth as many of each other job."""
    tally, rng = Tally(), random.Random(7)
    place = fresh_place(scratch)
    for job in jobs(scratch):
        job.prepare(place)
        begin = time.monotonic()
        ended(forked(partial(job.run, place, True)))
        span = time.monotonic() - begin
        job.prepare(place)
        for number in range(amount if job.name == "bank.tvq" else amount // 5):
            child = forked(partial(job.run, place, True))
            time.sleep(rng.random() * span * 1.1)
            os.kill(child, signal.SIGKILL)
            killed = ended(child) != 0
            tally.add(f"{job.name}, kill {number}", checked(job, place, {"old", "new"}), killed)
            job.prepare(place, keep_temporaries=True)
        tally.add(f"{job.name}, after all kills", succeeds_over(job, place))
    return tally


def kills_at_each_step(scratch: Path, amount: int) -> Tally:
    """kill -9 before every `amount`-th operation on files."""
    tally, place = Tally(), fresh_place(scratch)
    for job in jobs(scratch):
        number, code = 0, -signal.SIGKILL
        while code == -signal.SIGKILL:
            job.prepare(place)

            def run(job: Job = job, fatal: int = number) -> None:
                def before(step: int) -> None:
                    if step == fatal:
                        os.kill(os.getpid(), signal.SIGKILL)

                Recorder(place, before)
                job.run(place, True)

            code = ended(forked(run))
            allowed = {"old", "new"} if code else {"new"}
            tally.add(f"{job.name}, step {number}", checked(job, place, allowed))
            tally.add(f"{job.name}, after step {number}", succeeds_over(job, place))
            number += amount
    return tally


def file_size_limits(scratch: Path, amount: int) -> Tally:
    """No file may grow beyond a limit: `amount` of them for each job."""
    tally, place = Tally(), fresh_place(scratch)
    for job in jobs(scratch):
        largest = max(len(data) for data in job.new.values() if data is not None)
        for number in range(amount):
            limit = number * largest * 21 // 20 // (amount - 1)

            def run(job: Job = job, limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                job.run(place, True)

            job.prepare(place)
            code = ended(forked(run))
            problem = _after(code, job, place, NO_SPACE)
            tally.add(f"{job.name}, at most {limit} bytes", problem, bool(code))
    return tally


def _after(code: int, job: Job, place: Path, errors: set[int]) -> str | None:
    """What is wrong after a run that ended with `code`: 0, or an errno of those."""
    if code and code not in errors:
        return f"ended with {code}"
    return checked(job, place, {"old" if code else "new"}, tidy=True)


def full_disk(scratch: Path, amount: int) -> Tally:
    """A file system of 4 MiB, in memory, with room for a few pages only. No cases where this
    system lets nobody mount one, see `can_mount`."""
    if not can_mount(scratch):
        return Tally()
    place = scratch / "disk"
    place.mkdir()
    report = scratch / "full-disk"

    def inside() -> None:
        _mount(place)
        tally = Tally()
        for job in jobs(scratch):
            need = sum(-(-len(data) // PAGE) + 1 for data in job.new.values() if data)
            for pages in range(0, need + 4, amount):
                job.prepare(place)
                free = os.statvfs(place).f_bavail * PAGE
                filler = place / f".{job.name}-ffffffff.tmp"
                filler.write_bytes(bytes(max(free - pages * PAGE, 0)))
                code = ended(forked(partial(job.run, place, True)))
                filler.unlink()
                problem = _after(code, job, place, NO_SPACE)
                tally.add(f"{job.name}, {pages} pages", problem, bool(code))
        lines = [str(tally.cases), str(tally.refused), *tally.wrong]
        report.write_text("\n".join(lines))

    if code := ended(forked(inside)):
        return Tally(1, 0, [f"ended with {code}"])
    cases, refused, *wrong = report.read_text().splitlines()
    return Tally(int(cases), int(refused), wrong)


def can_mount(place: Path) -> bool:
    """Whether this system lets us have a file system of our own at a directory."""
    return ended(forked(partial(_mount, place))) == 0


def _mount(place: Path) -> None:
    """A small file system that only this process and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    new_namespaces = 0x10000000 | 0x00020000  # of users and of mounts
    if libc.unshare(new_namespaces):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    options = f"size={TMPFS}".encode()
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "mount")


def read_errors(scratch: Path, amount: int) -> Tally:
    """The disk fails at every `amount`-th read, from the first to the last."""
    tally, place = Tally(), fresh_place(scratch)
    for job in jobs(scratch):
        if job.name == "saved.tvq":  # what can be read is saved, the rest is told
            continue
        number, code = 0, errno.EIO
        while code == errno.EIO:
            job.prepare(place)

            def run(job: Job = job, number: int = number) -> None:
                with _failing_reads(number):
                    job.run(place, True)

            code = ended(forked(run))
            problem = _after(code, job, place, {errno.EIO})
            tally.add(f"{job.name}, read {number}", problem, bool(code))
            number += amount
    return tally


@contextmanager
def _failing_reads(good: int) -> Iterator[None]:
    """Reads through os.pread and raw files fail once `good` of them went well."""
    left = [good]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "input/output error")

    class Raw(io.FileIO):
        def readinto(self, buffer: Any) -> Any:
            count()
            return super().readinto(buffer)

    pread, opened = os.pread, builtins.open

    def failing_pread(*values: Any) -> bytes:
        count()
        return pread(*values)

    def failing_open(file: Any, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        if mode == "rb" and buffering == 0:
            return Raw(file)
        return opened(file, mode, buffering, **options)

    os.pread = failing_pread
    builtins.open = failing_open  # type: ignore[assignment]
    try:
        yield
    finally:
        os.pread, builtins.open = pread, opened


def fresh_place(scratch: Path) -> Path:
    """An empty directory for outputs."""
    place = scratch / "place"
    place.mkdir()
    return place
