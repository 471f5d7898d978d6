"""What reading a file comes to: refused with a TvqError, read, or anything else, which is wrong."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import reader
import torch
from safetensors.torch import load_file

import tvcodec
from tvcodec.archive import Archive
from tvcodec.errors import BaseModelMismatch, TvqError

VECTORS = Path(__file__).resolve().parent.parent.parent / "spec" / "vectors"
BASE = VECTORS / "base.safetensors"
BEYOND = 1e30  # a tolerance that tells of values beyond float32
MOST_SECONDS = 1.0  # of processor time, for a small file and for each further MiB

_BEYOND_THE_FILE = re.compile("expected memory|needs the base model$")


@dataclass
class Tally:
    """Cases of one kind and what came of them: `refused` counts files that were, and programs that
    did not come to their end; `wrong` says what went wrong in which."""

    cases: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, problem: str | None, refused: bool = False) -> None:
        self.cases += 1
        self.refused += refused
        if problem is not None:
            self.wrong.append(f"{what}: {problem}")


@dataclass(frozen=True)
class Outcome:
    """Of one reading: `refused` and `problem` are never both set; `content` is what was read."""

    content: str = ""
    refused: TvqError | None = None
    problem: str | None = None


@cache
def base_model() -> dict[str, reader.Tensor]:
    """The base model of the vectors, for the second reader."""
    return reader.read_safetensors(BASE)


@cache
def base_tensors() -> dict[str, torch.Tensor]:
    """The same, for tvcodec."""
    return load_file(BASE)


def tensors(bank: tvcodec.Bank, task: str) -> dict[str, torch.Tensor]:
    """The fine-tune, or its task vector where the file's base model is not that of the vectors."""
    known = all(parameter.name in base_model() for parameter in bank.archive.root.base_model)
    return dict(bank.decode(task, base_tensors()) if known else bank.task_vector(task))


def everything(path: Path) -> str:
    """A digest of all that a file holds, its checksums verified."""
    with tvcodec.open(path) as bank:
        bank.archive.verify()
        found = hashlib.sha256(ascii((bank.similarity(), bank.archive.root.metadata)).encode())
        for task in bank.tasks:
            _absorb(found, task, tensors(bank, task))
        return found.hexdigest()


def first_task(path: Path) -> str:
    """A digest of the first task, read without a look at the others."""
    with tvcodec.open(path) as bank:
        found = hashlib.sha256()
        _absorb(found, bank.tasks[0], tensors(bank, bank.tasks[0]))
        return found.hexdigest()


def indexes(path: Path) -> str:
    """What `info` shows."""
    archive = Archive(path)
    try:
        return ascii((archive.root, archive.similarity(), archive.bytes_by_kind()))
    finally:
        archive.close()


READINGS: tuple[Callable[[Path], str], ...] = (everything, first_task, indexes)


def _absorb(found: hashlib._Hash, task: str, model: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.items():
        found.update(ascii((task, name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def outcome(read: Callable[[Path], str], path: Path) -> Outcome:
    """What `read` makes of the file; a problem is anything but its result or a TvqError that can be
    printed, within a second."""
    begin = time.process_time()
    try:
        result = Outcome(read(path))
    except TvqError as error:
        shown = str(error) + (error.hint or "")
        printable = shown.replace("\n", "").isprintable()
        problem = None if printable else f"a message that commands terminals: {shown!a}"
        result = Outcome(refused=error, problem=problem)
    except Exception as error:
        result = Outcome(problem=f"{type(error).__name__}: {str(error)[:200]}")
    taken = time.process_time() - begin
    late = taken > MOST_SECONDS * (1 + path.stat().st_size / 2**20)
    return Outcome(problem=f"took {taken:.1f} s") if late else result


def compared(path: Path) -> Outcome:
    """What comes of a file that nobody has seen: spec/reader.py has to come to the same."""
    result = outcome(everything, path)
    if result.problem:
        return result
    try:
        expected = _reference(path.read_bytes())
    except reader.Refused as error:
        return result if result.refused else Outcome(problem=f"read in spite of {error}")
    except MemoryError:
        return result
    if isinstance(result.refused, BaseModelMismatch) or _BEYOND_THE_FILE.search(
        str(result.refused)
    ):
        return result
    if result.refused:
        return Outcome(problem=f"refused, the second reader reads it: {result.refused}")
    return Outcome(result.content, problem=_difference(path, expected))


def _reference(data: bytes) -> tuple[reader.File, dict[str, dict[int, reader.Tau]]]:
    """All that the second reader makes of a file, with every checksum."""
    file = reader.File(data)
    groups = [None] if file.root.shared else []
    for task in [*groups, *(record.name for record in file.root.tasks)]:
        (at, group), index = file.start(task), file.index(task)
        digest = hashlib.sha256(data[at : at + group.sections_length]).digest()
        reader.require(17, digest == index.digest, "group digest")
        file.sections(task)
    file.gram()
    base = base_model() if all(name in base_model() for name in file.names) else None
    taus = {}
    for record in file.root.tasks:
        taus[record.name] = file.taus(record.name, base)
        if base is not None:
            file.fine_tune(record.name, base)
            continue
        for section, content in file.sections(record.name):
            if isinstance(section, reader.Entry):  # exact ones too, which have no task vector here
                reader.load_section(section, content)
    return file, taus


def _difference(
    path: Path, expected: tuple[reader.File, dict[str, dict[int, reader.Tau]]]
) -> str | None:
    file, taus = expected
    with tvcodec.open(path) as bank:
        known = all(name in base_model() for name in file.names)
        if list(bank.tasks) != list(taus):
            return f"tasks {bank.tasks}"
        for task, by_number in taus.items():
            vector = bank.task_vector(task, base_tensors() if known else None)
            if set(vector) != {file.names[number] for number in by_number}:
                return f"parameters {set(vector)}"
            for number, tau in by_number.items():
                found = vector[file.names[number]].numpy().astype(np.float64)
                limit = 1.01 * reader.TOLERANCE * tau.magnitude
                if not _near(found, tau.values.astype(np.float64), limit):
                    return f"other values of {file.names[number]!a}"
    return None


def _near(found: np.ndarray, wanted: np.ndarray, limit: float) -> bool:
    """Within the tolerance of the specification; what is beyond float32 follows no rule."""
    if found.shape != wanted.shape:
        return False
    if limit > BEYOND:
        return True
    return np.allclose(found, wanted, rtol=0, atol=limit, equal_nan=True)
