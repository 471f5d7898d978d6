"""TIES with one threshold for a whole task vector, from one reading of the files.

No parameter can be merged before all have been seen. So each task vector is decoded once, counted
by magnitude, and what the threshold may keep goes to a temporary file: for the share of values that
reach it, which is known from the start, a value that too many others already exceed will never do.
"""

from __future__ import annotations

import io
import tempfile
import threading
import weakref
from typing import IO

import numpy as np
import torch
from torch import Tensor

from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.decoding.merging.values import Progress, Tasks, Tau
from tvcodec.maths.merge import ties as maths

IN_MEMORY = 16 << 20  # bytes before they go to disk
REST = -1  # in place of a task's number


def ties_by_model(tasks: Tasks, density: float, share: float, progress: Progress) -> Tau:
    """Reads all parameters before the first of them is merged; `progress` is told of each as often
    as there are tasks. To each is added `share` of the mean of what is coded in a rotated frame.

    Where tasks cancel exactly, the sign is that of most values of the parameter (in the paper's
    program: of the model).
    """
    candidates = Candidates()
    thresholds: list[float] = []
    reading = threading.Lock()

    def tau(number: int) -> Tensor:
        with reading:
            if not thresholds:
                thresholds.extend(_read(tasks, density, share, candidates, progress))
        dims = tasks.parameters[number].dims
        pairs = enumerate(thresholds)
        merged = maths.merge(
            [maths.trim(candidates.take(number, task, dims), at) for task, at in pairs]
        )
        return merged.add_(candidates.take(number, REST, dims)) if tasks.rotated(number) else merged

    return tau


def _read(
    tasks: Tasks, density: float, share: float, candidates: Candidates, progress: Progress
) -> list[float]:
    """Each task's threshold, what may reach it being in `candidates`."""
    floats = [TORCH_DTYPES[parameter.dtype].is_floating_point for parameter in tasks.parameters]
    magnitudes = [maths.Magnitudes() for _ in tasks.terms]
    counts = [
        sum(
            parameter.count
            for number, parameter in enumerate(tasks.parameters)
            if floats[number] or term.task.changed(number)
        )
        for term in tasks.terms
    ]
    for number, parameter in enumerate(tasks.parameters):
        read = tasks.read(number)
        for task, value in enumerate(read.structured().each(number)):
            if read.terms[task].parts(number) is not None:
                magnitudes[task].add(value)
                floor = magnitudes[task].threshold(density, counts[task])
                candidates.put(number, task, value, floor)
        if read.rotated(number):
            left = read.mean(number).sub_(read.structured().mean(number))
            candidates.put(number, REST, left.mul_(share), 0.0)
        progress(len(tasks.terms) * parameter.count)
    pairs = zip(magnitudes, counts, strict=True)
    return [found.threshold(density, count) for found, count in pairs]


class Candidates:
    """Values that are not zero and reach some magnitude, float32, of tensors by two numbers each,
    in a file without a name; several threads may take them."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - finalized
        self._at: dict[tuple[int, int], tuple[int, int]] = {}  # offset, values
        self._reading = threading.Lock()
        weakref.finalize(self, self._file.close)

    def put(self, number: int, task: int, values: Tensor, least: float) -> None:
        """Keeps what of the values reaches `least`: those, then a bit for each of all."""
        flat = values.reshape(-1).numpy()
        kept = np.abs(flat) >= least if least else flat != 0
        found = flat[kept]
        self._file.seek(0, io.SEEK_END)
        self._at[number, task] = self._file.tell(), len(found)
        self._file.write(found.tobytes())
        self._file.write(np.packbits(kept).tobytes())

    def take(self, number: int, task: int, dims: tuple[int, ...]) -> Tensor:
        """What was kept in a tensor of shape `dims`, zeros elsewhere."""
        values = torch.zeros(dims, dtype=torch.float32)
        offset, count = self._at.get((number, task), (0, 0))
        if not count:
            return values
        with self._reading:
            self._file.seek(offset)
            data = bytearray(self._file.read(4 * count + -(-values.numel() // 8)))
        bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=4 * count), count=values.numel())
        values.view(-1).numpy()[bits.view(np.bool_)] = np.frombuffer(data, np.float32, count)
        return values
