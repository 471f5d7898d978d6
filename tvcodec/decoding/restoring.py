"""Files of a task -> the directory that its fine-tune was, but for the values of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tvcodec.checkpoint import Checkpoint, Layout
from tvcodec.errors import CheckpointError, naming
from tvcodec.file.archive import Archive
from tvcodec.file.index import BLOB_MAX, FROM_BASE, File

_CONFIG = "config.json"
_EXACT = '{"name": "exact"}'  # what the encoder notes of its recipe


class Directory:
    """What lies beside the weights of a task whose fine-tune was a directory."""

    def __init__(self, archive: Archive, task: str, base: Checkpoint) -> None:
        self._archive = archive
        self._task = task
        self._base = base
        self._index = archive.index(task)

    @property
    def known(self) -> bool:
        """Whether the file says what lies there."""
        return self._index.files is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it was, though all values are."""
        said = []
        exact = self._index.metadata.get("recipe") == _EXACT
        if self.known and exact and self._index.weights is None:
            said.append(
                "every value is the fine-tune's, but the files of its weights are not: these were"
                " no .safetensors files, or not such as can be written again"
            )
        base = self._base.directory
        names = {file.name for file in self._index.files or ()}
        if self.known and _CONFIG not in names and base and (base / _CONFIG).is_file():
            said.append(f"the fine-tune had no {_CONFIG}: to load it, copy the base model's")
        return tuple(f"task {self._task!r}: {line}" for line in said)

    def write(self, directory: Path) -> None:
        """Writes all files into a new directory. CheckpointError where one is the base model's and
        not to be had there, FormatError where one is damaged."""
        self._archive.companions.check(self._task, self._index)
        for file in self._index.files or ():
            data = self._of_base(file) if file.source == FROM_BASE else self._kept(file.sha256)
            with naming(file.name):
                (directory / file.name).parent.mkdir(exist_ok=True)
                (directory / file.name).write_bytes(data)

    def layout(self) -> list[Layout]:
        """The files of the weights as they were; empty where the file does not say. FormatError
        where one is damaged, or they are too much."""
        self._archive.companions.check(self._task, self._index)
        files = self._index.weights or ()
        return [Layout(file.name, self._kept(file.header), file.sha256) for file in files]

    def _kept(self, sha256: bytes) -> bytes:
        return self._archive.companions.content(sha256)

    def _of_base(self, file: File) -> bytes:
        directory, found = self._base.directory, "no such file"
        if directory is not None and (directory / file.name).is_file():
            found = "another one"
            if (directory / file.name).stat().st_size <= BLOB_MAX:
                data = (directory / file.name).read_bytes()
                if hashlib.sha256(data).digest() == file.sha256:
                    return data
        raise CheckpointError(
            f"{self._base.label}: task {self._task!r} has the base model's {file.name} of SHA-256"
            f" {file.sha256.hex()}, got {found}",
            "give the base model's directory as it was when the task was encoded, or write a"
            " .safetensors file, which needs nothing beside the weights",
        )
