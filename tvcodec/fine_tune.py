"""One fine-tune of an open file, tensor by tensor: base model + task vector, or bits as stored."""

from __future__ import annotations

import torch
from torch import Tensor

from tvcodec import dense
from tvcodec.base_model import BaseModel
from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.parts import weighted_sum
from tvcodec.stored_task import SharedBasis, StoredTask


class FineTune:
    """What a task made of the base model: `shapes` has the dtype and dimensions of each parameter
    by name, `tensor` reads one."""

    def __init__(self, task: StoredTask, shared: SharedBasis, base: BaseModel) -> None:
        self.task, self.shared, self.base = task, shared, base
        self.archive = task.archive
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

    def _common(self, number: int) -> Tensor:
        """The parameter as far as the base model has it."""
        original = self.base.tensor(number)
        dtype = TORCH_DTYPES[self.task.dtype(number)]
        parts = self.task.parts(number)
        if parts is None:
            same = dense.converted(original, dtype)
            return same.clone() if same is original else same  # a base model in memory is lent
        if parts.exact is not None:
            return dense.exact_restore(dense.converted(original, dtype), parts.exact)
        shape, of = self.archive.root.base_model[number].extent, self.task.stored_as(number)
        tau = weighted_sum([(1.0, parts)], shape, of, self.shared.of(of))
        return dense.fine_tune(original, tau.view(original.shape), dtype)
