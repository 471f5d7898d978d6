"""What reading a file comes to: refused with a TvqError, read, or anything else, which is wrong."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import reader
import torch
from safetensors.torch import load_file

import tvcodec
from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive

VECTORS = Path(__file__).resolve().parent.parent.parent / "spec" / "vectors"
BASE = VECTORS / "base.safetensors"
MOST_SECONDS = 1.0  # of processor time, for a small file and for each further MiB


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
