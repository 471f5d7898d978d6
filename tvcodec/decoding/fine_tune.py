"""One fine-tune of an open file, tensor by tensor: base model + task vector, or bits as stored."""

from __future__ import annotations

import torch
from torch import Tensor

from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.stored_task import SharedBasis, StoredTask
from tvcodec.maths import dense
from tvcodec.maths.scratch import Scratch
from tvcodec.parameter.parts import Parts, weighted_sum


class FineTune:
    """What a task made of the base model: `shapes` has the dtype and dimensions of each parameter
    by name, `tensor` reads one."""

    def __init__(self, task: StoredTask, shared: SharedBasis, base: BaseModel) -> None:
        self.task, self.shared, self.base = task, shared, base
        self.archive = task.archive
        self._scratch = Scratch()
        self._added = {str(kept.parameter): kept for kept in task.index.added}

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Of all parameters, sorted by name."""
        shapes = {name: (kept.dtype, kept.dims) for name, kept in self._added.items()}
        for number, parameter in enumerate(self.archive.root.base_model):
            kept = self.task.replaced(number)
            if kept is not None:
                shapes[parameter.name] = kept.dtype, kept.dims
            elif number not in self.task.missing:
                shapes[parameter.name] = self.task.dtype(number), self.task.dims(number)
        return dict(sorted(shapes.items()))

    def tensor(self, name: str) -> Tensor:
        """The parameter of that name, which has to be one of `shapes`."""
        if name in self._added:
            return self.task.whole(self._added[name])
        number = self.archive.numbers[name]
        kept = self.task.replaced(number)
        if kept is not None:
            return self.task.whole(kept)
        tensor = self._common(number)
        rows = self.task.rows(number)
        return tensor if rows is None else torch.cat([tensor, rows])

    def same(self, name: str, other: str) -> bool:
        """Whether two names stand for one tensor: tied, or equal in the base model and unchanged.
        What is kept whole, or equal by chance, counts as different."""
        numbers = [self.archive.numbers.get(one) for one in (name, other)]
        if None in numbers or not self.base.same(name, other):
            return False
        one, two = (number for number in numbers if number is not None)
        if self.task.replaced(one) or self.task.replaced(two):
            return False
        tied = self.task.stored_as(one) == self.task.stored_as(two)
        return tied or not (self.task.changed(one) or self.task.changed(two))

    @torch.no_grad()
    def overwrite(self, name: str, live: Tensor) -> None:
        """Puts the parameter in the place of `live`, a tensor of its shape; FormatError leaves that
        as it was."""
        number = self.archive.numbers.get(name)
        if number is None or not self._fits(number, live):
            live.copy_(self.tensor(name))
            return
        parts = self.task.parts(number)
        if parts is not None and parts.exact is not None:
            live.copy_(dense.exact_restore(self.base.tensor(number), parts.exact))
            return
        tau = None if parts is None or parts.few else self._tau(number, parts)
        self.base.copy_into(number, live)
        if tau is not None:
            live.add_(tau.view(live.shape))
        elif parts is not None:
            parts.add_to(live, self.task.stored_as(number))

    def _fits(self, number: int, live: Tensor) -> bool:
        """Whether a parameter is float32 before and after, and can be summed where `live` is."""
        return (
            live.is_contiguous()
            and live.device.type == "cpu"
            and {live.dtype, TORCH_DTYPES[self.task.dtype(number)]} == {torch.float32}
            and self.archive.root.base_model[number].dtype == "float32"
            and self.task.replaced(number) is None
            and self.task.rows(number) is None
        )

    def _common(self, number: int) -> Tensor:
        """The parameter as far as the base model has it."""
        original = self.base.copy(number)
        dtype = TORCH_DTYPES[self.task.dtype(number)]
        parts = self.task.parts(number)
        if parts is None:
            return dense.converted(original, dtype)
        if parts.exact is not None:
            return dense.exact_restore(dense.converted(original, dtype), parts.exact)
        if parts.few and dtype == original.dtype == torch.float32:
            parts.add_to(original, self.task.stored_as(number))
            return original
        tau = self._tau(number, parts)
        return dense.fine_tune(original, tau.view(original.shape), dtype, reuse=True)

    def _tau(self, number: int, parts: Parts) -> Tensor:
        shape, of = self.archive.root.base_model[number].extent, self.task.stored_as(number)
        return weighted_sum([(1.0, parts)], shape, of, self.shared.of(of), self._scratch)
