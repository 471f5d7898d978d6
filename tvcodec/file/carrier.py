"""A .tvq file inside a .safetensors file, for places that store and show nothing else.

    header    metadata with the root digest, and a tensor of bytes (U8) for each part of the file:
              NUMBER/prologue, NUMBER/cars/encoder.0.weight, NUMBER/cars/index, ..., NUMBER/trailer
    data      the .tvq file, byte for byte

A part runs up to the next one, padding included. The numbers are in the order of the file, so that
a program that loads and saves the tensors again leaves the data as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from tvcodec.errors import FormatError, TvqError, naming
from tvcodec.file.archive import Archive
from tvcodec.file.container import CHUNK, PROLOGUE_SIZE, TRAILER_SIZE
from tvcodec.file.durable import StrPath, durable_file
from tvcodec.file.index import Section, Small
from tvcodec.file.location import refuse_url
from tvcodec.file.source import FileSource

ROOT = "tvcodec.root"  # key of the metadata
HEADER_MAX = 64 << 20
LENGTH_FIELD = 8
_LOCAL = "a local file", "copy it first: tvcodec copy"

Parts = list[tuple[str, int]]  # names with sizes, in file order
Progress = Callable[[int], None]  # told how many more bytes have been copied


@dataclass(frozen=True, slots=True)
class Carried:
    """What was written: its size in bytes, and the root digest of the .tvq file in hexadecimal."""

    path: str
    bytes: int
    root: str


def length(path: StrPath) -> int:
    """Bytes to copy. TvqError for a URL."""
    refuse_url(path, *_LOCAL)
    return os.path.getsize(path)


def to_safetensors(
    bank: StrPath,
    output: StrPath,
    *,
    force: bool = False,
    expected_root: str | None = None,
    progress: Progress = lambda count: None,
) -> Carried:
    """Writes a .tvq file as tensors of bytes in one .safetensors file, a piece at a time.

    FormatError for a file in which a checksum does not hold; TvqError for URLs, and where `output`
    is the file itself, or exists and `force` is not set.
    """
    _check_paths(bank, output)
    source = FileSource(bank)
    with closing(Archive(bank, expected_root=expected_root, source=source)) as archive:
        archive.verify()
        root = archive.container.root_digest.hex()
        header = _header(parts(archive), root)
        if len(header) > HEADER_MAX:
            raise TvqError(
                f"{archive.path}: expected parts whose names fit {HEADER_MAX} bytes of header, got"
                f" {len(header)}",
                hint="split the file: tvcodec remove, with -o",
            )
        with durable_file(output, force) as handle, naming(output):
            handle.write(header)
            _copy(source, 0, handle, progress)
    return Carried(os.fspath(output), len(header) + source.size, root)


def from_safetensors(
    carrier: StrPath,
    output: StrPath,
    *,
    force: bool = False,
    expected_root: str | None = None,
    progress: Progress = lambda count: None,
) -> Carried:
    """Writes the .tvq file that `to_safetensors` put into a .safetensors file, byte for byte.

    FormatError unless header and data are those of a whole and sound .tvq file, whose digest is
    what the header says and `expected_root`, if that is given; TvqError as there.
    """
    _check_paths(carrier, output)
    where = os.fspath(carrier)
    with closing(FileSource(carrier)) as source:
        start, found, root = _read_header(source, where)
        if expected_root is not None and expected_root.lower() != root:
            raise FormatError(f"{where}: expected root {expected_root}, got {root}")
        with durable_file(output, force) as handle, naming(output):
            _copy(source, start, handle, progress)
            handle.flush()
            inside = FileSource(handle.name)
            with closing(Archive(where, expected_root=root, source=inside)) as archive:
                archive.verify()
                if parts(archive) != found:
                    raise _not_ours(where, "tensors that are not the parts of the file in it")
    return Carried(os.fspath(output), source.size - start, root)


def parts(archive: Archive) -> Parts:
    """Names and sizes of the parts of a file; the sizes add up to the file's."""
    starts = list(_starts(archive))
    ends = [start for _, start in starts[1:]] + [archive.container.size]
    return [
        (f"{number:07}/{name}", end - start)
        for number, ((name, start), end) in enumerate(zip(starts, ends, strict=True))
    ]


def _starts(archive: Archive) -> Iterator[tuple[str, int]]:
    """Each part of a file by name, and where it starts."""
    container = archive.container
    yield "prologue", 0
    at = PROLOGUE_SIZE
    for task in archive.groups:
        group, folder = archive.group(task), "shared basis" if task is None else task
        for section, offset in archive.sections(task):
            yield f"{folder}/{_called(archive, section)}", offset
        yield f"{folder}/index", at + group.sections_length
        at += group.length
    if archive.root.companions:
        yield "companion files", archive.root.companions_offset
    if archive.root.gram_length:
        yield "similarity", archive.root.gram_offset
    yield "root index", container.root_offset
    yield "trailer", container.size - TRAILER_SIZE


def _called(archive: Archive, section: Section) -> str:
    if isinstance(section, Small):
        return "small parameters"
    key = section.parameter
    return key if isinstance(key, str) else archive.root.base_model[key].name


def _header(found: Parts, root: str) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "tvq", ROOT: root}}
    end = 0
    for name, size in found:
        start, end = end, end + size
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_FIELD, "little") + text


def _read_header(source: FileSource, where: str) -> tuple[int, Parts, str]:
    """Where the data starts, the tensors in it and the root digest; FormatError unless they are
    runs of bytes, in order of their names, which cover the data."""
    length = int.from_bytes(source.read_at(0, LENGTH_FIELD), "little")
    start = LENGTH_FIELD + length
    if not 0 < length <= min(HEADER_MAX, source.size - LENGTH_FIELD):
        raise _not_ours(where, f"a file of {source.size} bytes that starts otherwise")
    try:
        header = json.loads(source.read_at(LENGTH_FIELD, length), object_pairs_hook=_unique)
        root = header.pop("__metadata__")[ROOT]
        found, end = [], 0
        for name, entry in sorted(header.items()):
            begin, end = end, end + entry["shape"][0]
            expected = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
            if json.dumps(entry, sort_keys=True) != json.dumps(expected, sort_keys=True):
                raise _not_ours(where, f"tensor {name[:80]!a} of another kind or place")
            found.append((name, end - begin))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _not_ours(where, f"a header with a fault ({type(error).__name__})") from error
    if end != source.size - start:
        raise _not_ours(where, f"{source.size - start} bytes of data for tensors of {end}")
    return start, found, root if isinstance(root, str) else ""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _copy(source: FileSource, start: int, handle: BinaryIO, progress: Progress) -> None:
    """All bytes from `start` on."""
    for at in range(start, source.size, CHUNK):
        piece = source.read_at(at, min(CHUNK, source.size - at))
        handle.write(piece)
        progress(len(piece))


def _check_paths(given: StrPath, output: StrPath) -> None:
    for path in (given, output):
        refuse_url(path, *_LOCAL)
    if os.path.exists(output) and os.path.samefile(given, output):
        raise TvqError(
            f"{os.fspath(output)}: expected an output apart from the input, got the same file",
            hint="choose another output",
        )


def _not_ours(where: str, found: str) -> FormatError:
    return FormatError(
        f"{where}: expected a .safetensors file that tvcodec export wrote, got {found}",
        hint="fetch it again, or give the .tvq file itself",
    )
