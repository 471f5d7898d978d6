"""What lies beside a model's weights: which files, and where in a .tvq file their contents are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tvcodec.file.container import aligned
from tvcodec.file.index.fields import (
    DEVICE_NAME,
    U32,
    Malformed,
    array,
    digest,
    expected,
    increasing,
    integer,
    items,
    mapping,
)
from tvcodec.file.index.streams import least_length

FILES_MAX = 256  # of a task
BLOB_MAX = 64 << 20  # bytes of one
KEPT_MAX = 256 << 20  # bytes that a task takes from blobs
FROM_BASE, KEPT = range(2)  # sources of a file

_STEP = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|npz|tvq)", re.I)
_ADAPTER = re.compile(r"(.*/)?adapter_.*", re.I)  # has a library take weights from elsewhere


@dataclass(frozen=True, slots=True)
class File:
    """A file of a task's directory: the base model's of that name (source FROM_BASE), or a blob
    (KEPT); `sha256` is that of its bytes."""

    name: str
    source: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A .safetensors file of a task as it was: the SHA-256 of the whole, and of the blob that it
    begins with, which is all but the values of its tensors."""

    name: str
    sha256: bytes
    header: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A section that holds `size` bytes of this SHA-256, packed like a stream."""

    sha256: bytes
    size: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionIndex:
    """The blobs of a file, by SHA-256. `digest` is that of the sections with their padding."""

    blobs: tuple[Blob, ...] = field(default=())
    digest: bytes

    def sections(self, start: int) -> Iterator[tuple[Blob, int]]:
        """Every blob with its offset, for a group that starts at `start`."""
        for blob in self.blobs:
            yield blob, start
            start += aligned(blob.length)

    @property
    def sections_length(self) -> int:
        """Bytes of all sections with their padding."""
        return sum(aligned(blob.length) for blob in self.blobs)


def read(value: object) -> CompanionIndex:
    """The index that msgpack's `value` stands for; Malformed."""
    keys = mapping(value, CompanionIndex.__slots__)
    blobs = items(keys["blobs"], ".blobs", _blob)
    if not blobs:
        raise Malformed("expected at least one, got none", ".blobs")
    increasing([blob.sha256 for blob in blobs], ".blobs")
    return CompanionIndex(blobs=blobs, digest=digest(keys["digest"], ".digest"))


def read_files(value: object) -> tuple[File, ...]:
    """The files of a task's directory but its weights; Malformed."""
    files: tuple[File, ...] = items(value, ".files", _file)
    if len(files) > FILES_MAX:
        raise Malformed(f"expected at most {FILES_MAX}, got {len(files)}", ".files")
    increasing([file.name for file in files], ".files")
    _check_places([file.name for file in files])
    return files


def read_weights(value: object, files: tuple[File, ...]) -> tuple[WeightFile, ...]:
    """The files that hold a task's weights, in a directory with `files`; Malformed."""
    weights = items(value, ".weights", _weights)
    if not 0 < len(weights) <= FILES_MAX:
        raise Malformed(f"expected 1..{FILES_MAX}, got {len(weights)}", ".weights")
    increasing([file.name for file in weights], ".weights")
    _check_places([file.name for file in files] + [file.name for file in weights])
    return weights


def valid_file_name(name: str) -> bool:
    """Whether a file beside weights may be called so: a safe name on every system, or one folder's
    and one within it, and not that of weights."""
    steps = name.split("/")
    barred = _WEIGHTS.fullmatch(name) or _ADAPTER.fullmatch(name)
    return len(steps) <= 2 and all(map(_valid_step, steps)) and not barred


def valid_weights_name(name: str) -> bool:
    """Whether a file of weights may be called so: a safe name that ends in .safetensors."""
    return _valid_step(name) and name.endswith(".safetensors")


def _valid_step(name: str) -> bool:
    """Whether it could be a task's name, which may begin with an underscore here."""
    return bool(_STEP.fullmatch(name)) and not DEVICE_NAME.fullmatch(name)


def _blob(value: object) -> Blob:
    sha256, raw_size, raw_length, crc = array(value, 4)
    size = integer(raw_size, ".size", BLOB_MAX)
    length = integer(raw_length, ".length", size, least=least_length(size))
    return Blob(digest(sha256, ".sha256"), size, length, integer(crc, ".crc", U32))


def _file(value: object) -> File:
    name, source, sha256 = array(value, 3)
    if type(name) is not str or not valid_file_name(name):
        raise expected("the name of a file beside weights", name, ".name")
    return File(name, integer(source, ".source", KEPT), digest(sha256, ".sha256"))


def _weights(value: object) -> WeightFile:
    name, sha256, header = array(value, 3)
    if type(name) is not str or not valid_weights_name(name):
        raise expected("the name of a .safetensors file", name, ".name")
    return WeightFile(name, digest(sha256, ".sha256"), digest(header, ".header"))


def _check_places(names: list[str]) -> None:
    """Malformed where two files are one if upper and lower case are the same, or one is a folder
    that another lies in."""
    folded = [name.lower() for name in names]
    folders = [name.partition("/")[0] for name in folded if "/" in name]
    taken: set[str] = set(folders)
    for number, name in enumerate(folded):
        if name in taken:
            message = f"expected a place of its own, got {names[number]!r}"
            raise Malformed(message, f".files[{number}]")
        taken.add(name)
