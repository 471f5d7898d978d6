"""The table of one task's parameters, from its index alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvcodec.cli import printing
from tvcodec.file.archive import Archive
from tvcodec.file.index import Entry, Kept, Small, SmallMember, TaskIndex


def parameter_rows(archive: Archive, task: str) -> Iterator[dict[str, Any]]:
    """What is stored of each parameter that is not simply the base model's, in name order.

    `bits` are per value of the parameter, its share of a common section included; `noise` is the
    energy of the error that is not shrinkage, relative to the task vector's.
    """
    index = archive.index(task)
    rows = [*_coded(archive, index), *_kept(archive, index), *_mentioned(archive, index)]
    for row in sorted(rows, key=lambda row: str(row["parameter"])):
        yield {"task": task, **row}


def parameters_text(archive: Archive, task: str) -> str:
    """The same for people, under a line that names the task."""
    rows, names = [], set()
    for row in parameter_rows(archive, task):
        names.add(row["parameter"])
        numbers = [f"{row[key]:.3f}" if row[key] is not None else "" for key in ("bits", "gain")]
        error, noise = (
            printing.percent(row[key]) if row[key] is not None else "" for key in ("error", "noise")
        )
        rows.append((numbers[0], error, numbers[1], noise, row["parts"], row["parameter"]))
    unchanged = len(set(archive.numbers) - names)
    headers = ("bits", "error", "gain", "noise", "parts", "parameter")
    record = archive.record(task)
    head = f"{task}: {printing.amount(record.group.length)}, error {printing.percent(record.error)}"
    table = printing.table(headers, rows, left=(4, 5))
    return f"{head}\n{table}\nunchanged: {printing.counted(unchanged, 'parameter')}\n"


def _row(
    name: str, parts: str, length: float = 0, count: int = 0, of: Entry | SmallMember | None = None
) -> dict[str, Any]:
    return {
        "parameter": name,
        "parts": parts,
        "bytes": round(length),
        "bits": 8 * length / count if count else None,
        "error": of and of.error,
        "gain": of and of.gain,
        "noise": of and max(0.0, of.error**2 - (1 - of.gain) ** 2),
        "norm": of and of.norm,
    }


def _coded(archive: Archive, index: TaskIndex) -> Iterator[dict[str, Any]]:
    base_model = archive.root.base_model
    for entry in index.entries:
        labels = (["rows"] if entry.mask else []) + [part.label for part in entry.parts]
        base = base_model[entry.parameter]
        yield _row(base.name, " + ".join(labels), entry.length, base.count, entry)
    if index.small:
        yield from _small(archive, index.small)


def _small(archive: Archive, small: Small) -> Iterator[dict[str, Any]]:
    bases = [archive.root.base_model[member.parameter] for member in small.members]
    total = sum(base.count for base in bases)
    for member, base in zip(small.members, bases, strict=True):
        share = small.length * base.count / total
        yield _row(base.name, "small", share, base.count, member)


def _kept(archive: Archive, index: TaskIndex) -> Iterator[dict[str, Any]]:
    for item in (*index.replaced, *index.added):
        yield _row(_name(archive, item), _kept_parts(item), item.length, _count(item.dims))
    for rows in index.rows:
        base = archive.root.base_model[rows.parameter]
        count = rows.count * _count(base.dims[1:])
        yield _row(base.name, f"{rows.count} extra rows", rows.length, count)


def _kept_parts(item: Kept) -> str:
    return "kept whole" if isinstance(item.parameter, int) else "added, kept whole"


def _mentioned(archive: Archive, index: TaskIndex) -> Iterator[dict[str, Any]]:
    base_model = archive.root.base_model
    for number, of in index.aliases:
        yield _row(base_model[number].name, f"same as {base_model[of].name}")
    for number in index.missing:
        yield _row(base_model[number].name, "missing from the fine-tune")


def _name(archive: Archive, item: Kept) -> str:
    name = item.parameter
    return name if isinstance(name, str) else archive.root.base_model[name].name


def _count(dims: tuple[int, ...]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count
