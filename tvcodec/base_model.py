"""The base model that a file was made with, checked by content as it is read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tvcodec.archive import Archive
from tvcodec.checkpoint import Checkpoint, checksum, fingerprint
from tvcodec.errors import BaseModelMismatch

NAMED = 5  # how many parameters that differ a message lists


class BaseModel:
    """Tensors of a checkpoint by parameter number; BaseModelMismatch for one that is not what the
    file was made with. A parameter is checked when it is first read, before anybody uses it."""

    def __init__(self, archive: Archive, checkpoint: Checkpoint) -> None:
        self.archive = archive
        self.checkpoint = checkpoint
        self._checked: set[int] = set()

    @property
    def directory(self) -> Path | None:
        """Where the base model's config and tokenizer files are, if it has any."""
        return self.checkpoint.directory

    def tensor(self, number: int) -> Tensor:
        """The base model's parameter of that number, in its own dtype."""
        parameter = self.archive.root.base_model[number]
        if parameter.name not in self.checkpoint:
            raise self._mismatch()
        tensor = self.checkpoint.tensor(parameter.name)
        if number not in self._checked:
            if not self._same(number, tensor):
                raise self._mismatch()
            self._checked.add(number)
        return tensor

    def check(self) -> None:
        """BaseModelMismatch unless the checkpoint is the whole base model and nothing else."""
        parameters = self.archive.root.base_model
        known = {parameter.name for parameter in parameters}
        if more := [name for name in self.checkpoint.names if name not in known]:
            raise BaseModelMismatch(
                f"{self.checkpoint.label}: not the base model of {self.archive.path}: it has a"
                f" parameter {more[0]!r} more",
                hint="use the base model that the file was encoded with",
            )
        for number in range(len(parameters)):
            self.tensor(number)

    def _same(self, number: int, tensor: Tensor) -> bool:
        parameter = self.archive.root.base_model[number]
        name, dtype = parameter.name, self.checkpoint.dtype(parameter.name)
        shape = tuple(tensor.shape)
        if dtype != parameter.dtype or shape != parameter.dims:
            return False
        if self.archive.pinned:
            return fingerprint(name, dtype, shape, tensor) == parameter.sha256
        return checksum(tensor) == parameter.crc32

    def _mismatch(self) -> BaseModelMismatch:
        """Lists what differs; read to the end, since the first difference may be one of many."""
        differ = []
        parameters = self.archive.root.base_model
        for number, parameter in enumerate(parameters):
            if parameter.name not in self.checkpoint:
                differ.append(f"{parameter.name} (not there)")
            elif not self._same(number, self.checkpoint.tensor(parameter.name)):
                differ.append(parameter.name)
        shown = ", ".join(differ[:NAMED]) + (", ..." if len(differ) > NAMED else "")
        return BaseModelMismatch(
            f"{self.checkpoint.label}: not the base model of {self.archive.path}:"
            f" {len(differ)} of {len(parameters)} parameters differ: {shown}",
            hint="use the base model that the file was encoded with",
        )
