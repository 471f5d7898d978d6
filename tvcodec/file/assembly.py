"""Tasks of open files -> one new file: their bytes are copied, nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tvcodec.errors import FormatError
from tvcodec.file import similarity
from tvcodec.file.archive import Archive
from tvcodec.file.container import Writer
from tvcodec.file.index import Root, TaskRecord, pack_root, pack_task
from tvcodec.file.stored_files import put_blobs


@dataclass(frozen=True, slots=True)
class Taken:
    """A task of an open file; `bare`, without its companion files."""

    archive: Archive
    name: str
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written: its size, root digest (hexadecimal), tasks, and how much of it
    belongs to no single task."""

    path: str
    bytes: int
    root: str
    tasks: tuple[str, ...]
    common_bytes: int


def copy_tasks(
    writer: Writer,
    tasks: Sequence[Taken],
    shared: Archive | None,
    root: Root,
    sketches: Mapping[str, bytes] | None = None,
) -> Root:
    """Copies tasks, and before them what those of `shared` have in common; the root index of the
    new file, with the base model and metadata of `root`. `sketches` replace those that tasks have.

    The file is the one that `encode` would have written of all of them, where nothing is shared.
    FormatError for a task that is damaged.
    """
    tasks = sorted(tasks, key=lambda taken: taken.name)
    if shared is not None and shared.root.shared is not None:
        writer.copy(shared.raw_group(None))
    records = tuple(_copy_task(writer, taken) for taken in tasks)
    companions = put_blobs(writer, _blobs(tasks))
    triangle = _triangle(tasks, sketches or {})
    length, sha256 = writer.put_apart(triangle) if triangle else (0, bytes(32))
    return replace(
        root,
        companions=companions,
        gram_length=length,
        gram_sha256=sha256,
        shared=shared.root.shared if shared is not None else None,
        tasks=records,
    )


def _copy_task(writer: Writer, taken: Taken) -> TaskRecord:
    archive, record = taken.archive, taken.archive.record(taken.name)
    index = archive.index(taken.name)
    if not taken.bare or index.files is None is index.weights:
        writer.copy(archive.raw_group(taken.name))
        return record
    *sections, _ = archive.raw_group(taken.name)
    writer.copy(sections)
    length, sha256 = writer.put_index(pack_task(replace(index, files=None, weights=None)))
    return replace(record, index_length=length, index_sha256=sha256)


def _blobs(tasks: Sequence[Taken]) -> dict[bytes, Callable[[], tuple[int, bytes]]]:
    """What all tasks need of companion files, as it is stored in the file of one of them."""
    blobs: dict[bytes, Callable[[], tuple[int, bytes]]] = {}
    for taken in tasks:
        if taken.bare:
            continue
        index, companions = taken.archive.index(taken.name), taken.archive.companions
        companions.check(taken.name, index)
        blobs.update({sha256: partial(companions.stored, sha256) for sha256 in index.blobs()})
    return blobs


def publish(writer: Writer, root: Root, check: Callable[[], None] = lambda: None) -> Written:
    """Ends a file, which appears at its path; `check` is called right before, and may raise."""
    digest = writer.close(pack_root(root), check)
    common = writer.offset - sum(task.group.length for task in root.tasks)
    names = tuple(task.name for task in root.tasks)
    return Written(writer.path, writer.offset, digest.hex(), names, common)


def _triangle(tasks: Sequence[Taken], sketches: Mapping[str, bytes]) -> bytes:
    """Two tasks of one file have the inner product that it says they have."""
    archives = {id(taken.archive): taken.archive for taken in tasks}
    grams = {key: _gram(archive) for key, archive in archives.items()}
    rows = [taken.archive.tasks.index(taken.name) for taken in tasks]

    def stored(one: int, other: int) -> float | None:
        gram = grams[id(tasks[one].archive)]
        if gram is None or tasks[one].archive is not tasks[other].archive:
            return None
        return gram[rows[one]][rows[other]]

    return similarity.triangle([_known(taken, sketches) for taken in tasks], stored)


def _gram(archive: Archive) -> list[list[float]] | None:
    try:
        return archive.gram()
    except (FormatError, OSError):  # sketches say the same
        return None


def _known(taken: Taken, sketches: Mapping[str, bytes]) -> similarity.Known:
    metadata = taken.archive.index(taken.name).metadata
    sketch = sketches.get(taken.name) or similarity.from_metadata(metadata, taken.archive.values)
    return similarity.Known(taken.archive.record(taken.name).norm, sketch)
