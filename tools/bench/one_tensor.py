"""What reading one tensor of one task takes, whatever else is in the file.

usage: one_tensor.py DIR [--tasks "1,8,64,500"] [--exact] [--json FILE]

Makes fine-tunes of a small vision transformer in DIR, encodes as many of them as asked for, and
decodes one matrix of the last task and all of that task: bytes and reads by the file's source,
and milliseconds (median of 9, opening included, files in the page cache).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest.mock import patch

import models
import torch
from tabulate import tabulate

import tvcodec
from tvcodec.file.source import FileSource

SHAPE = models.Shape(width=96, layers=4, patch=8, image=32, heads=4)
NAME = "encoder.layers.2.mlp.fc1.weight"


class Counted:
    """Counts what FileSource reads while it is in its place."""

    def __init__(self) -> None:
        self.bytes = self.reads = 0

    def __enter__(self) -> Counted:
        original = FileSource.read_at

        def read_at(source: FileSource, offset: int, length: int) -> bytes:
            data = original(source, offset, length)
            self.bytes += len(data)
            self.reads += 1
            return data

        self._patch = patch.object(FileSource, "read_at", read_at)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default="1,8,64,500")
    parser.add_argument("--exact", action="store_true", help="bit-exact, which is soon encoded")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    numbers = sorted(map(int, options.tasks.split(",")))
    torch.set_num_threads(1)
    if not models.whole(options.folder, numbers[-1]):
        models.make(options.folder, SHAPE, models.made_up_sizes(), numbers[-1])
    base = options.folder / "base"
    found = []
    for tasks in numbers:
        bank = options.folder / f"{tasks}.tvq"
        tunes = {f"task{n:03}": options.folder / f"tasks/task{n}" for n in range(tasks)}
        recipe = tvcodec.EXACT if options.exact else tvcodec.Recipe(share=False)
        tvcodec.encode(base, tunes, bank, recipe=recipe, force=True, weights_only=True)
        last = max(tunes)
        found.append({"tasks": tasks, "file": bank.stat().st_size, **measured(bank, last, base)})
    headers = {key: key for key in found[0]}
    print(tabulate(found, headers=headers, floatfmt=",.2f", intfmt=","))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(bank: Path, task: str, base: Path) -> dict[str, float]:
    """Bytes, reads and milliseconds of one tensor, and of the task."""

    def one() -> None:
        with tvcodec.open(bank) as opened:
            opened.decode(task, base)[NAME]

    def whole() -> None:
        with tvcodec.open(bank) as opened:
            opened.decode(task, base).load()

    found: dict[str, float] = {}
    for what, read in (("tensor", one), ("task", whole)):
        with Counted() as counted:
            read()
        times = []
        for _ in range(9):
            start = time.perf_counter()
            read()
            times.append(1e3 * (time.perf_counter() - start))
        found[f"{what}: bytes"] = counted.bytes
        found[f"{what}: reads"] = counted.reads
        found[f"{what}: ms"] = statistics.median(times)
    with tvcodec.open(bank) as opened:
        archive = opened.archive
        found["of it indexes"] = len(archive.container.root) + archive.group(task).index_length
    return found


if __name__ == "__main__":
    main()
