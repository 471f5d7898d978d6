"""A Hugging Face style directory: which files hold the weights, and which tensor is in which."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tvcodec.checkpoint.safetensors_file import read_safetensors
from tvcodec.checkpoint.stored import FileTensor
from tvcodec.checkpoint.torch_file import read_torch
from tvcodec.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_SHARD_NAME = re.compile(r"[\w.-]+\.(safetensors|bin)", re.ASCII)
_MAX_INDEX = 64 << 20
_REFETCH = "fetch the directory again"

ReadFile = Callable[[Path], dict[str, FileTensor]]


def read_directory(path: Path, check_file: Callable[[Path], None]) -> dict[str, FileTensor]:
    """Name -> place of every tensor of the model in the directory; CheckpointError if incomplete.

    .safetensors is preferred to .bin, a single file to shards. `check_file` refuses a file that
    is not what its name says.
    """

    def read_shard(shard: Path) -> dict[str, FileTensor]:
        check_file(shard)
        return read_torch(shard) if shard.suffix == ".bin" else read_safetensors(shard)

    for single, index in (
        (SINGLE_NAME, INDEX_NAME),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (path / single).exists():
            return read_shard(path / single)
        if (path / index).exists():
            return _read_shards(path / index, read_shard)
    raise _without_weights(path)


def _without_weights(path: Path) -> CheckpointError:
    names = sorted(entry.name for entry in path.iterdir())
    if "adapter_model.safetensors" in names or "adapter_model.bin" in names:
        hint = "an adapter with its adapter_config.json is a fine-tune; nothing else is made of it"
    else:
        weights = [n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth"))]
        hint = f"give the file itself: {path / weights[0]}" if weights else "download the weights"
    expected = f"{SINGLE_NAME}, {INDEX_NAME} or pytorch_model.bin"
    found = "other files" if names else "an empty directory"
    return CheckpointError(f"{path}: expected {expected}, got {found}", hint)


def _read_shards(index: Path, read_shard: ReadFile) -> dict[str, FileTensor]:
    shard_of = _weight_map(index)
    shards = {}
    for shard in sorted(set(shard_of.values())):
        path = index.parent / shard
        if not path.is_file():
            raise CheckpointError(
                f"{index}: expected the shard {shard}, got no such file", _REFETCH
            )
        shards[shard] = read_shard(path)
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise CheckpointError(
                f"{index}: expected {name!r} in {shard}, got no such tensor", _REFETCH
            )
    for shard, tensors in shards.items():
        unnamed = sorted(tensors.keys() - shard_of.keys())
        if unnamed:
            raise CheckpointError(
                f"{index}: expected every tensor of {shard} in the index, got {unnamed[0]!r} "
                f"and {len(unnamed) - 1} more besides",
                _REFETCH,
            )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard name. Shard names come from the file, so they may only be plain names.

    Symbolic links are followed: a Hugging Face cache consists of them.
    """
    if index.stat().st_size > _MAX_INDEX:
        raise CheckpointError(
            f"{index}: expected at most {_MAX_INDEX} bytes, got {index.stat().st_size}", _REFETCH
        )
    try:
        shard_of = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: expected JSON with a weight_map, got {type(error).__name__}", _REFETCH
        ) from error
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{index}: expected a weight_map of names, got none", _REFETCH)
    suffix = index.name.split(".")[1]
    for shard in shard_of.values():
        match = _SHARD_NAME.fullmatch(shard) if isinstance(shard, str) else None
        if match is None or match[1] != suffix:
            raise CheckpointError(
                f"{index}: expected shards named like model-00001-of-00002.{suffix}, got {shard!r}",
                "a shard lies beside its index: do not trust this directory",
            )
    return shard_of
