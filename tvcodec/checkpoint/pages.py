"""Memory for tensors, in pages of its own."""

import mmap
from collections.abc import Mapping
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

from tvcodec.checkpoint.dtypes import TORCH_DTYPES

_OWN_PAGES = 1 << 20
_HUGE_PAGE = 2 << 20
_TOGETHER = 32 << 20  # bytes that go back to the system together
_ALIGNMENT = 64


def room(length: int) -> Tensor:
    """Uninitialised uint8 memory. From a mebibyte on in pages of its own, which go back to the
    system when the tensor goes; malloc would keep several of the largest tensors for itself."""
    if length < _OWN_PAGES:
        return torch.empty(length, dtype=torch.uint8)
    return torch.frombuffer(_pages(length), dtype=torch.uint8)


def blank(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Uninitialised tensors of these dtypes and shapes by name. They lie side by side in huge
    pages, which take half the time to get that small ones do, but have storages of their own; the
    memory of a few, or of a large one, goes when all of these have gone. MemoryError."""
    tensors: dict[str, Tensor] = {}
    group: list[tuple[str, torch.dtype, tuple[int, ...], int]] = []
    length = 0
    for name, (dtype, shape) in shapes.items():
        size = prod(shape) * TORCH_DTYPES[dtype].itemsize
        if length and length + size > _TOGETHER:
            tensors.update(_side_by_side(group, length))
            group, length = [], 0
        group.append((name, TORCH_DTYPES[dtype], shape, length))
        length += -(-size // _ALIGNMENT) * _ALIGNMENT
    tensors.update(_side_by_side(group, length))
    return tensors


def _side_by_side(
    group: list[tuple[str, torch.dtype, tuple[int, ...], int]], length: int
) -> dict[str, Tensor]:
    pages = _pages(-(-length // _HUGE_PAGE) * _HUGE_PAGE) if length else None
    tensors = {}
    for name, dtype, shape, start in group:
        count = prod(shape)
        if pages is None or not count:
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            flat = torch.frombuffer(pages, dtype=dtype, count=count, offset=start)
            tensors[name] = flat.view(shape)
    return tensors


def _pages(length: int) -> mmap.mmap:
    try:
        pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    if hasattr(mmap, "MADV_HUGEPAGE") and length >= _HUGE_PAGE:
        with suppress(OSError):  # of kernels that have none
            pages.madvise(mmap.MADV_HUGEPAGE)  # saves half of the time that filling them takes
    return pages
