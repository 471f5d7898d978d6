"""What lies beside a fine-tune's weights -> files of a task, and their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tvcodec.checkpoint import INDEX_NAME, Checkpoint, layouts, own_companions
from tvcodec.errors import CheckpointError
from tvcodec.file import entropy
from tvcodec.file.index import FILES_MAX, FROM_BASE, KEPT, KEPT_MAX, File, WeightFile

NAMED = 5  # files left out that a note names

Content = Callable[[], tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Companions:
    """What a task's index says of its directory; None where it was none. `blobs` has the size and
    the stored bytes of what the file has to keep, by SHA-256; `notes` say what it does not."""

    files: tuple[File, ...] | None = None
    weights: tuple[WeightFile, ...] | None = None
    blobs: Mapping[bytes, Content] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def companions(fine_tune: Checkpoint, base: Checkpoint, exact: bool) -> Companions:
    """The files of a fine-tune, and with `exact` how its weights lie in theirs. CheckpointError
    where they are too many or too large."""
    if not fine_tune.is_directory or fine_tune.directory is None:
        return Companions()
    directory = fine_tune.directory
    paths, left = own_companions(directory)
    notes = [_left_out(left)] if left else []
    weights, blobs = dict[str, WeightFile](), dict[bytes, Content]()
    size = 0
    if exact:
        try:
            for layout in layouts(fine_tune):
                sha256 = hashlib.sha256(layout.header).digest()
                weights[layout.name] = WeightFile(layout.name, layout.sha256, sha256)
                blobs[sha256] = partial(_packed, layout.header)
                size += len(layout.header)
            if (directory / INDEX_NAME).is_file() and INDEX_NAME not in paths:
                paths[INDEX_NAME] = directory / INDEX_NAME
        except CheckpointError as problem:
            weights, blobs, size = {}, {}, 0
            notes.append(f"{problem}: weights come back bit for bit, but not their files")
    files = []
    for name, path in sorted(paths.items()):
        sha256, length = _identity(path)
        source = FROM_BASE if _has(base.directory, name, sha256, length) else KEPT
        files.append(File(name, source, sha256))
        if source == KEPT:
            blobs[sha256] = partial(_read, path, sha256)
            size += length
    if size > KEPT_MAX or len(files) > FILES_MAX:
        raise CheckpointError(
            f"{directory}: expected at most {FILES_MAX} files beside the weights, of {KEPT_MAX}"
            f" bytes, got {len(files)} of {size}",
            "--weights-only leaves them out",
        )
    return Companions(
        tuple(files), tuple(weights[name] for name in sorted(weights)) or None, blobs, tuple(notes)
    )


def _left_out(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"left out: {', '.join(names[:NAMED])}{more}"


def _identity(path: Path) -> tuple[bytes, int]:
    data = path.read_bytes()
    return hashlib.sha256(data).digest(), len(data)


def _has(base: Path | None, name: str, sha256: bytes, length: int) -> bool:
    """Whether the base model's directory has that file."""
    if base is None or not (base / name).is_file() or (base / name).stat().st_size != length:
        return False
    return _identity(base / name)[0] == sha256


def _read(path: Path, sha256: bytes) -> tuple[int, bytes]:
    data = path.read_bytes()
    if hashlib.sha256(data).digest() != sha256:
        raise CheckpointError(
            f"{path}: expected the file as it was, got a changed file",
            "run again once nothing writes to the checkpoint",
        )
    return _packed(data)


def _packed(data: bytes) -> tuple[int, bytes]:
    return len(data), entropy.compress(np.frombuffer(data, np.uint8), entropy.THOROUGH)
