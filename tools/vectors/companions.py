"""Files with what lies beside weights: sound ones, and such as break a rule about them (R63 to
R68)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from vectors.broken_bytes import Broken
from vectors.files import BASE, Blobs, Draft, Group, Hook, put, sha256, small, subset
from vectors.streams import frame, symbols

CONFIG = b'{"model_type": "none"}'
WORDS = b"word " * 30
ZEROS = bytes(1 << 20)


def _header() -> bytes:
    """All but the values of a .safetensors file of the parameter l."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"__metadata__": {"format": "pt"}, "l": entry}).encode()
    return struct.pack("<Q", len(text)) + text


def _kept(*names: str, content: bytes = CONFIG) -> list[list[Any]]:
    digest = sha256(content)
    return [[name, 1, digest] for name in names]


def _draft(
    files: list[list[Any]] | None, *contents: bytes, weights: Any = None, **more: Any
) -> Draft:
    """A task that changes nothing."""
    blobs = Blobs(list(contents)) if contents else None
    task = Group(files=files, weights=weights)
    return Draft(subset("l"), {"one": task}, companions=blobs, **more)


def companions() -> dict[str, tuple[str, Draft]]:
    """Sound ones."""
    files = [
        ["chat/tool.jinja", 1, sha256(b"")],
        ["config.json", 1, sha256(CONFIG)],
        ["tokenizer.json", 0, sha256(b"as in the base model")],
        ["vocab.txt", 1, sha256(WORDS)],
    ]
    whole = _draft(files, b"", CONFIG, WORDS, _header())
    weights = [["model.safetensors", sha256(_header() + BASE["l"].data), sha256(_header())]]
    whole.tasks["one"].weights = weights
    changes = small(symbols([2, 1], 3), (0, 0.25))
    whole.tasks["two"] = Group(small=changes, files=_kept("_config.json"))
    whole.tasks["without"] = Group()
    whole.gram = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    zipped = _draft([["zeros", 1, sha256(ZEROS)]], ZEROS)
    zipped.companions = Blobs([ZEROS], stored=frame)
    return {
        "files": ("files beside weights, kept or the base model's, and weights", whole),
        "files_none": ("a directory that held weights alone", _draft([])),
        "files_zstd": ("a file in a zstd frame", zipped),
    }


def broken_companions() -> Iterator[Broken]:
    """Each breaks one rule."""
    yield from _names()
    yield from _lists()
    yield from _blobs()


def _names() -> Iterator[Broken]:
    names = {
        "parent": "../config.json",
        "absolute": "/config.json",
        "backslash": "a\\config.json",
        "drive": "C:config.json",
        "deep": "a/b/config.json",
        "hidden": ".bashrc",
        "hidden_folder": ".git/config",
        "empty": "",
        "folder": "folder/",
        "dot_behind": "config.json.",
        "device": "nul.txt",
        "device_folder": "CON/config.json",
        "line_break": "config.json\n",
        "of_129": "x" * 129,
        "weights": "model.safetensors",
        "pickle": "Training_args.BIN",
        "onnx": "onnx/model.onnx",
        "adapter": "a/Adapter_config.json",
    }
    for label, name in names.items():
        what = f"a file's name, {label.replace('_', ' ')}"
        yield f"file_{label}", 63, what, _draft(_kept(name), CONFIG).build()
    for label, name in {"folder": "a/model.safetensors", "pickle": "pytorch_model.bin"}.items():
        weights = [[name, bytes(32), sha256(_header())]]
        draft = _draft([], _header(), weights=weights)
        yield f"weights_{label}", 63, f"a name of weights, {label}", draft.build()


def _lists() -> Iterator[Broken]:
    many = [f"f{number:03}" for number in range(257)]
    lists = {
        "unsorted": ("files that are not sorted", ["b", "a"]),
        "twice": ("a file twice", ["a", "a"]),
        "case": ("names that differ in case", ["A", "a"]),
        "in_file": ("a file in a file", ["a", "a/b"]),
        "in_folder_case": ("a file in a file, but for case", ["A", "a/b"]),
        "many": ("257 files", many),
    }
    for label, (what, names) in lists.items():
        yield f"files_{label}", 64, what, _draft(_kept(*names), CONFIG).build()
    header = sha256(_header())
    for label, what, names in (
        ("none", "no file of weights", []),
        ("unsorted", "files of weights that are not sorted", ["b.safetensors", "a.safetensors"]),
    ):
        draft = _draft([], *[_header()] * bool(names), weights=[[n, header, header] for n in names])
        yield f"weights_{label}", 64, what, draft.build()
    draft = _draft(_kept("Model.safetensors/a"), CONFIG, _header())
    draft.tasks["one"].weights = [["model.safetensors", header, header]]
    yield "weights_folder_of_files", 64, "weights where a folder is", draft.build()
    source = put("files", 0, 1, to=2)
    yield (
        "files_source",
        23,
        "a file from nowhere",
        _draft(_kept("a"), CONFIG, index=source).build(),
    )
    shared = Draft(subset("l"), {}, shared=Group(files=[]))
    yield "shared_files", 43, "files of the shared index", shared.build()
    nil = put("companions", to=None)
    yield (
        "companions_nil",
        22,
        "nil in place of a key that is left out",
        _draft(_kept("a"), CONFIG, root=nil).build(),
    )


def _blobs() -> Iterator[Broken]:
    def bent(*path: Any, to: Any) -> Hook:
        return put("blobs", *path, to=to)

    hooks = {
        "none": (65, "no blob", bent(to=[])),
        "unsorted": (65, "blobs that are not sorted", bent(to=lambda blobs: blobs[::-1])),
        "too_long": (65, "a blob longer than its file", bent(0, 1, to=2)),
        "too_short": (65, "a blob that could not be unpacked so far", bent(0, 1, to=1 << 26)),
        "too_large": (23, "a file of more than 64 MiB", bent(0, 1, to=(1 << 26) + 1)),
        "crc": (16, "a blob of another CRC-32", bent(0, 3, to=0)),
        "length": (15, "a blob that ends behind its group", bent(1, to=_grown)),
        "digest": (17, "another digest of the group", put("digest", to=bytes(32))),
    }
    files = _kept("a") + _kept("b", content=WORDS)
    for label, (rule, what, hook) in hooks.items():
        draft = _draft(files, CONFIG, WORDS, companions_index=hook)
        if label == "none":
            draft.companions = Blobs([])
        yield f"blobs_{label}", rule, what, draft.build()
    lost = _draft(_kept("a", content=WORDS), CONFIG)
    lost.tasks["two"] = Group(files=_kept("a"))
    yield "blobs_lost", 66, "a file that is not there", lost.build()
    yield "blobs_no_group", 66, "files, and no group that has them", _draft(_kept("a")).build()
    gap = _draft(_kept("a"))
    gap.companions = _Gapped([CONFIG])
    yield "gap_in_companions", 15, "8 bytes between companion files and their index", gap.build()
    large = bytes(1 << 26)
    bomb = _draft(_kept(*"abcde", content=large), large)
    bomb.companions = Blobs([large], stored=_frames)
    yield "blobs_bomb", 66, "a file of 64 MiB five times", bomb.build()
    unused = _draft(_kept("a"), CONFIG, WORDS)
    yield "blobs_unused", 67, "a file that no task has", unused.build()
    other = _draft(_kept("a"), CONFIG, companions_index=bent(0, 0, to=sha256(WORDS)))
    other.tasks["one"].files = _kept("a", content=WORDS)
    yield "blobs_sha256", 68, "a file of another SHA-256", other.build()
    cut = _draft(_kept("a", content=ZEROS), ZEROS)
    cut.companions = Blobs([ZEROS], stored=lambda content: frame(content)[:-1])
    yield "zstd_of_file_cut", 55, "a file in a frame without its end", cut.build()


class _Gapped(Blobs):
    """With 8 bytes behind its sections that belong to none."""

    def sections(self) -> list[bytes]:
        return [*super().sections(), bytes(8)]

    def index(self, digest: bytes) -> dict[str, Any]:
        return Blobs(self.contents).index(digest)


def _grown(record: list[Any]) -> list[Any]:
    return [record[0], record[1] + 9, record[2] + 9, record[3]]


def _frames(content: bytes) -> bytes:
    pieces = range(0, len(content), 1 << 23)
    return b"".join(frame(content[at : at + (1 << 23)]) for at in pieces)
