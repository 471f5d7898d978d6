"""A model that is computed tensor by tensor, when it is read or saved."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path

import torch
from torch import Tensor

from tvcodec import html
from tvcodec.checkpoint import (
    DEFAULT_MAX_SHARD_SIZE,
    Beside,
    Layout,
    blank,
    refuse_inputs,
    save_directory,
    save_safetensors,
    tensor_bytes,
)
from tvcodec.device import Device, available
from tvcodec.errors import TvqError
from tvcodec.file.memory import granted
from tvcodec.threads import computed, for_each, one_thread

OTHER_FORMATS = {".bin", ".ckpt", ".gguf", ".npz", ".pt", ".pth", ".tvq"}
CPU = torch.device("cpu")
Compute = Callable[[str], Tensor]
Fill = Callable[[str, Tensor], None]


class Model(Mapping[str, Tensor]):
    """Tensors by name, each computed when it is asked for.

    `metadata` goes into the file that `save` writes; `directory` is where a directory's other files
    (config, tokenizer) are copied from, and `beside` writes what it has of its own; `layout` gives
    the files that the weights were in; `inputs` are the files and directories that the tensors are
    computed from, which `save` never overwrites. `notes` say what is not as it was. Tensors are
    computed on the CPU, and moved to `device` when they are read; what `save` writes never goes
    there. `fill(name, out)`, if it is given, computes a tensor in the place of one of its dtype and
    shape, contiguous, on the CPU.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[str, tuple[int, ...]]],
        compute: Compute,
        metadata: Mapping[str, str],
        directory: Path | None = None,
        inputs: Iterable[Path] = (),
        device: torch.device = CPU,
        *,
        fill: Fill | None = None,
        beside: Beside = lambda directory: None,
        layout: Callable[[], Sequence[Layout]] = tuple,
        notes: Iterable[str] = (),
    ) -> None:
        self._shapes = dict(shapes)
        self._compute = compute
        self._fill = fill
        self.metadata = dict(metadata)
        self.directory = directory
        self.inputs = frozenset(inputs)
        self.device = device
        self.notes = tuple(notes)
        self.beside = beside
        self._layout = layout

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        with one_thread():
            return self._computed(name).to(self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __repr__(self) -> str:
        values = sum(math.prod(shape) for _, shape in self._shapes.values())
        made = f": {self._made()}" if self.metadata else ""
        return f"<tvcodec.Model of {len(self)} parameters, {values:,} values{made}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, dtype, " x ".join(map(str, shape)) or "scalar")
            for name, (dtype, shape) in self._shapes.items()
        ]
        return html.table(repr(self)[1:-1], ("parameter", "dtype", "shape"), rows)

    def _made(self) -> str:
        """What it is, from its metadata: 'task cars', 'merge weighted, scaling 1.0, ...'."""
        return ", ".join(
            f"{key.removeprefix('tvcodec.').replace('_', ' ')} {text:.80}"
            for key, text in self.metadata.items()
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without computing it."""
        return self._shapes[name][1]

    def _computed(self, name: str) -> Tensor:
        """A tensor, which is as large as a file says and may turn out too large."""
        with self._granted(name):
            return self._compute(name)

    def _granted(self, name: str) -> AbstractContextManager[None]:
        dtype, shape = self._shapes[name]
        files = ", ".join(map(os.fspath, sorted(self.inputs)))
        where = f"{files}: parameter {name!r}" if files else f"parameter {name!r}"
        return granted(tensor_bytes(dtype, shape), where)

    def load(self) -> dict[str, Tensor]:
        """All tensors, in memory, computed side by side."""
        sizes = [(name, tensor_bytes(*shape)) for name, shape in self._shapes.items()]
        if self._fill is not None and self.device == CPU:
            return self._filled(sizes, self._fill)
        tensors = (tensor.to(self.device) for tensor in computed(self._computed, sizes, kept=True))
        return dict(zip(self._shapes, tensors, strict=True))

    def _filled(self, sizes: list[tuple[str, int]], fill: Fill) -> dict[str, Tensor]:
        for name, _ in sizes:
            with self._granted(name):
                pass
        where = ", ".join(map(os.fspath, sorted(self.inputs))) or "the model"
        with granted(sum(size for _, size in sizes), where):
            tensors = blank(self._shapes)

        def compute(name: str) -> None:
            with self._granted(name):
                fill(name, tensors[name])

        for_each(compute, sizes)
        return tensors

    def made_from(self, inputs: Iterable[Path]) -> Model:
        """The same with these inputs."""
        made = copy(self)
        made.inputs = frozenset(inputs)
        return made

    def on(self, device: Device) -> Model:
        """The same, whose tensors come on that device. TvqError where torch cannot use it."""
        moved = copy(self)
        moved.device = available(device)
        return moved

    def subset(self, names: list[str]) -> Model:
        """The same with these parameters only, which no file of weights was made of."""
        part = copy(self)
        part._shapes = {name: self._shapes[name] for name in names}
        part._layout = tuple
        part.notes = ()
        return part

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        max_shard_size: int | None = None,
        force: bool = False,
        jobs: int | None = None,
        progress: Callable[[int], None] = lambda values: None,
    ) -> None:
        """Writes a .safetensors file where `path` ends so, else a directory with shards, index,
        config and tokenizer files; either appears whole or not at all. Weights whose own files are
        known are written so, byte for byte, unless a `max_shard_size` (5 GB) is given. The bytes
        do not depend on `jobs`, the number of threads.

        Raises TvqError where `path` exists without `force`, or is, holds or lies within one of the
        inputs, and what reading a tensor raises.
        """
        refuse_inputs(path, self.inputs)
        refuse_other_formats(path)
        plan = [(name, dtype, shape) for name, (dtype, shape) in self._shapes.items()]
        one_at_a_time = threading.Lock()

        def compute(name: str) -> Tensor:
            tensor = self._computed(name)
            with one_at_a_time:
                progress(tensor.numel())
            return tensor

        metadata = {"format": "pt", **self.metadata}
        if Path(path).suffix == ".safetensors":
            save_safetensors(path, plan, compute, metadata, force, jobs)
        else:
            save_directory(
                path,
                plan,
                compute,
                metadata,
                max_shard_size or DEFAULT_MAX_SHARD_SIZE,
                self.directory,
                force,
                jobs,
                self.beside,
                self._layout() if max_shard_size is None else (),
            )


def refuse_other_formats(path: str | os.PathLike[str]) -> None:
    """TvqError for the name of a file of weights, or of an archive, that is no .safetensors file:
    nothing else is written, and no directory should be called so."""
    if Path(path).suffix in OTHER_FORMATS:
        raise TvqError(
            f"{os.fspath(path)}: expected a name that ends in .safetensors, or that of a"
            f" directory, got {Path(path).suffix}",
            hint="write .safetensors and convert it",
        )
