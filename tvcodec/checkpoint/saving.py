"""Write a model: one .safetensors file, or a directory laid out as Hugging Face does.

Tensors are asked for in the order in which they lie in the file, a few at a time, so that no more
than those are in memory; the bytes depend on names, values and metadata alone.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from tvcodec.checkpoint.companions import copy_companions, foreign
from tvcodec.checkpoint.digests import byte_view
from tvcodec.checkpoint.directory import INDEX_NAME, SINGLE_NAME
from tvcodec.checkpoint.dtypes import dtype_name
from tvcodec.checkpoint.layout import Hashed, Layout, ordered
from tvcodec.checkpoint.safetensors_file import (
    Plan,
    file_order,
    safetensors_header,
    tensor_bytes,
)
from tvcodec.errors import CheckpointError, naming
from tvcodec.file.durable import durable_directory, durable_file
from tvcodec.threads import computed

DEFAULT_MAX_SHARD_SIZE = 5_000_000_000
_HUGGING_FACE = {"format": "pt"}

TensorOf = Callable[[str], Tensor]
Beside = Callable[[Path], None]


def plan_bytes(plan: Plan) -> int:
    """Bytes of all tensors of a plan."""
    return sum(tensor_bytes(dtype, shape) for _, dtype, shape in plan)


def save_safetensors(
    path: str | os.PathLike[str],
    plan: Plan,
    tensor_of: TensorOf,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
    jobs: int | None = None,
) -> None:
    """Write the tensors of `plan` to one file that appears whole or not at all.

    `tensor_of(name)` is called once for each name, by `jobs` threads (None: one per core).
    `metadata` defaults to {"format": "pt"}, which transformers asks for. Raises TvqError if the
    file exists and `force` is not set, ValueError where a tensor is not as planned.
    """
    with durable_file(path, force) as handle, naming(path):
        _write(handle, plan, tensor_of, metadata, jobs)


def save_directory(
    path: str | os.PathLike[str],
    plan: Plan,
    tensor_of: TensorOf,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int = DEFAULT_MAX_SHARD_SIZE,
    copy_from: Path | None = None,
    force: bool = False,
    jobs: int | None = None,
    beside: Beside = lambda directory: None,
    layout: Sequence[Layout] = (),
) -> None:
    """Write the tensors of `plan` as a directory that transformers loads.

    The weights go to model.safetensors or, when they exceed `max_shard_size` bytes, to numbered
    shards with an index; a tensor larger than that has a shard of its own. Configuration,
    tokenizer, processor, chat templates and code are copied from the directory `copy_from`;
    `beside` writes more of them into the directory that it is given. With a `layout`, the weights
    go to the files that it says, which are checked. Raises as `save_safetensors`, and FormatError
    where files are not what the layout says.
    """
    if copy_from is not None and Path(path).resolve() == Path(copy_from).resolve():
        raise CheckpointError(
            f"{path}: expected an output apart from the base model's directory, got the same",
            "choose another output directory",
        )
    with durable_directory(path, force, foreign) as directory:
        if copy_from is not None:
            copy_companions(Path(copy_from), directory)
        beside(directory)
        if layout:
            _save_as_it_was(Path(path), directory, layout, plan, tensor_of, jobs)
        else:
            _save_shards(Path(path), directory, plan, tensor_of, metadata, max_shard_size, jobs)


def _save_shards(
    path: Path,
    directory: Path,
    plan: Plan,
    tensor_of: TensorOf,
    metadata: Mapping[str, str] | None,
    max_shard_size: int,
    jobs: int | None,
) -> None:
    shards = _split(plan, max_shard_size)
    names = _shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        with naming(path / name), open(directory / name, "xb") as handle:
            _write(handle, shard, tensor_of, metadata, jobs)
    if len(shards) > 1:
        (directory / INDEX_NAME).write_text(_index(names, shards), encoding="utf-8")
    else:  # that of a fine-tune whose weights were in other files
        (directory / INDEX_NAME).unlink(missing_ok=True)


def _save_as_it_was(
    path: Path,
    directory: Path,
    layout: Sequence[Layout],
    plan: Plan,
    tensor_of: TensorOf,
    jobs: int | None,
) -> None:
    for file, order in zip(layout, ordered(layout, plan), strict=True):
        with naming(path / file.name), open(directory / file.name, "xb") as handle:
            hashed = Hashed(handle)
            hashed.write(file.header)
            _write_values(hashed, order, tensor_of, jobs)
            hashed.check(file)


def _write(
    handle: BinaryIO,
    plan: Plan,
    tensor_of: TensorOf,
    metadata: Mapping[str, str] | None,
    jobs: int | None,
) -> None:
    handle.write(safetensors_header(plan, _HUGGING_FACE if metadata is None else metadata))
    _write_values(handle, file_order(plan), tensor_of, jobs)


def _write_values(
    handle: BinaryIO | Hashed, order: Plan, tensor_of: TensorOf, jobs: int | None
) -> None:
    sizes = [(name, tensor_bytes(dtype, shape)) for name, dtype, shape in order]
    tensors = computed(tensor_of, sizes, jobs)
    for name, dtype, shape in order:
        tensor = next(tensors)
        found = (dtype_name(tensor.dtype), tuple(tensor.shape))
        if found != (dtype, tuple(shape)):
            raise ValueError(f"{name!r}: expected {dtype} {shape}, got {found[0]} {found[1]}")
        handle.write(byte_view(tensor))
        del tensor  # before the next one is taken


def _split(plan: Plan, max_shard_size: int) -> list[Plan]:
    """The plan cut, in its own order, into runs of at most `max_shard_size` bytes."""
    shards: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, dtype, shape in plan:
        length = tensor_bytes(dtype, shape)
        if shards[-1] and size + length > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append((name, dtype, shape))
        size += length
    return list(shards)


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _index(names: list[str], shards: list[Plan]) -> str:
    everything = [entry for shard in shards for entry in shard]
    values = sum(tensor_bytes("uint8", shape) for _, _, shape in everything)
    record = {
        "metadata": {"total_parameters": values, "total_size": plan_bytes(everything)},
        "weight_map": {
            name: file for file, shard in zip(names, shards, strict=True) for name, _, _ in shard
        },
    }
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
