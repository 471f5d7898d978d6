"""The base model that a file was made with, checked by content as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tvcodec.checkpoint import Checkpoint, checksum, fingerprint, tensor_bytes
from tvcodec.errors import BaseModelMismatch
from tvcodec.file.archive import Archive
from tvcodec.threads import for_each

NAMED = 5  # how many parameters that differ a message lists


class BaseModel:
    """Tensors of a checkpoint by parameter number; BaseModelMismatch for one that is not what the
    file was made with. A parameter is checked when it is first read, before anybody uses it.

    `checked` has the parameters of files that were checked before, and is added to: a file that
    changes afterwards is refused when it is read.
    """

    def __init__(
        self,
        archive: Archive,
        checkpoint: Checkpoint,
        checked: set[tuple[int, object]] | None = None,
    ) -> None:
        self.archive = archive
        self.checkpoint = checkpoint
        self._checked = set[tuple[int, object]]() if checked is None else checked
        self._checked_in_memory: set[int] = set()

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
        self._check(number, tensor)
        return tensor

    def copy(self, number: int) -> Tensor:
        """The same in memory of its own, which the caller may overwrite."""
        tensor = self.tensor(number)
        return tensor if self._place(number) else tensor.clone()

    def copy_into(self, number: int, out: Tensor) -> None:
        """The same in the place of `out`, contiguous, on the CPU, of its shape and dtype; what is
        not the base model's may be there when that is found out."""
        parameter = self.archive.root.base_model[number]
        if parameter.name not in self.checkpoint or not self._alike(number):
            raise self._mismatch()
        self.checkpoint.tensor_into(parameter.name, out)
        self._check(number, out)

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and dimensions of each parameter by name, as of a fine-tune."""
        return {one.name: (one.dtype, one.dims) for one in self.archive.root.base_model}

    def same(self, name: str, other: str) -> bool:
        """Whether two parameters have the same elements."""
        one, two = (self.archive.root.base_model[self.archive.numbers[n]] for n in (name, other))
        return (one.dtype, one.dims, one.crc32) == (two.dtype, two.dims, two.crc32)

    def overwrite(self, name: str, live: Tensor) -> None:
        """Puts a parameter in the place of `live`, a tensor of its shape."""
        number = self.archive.numbers[name]
        alike = str(live.dtype) == f"torch.{self.archive.root.base_model[number].dtype}"
        if alike and live.is_contiguous() and live.device.type == "cpu":
            self.copy_into(number, live)
        else:
            live.copy_(self.tensor(number))

    def check_parameters(self, names: Sequence[str]) -> None:
        """BaseModelMismatch unless these parameters, in files, are what they were."""
        left = [name for name in names if not self._is_checked(self.archive.numbers[name])]
        shapes = self.shapes()
        sizes = [(name, tensor_bytes(*shapes[name])) for name in left]
        for_each(lambda name: self.tensor(self.archive.numbers[name]), sizes)

    def _check(self, number: int, tensor: Tensor) -> None:
        if self._is_checked(number):
            return
        if not self._same(number, tensor):
            raise self._mismatch()
        if (place := self._place(number)) is None:
            self._checked_in_memory.add(number)
        else:
            self._checked.add((number, place))

    def _place(self, number: int) -> object | None:
        name = self.archive.root.base_model[number].name
        return self.checkpoint.place(name) if name in self.checkpoint else None

    def _is_checked(self, number: int) -> bool:
        return number in self._checked_in_memory or (number, self._place(number)) in self._checked

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

    def _alike(self, number: int) -> bool:
        """Whether a parameter has the dtype and the shape that it should have."""
        parameter = self.archive.root.base_model[number]
        found = self.checkpoint.dtype(parameter.name), self.checkpoint.shape(parameter.name)
        return found == (parameter.dtype, parameter.dims)

    def _same(self, number: int, tensor: Tensor) -> bool:
        parameter = self.archive.root.base_model[number]
        if not self._alike(number):
            return False
        if self.archive.pinned:
            made = fingerprint(parameter.name, parameter.dtype, parameter.dims, tensor)
            return made == parameter.sha256
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
