"""Small files that ask for much: memory, time, objects, or a call of the system."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from collections.abc import Iterator
from functools import partial

import torch
from vectors import streams as s
from vectors.files import Draft, Group, entry, imagined, kept, subset

Bomb = tuple[str, bytes]  # what it is, the file

BLOCK = 1 << 17
ZEROS = (BLOCK << 3 | 2).to_bytes(3, "little") + b"\0"  # a zstd block: 128 KiB of them
LAST = (BLOCK << 3 | 3).to_bytes(3, "little") + b"\0"
COUNT = 1 << 20


def archives() -> Iterator[Bomb]:
    """As .tvq, checksums and all."""
    gib = (1 << 30) // BLOCK
    yield "zstd: a gigabyte that is declared", _stored(_head(1 << 30) + ZEROS * (gib - 1) + LAST)
    yield "zstd: a gigabyte that is not", _stored(_head(COUNT) + ZEROS * (gib - 1) + LAST)
    sized = b"\x28\xb5\x2f\xfd\xe0" + (1 << 36).to_bytes(8, "little") + LAST
    yield "zstd: 64 GiB declared in 17 bytes", _stored(sized)
    yield "zstd: a window of 3.75 TiB", _stored(b"\x28\xb5\x2f\xfd\x00\xff" + LAST)
    yield "zstd: frames without content", _stored((_head(0) + b"\1\0\0") * 400)
    yield from _claims()
    yield from _objects()
    yield "parameters told twice", _told_twice(1 << 15)


def _head(size: int) -> bytes:
    return b"\x28\xb5\x2f\xfd\xa0" + size.to_bytes(4, "little")


def _stored(data: bytes) -> bytes:
    """A parameter of COUNT symbols, one a byte, that are stored as `data`."""
    data = data.ljust(COUNT >> 15, b"\0")
    run = [2, len(data), 17], data
    return _one([imagined("w", "float32", COUNT)], entry(0, s.stage(1.0, run)))


def _one(base: list[list[object]], *entries: s.Run, **more: list[s.Run]) -> bytes:
    return Draft(base, {"one": Group(entries=list(entries), **more)}).build()  # type: ignore[arg-type]


def _claims() -> Iterator[Bomb]:
    for what, rows, columns in (("2^39", 5 << 18, 5 << 16), ("2^28", 5 << 12, 5 << 11)):
        left, right = (s.zipped(([2, 0, 3], b"\x79" * (n // 5))) for n in (rows, columns))
        factors = s.factors(1, left, right, s.float32(1.0))
        base = [imagined("w", "float32", rows, columns)]
        yield f"{what} values and more of rank 1", _one(base, entry(0, factors))
    mask = s.mask(0, [1] + [0] * 1023)
    many = imagined("w", "float32", 1024, 1 << 29)
    row = ([2, 4096, 2], bytes(4096))
    yield "2^39 values of a row", _one([many], entry(0, s.stage(1.0, row), mask=mask))
    frame = b"\x28\xb5\x2f\xfd12345"
    yield (
        "2^39 values in 9 bytes",
        _one([imagined("w", "float32", 1 << 39)], entry(0, s.stage(1.0, ([2, 9, 3], frame)))),
    )
    whole = kept("n", "float32", (1 << 38,), ([5, 9, 4], frame))
    yield "2^38 values kept whole", _one(subset("l"), added=[whole])
    nothing = kept("n", "float32", (0, 1 << 47, 1 << 47), ([5, 0, 4], b""))
    yield "no values, strides of 2^94", _one(subset("l"), added=[nothing])


def _objects() -> Iterator[Bomb]:
    """Root indexes, which are parsed before anything is known of the file."""
    many = 1 << 18
    maps = b"\xdd" + struct.pack(">I", many - 1) + b"\x80" * (many - 1)
    spellings = {
        "2^32 values in 5 bytes": b"\xdd\xff\xff\xff\xff",
        "2^32 pairs in 5 bytes": b"\xdf\xff\xff\xff\xff",
        "text of 4 GiB in 5 bytes": b"\xdb\xff\xff\xff\xff",
        "100 000 arrays in each other": b"\x91" * 100_000 + b"\x90",
        "5 million maps": b"\xdc\0\x14" + maps * 20,
        "5 million arrays": b"\xdc\0\x14" + maps.replace(b"\x80", b"\x90") * 20,
    }
    for what, data in spellings.items():
        yield what, Draft([], {}, root_bytes=partial(_instead, data)).build()


def _instead(data: bytes, _: bytes) -> bytes:
    return data


def _told_twice(count: int) -> bytes:
    """`count` missing parameters, the last of them replaced too."""
    base = [[f"{number:06}", "int8", [1], bytes(32)] for number in range(count)]
    last = kept(count - 1, "int8", (1,), ([5, 1, 1], b"\0"))
    return _one(base, replaced=[last], missing=list(range(count)))  # type: ignore[arg-type]


class Runs:
    """Pickles as a call of os.system."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def pickles() -> Iterator[Bomb]:
    """As .pt."""
    nest: list[object] = []
    for _ in range(30):
        nest = [nest] * 10
    yield "a call of os.system", _saved({"w": torch.ones(2), "x": Runs()})
    yield "4 bytes seen as 4 TiB", _saved({"w": torch.zeros(1).expand(1 << 20, 1 << 20)})
    yield "10^30 lists by reference", _saved({"w": nest})
    plain = _saved({"w": torch.zeros(1 << 20)})
    for what, name, size in (
        ("64 MiB of deflated zeros", "data/0", 64 << 20),
        ("a pickle of 64 MiB deflated", "data.pkl", 64 << 20),
    ):
        packed = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(packed, "w", kind) as new:
            for item in old.namelist():
                new.writestr(item, bytes(size) if item.endswith(name) else old.read(item))
        yield what, packed.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.sparse_coo_tensor(torch.zeros(1, 1), torch.ones(1), (1 << 40,))
    yield "a sparse tensor of 2^40 values", _saved({"w": sparse})


def headers() -> Iterator[Bomb]:
    """As .safetensors."""
    yield "a header of 2^63 bytes", struct.pack("<Q", 1 << 63) + b"{}"
    yield "a header of 90 MB that is not there", struct.pack("<Q", 90_000_000) + b"{" + b" " * 99
    text = b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    yield "a tensor of 4 TiB", struct.pack("<Q", len(text)) + text
    text = b'{"w":' + b"[" * 100_000 + b"}"
    yield "100 000 brackets", struct.pack("<Q", len(text)) + text


def _saved(state: object) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state, out)
    return out.getvalue()
