"""One digest for what a file says, however its streams are compressed."""

import dataclasses
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
import zstandard
from by_hand import second_reader
from small_models import State, changed, normal

import tvcodec
from tvcodec.file import entropy
from tvcodec.file.archive import Archive
from tvcodec.file.container import Writer
from tvcodec.file.content import content_digest
from tvcodec.file.index import (
    SYMBOLS,
    BaseParameter,
    Entry,
    Root,
    Rows,
    Section,
    Small,
    Stage,
    Stream,
    TaskIndex,
    TaskRecord,
    counted_streams,
    pack_root,
    pack_task,
)

VECTORS = Path(__file__).parent.parent / "spec" / "vectors"
SOUND = sorted(VECTORS.glob("y_*.tvq"))
BASE: State = {
    "a": normal(0, 400, 300),
    "b": normal(1, 90),
    "c": normal(2, 40, 30),
    "d": torch.arange(5000),
}
TUNES = {
    "ant": {name: changed(10, "noise", value) for name, value in BASE.items()},
    "bee": {
        "a": changed(20, "low rank", BASE["a"]),
        "b": BASE["b"],
        "c": torch.cat([BASE["c"], normal(3, 20, 30)]),
        "d": BASE["d"] + 1,
        "e": torch.zeros(5000),
    },
}


def digest(path: Path) -> str:
    return content_digest(Archive(path)).hex()


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, TUNES, path, recipe=tvcodec.QUALITIES["high"])
    return path


def recompressed(path: Path, out: Path, compress: Callable[[bytes], bytes]) -> Path:
    """The same file with each stream compressed anew."""
    archive = Archive(path)

    def rewritten(task: str | None, section: Section, offset: int) -> tuple[Any, bytes]:
        left, pieces = archive.read(task, section, offset), []
        vectors = archive.vectors[section.parameter] if isinstance(section, Entry) else 0
        streams = {}
        for stream, count in counted_streams(section, archive.root.base_model, vectors):
            packed = entropy.decompress(left[: stream.length], stream.packed(count)).tobytes()
            left = left[stream.length :]
            frames = [packed[at : at + entropy.FRAME] for at in range(0, len(packed), 8 << 20)]
            data = b"".join(map(compress, frames))
            pieces.append(data if len(data) < len(packed) else packed)
            streams[id(stream)] = dataclasses.replace(stream, length=len(pieces[-1]))

        def renewed(value: Any) -> Any:
            if isinstance(value, Stream):
                return streams[id(value)]
            if isinstance(value, tuple):
                return tuple(map(renewed, value))
            if not dataclasses.is_dataclass(value) or isinstance(value, type):
                return value
            fields = dataclasses.fields(value)
            return type(value)(**{f.name: renewed(getattr(value, f.name)) for f in fields})

        return renewed(section), b"".join(pieces)

    with Writer(out) as writer:
        groups = {}
        for task in archive.groups:
            start, index = writer.offset, archive.index(task)
            kinds: dict[str, list[Any]] = {"entries": [], "replaced": [], "rows": [], "added": []}
            small = None
            for section, offset in archive.sections(task):
                record, data = rewritten(task, section, offset)
                length, crc = writer.put(data)
                record = dataclasses.replace(record, length=length, crc=crc)
                if isinstance(record, Small):
                    small = record
                elif isinstance(record, Entry):
                    kinds["entries"].append(record)
                elif isinstance(record, Rows):
                    kinds["rows"].append(record)
                else:
                    whole = "replaced" if isinstance(record.parameter, int) else "added"
                    kinds[whole].append(record)
            lists = {name: tuple(records) for name, records in kinds.items()}
            index = dataclasses.replace(index, digest=writer.end_group(), small=small, **lists)
            groups[task] = (writer.offset - start, *writer.put_index(pack_task(index)))
        root, gram = archive.root, archive.root.gram_length
        if gram:
            place = root.gram_offset, gram, root.gram_sha256
            writer.put_apart(archive.container.read_apart(*place, "gram"))
        shared = (
            dataclasses.replace(
                root.shared,
                sections_length=groups[None][0],
                index_length=groups[None][1],
                index_sha256=groups[None][2],
            )
            if root.shared
            else None
        )
        tasks = tuple(
            dataclasses.replace(
                task,
                sections_length=groups[task.name][0],
                index_length=groups[task.name][1],
                index_sha256=groups[task.name][2],
            )
            for task in root.tasks
        )
        writer.close(pack_root(dataclasses.replace(root, shared=shared, tasks=tasks)))
    return out


def frame(level: int) -> Callable[[bytes], bytes]:
    return lambda data: zstandard.ZstdCompressor(level=level).compress(data) if data else b""


@pytest.mark.parametrize("compress", [frame(1), frame(19), lambda data: bytes(len(data) + 1)])
def test_it_stays_when_streams_are_compressed_anew(
    compress: Callable[[bytes], bytes], bank: Path, tmp_path: Path
) -> None:
    """By other settings of zstd, and not at all, which stands for all of its versions."""
    other = recompressed(bank, tmp_path / "other.tvq", compress)
    assert other.read_bytes() != bank.read_bytes()
    assert digest(other) == digest(bank)
    with tvcodec.open(other) as new, tvcodec.open(bank) as old:
        new.archive.verify()
        assert new.root != old.root
        for task in TUNES:
            for name, tensor in old.decode(task, BASE).items():
                assert torch.equal(new.decode(task, BASE)[name], tensor)


def test_it_changes_with_all_else(bank: Path, tmp_path: Path) -> None:
    seen = {digest(bank)}
    path = tmp_path / "other.tvq"

    def encoded(tunes: dict[str, State], recipe: tvcodec.Recipe) -> None:
        tvcodec.encode(BASE, tunes, path, recipe=recipe, force=True)
        seen.add(digest(path))

    encoded(TUNES, tvcodec.EXACT)
    encoded({"ant": TUNES["ant"]}, tvcodec.QUALITIES["high"])
    encoded({"ant": TUNES["ant"], "cow": TUNES["bee"]}, tvcodec.QUALITIES["high"])
    more = {**TUNES["bee"], "e": torch.ones(5000)}
    encoded({"ant": TUNES["ant"], "bee": more}, tvcodec.QUALITIES["high"])
    assert len(seen) == 5


def by_hand(path: Path) -> str:
    """As the specification says, by the second reader and msgpack."""
    second = second_reader()
    file = second.File(path)
    said = hashlib.sha256(b"tvq-file-content-v1\0")

    def raw(at: int, length: int) -> Any:
        return msgpack.unpackb(file.data[at : at + length], strict_map_key=False)

    def say(value: Any) -> None:
        said.update(msgpack.packb(value, use_single_float=True))

    def bare(stream: list[int]) -> None:
        stream[1] = 0

    zeros = bytes(32)
    root = raw(file.root_at, file.root_length)
    if root["shared"]:
        root["shared"] = [0, 0, zeros]
    if "companions" in root:
        root["companions"] = [0, 0, zeros]
    for task in root["tasks"]:
        task[1:4] = 0, 0, zeros
    say(root)
    for task in ([None] if root["shared"] else []) + [task[0] for task in root["tasks"]]:
        at, group = file.start(task)
        index = raw(at + group.sections_length, group.index_length)
        index["digest"] = zeros
        for entry in index["entries"]:
            if entry[4]:
                bare(entry[4][2])
            for part in entry[5]:
                for field in part:
                    if isinstance(field, list):
                        bare(field)
            entry[6:8] = 0, 0
        for kept in (*index["replaced"], *index["added"], *index["rows"]):
            kept[-3:-1] = 0, 0
            bare(kept[-1])
        if index["small"]:
            index["small"][0:2] = 0, 0
            bare(index["small"][2])
        say(index)
        for section, data in file.sections(task):
            if isinstance(section, second.Entry):
                streams = [section.mask.bits] if section.mask else []
                streams += [stream for part in section.parts for stream in part.streams]
            else:
                streams = [section.symbols if hasattr(section, "symbols") else section.values]
            for stream in streams:
                said.update(second.unpacked(stream, data[: stream.length]))
                data = data[stream.length :]
    if (companions := file.root.companions) is not None:
        index = raw(file.companions_at + companions.sections_length, companions.index_length)
        index["digest"] = zeros
        for blob in index["blobs"]:
            blob[2:4] = 0, 0
        say(index)
    return said.hexdigest()


@pytest.mark.parametrize("path", SOUND, ids=lambda path: path.name)
def test_it_is_what_the_specification_says(path: Path) -> None:
    assert digest(path) == by_hand(path)


def test_it_is_what_the_specification_says_of_what_tvcodec_writes(bank: Path) -> None:
    assert digest(bank) == by_hand(bank)


def test_damaged_streams_are_named(tmp_path: Path) -> None:
    rules = json.loads((VECTORS / "expected.json").read_text())["vectors"]
    name = min(name for name, entry in rules.items() if entry.get("rule") == 55)
    with pytest.raises(tvcodec.FormatError, match=rf"{name}: task '.+', .+zstd frame"):
        digest(VECTORS / name)


def test_a_claim_beyond_the_frames_takes_no_memory(tmp_path: Path) -> None:
    path, frames = tmp_path / "claim.tvq", frame(1)(bytes(8 << 20)) * 3
    frames += frame(1)(os.urandom(100_000))  # so many bytes could be gigabytes
    stage = Stage(1.0, Stream(SYMBOLS, len(frames), 3))
    with Writer(path) as writer:
        length, crc = writer.put(frames)
        entry = Entry(0, 1.0, 0.0, 1.0, None, (stage,), length, crc)
        index = TaskIndex(digest=writer.end_group(), entries=(entry,))
        group = (writer.offset - 64, *writer.put_index(pack_task(index)))
        base = (BaseParameter("p", "float32", (15_000_000_000,), bytes(32), 0),)
        writer.close(pack_root(Root(base_model=base, tasks=(TaskRecord("t", *group, 1.0, 0.0),))))
    tracemalloc.start()
    try:
        with pytest.raises(tvcodec.FormatError, match="task 't', parameter 'p': "):
            digest(path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
