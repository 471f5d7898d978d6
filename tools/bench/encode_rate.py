"""What encoding costs: values per second of one task and core, memory and bits, and at scale.

usage: encode_rate.py DIR --text4 DIR [--only 22m|85m] [--tasks N]
       encode_rate.py --scale-up RATES.json

Prints JSON of generated models (see models.py), each encoded on one core: `survey` and `coding` are
values per second and task, `local` the share of an encode by workers that stays with whoever asked
for it, `memory` the peak in bytes, `bits` per parameter of the file. With --scale-up it prints
spec/scale.md's table from such JSON instead: 70 B parameters, 100 tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import corpora
import models

import tvcodec

SHAPES = {
    "22m": models.Shape(width=384, layers=12, patch=16, image=224, heads=6),
    "85m": models.VIT_B_32,
}
QUALITIES = ("small", "balanced", "high")
VALUES, TASKS, BYTES = 70e9, 100, 2  # the model of spec/scale.md, in bfloat16
LARGEST = 8192 * 28672  # values of its largest matrix but for the embedding
ANSWERS = 64  # bytes of a coded parameter's record and its way home, about
DISK, CORES = 1e9, (2, 64, 1024)  # bytes a second of storage, for each machine of CORES_EACH
CORES_EACH = 32


class Timed(Executor):
    """Runs at once what it is given, and keeps how long that took, by kind of errand."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        start, future = time.process_time(), Future[Any]()
        future.set_result(fn(*args, **kwargs))
        kind = type(args[0]).__name__
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.process_time() - start
        self.bytes += len(future.result())
        return future


def measured(folder: Path, tasks: int, quality: str) -> dict[str, float]:
    """One encode in this process, which should do nothing else: seconds are of its processor."""
    timed, out = Timed(), folder / f"{quality}.tvq"
    tunes = {f"task{n}": folder / "tasks" / f"task{n}" for n in range(tasks)}
    with tvcodec.open_values(folder) if False else _values(folder / "base") as values:
        start = time.process_time()
        written = tvcodec.encode(
            folder / "base",
            tunes,
            out,
            recipe=tvcodec.QUALITIES[quality],
            executor=timed,
            jobs=1,
            force=True,
        )
        whole = time.process_time() - start
    return {"values": values, "whole": whole, "bytes": written.bytes}
