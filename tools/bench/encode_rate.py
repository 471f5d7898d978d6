"""What encoding costs: values per second of one task and core, memory and bits; and at scale.

usage: encode_rate.py DIR --text4 DIR [--only 22m|85m] [--tasks N]
       encode_rate.py --scale-up RATES.json

Prints a line of JSON for each model (made by models.py in DIR) and quality: `survey` and `coding`,
values per second of one task; `local`, the share of time that is not the workers', `local_each` its
seconds by errand; `memory`, bytes at most, `memory_per_value`, added by encoding for each value of
the largest parameter. Time is that of the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import corpora
import models
import torch

import tvcodec
from tvcodec.maths.spectrum import spectrum
from tvcodec.threads import one_thread

QUALITIES = ("small", "balanced", "high")
VALUES, TASKS, PARAMETERS = 70e9, 100, 723  # of Llama 3 70B
LARGEST, SIDE, STORED = 128256 * 8192, 8192, 2  # values and shorter side, bytes of a value
SUMS = 8 * 2**14  # bytes that a task's sketch takes of a parameter
CORES, STORAGE = (32, 1024), 1e9  # bytes a second that shared storage gives to 32 cores


class Timed(Executor):
    """Runs at once what it is given, and keeps how long that takes, by kind of errand."""

    def __init__(self) -> None:
        self.seconds, self.errands = dict.fromkeys(("Identify", "Compare", "Errand"), 0.0), 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        start, future = time.process_time(), Future[Any]()
        future.set_result(fn(*args, **kwargs))
        self.seconds[type(args[0]).__name__] += time.process_time() - start
        self.errands += 1
        return future


def measured(folder: Path, tasks: int, quality: str) -> dict[str, Any]:
    counts = [math.prod(shape) for _, shape in models.SHAPES[folder.name].parameters()]
    values, timed = sum(counts), Timed()
    tunes = {f"task{n}": folder / "tasks" / f"task{n}" for n in range(tasks)}
    recipe, out = tvcodec.QUALITIES[quality], folder / f"{quality}.tvq"
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of imports
    before, start = _peak(), time.process_time()
    written = tvcodec.encode(folder / "base", tunes, out, recipe=recipe, executor=timed, force=True)
    whole, peak = time.process_time() - start, _peak()
    local = whole - sum(timed.seconds.values())
    return {
        "quality": quality,
        "survey": values * tasks / timed.seconds["Compare"],
        "identify": values / timed.seconds["Identify"],
        "coding": values * tasks / timed.seconds["Errand"],
        "local": local / whole,
        "local_each": local / timed.errands,
        "memory": peak,
        "memory_per_value": (peak - before) / max(counts),
        "spectral": _spectral(),
        "bits": 8 * written.bytes / values / tasks,
    }


def _peak() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@one_thread()
def _spectral(side: int = 2048) -> float:
    """Seconds per value of the strongest directions of a matrix, of which one in 16 is above the
    rest; they grow with the shorter side, by which they are divided."""
    strong = torch.randn(4 * side, side // 16) @ torch.randn(side // 16, side)
    matrix = torch.randn(4 * side, side) + strong
    floor = 4 * side**0.5  # singular values of the noise are 3 at most, in these units
    start = time.process_time()
    found = spectrum(matrix, floor)
    assert len(found.sigma) == side // 16
    return (time.process_time() - start) / matrix.numel() / side


def scaled(x: dict[str, Any]) -> dict[str, float]:
    """The arithmetic of spec/scale.md, of one quality: figures by name and unit."""
    work = VALUES * TASKS
    coding = 1 / x["coding"] + x["spectral"] * SIDE  # a value of matrices with longer sides
    seconds = work / x["survey"] + VALUES / x["identify"] + work * coding
    joint = tvcodec.QUALITIES[x["quality"]].metric == "mse"  # all tasks of a parameter at once
    errands = PARAMETERS * (1 + TASKS + (1 if joint else TASKS))
    read = (4 * TASKS + 1) * VALUES * STORED  # the base model beside each fine-tune, twice
    per_value = x["memory_per_value"] + (4 * (TASKS - 1) if joint else 0)
    found = {
        "measured: survey, M values/s": x["survey"] / 1e6,
        "measured: coding, M values/s": x["coding"] / 1e6,
        "measured: spectra, ps per value and row": x["spectral"] * 1e12,
        "measured: local, ms per errand": x["local_each"] * 1e3,
        "measured: memory, bytes per value": x["memory_per_value"],
        "measured: file, bits per value": x["bits"],
        "errands, thousand": errands / 1e3,
        "workers' time, core hours": seconds / 3600,
        "left local, hours": errands * x["local_each"] / 3600,
        "read, TB": read / 1e12,
        "file, GB": work * x["bits"] / 8e9,
        "sent back, GB": (work * x["bits"] / 8 + SUMS * TASKS * PARAMETERS) / 1e9,
        "memory for the largest matrix, GB": LARGEST * per_value / 1e9,
    }
    for cores in CORES:
        found[f"{cores} cores compute, hours"] = seconds / cores / 3600
        found[f"{cores} cores read, hours"] = read / STORAGE * 32 / cores / 3600
    return found


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--text4", type=Path)
    parser.add_argument("--only", choices=models.SHAPES)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--scale-up", type=Path, metavar="RATES.json")
    parser.add_argument("--one", choices=QUALITIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scale_up:
        lines = list(map(json.loads, options.scale_up.read_text().splitlines()))
        found = list(map(scaled, lines))
        rows = [["", *(line["quality"] for line in lines)], ["---", *("--:" for _ in lines)]]
        rows += [[name, *(f"{one[name]:,.3g}" for one in found)] for name in found[0]]
        print("\n".join("| " + " | ".join(cells) + " |" for cells in rows))
    elif options.one:
        print(json.dumps(measured(options.folder, options.tasks, options.one)))
    else:
        for name in [options.only] if options.only else ("22m", "85m"):
            place = options.folder / name
            if not models.whole(place, options.tasks):
                sizes = models.sizes_of(corpora.load("text4", options.text4))
                models.make(place, models.SHAPES[name], sizes, options.tasks)
            for quality in QUALITIES:
                words = ["--one", quality, "--tasks", str(options.tasks)]
                done = subprocess.check_output([sys.executable, __file__, str(place), *words])
                print(json.dumps({"model": name, **json.loads(done)}), flush=True)


if __name__ == "__main__":
    main()
