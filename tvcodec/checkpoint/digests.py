"""What a tensor is, apart from where it is stored: digests of values, and the first bad value."""

import hashlib
import zlib
from math import prod

import torch
from torch import Tensor

_FINGERPRINT_DOMAIN = b"tvq-base-v1\0"
_CONTENT_DOMAIN = b"tvq-content-v1\0"
_SEARCH_BLOCK = 1 << 22


def fingerprint(name: str, dtype: str, shape: tuple[int, ...], tensor: Tensor) -> bytes:
    """32 bytes that say which parameter of which base model this is.

    SHA-256 over "tvq-base-v1" NUL, name (UTF-8) NUL, dtype name NUL, dimensions in decimal joined
    by "x" NUL, and the elements in row-major order, little-endian. Sharding, file format and tied
    storage do not enter.
    """
    dimensions = "x".join(map(str, shape))
    head = b"\0".join((name.encode(), dtype.encode(), dimensions.encode(), b""))
    return _digest(_FINGERPRINT_DOMAIN + head, tensor)


def checksum(tensor: Tensor) -> int:
    """CRC-32 of the elements in row-major order, little-endian."""
    return zlib.crc32(byte_view(tensor))


def content_digest(tensor: Tensor) -> bytes:
    """32 bytes that are equal for tensors of the same dtype, shape and bits (tied copies)."""
    return _digest(_CONTENT_DOMAIN + f"{tensor.dtype} {tuple(tensor.shape)}\0".encode(), tensor)


def _digest(head: bytes, tensor: Tensor) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(byte_view(tensor))
    return digest.digest()


def byte_view(tensor: Tensor) -> memoryview:
    """The elements of a tensor as little-endian bytes, without a copy where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    view: memoryview = flat.view(torch.uint8).numpy().data
    return view


def first_nonfinite(tensor: Tensor) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity in row-major order; None when there is none."""
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    # One pass and no temporary: NaN spreads to both ends, an infinity is one of them.
    smallest, largest = torch.aminmax(tensor)
    if torch.isfinite(smallest) and torch.isfinite(largest):
        return None
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _SEARCH_BLOCK):
        bad = ~torch.isfinite(flat[start : start + _SEARCH_BLOCK])
        if bool(bad.any()):
            return _unravel(start + int(bad.to(torch.uint8).argmax()), tuple(tensor.shape))
    raise AssertionError("a non-finite minimum or maximum without a non-finite value")


def _unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major position -> index."""
    index = []
    for axis in range(len(shape)):
        row = prod(shape[axis + 1 :])
        index.append(position // row)
        position %= row
    return tuple(index)
