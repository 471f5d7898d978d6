"""What tvcodec makes of a file, compared with what spec/reader.py makes of it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import reader
import torch

import tvcodec
from faults.outcome import Outcome, base_model, base_tensors, everything, outcome
from tvcodec.errors import BaseModelMismatch

PIECE = 1 << 20  # values compared at a time
BEYOND = 1e30  # a tolerance that tells of values beyond float32
ULP = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}
LEAST = {"float64": 2**-1074, "float32": 2**-149, "float16": 2**-24, "bfloat16": 2**-133}
MOST = {"float64": 1.7976931348623157e308, "float32": 2**128 - 2**104, "float16": 65504.0}
MOST |= {"bfloat16": 2**128 - 2**120}

_BEYOND_THE_FILE = re.compile("expected memory|needs the base model$")


@dataclass(frozen=True)
class Task:
    """A task as the second reader reads it; `inexact` are the parameters that have a tolerance, and
    there is a fine-tune where the base model of the vectors is that of the file."""

    taus: dict[int, reader.Tau]
    inexact: dict[int, reader.Tau]
    fine_tune: dict[str, reader.Tensor] | None


Expected = tuple[reader.File, dict[str, Task]]


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


def _reference(data: bytes) -> Expected:
    """All that the second reader makes of a file, with every checksum."""
    file = reader.File(data)
    groups = [None] if file.root.shared else []
    for task in [*groups, *(record.name for record in file.root.tasks)]:
        (at, group), index = file.start(task), file.index(task)
        digest = hashlib.sha256(data[at : at + group.sections_length]).digest()
        reader.require(17, digest == index.digest, "group digest")
        file.sections(task)
    file.check_blobs()
    file.gram()
    base = base_model() if all(name in base_model() for name in file.names) else None
    tasks = {}
    for record in file.root.tasks:
        taus = file.taus(record.name, base)
        if base is not None:
            inexact, fine_tune = file.taus(record.name), file.fine_tune(record.name, base)
            tasks[record.name] = Task(taus, inexact, fine_tune)
            continue
        tasks[record.name] = Task(taus, taus, None)
        for section, content in file.sections(record.name):
            if isinstance(section, reader.Entry):  # exact ones too, which have no task vector here
                reader.load_section(section, content)
    return file, tasks


def _difference(path: Path, expected: Expected) -> str | None:
    file, tasks = expected
    with tvcodec.open(path) as bank:
        if list(bank.tasks) != list(tasks):
            return f"tasks {bank.tasks}"
        for name, task in tasks.items():
            base = None if task.fine_tune is None else base_tensors()
            problem = _other_vector(file, task, bank.task_vector(name, base))
            if not problem and base is not None:
                problem = _other_fine_tune(file, name, task, bank.decode(name, base))
            if problem:
                return problem
    return None


def _other_vector(file: reader.File, task: Task, vector: Mapping[str, torch.Tensor]) -> str | None:
    if set(vector) != {file.names[number] for number in task.taus}:
        return f"parameters {set(vector)}"
    for number, tau in task.taus.items():
        found = vector[file.names[number]].numpy()
        if not _near(
            found, tau.values, 1.01 * reader.TOLERANCE * tau.magnitude + 4 * LEAST["float32"]
        ):
            return f"other values of {file.names[number]!a}"
    return None


def _other_fine_tune(
    file: reader.File, name: str, task: Task, model: Mapping[str, torch.Tensor]
) -> str | None:
    wanted = task.fine_tune or {}
    if set(model) != set(wanted):
        return f"a fine-tune of {set(model)}"
    numbers = {parameter: number for number, parameter in enumerate(file.names)}
    for parameter, tensor in wanted.items():
        found, number = _bits(model[parameter]), numbers.get(parameter, -1)
        if (found.dtype, found.dims) != (tensor.dtype, tensor.dims):
            return f"a fine-tune with {found.dtype} {found.dims} of {parameter!a}"
        if number in task.inexact:
            summed = math.prod(file.root.base_model[number].dims)
            same = _close(found, tensor, task.inexact[number].magnitude, summed)
        else:
            same = _equal(found, tensor, _unspecified(file, name, number, tensor))
        if not same:
            return f"a fine-tune with other values of {parameter!a}"
    return None


def _bits(tensor: torch.Tensor) -> reader.Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    values = np.frombuffer(data, f"<u{reader.WIDTHS[dtype]}").reshape(tensor.shape)
    return reader.Tensor(dtype, tuple(tensor.shape), values)


def _unspecified(
    file: reader.File, name: str, number: int, tensor: reader.Tensor
) -> np.ndarray | None:
    """Where a NaN of the base model was converted: which NaN becomes of it is not specified, and
    what an exact difference to it is neither."""
    kept = {section.parameter for section in file.index(name).replaced}
    if number < 0 or number in kept or file.root.base_model[number].dtype == tensor.dtype:
        return None
    lost: np.ndarray = np.isnan(reader.widen(base_model()[file.names[number]]))
    return lost.reshape(-1)


def _equal(found: reader.Tensor, wanted: reader.Tensor, unspecified: np.ndarray | None) -> bool:
    differ = (found.values != wanted.values).reshape(-1)
    if unspecified is not None:
        differ[: len(unspecified)] &= ~unspecified
    return not differ.any()


def _close(found: reader.Tensor, wanted: reader.Tensor, magnitude: float, summed: int) -> bool:
    """The first `summed` values within the tolerance of a fine-tune, the rows behind them equal."""
    if _other_rows(found, wanted, summed):
        return False
    most = MOST[wanted.dtype]  # an infinity is as near to it as rounding may lead
    values = [
        np.nan_to_num(
            reader.widen(one).reshape(-1)[:summed].astype(np.float64),
            nan=np.nan,
            posinf=most,
            neginf=-most,
        )
        for one in (found, wanted)
    ]
    largest = float(np.abs(np.nan_to_num(values[1])).max(initial=0.0))
    rounding = ULP[wanted.dtype] * largest + LEAST[wanted.dtype]
    return _near(values[0], values[1], 1.01 * reader.TOLERANCE * magnitude, rounding)


def _other_rows(found: reader.Tensor, wanted: reader.Tensor, summed: int) -> bool:
    rows = found.values.reshape(-1)[summed:], wanted.values.reshape(-1)[summed:]
    return not np.array_equal(*rows)


def _near(found: np.ndarray, wanted: np.ndarray, limit: float, rounding: float = 0.0) -> bool:
    """Within the tolerance of the specification; what is beyond float32 follows no rule."""
    if found.shape != wanted.shape:
        return False
    if limit > BEYOND:
        return True
    found, wanted = found.reshape(-1), wanted.reshape(-1)
    for at in range(0, found.size, PIECE):
        one, other = (both[at : at + PIECE].astype(np.float64) for both in (found, wanted))
        with np.errstate(over="ignore"):
            if not np.allclose(one, other, rtol=0, atol=limit + rounding, equal_nan=True):
                return False
    return True
