"""Decoding one task beside loading the whole fine-tune, where files are not in memory yet: what
`decode.py --cold` measures.

Files are dropped from the page cache (POSIX_FADV_DONTNEED after fsync); what share of their pages
was still there, by mincore, is told. In turn:

load_file, copied      the fine-tune is cold
decode                 the archive is cold, the base model warm
decode, base cold      both are cold

A disk may be a cache of the machine underneath. So the same is done with a reader that waits as
long as a device of so many MB/s would take: the fine-tune read to memory, and its tensors made
there without a copy; and the task decoded from a throttled archive, base model warm.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

import tvcodec
from tvcodec.file.archive import Archive
from tvcodec.file.source import FileSource

CHUNK = 1 << 20


class Throttled(FileSource):
    """A file whose bytes come at `rate` a second, as from one reader."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path)
        self.rate = rate
        self.read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        until = time.perf_counter() + length / self.rate
        data = super().read_at(offset, length)
        time.sleep(max(until - time.perf_counter(), 0))
        self.read += length
        return data


def drop(*paths: Path) -> None:
    """Asks the system to forget what it holds of files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def held(path: Path) -> float:
    """The share of a file's pages that are in the page cache."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        resident = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(mapped, np.uint8)
        arguments = view.ctypes.data, len(mapped), resident.ctypes.data
        failed = ctypes.CDLL(None, use_errno=True).mincore(*map(ctypes.c_size_t, arguments))
        del view
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return float((resident & 1).mean())


def measured(bank: Path, models: Path, repeat: int, throttle: float) -> list[dict[str, object]]:
    """A row for each way, milliseconds; `throttle` is in MB/s."""
    base, file = models / "base", models / "tasks/task0/model.safetensors"
    weights, rate = base / "model.safetensors", throttle * 1e6
    slow = f", at {throttle:.0f} MB/s"
    ways: dict[str, tuple[tuple[Path, ...], Callable[[], object]]] = {
        "load_file, copied": ((file,), lambda: _copied(file)),
        "decode": ((bank,), lambda: _decoded(tvcodec.open(bank), base)),
        "decode, base cold": ((bank, weights), lambda: _decoded(tvcodec.open(bank), base)),
        "load" + slow: ((), lambda: _loaded(file, rate)),
        "decode" + slow: ((), lambda: _decoded(_throttled(bank, rate), base)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    left: dict[str, float] = dict.fromkeys(ways, 0.0)
    for _ in range(repeat):
        for name, (cold, way) in ways.items():
            weights.read_bytes()  # which is warm, unless the next line says otherwise
            drop(*cold)
            left[name] = max([left[name], *map(held, cold)])
            start = time.perf_counter()
            result = way()
            seconds[name].append(time.perf_counter() - start)
            del result
    return [
        {
            "archive": bank.name,
            "what": name,
            "median": 1e3 * statistics.median(times),
            "least": 1e3 * min(times),
            "most": 1e3 * max(times),
            "in cache": f"{left[name]:.0%}" if ways[name][0] else "throttled",
        }
        for name, times in seconds.items()
    ]


def _copied(file: Path) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in safetensors.torch.load_file(file).items()}


def _loaded(file: Path, rate: float) -> dict[str, Tensor]:
    source = Throttled(file, rate)
    data = b"".join(source.read_at(at, CHUNK) for at in range(0, source.size, CHUNK))
    source.close()
    return safetensors.torch.load(data)


def _throttled(bank: Path, rate: float) -> tvcodec.Bank:
    opened = tvcodec.open(bank)
    opened.archive.close()
    opened.archive = Archive(bank, source=Throttled(bank, rate))
    return opened


def _decoded(opened: tvcodec.Bank, base: Path) -> dict[str, Tensor]:
    with opened:
        return opened.decode(opened.tasks[0], base).load()
