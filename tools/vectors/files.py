"""Sections and indexes -> whole files, with a way to bend each step of it."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from vectors.streams import Run, elements, waves

PROLOGUE = b"\x89TVQ\r\n\x1a\n" + struct.pack("<HHI48s", 1, 0, 0, b"")
WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}
WIDTHS |= {"int16": 2, "int8": 1, "uint8": 1, "bool": 1}
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
CODES |= {"bool": "BOOL"}
SPECIAL = [0.0, -0.0, 1.0, -1.5, float("inf"), float("-inf"), float("nan"), 6e-8]

Hook = Callable[[Any], Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the base model."""

    dtype: str
    dims: tuple[int, ...]
    data: bytes

    def sha256(self, name: str) -> bytes:
        dims = "x".join(map(str, self.dims))
        head = b"tvq-base-v1\0" + f"{name}\0{self.dtype}\0{dims}\0".encode()
        return hashlib.sha256(head + self.data).digest()

    def record(self, name: str) -> list[Any]:
        """What a root index says of it, behind its name."""
        return [self.dtype, list(self.dims), self.sha256(name), zlib.crc32(self.data)]


def bits_of(values: np.ndarray, dtype: str) -> np.ndarray:
    """Floats as the bits of `dtype`; bfloat16 by cutting float32 off."""
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype).view(f"u{WIDTHS[dtype]}")


def _floats(dtype: str, *dims: int) -> Parameter:
    count = int(np.prod(dims, dtype=int))
    return Parameter(dtype, dims, bits_of(waves(count), dtype).tobytes())


def _special(dtype: str) -> Parameter:
    return Parameter(dtype, (8,), bits_of(np.array(SPECIAL), dtype).tobytes())


BASE = {
    "a": _floats("float32", 6, 7),
    "b": _floats("float32", 6, 7),  # tied to a
    "c": _floats("bfloat16", 12, 10),
    "d": _floats("float16", 8, 4),
    "e": _floats("float64", 3, 5),
    "f": _floats("float32"),
    "g": _floats("float32", 0, 4),
    "h": Parameter("int64", (3,), np.array([5, -1, 1 << 40], "<i8").tobytes()),
    "i": Parameter("bool", (4,), bytes([1, 0, 0, 1])),
    "j": _floats("float32", 5),
    "k": _floats("float32", 4, 3, 2, 2),
    "l": _floats("float32", 2),
    "x16": _special("float16"),
    "x32": _special("float32"),
    "x64": _special("float64"),
    "xb16": _special("bfloat16"),
}


def base_safetensors() -> bytes:
    """All of BASE as one safetensors file."""
    header: dict[str, Any] = {}
    data = b""
    for name, parameter in sorted(BASE.items(), key=lambda item: -WIDTHS[item[1].dtype]):
        span = [len(data), len(data) + len(parameter.data)]
        header[name] = {
            "dtype": CODES[parameter.dtype],
            "shape": parameter.dims,
            "data_offsets": span,
        }
        data += parameter.data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def subset(names: str) -> list[list[Any]]:
    """Records of parameters of BASE."""
    return [[name, *BASE[name].record(name)] for name in names.split()]


def imagined(name: str, dtype: str, *dims: int) -> list[Any]:
    """The record of a parameter that nobody has."""
    return [name, dtype, list(dims), hashlib.sha256(name.encode()).digest(), 0]


def entry(number: int, *parts: Run, mask: Run | None = None) -> Run:
    data = (mask[1] if mask else b"") + b"".join(part[1] for part in parts)
    records = [part[0] for part in parts]
    crc = zlib.crc32(data)
    return [number, 1.0, 0.5, 1.0, mask and mask[0], records, len(data), crc], data


def small(run: Run, *members: tuple[int, float]) -> Run:
    records = [[number, 1.0, 0.5, 1.0, scale] for number, scale in members]
    return [len(run[1]), zlib.crc32(run[1]), run[0], records], run[1]


def kept(key: int | str, dtype: str, dims: tuple[int, ...], bits: np.ndarray | Run) -> Run:
    run = bits if isinstance(bits, tuple) else elements(bits)
    return [key, dtype, list(dims), len(run[1]), zlib.crc32(run[1]), run[0]], run[1]


def rows(number: int, count: int, bits: np.ndarray) -> Run:
    run = elements(bits)
    return [number, count, len(run[1]), zlib.crc32(run[1]), run[0]], run[1]


@dataclass
class Group:
    """A task, or the shared basis: records with their bytes."""

    entries: list[Run] = field(default_factory=list)
    small: Run | None = None
    replaced: list[Run] = field(default_factory=list)
    rows: list[Run] = field(default_factory=list)
    added: list[Run] = field(default_factory=list)
    aliases: list[list[int]] = field(default_factory=list)
    dtypes: list[list[Any]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    files: list[list[Any]] | None = None
    weights: list[list[Any]] | None = None

    def sections(self) -> list[bytes]:
        first = [self.small] if self.small else []
        runs = [*first, *self.entries, *self.replaced, *self.rows, *self.added]
        return [data for _, data in runs]

    def index(self, digest: bytes) -> dict[str, Any]:
        value = self._index(digest)
        return {key: value[key] for key in value if value[key] is not None or key == "small"}

    def _index(self, digest: bytes) -> dict[str, Any]:
        return {
            "added": [record for record, _ in self.added],
            "aliases": self.aliases,
            "digest": digest,
            "dtypes": self.dtypes,
            "entries": [record for record, _ in self.entries],
            "files": self.files,
            "metadata": self.metadata,
            "missing": self.missing,
            "replaced": [record for record, _ in self.replaced],
            "rows": [record for record, _ in self.rows],
            "small": self.small and self.small[0],
            "weights": self.weights,
        }


@dataclass
class Blobs:
    """The contents of companion files, sorted, and how they are stored."""

    contents: list[bytes]
    stored: Hook = lambda content: content

    def sections(self) -> list[bytes]:
        return [self.stored(content) for content in self._sorted()]

    def index(self, digest: bytes) -> dict[str, Any]:
        pairs = zip(self._sorted(), self.sections(), strict=True)
        blobs = [[sha256(one), len(one), len(data), zlib.crc32(data)] for one, data in pairs]
        return {"blobs": blobs, "digest": digest}

    def _sorted(self) -> list[bytes]:
        return sorted(self.contents, key=sha256)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_single_float=True)
    return packed


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data + fill * (-len(data) % 8)


def same(value: Any) -> Any:
    return value


def put(*path: Any, to: Any) -> Hook:
    """A hook that sets the value at `path`; `to` may be a function of the old value."""

    def hook(value: Any) -> Any:
        at = value
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to(at[path[-1]]) if callable(to) else to
        return value

    return hook


@dataclass
class Draft:
    """A file to be; the hooks bend one step each, all that depends on it follows."""

    base: list[list[Any]]
    tasks: dict[str, Group]
    shared: Group | None = None
    companions: Blobs | None = None
    gram: list[float] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    prologue: bytes = PROLOGUE
    index: Hook = same  # of every task
    index_bytes: Hook = same
    shared_index: Hook = same
    companions_index: Hook = same
    root: Hook = same
    root_bytes: Hook = same
    fill: bytes = b"\0"  # behind sections
    index_fill: bytes = b"\0"
    gram_fill: bytes = b"\0"
    root_fill: bytes = b"\0"
    trailer: Hook = same  # a list of its fields before the checksum
    tail: bytes = bytes(4) + b"TVQ1END\n"

    def build(self) -> bytes:
        out = self.prologue
        shared = None
        if self.shared:
            data, *shared = self._group(self.shared, self.shared_index, same)
            out += data
        records = []
        for name, task in self.tasks.items():
            data, *group = self._group(task, self.index, self.index_bytes)
            out += data
            records.append([name, *group, 1.0, 0.5])
        companions: list[Any] = []
        if self.companions:
            data, *companions = self._group(self.companions, self.companions_index, same)
            out += data
        gram = struct.pack(f"<{len(self.gram)}f", *self.gram)
        out += padded(gram, self.gram_fill)
        root = {
            "base_model": self.base,
            **({"companions": companions} if companions else {}),
            "gram_length": len(gram),
            "gram_sha256": hashlib.sha256(gram).digest() if gram else bytes(32),
            "metadata": self.metadata,
            "shared": shared,
            "tasks": records,
        }
        return self._finish(out, self.root_bytes(pack(self.root(copy.deepcopy(root)))))

    def _group(
        self, group: Group | Blobs, hook: Hook, spelling: Hook
    ) -> tuple[bytes, int, int, bytes]:
        sections = b"".join(padded(data, self.fill) for data in group.sections())
        value = copy.deepcopy(group.index(hashlib.sha256(sections).digest()))
        index = spelling(pack(hook(value)))
        digest = hashlib.sha256(index).digest()
        return sections + padded(index, self.index_fill), len(sections), len(index), digest

    def _finish(self, out: bytes, root: bytes) -> bytes:
        at = len(out)
        out += padded(root, self.root_fill)
        digest = hashlib.sha256(self.prologue + root).digest()
        fields = self.trailer([at, len(root), len(out) + 72, digest])
        checked = struct.pack("<QQQ32s", *fields)
        return out + checked + struct.pack("<I", zlib.crc32(checked)) + self.tail
