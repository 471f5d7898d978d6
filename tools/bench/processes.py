"""What a command takes: wall time, time of processors, peak memory, bytes read and written."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# the kernel counts the memory of whoever starts a process as the process's own, so: somebody small
LAUNCHER = """
import os, subprocess, sys, time

def transferred():
    with open("/proc/self/io") as counts:
        return [int(line.split()[1]) for line in counts][:2]

before, start = transferred(), time.monotonic()
status = subprocess.Popen(sys.argv[2:], stdout=2)
_, code, used = os.wait4(status.pid, 0)
seconds = time.monotonic() - start
read, written = (now - then for now, then in zip(transferred(), before))
with open(sys.argv[1], "w") as report:
    numbers = seconds, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime, read, written
    report.write(" ".join(map(str, numbers)))
sys.exit(os.waitstatus_to_exitcode(code))
"""

Command = Sequence[str]


class Used(NamedTuple):
    """What one run took: seconds of wall time and of processors; the resident set at most, and what
    was read and written by calls, in bytes. What is read from a mapped file is not in `read`."""

    seconds: float
    memory: float
    processors: float
    read: float
    written: float


NOTHING = Used(0, 0, 0, 0, 0)


@dataclass
class Runs:
    """Runs of one command, and what its imports alone take."""

    name: str
    runs: list[Used] = field(default_factory=list)
    idle: Used = NOTHING

    def median(self, what: str) -> float:
        """Of the runs, one field of Used."""
        return float(statistics.median(getattr(run, what) for run in self.runs))

    def spread(self) -> str:
        """Median and range of the seconds."""
        seconds = [run.seconds for run in self.runs]
        return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"

    def moved(self, what: str) -> float:
        """Bytes `read` or `written`, beyond those of the imports."""
        return self.median(what) - float(getattr(self.idle, what))


def launched(command: Command) -> Used:
    """What a command takes; its words are shown if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "used")
        quietly([sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), *command])
        return Used(*map(float, report.read_text().split()))


def quietly(command: Sequence[str | Path]) -> None:
    """Runs a command, whose words are shown if it fails."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}")


def files(path: Path) -> Iterable[Path]:
    """A file itself, or those of a directory."""
    return [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]


def size(path: Path) -> int:
    """Bytes of a file, or of all of a directory."""
    return sum(file.stat().st_size for file in files(path))


def read(path: Path) -> None:
    """So that the next who reads it has it from memory."""
    for file in files(path):
        with open(file, "rb", buffering=0) as handle:
            while handle.read(1 << 20):
                pass
