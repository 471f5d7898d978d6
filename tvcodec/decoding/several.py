"""Models of several tasks, in one directory that appears whole or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tvcodec.checkpoint import foreign, refuse_inputs
from tvcodec.decoding.model import Model, refuse_other_formats
from tvcodec.file.durable import durable_directory


def save_each(
    models: Mapping[str, Model],
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | None = None,
    force: bool = False,
    jobs: int | None = None,
    progress: Callable[[int], None] = lambda values: None,
) -> None:
    """Writes each model into the new directory `path` under its name, a .safetensors file where
    that ends so, else a directory, as `Model.save` does and raises. With `force`, a directory that
    holds such models of these names and nothing else is replaced."""
    refuse_inputs(path, set(itertools.chain.from_iterable(one.inputs for one in models.values())))
    refuse_other_formats(path)

    def others(directory: Path) -> Iterator[Path]:
        for entry in directory.iterdir():
            file = entry.name.endswith(".safetensors")
            if entry.name not in models or entry.is_symlink() or entry.is_dir() == file:
                yield entry
            elif entry.is_dir():
                yield from foreign(entry)

    with durable_directory(path, force, others) as directory:
        for name, model in models.items():
            model.save(
                directory / name, max_shard_size=max_shard_size, jobs=jobs, progress=progress
            )
