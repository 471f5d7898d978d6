"""The task vector of one parameter, of one task or of a weighted sum of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tvcodec.checkpoint import TORCH_DTYPES
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.stored_task import SharedBasis, StoredTask
from tvcodec.errors import TvqError
from tvcodec.maths import dense
from tvcodec.parameter.parts import Basis, Parts, weighted_sum


@dataclass(frozen=True, slots=True)
class Term:
    """A stored task, whose file's shared basis is `shared`, times `factor`. Where `structured`,
    parts that are noise to whoever looks at single values or directions are left out: what is
    coded in a rotated frame. `held` is a parameter that was read already, by number."""

    task: StoredTask
    shared: SharedBasis
    factor: float = 1.0
    structured: bool = False
    held: tuple[int, Parts | None] | None = None

    def times(self, factor: float) -> Term:
        """The same times another factor."""
        return replace(self, factor=self.factor * factor)

    def read(self, number: int) -> Term:
        """The same, which reads this parameter now and from the file no more."""
        return replace(self, held=(number, self.task.parts(number)))

    def parts(self, number: int) -> Parts | None:
        """The parts of a parameter's task vector, without the factor; None where it is zero."""
        known = self.held is not None and self.held[0] == number
        parts = self.held[1] if self.held and known else self.task.parts(number)
        return parts.structured() if parts and self.structured else parts

    def rotated(self, number: int) -> bool:
        """Whether a part of a parameter's task vector may be coded in a rotated frame."""
        of = self.task.stored_as(number)
        return self.task.rotated(number) or (self.task.changed(number) and self.shared.rotated(of))

    def basis(self, number: int) -> Basis | None:
        """What tasks share of a parameter that is stored as `number`."""
        basis = self.shared.of(number)
        return basis.structured if basis and self.structured else basis


def summed(terms: Sequence[Term], number: int, base: BaseModel | None) -> Tensor:
    """The sum of factor * task vector of one parameter, in its shape, float32.

    Terms are of files with one base model. Raises TvqError where `base` is None and a task needs
    it: parameters that are stored bit-exact.
    """
    parameter = terms[0].task.archive.root.base_model[number]
    extent = parameter.extent
    stored: dict[tuple[int, int], list[tuple[Term, Parts]]] = {}
    exact: list[tuple[Term, dense.Exact]] = []
    for term in terms:
        parts = term.parts(number)
        if parts is not None and parts.exact is not None:
            exact.append((term, parts.exact))
        elif parts is not None:
            # tasks may tie a parameter to another one, whose frame its parts are then in
            of = term.task.stored_as(number)
            stored.setdefault((of, id(term.shared)), []).append((term, parts))
    total: Tensor | None = None
    for (of, _), tied in stored.items():
        weighted = [(term.factor, parts) for term, parts in tied]
        found = weighted_sum(weighted, extent, of, tied[0][0].basis(of))
        total = found if total is None else total.add_(found)
    if total is None:
        total = torch.zeros(extent.rows, extent.columns, dtype=torch.float32)
    if exact:
        if base is None:
            raise TvqError(
                f"task {exact[0][0].task.name!r}: parameter {parameter.name!r} is stored as a"
                " difference of bits, which needs the base model",
                hint="give --base-model",
            )
        original = base.tensor(number)
        for term, difference in exact:
            converted = dense.converted(original, TORCH_DTYPES[term.task.dtype(number)])
            tau = dense.task_vector(dense.exact_restore(converted, difference), original)
            total.add_(tau.view(total.shape), alpha=term.factor)
    return total.view(parameter.dims)
