"""One parameter of all tasks at once: vectors that they share, and what each adds to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tvcodec.encoding.masks import Masks
from tvcodec.file import entropy
from tvcodec.file.index import ENTRIES, ROWS, BaseParameter, Entry, Extent, Mask, Part, single
from tvcodec.maths.basis import Coefficients
from tvcodec.maths.dense import as_half, inner_product, squared_norm
from tvcodec.parameter import codec, summands
from tvcodec.parameter.one_task import Coded

PIECE = 1 << 15  # values of each task vector that are multiplied at a time


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts under a mask: bool [rows] or [rows, columns]; None keeps all."""

    contents: tuple[summands.Content, ...]
    mask: Tensor | None = None


class Family:
    """The task vectors of those tasks that changed a parameter, each [rows, columns] float32.

    A recipe shares vectors, one after another, and gives each task multiples of them; `left` is
    what of each task vector is not accounted for yet. What decoding will see is what counts: shared
    vectors and coefficients are rounded before they are taken off.

    `tasks` has each task's name and the root mean square of its whole task vector, `of` how many
    tasks there are with those that did not change the parameter; `sink` is given the shared vectors
    as they are made.
    """

    def __init__(
        self,
        number: int,
        parameter: BaseParameter,
        tasks: Sequence[tuple[str, float]],
        taus: Iterable[Tensor],
        of: int,
        masks: Masks,
        sink: Callable[[Coded], None],
    ) -> None:
        self.number, self.parameter, self.of = number, parameter, of
        self.tasks = tuple(task for task, _ in tasks)
        self.rms = tuple(rms for _, rms in tasks)
        self.extent = parameter.extent
        self.left = list(taus)
        self.complete = False  # whether the shared vectors are all that there is
        # rank of a basis and the share of the energy that it keeps, if a recipe says
        self.basis: tuple[int, float] | None = None
        self._masks, self._sink = masks, sink
        self._coefficients: list[list[float]] = [[] for _ in self.left]

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter has two dimensions or more, and more than one value in each row
        and column: recipes store anything else as floats."""
        return len(self.parameter.dims) > 1 and min(self.extent.rows, self.extent.columns) > 1

    def gram(self, mask: Tensor | None = None) -> Tensor:
        """Inner products of what is left of all tasks, float64 [n, n], as `inner_products`."""
        return inner_products(self.left, mask)

    @property
    def masked(self) -> bool:
        """Whether masks are given, though not of every parameter."""
        return self._masks.given

    def mask(self, task: int) -> Tensor | None:
        """Which entries matter to a task, as given: bool [rows, columns]; None is all."""
        return self._masks.of(self.tasks[task], self.parameter.name, self.parameter.dims)

    def votes(self) -> tuple[Tensor | None, int]:
        """How many tasks each entry matters to, as given, int16 [rows, columns] (None: all of
        them), and how many there are."""
        votes = self._masks.votes(self.parameter.name, self.parameter.dims)
        return votes, len(self._masks.checkpoints)

    def share(self, wanted: Tensor, own: Sum) -> Tensor:
        """Stores a shared vector that stands for `wanted` [rows, columns]; what it decodes to.
        Afterwards `wanted` is what is missing of it."""
        stored = _store(own)  # before `wanted`, which parts may be made of
        decoded = self._expanded(own)
        energy, along = squared_norm(wanted), inner_product(decoded, wanted)
        lost = squared_norm(wanted.sub_(decoded))
        self._sink(self._coded(stored, energy, lost, along))
        for each in self._coefficients:
            each.append(0.0)
        return decoded

    def take(self, task: int, vector: Tensor, coefficient: float, half: bool = True) -> None:
        """Takes a multiple of the vector shared last off what is left of a task; the coefficient
        is rounded to float16 (float32 unless `half`) first."""
        rounded = float(as_half(torch.tensor([coefficient], dtype=torch.float32), half)[0])
        self._coefficients[task][-1] = rounded
        self.left[task].sub_(vector, alpha=rounded)

    def finish(self, task: int, tau: Tensor, own: Sum) -> Coded:
        """A task's own parts with its coefficients as they go into the file; `left` of the task is
        used up. `tau` is its whole task vector."""
        coefficients = self._coefficients[task]
        if own.mask is not None and not own.mask.any():
            own, coefficients = Sum(()), []
        contents = own.contents
        if any(coefficients):
            values = torch.tensor(coefficients, dtype=torch.float32)
            contents = (Coefficients(as_half(values, exactly=True)), *contents)
        lost, energy = self.left[task], squared_norm(tau)
        self.left[task] = torch.empty(0)
        if not contents:
            return Coded(energy)
        stored = _store(Sum(contents, own.mask))  # before `lost`, which parts may be made of
        if own.contents:
            lost.sub_(self._expanded(own))
        if own.mask is not None:
            keep = own.mask if own.mask.dim() == 2 else own.mask[:, None]
            torch.where(keep, lost, tau, out=lost)
        along = energy - inner_product(lost, tau)
        return self._coded(stored, energy, squared_norm(lost), along)

    def _expanded(self, own: Sum) -> Tensor:
        """What parts that need no basis decode to, [rows, columns]."""
        mask = own.mask
        if mask is None:
            return summands.expand(own.contents, self.extent, self.number)
        extent = self.extent
        total = torch.zeros(extent.rows, extent.columns, dtype=torch.float32)
        if mask.dim() == 1:
            kept = mask.nonzero()[:, 0]
            inside = Extent(len(kept), extent.columns, len(kept) * extent.columns)
            total[kept] = summands.expand(own.contents, inside, self.number)
        else:
            kept = mask.reshape(-1).nonzero()[:, 0]
            inside = Extent(extent.rows, extent.columns, len(kept))
            total.view(-1)[kept] = summands.expand(own.contents, inside, self.number, kept)
        return total

    def _coded(self, stored: _Stored, energy: float, lost: float, along: float) -> Coded:
        error, gain = (math.sqrt(lost / energy), along / energy) if energy else (0.0, 1.0)
        fidelity = single(math.sqrt(energy)), single(error), single(gain)
        length = len(stored.section)
        entry = Entry(self.number, *fidelity, stored.mask, stored.parts, length, 0)
        return Coded(lost, None, entry, stored.section)


class _Stored(NamedTuple):
    """A mask and parts, as records and bytes."""

    mask: Mask | None
    parts: tuple[Part, ...]
    section: bytes


def _store(own: Sum) -> _Stored:
    mask, mask_bytes = _record(own.mask)
    stored = [codec.store(content, entropy.THOROUGH) for content in own.contents]
    section = mask_bytes + b"".join(data for _, data in stored)
    return _Stored(mask, tuple(part for part, _ in stored), section)


def _record(mask: Tensor | None) -> tuple[Mask | None, bytes]:
    if mask is None or bool(mask.all()):
        return None, b""
    stream, data = codec.store_bits(mask, 1)
    return Mask(ROWS if mask.dim() == 1 else ENTRIES, int(mask.sum()), stream), data


def inner_products(vectors: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Of all pairs of tensors of one shape, float64 [n, n]; where `mask` (bool, of that shape) is
    set, if there is one."""
    flats = [vector.reshape(-1) for vector in vectors]
    keep = None if mask is None else mask.reshape(-1)
    gram = torch.zeros(len(flats), len(flats), dtype=torch.float64)
    for start in range(0, flats[0].numel(), PIECE):
        block = torch.stack([flat[start : start + PIECE] for flat in flats]).double()
        if keep is not None:
            block *= keep[start : start + PIECE]
        gram += block @ block.T
    return gram
