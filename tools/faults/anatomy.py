"""A .tvq file taken apart without tvcodec, and put together again with all checksums right."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
from vectors.files import pack, padded

LENGTHS = {  # of sections, in their records; the CRC is behind it
    "small": 0,
    "entries": 6,
    "replaced": 3,
    "rows": 2,
    "added": 3,
    "blobs": 2,
}


@dataclass
class Group:
    """A task (or the shared group, or that of companion files, which have no record in `tasks`):
    its index, and the bytes of its sections in file order."""

    index: Any
    sections: list[bytes]
    noise: dict[int, int] = field(default_factory=dict)  # of the packed index: offset -> XOR


@dataclass
class Anatomy:
    """What a file is made of; `groups` begins with the shared one if there is one, and
    ends with companion files."""

    prologue: bytes
    groups: list[Group]
    gram: bytes
    root: Any
    noise: dict[int, int] = field(default_factory=dict)

    def assembled(self) -> bytes:
        """The file. Lengths and checksums that somebody bent are made right again, wherever there
        is still a place for them."""
        out, records = self.prologue, []
        for group in self.groups:
            for (record, at), section in zip(_records(group.index), group.sections, strict=False):
                if isinstance(record, list) and len(record) > at + 1:
                    record[at : at + 2] = [len(section), zlib.crc32(section)]
            data = b"".join(map(padded, group.sections))
            if isinstance(group.index, dict) and "digest" in group.index:
                group.index["digest"] = hashlib.sha256(data).digest()
            index = _noisy(_packed(group.index), group.noise)
            records.append([len(data), len(index), hashlib.sha256(index).digest()])
            out += data + padded(index)
        self._tell(records)
        root = _noisy(_packed(self.root), self.noise)
        out += padded(self.gram)
        at = len(out)
        out += padded(root)
        digest = hashlib.sha256(self.prologue + root).digest()
        checked = struct.pack("<QQQ32s", at, len(root), len(out) + 72, digest)
        return out + checked + struct.pack("<I", zlib.crc32(checked)) + bytes(4) + b"TVQ1END\n"

    def _tell(self, records: list[list[Any]]) -> None:
        """Writes into the root index where the groups are."""
        root = self.root
        if not isinstance(root, dict):
            return
        if isinstance(root.get("shared"), list) and records:
            root["shared"][:3] = records[0]
            records = records[1:]
        if isinstance(root.get("companions"), list) and records:
            root["companions"][:3] = records.pop()
        tasks = root.get("tasks")
        for task, record in zip(tasks if isinstance(tasks, list) else [], records, strict=False):
            if isinstance(task, list):
                task[1:4] = record
        if "gram_sha256" in root:
            digest = hashlib.sha256(self.gram).digest()
            root["gram_sha256"] = digest if self.gram else bytes(32)
        if "gram_length" in root:
            root["gram_length"] = len(self.gram)


def taken_apart(data: bytes) -> Anatomy:
    """The anatomy of a file; ValueError where it has none."""
    try:
        at, length = struct.unpack_from("<QQ", data, len(data) - 72)
        root = _unpacked(data[at : at + length])
        places = ([root["shared"]] if root["shared"] else []) + [t[1:4] for t in root["tasks"]]
        places += [root["companions"]] if "companions" in root else []
        groups, here = [], 64
        for sections_length, index_length, _ in places:
            end = here + sections_length
            index = _unpacked(data[end : end + index_length])
            groups.append(Group(index, list(_sections(index, data, here))))
            here = end + index_length + -index_length % 8
        gram = data[here : here + root["gram_length"]]
        return Anatomy(data[:64], groups, gram, root)
    except (struct.error, LookupError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError(f"no .tvq file: {error}") from None


def _records(index: Any) -> Iterator[tuple[Any, int]]:
    """The record of every section, in file order, and where in it the length is."""
    for name, at in LENGTHS.items():
        found = index.get(name) if isinstance(index, dict) else None
        if not isinstance(found, list):
            continue
        for record in [found] if name == "small" else found:
            yield record, at


def _sections(index: Any, data: bytes, at: int) -> Iterator[bytes]:
    for record, where in _records(index):
        length = record[where]
        yield data[at : at + length]
        at += length + -length % 8


def _packed(value: Any) -> bytes:
    try:
        return pack(value)
    except (ValueError, OverflowError, TypeError):
        return b"\xc0"


def _unpacked(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False)


def _noisy(data: bytes, noise: dict[int, int]) -> bytes:
    out = bytearray(data)
    for at, change in noise.items():
        out[at % len(out)] ^= change
    return bytes(out)
