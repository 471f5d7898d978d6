"""A live module takes the tensors of a fine-tune in place; one they do not fit stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.fine_tune import FineTune
from tvcodec.errors import CheckpointError
from tvcodec.threads import for_each


def overwrite(
    module: torch.nn.Module, source: FineTune | BaseModel, base: BaseModel, label: str
) -> None:
    """Overwrites the parameters and buffers of a module with what messages call `label`.

    CheckpointError unless the module has its names and shapes, memory that can be written to, apart
    from `base`, and of its own for tensors that differ; BaseModelMismatch; either before anything
    is written.
    """
    shapes, live = source.shapes(), dict(module.state_dict(keep_vars=True))
    _check(live, shapes, label)
    if shared := base.checkpoint.shared_with(live.values()):
        raise CheckpointError(
            f"parameter {shared!r}: expected a base model apart from the module, got its own"
            " memory, which the task overwrites",
            hint="give the base model's file, or a copy: {name: tensor.clone() for name, ...}",
        )
    for first, name in _twins(live, shapes):
        if not source.same(first, name):
            raise CheckpointError(
                f"{label}: parameter {name!r}: expected memory apart from {first!r}, which differs"
                " here, got the same",
                hint="untie the module's weights: give one of them a clone",
            )
    base.check_parameters([name for name in shapes if name in base.archive.numbers])
    tied: dict[int, list[str]] = {}  # one thread for tensors of one memory
    for name in shapes:
        tied.setdefault(live[name].untyped_storage().data_ptr(), []).append(name)

    def swap(first: str) -> None:
        with torch.no_grad():  # which each thread has to say for itself
            for name in tied[live[first].untyped_storage().data_ptr()]:
                source.overwrite(name, live[name])

    for_each(swap, [(names[0], live[names[0]].nbytes) for names in tied.values()])


def _twins(live: Mapping[str, Tensor], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of one tensor, each with the first."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    for name in names:
        tensor = live[name]
        known = first.setdefault((tensor.data_ptr(), tensor.stride()), name)
        if known != name and tensor.numel():
            yield known, name


def _check(
    live: Mapping[str, Tensor], shapes: Mapping[str, tuple[str, tuple[int, ...]]], label: str
) -> None:
    """CheckpointError unless a module's tensors have the names and shapes, and can be written."""
    hint = "is this the architecture of the fine-tune?"
    for name, (dtype, shape) in shapes.items():
        where = f"{label}: parameter {name!r}"
        if name not in live:
            raise CheckpointError(f"{where}: expected a module that has it, got one without", hint)
        if tuple(live[name].shape) != shape:
            found = list(live[name].shape)
            raise CheckpointError(f"{where}: expected shape {list(shape)}, got {found}", hint)
        if live[name].is_meta:
            raise CheckpointError(
                f"{where}: expected a tensor in memory, got a meta one",
                "give it memory first: module.to_empty(device='cpu')",
            )
        if live[name].is_floating_point() < TORCH_DTYPES[dtype].is_floating_point:
            raise CheckpointError(f"{where}: expected floats, got {live[name].dtype}", hint)
        if not _writable(live[name]):
            raise CheckpointError(
                f"{where}: expected memory of its own for each value, outside inference mode",
                "give the module a copy of this tensor: tensor.clone()",
            )


def _writable(tensor: Tensor) -> bool:
    """Whether its values may be changed, one by one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return not tensor.is_inference() and all(step or size < 2 for size, step in steps)
