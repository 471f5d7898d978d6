"""How much of a task vector's energy the strongest of its stored directions hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tvcodec.decoding.stored_task import StoredTask
from tvcodec.file.archive import Archive
from tvcodec.file.index import Entry, Factors
from tvcodec.maths.lowrank import Factors as Content

MOST_MATRICES = 6
MOST_TASKS = 16


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Of one parameter, the mean over some tasks: shares[k] is the share of the task vector's
    energy that its k + 1 strongest stored directions hold."""

    parameter: str
    tasks: int
    shares: npt.NDArray[np.float64]


def spectra(archive: Archive) -> list[Spectrum]:
    """Of the parameters with stored factors that changed most, in at most MOST_TASKS tasks evenly
    over the list. Reads their sections: FormatError where one is damaged."""
    step = -(-len(archive.tasks) // MOST_TASKS) or 1
    entries = {task: _factored(archive, task) for task in archive.tasks[::step]}
    energy: dict[int, float] = {}
    for found in entries.values():
        for number, entry in found.items():
            energy[number] = energy.get(number, 0.0) + entry.norm**2
    strongest = sorted(energy, key=lambda number: (-energy[number], number))[:MOST_MATRICES]
    shares: dict[int, list[npt.NDArray[np.float64]]] = {number: [] for number in strongest}
    for task, found in entries.items():
        stored = StoredTask(archive, task)
        for number in strongest:
            if number in found:
                shares[number].append(_shares(stored, number, found[number].norm))
    names = archive.root.base_model
    return [Spectrum(names[number].name, len(of), _mean(of)) for number, of in shares.items()]


def _factored(archive: Archive, task: str) -> dict[int, Entry]:
    return {
        entry.parameter: entry
        for entry in archive.index(task).entries
        if entry.norm > 0 and any(isinstance(part, Factors) for part in entry.parts)
    }


def _shares(stored: StoredTask, number: int, norm: float) -> npt.NDArray[np.float64]:
    """Energy of rank-one terms, the strongest first, summed up, over that of the task vector."""
    parts = stored.parts(number)
    assert parts is not None
    terms = [_energies(item) for item in parts.contents if isinstance(item, Content)]
    strongest = np.sort(torch.cat(terms).numpy())[::-1]
    return np.cumsum(strongest) / norm**2


def _energies(factors: Content) -> torch.Tensor:
    left, right = factors.left.double(), factors.right.double()
    return factors.scales.double().square() * left.square().sum(0) * right.square().sum(0)


def _mean(shares: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """A task of fewer directions goes on with what all of its own hold."""
    rank = max(len(one) for one in shares)
    filled = [np.pad(one, (0, rank - len(one)), mode="edge") for one in shares]
    return np.asarray(np.mean(filled, axis=0))
