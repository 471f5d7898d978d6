"""What a file holds of each parameter, in the keys of SVD-Hybrid's diagnostics.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tvcodec.file.archive import Archive
from tvcodec.file.container import aligned
from tvcodec.file.index import DTYPES, Entry, Factors, Small, SmallMember, TaskIndex, pack_task

RETAINED = "energy_retained"
ROUNDING = 1e-5  # of sums of squares of float32 numbers


@dataclass(slots=True)
class _Found:
    """One parameter: what each task says of it, in how many bytes, and what it is instead of."""

    said: dict[str, Entry | SmallMember] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    original: dict[str, int] = field(default_factory=dict)


def diagnostics(archive: Archive) -> dict[str, Any]:
    """Rank, energy, errors and compression of each parameter that a task changed, and of all.

    Errors are relative to the norm of the task vector. Ratios are bytes of the fine-tune as it was
    to all bytes that stand for it, what tasks share included; per parameter, the root index is left
    out. `k` is the rank of the shared basis, or else the mean rank of the tasks' own factors;
    without a basis, the energy retained is what the error leaves. Parameters of a task that were
    not worth a byte are nowhere by name; where the task's error shows that there are any, they
    count in the average error as one, of error 1.
    """
    found, shared, basis = _collected(archive), _shared_bytes(archive), _basis(archive)
    per_parameter = {
        archive.root.base_model[number].name: _parameter(
            one, shared.get(number, 0), basis.get(number)
        )
        for number, one in sorted(found.items())
    }
    return {"summary": _summary(archive, per_parameter), "per_parameter": per_parameter}


def _parameter(found: _Found, shared: int, basis: tuple[int, float] | None) -> dict[str, Any]:
    share = shared / len(found.said)
    errors = {task: said.error for task, said in found.said.items()}
    energy = sum(said.norm**2 for said in found.said.values())
    lost = sum((said.norm * said.error) ** 2 for said in found.said.values())
    ranks = [_rank(said) for said in found.said.values()]
    kept = max(0.0, 1 - lost / energy) if energy else 1.0
    rank, retained = basis if basis else (_mean(ranks), kept)
    return {
        "k": rank,
        "energy_retained": retained,
        "mean_relative_error": _mean(errors.values()),
        "relative_errors": errors,
        "pooled_relative_error": (lost / energy) ** 0.5 if energy else 0.0,
        "compression_ratios": {
            task: found.original[task] / (found.bytes[task] + share) for task in found.said
        },
    }


def _summary(archive: Archive, per_parameter: dict[str, Any]) -> dict[str, Any]:
    rows = per_parameter.values()
    common = archive.container.size - sum(task.group.length for task in archive.root.tasks)
    originals = {task: _original_bytes(archive, archive.index(task)) for task in archive.tasks}
    return {
        "num_parameters": len(per_parameter),
        "average_rank": _mean(row["k"] for row in rows),
        "average_energy_retained": _mean(row["energy_retained"] for row in rows),
        "average_reconstruction_error": _mean(
            [*(row["mean_relative_error"] for row in rows), *_dropped(archive)]
        ),
        "average_compression_ratio": _mean(
            ratio for row in rows for ratio in row["compression_ratios"].values()
        ),
        "compression_ratio": sum(originals.values()) / archive.container.size,
        "relative_errors": {task.name: task.error for task in archive.root.tasks},
        "compression_ratios": {
            task.name: originals[task.name] / (task.group.length + common / len(originals))
            for task in archive.root.tasks
        },
    }


def _dropped(archive: Archive) -> list[float]:
    """An error of 1 for each task whose error is more than that of what is stored of it."""
    found = []
    for task in archive.root.tasks:
        index = archive.index(task.name)
        stored: list[Entry | SmallMember] = [*index.entries]
        stored += index.small.members if index.small else ()
        known = sum((said.norm * said.error) ** 2 for said in stored)
        if (task.norm * task.error) ** 2 > known * (1 + ROUNDING):
            found.append(1.0)
    return found


def _collected(archive: Archive) -> dict[int, _Found]:
    found: dict[int, _Found] = {}
    base_model = archive.root.base_model
    for task in archive.tasks:
        index = archive.index(task)
        dtypes = dict(index.dtypes)
        for said, length in _said(archive, index):
            one, base = found.setdefault(said.parameter, _Found()), base_model[said.parameter]
            one.said[task], one.bytes[task] = said, length
            one.original[task] = base.count * DTYPES[dtypes.get(said.parameter, base.dtype)]
    return found


def _said(archive: Archive, index: TaskIndex) -> Iterator[tuple[Entry | SmallMember, float]]:
    """Every parameter with a task vector, and the bytes of its section and its record."""
    nothing = TaskIndex(digest=bytes(32))
    empty = len(pack_task(nothing))
    for entry in index.entries:
        record = len(pack_task(replace(nothing, entries=(entry,)))) - empty
        yield entry, aligned(entry.length) + record
    if index.small:
        yield from _small(archive, index.small, empty)


def _small(archive: Archive, small: Small, empty: int) -> Iterator[tuple[SmallMember, float]]:
    """By their shares of values: they are one section."""
    record = len(pack_task(TaskIndex(digest=bytes(32), small=small))) - empty
    counts = [archive.root.base_model[member.parameter].count for member in small.members]
    for member, count in zip(small.members, counts, strict=True):
        yield member, (aligned(small.length) + record) * count / sum(counts)


def _shared_bytes(archive: Archive) -> dict[int, int]:
    """What the shared vectors of each parameter take, with their records."""
    lengths: dict[int, int] = {}
    if archive.root.shared:
        index = archive.index(None)
        for entry, length in _said(archive, index):
            lengths[entry.parameter] = lengths.get(entry.parameter, 0) + round(length)
    return lengths


def _basis(archive: Archive) -> dict[int, tuple[int, float]]:
    """Rank and energy retained of each parameter's basis, as its writer says, who may be anybody:
    what is not understood is left out."""
    found = {}
    metadata = archive.index(None).metadata if archive.root.shared else {}
    for key, text in metadata.items():
        for word in text.split() if key.startswith(RETAINED) else ():
            try:
                number, rank, energy = word.split(":")
                found[int(number)] = int(rank), float(energy)
            except ValueError:
                continue
    return found


def _rank(said: Entry | SmallMember) -> int:
    parts = said.parts if isinstance(said, Entry) else ()
    return sum(part.rank for part in parts if isinstance(part, Factors))


def _original_bytes(archive: Archive, index: TaskIndex) -> int:
    """Values of the fine-tune times the width of their dtype."""
    dtypes, base_model = dict(index.dtypes), archive.root.base_model
    elsewhere = {*index.missing, *(kept.parameter for kept in index.replaced)}
    total = sum(
        base.count * DTYPES[dtypes.get(number, base.dtype)]
        for number, base in enumerate(base_model)
        if number not in elsewhere
    )
    for kept in (*index.replaced, *index.added):
        total += math.prod(kept.dims) * DTYPES[kept.dtype]
    for rows in index.rows:
        base = base_model[rows.parameter]
        values = rows.count * math.prod(base.dims[1:])
        total += values * DTYPES[dtypes.get(rows.parameter, base.dtype)]
    return total


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
