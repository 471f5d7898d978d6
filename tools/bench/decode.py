"""Decoding one task beside loading the whole fine-tune, and swapping it into a live module.

usage: decode.py --models DIR BANK [BANK ...] [--repeat N] [--json FILE]
                 [--cold [--throttle MB_PER_SECOND]]

DIR has base/ and tasks/ as models.py makes them, each BANK is an archive of those tasks. All files
are in the page cache; outputs are tensors in memory of their own. In turn, `repeat` times:

load_file   safetensors' load_file of the fine-tune (which maps the file and reads nothing), and
            each tensor copied to memory of its own, as it has to be before somebody may change it
decode      opens the archive, decodes the task's tensors; "again" does so with an open Bank, whose
            base model has been checked
swap        load_into a live module; "back" puts the base model's tensors into it again
copy        one pass over the memory of the module: all its tensors from another copy

The bound is what the machine could do at best (roofline.py): base model in, fine-tune out, the
task's bytes, and multiply-adds of the factors. Cold: bytes that are read when only the base model
is in the page cache, and the bandwidth under which decoding beats reading or downloading the
fine-tune. With --cold, files are dropped from the page cache or throttled instead: see cold.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cold
import torch
from roofline import Roofline, of_factors
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

import tvcodec


@dataclass
class Row:
    """What one archive took: seconds by what was done; rates of the same run."""

    bank: str
    task: str
    task_bytes: int
    full_bytes: int
    multiply_adds: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    bound: float = 0.0

    def median(self, what: str) -> float:
        return statistics.median(self.seconds[what])

    @property
    def break_even(self) -> float:
        """Bytes per second under which reading the fine-tune takes longer than decoding it."""
        return (self.full_bytes - self.task_bytes) / self.median("decode")


class Live(torch.nn.Module):
    """A module with the given tensors as parameters, by their own names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            at: torch.nn.Module = self
            for part in path:
                if part not in dict(at.named_children()):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_parameter(leaf, torch.nn.Parameter(tensor.clone(), requires_grad=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("banks", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--throttle", type=float, default=500.0)
    options = parser.parse_args()
    if options.cold:
        found = [
            cold.measured(b, options.models, options.repeat, options.throttle)
            for b in options.banks
        ]
        times = [row for rows in found for row in rows]
        print(tabulate(times, headers="keys", floatfmt=".0f"))
        if options.json:
            options.json.write_text(json.dumps(times, indent=1) + "\n")
        return
    rows = [measured(bank, options.models, options.repeat) for bank in options.banks]
    machine = Roofline.measured()
    for row in rows:
        row.bound = machine.seconds(2 * row.full_bytes + row.task_bytes, row.multiply_adds)
    print(f"{table(rows)}\nBounds are at {machine}.")
    if options.json:
        told = [{**asdict(row), "break_even": row.break_even} for row in rows]
        options.json.write_text(json.dumps(told, indent=1) + "\n")


def measured(bank: Path, models: Path, repeat: int) -> Row:
    """Everything of one archive, each way in turn; AssertionError if the base model does not come
    back bit for bit."""
    base, file = models / "base", models / "tasks/task0/model.safetensors"
    with tvcodec.open(bank) as opened:
        task = opened.tasks[0]
        row = Row(bank.name, task, 0, file.stat().st_size, 0)
        row.task_bytes = opened.archive.group(task).length
        row.multiply_adds = of_factors(bank, task)
        original = load_file(base / "model.safetensors")
        module, other = Live(original), {name: one.clone() for name, one in original.items()}
        live = dict(module.state_dict())
        ways: dict[str, Callable[[], object]] = {
            "load_file": lambda: load_file(file),
            "load_file, copied": lambda: {k: v.clone() for k, v in load_file(file).items()},
            "copy": lambda: [live[name].copy_(tensor) for name, tensor in other.items()],
            "decode": lambda: _decoded(bank, task, base),
            "again": lambda: opened.decode(task, base).load(),
            "swap": lambda: opened.load_into(module, task, base),
            "back": lambda: opened.load_into(module, None, base),
        }
        for _ in range(repeat + 1):  # the first time warms up
            for name, way in ways.items():
                row.seconds.setdefault(name, []).append(_seconds(way))
        for times in row.seconds.values():
            del times[0]
        assert all(torch.equal(live[name], tensor) for name, tensor in original.items())
    return row


def _decoded(bank: Path, task: str, base: Path) -> dict[str, Tensor]:
    with tvcodec.open(bank) as opened:
        return opened.decode(task, base).load()


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = way()
    seconds = time.perf_counter() - start
    del result
    return seconds


def table(rows: list[Row]) -> str:
    """Medians, and ratios to what a user would do instead."""
    cells = []
    for row in rows:
        loaded, copied = row.median("load_file, copied"), row.median("copy")
        for what in ("load_file", "load_file, copied", "decode", "again", "copy", "swap", "back"):
            times = row.seconds[what]
            against = copied if what in ("copy", "swap", "back") else loaded
            bound = (
                f"{row.median(what) / row.bound:.1f}x"
                if what in ("decode", "again", "swap")
                else ""
            )
            spread = f"{min(times) * 1e3:.0f}-{max(times) * 1e3:.0f}"
            ratio = f"{row.median(what) / against:.2f}"
            cells.append([row.bank, what, f"{row.median(what) * 1e3:.0f}", spread, ratio, bound])
    titles = ["archive", "what", "ms", "range", "ratio to copied load / copy", "of the bound"]
    lines = [tabulate(cells, titles, disable_numparse=True), ""]
    for row in rows:
        lines.append(
            f"{row.bank}: {row.task_bytes:,} bytes read in place of {row.full_bytes:,};"
            f" {row.multiply_adds / 1e9:.1f} G multiply-adds; {row.bound * 1e3:.0f} ms at best;"
            f" faster than reading or downloading it all below {row.break_even / 1e6:.0f} MB/s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
