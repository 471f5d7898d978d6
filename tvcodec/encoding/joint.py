"""One parameter of all tasks, by a recipe that looks at them together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from tvcodec.encoding.family import Family, Sum, inner_products
from tvcodec.encoding.masks import Masks
from tvcodec.encoding.piece import Piece
from tvcodec.encoding.sharing import COARSER, promising
from tvcodec.maths.sketch import sums
from tvcodec.parameter.one_task import Coded, encode_exact
from tvcodec.parameter.recipes import Recipe


class Joint(Protocol):
    """A recipe of several tasks at once."""

    def share(self, family: Family) -> Tensor | None:
        """Stores what the tasks of a family share; what `code` has to know of it."""

    def code(self, family: Family, task: int, tau: Tensor, shared: Tensor | None) -> Sum:
        """A task's own parts; `tau` is its whole task vector [rows, columns]."""


Run = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
Basis = tuple[int, float]
"""Rank of a basis, and the share of the energy that it keeps."""


def encode(
    piece: Piece,
    run: Run,
    recipe: Joint,
    masks: Masks,
    bits: int,
    sink: Callable[[Coded], None],
) -> tuple[Iterable[Coded | None], Basis | None]:
    """What each task stores of a parameter, with what its sketch of so many `bits` takes, and the
    basis that they share, if any. Each task vector is held once and read twice; `run` is `map`, or
    does several at a time; `sink` is given the shared vectors."""
    members = [n for n, task in enumerate(piece.tasks) if task.energy]
    sketched: list[Tensor] = []

    def first_read(member: int) -> Tensor:
        tau = piece.tau(member)
        sketched.append(sums(tau, piece.number, bits))
        return tau

    if not members:
        return _among(piece, iter(())), None
    family = _family(piece, members, map(first_read, members), masks, sink)
    coded = _encode(piece, members, run, recipe, family)
    pairs = zip(coded, sketched, strict=True)
    return _among(piece, (replace(one, sums=part) for one, part in pairs)), family.basis


def _among(piece: Piece, members: Iterator[Coded]) -> Iterator[Coded | None]:
    """What all tasks store, from what those with a task vector do; zeros of another sign, which
    only bits tell apart, are stored bit for bit."""
    for number, task in enumerate(piece.tasks):
        if task.energy:
            yield next(members)
        elif task.energy is None:
            yield None
        else:
            yield encode_exact(piece.number, functools.partial(piece.read, number), 0.0)


def shared_instead(
    piece: Piece,
    run: Run,
    recipes: Sequence[Recipe],
    alone: Sequence[Coded | None],
    bounded: bool,
) -> tuple[Sequence[Coded], Sequence[Coded | None]]:
    """Shared vectors of a parameter and what each task then stores, or none and `alone`, how tasks
    are coded on their own, where that costs no more. The task vectors in `alone` are used up; if
    `bounded`, no task loses more than there."""
    members = [n for n, coded in enumerate(alone) if coded is not None]
    each = [coded for coded in alone if coded is not None]
    taus = [coded.tau for coded in each if isinstance(coded.tau, Tensor)]
    if len(taus) < 2:
        return (), alone
    extent = piece.parameter.extent
    matrices = [tau.view(extent.rows, -1) for tau in taus]
    gram, own = inner_products(matrices), [recipes[n] for n in members]
    vectors: Sequence[Coded] = ()
    together: Sequence[Coded] = each
    for attempt, coarser in enumerate(COARSER if bounded else COARSER[:1]):
        stepped = [recipe.at_step(coarser * recipe.step) for recipe in own]
        rms = [piece.tasks[n].rms for n in members]
        sharing = promising(stepped, rms, each, gram, extent.count, bounded)
        if sharing is None:
            break
        if attempt:
            for matrix, member in zip(matrices, members, strict=True):
                matrix.copy_(piece.tau(member))
        shared: list[Coded] = []
        family = _family(piece, members, matrices, Masks(), shared.append)
        tried = list(_encode(piece, members, run, sharing, family))
        if not sharing.pays(shared, tried, vectors, together):
            break
        vectors, together = shared, tried
    if not vectors:
        return (), alone
    tasks: list[Coded | None] = [None] * len(alone)
    for member, coded, before in zip(members, together, each, strict=True):
        tasks[member] = replace(coded, sums=before.sums)
    return vectors, tasks


def _family(
    piece: Piece,
    members: Sequence[int],
    taus: Iterable[Tensor],
    masks: Masks,
    sink: Callable[[Coded], None],
) -> Family:
    tasks = [(piece.tasks[n].name, piece.tasks[n].rms) for n in members]
    return Family(piece.number, piece.parameter, tasks, taus, len(piece.tasks), masks, sink)


def _encode(
    piece: Piece, members: Sequence[int], run: Run, recipe: Joint, family: Family
) -> Iterable[Coded]:
    """What each task of a family stores, after what they share."""
    common = recipe.share(family)

    def finish(task: int) -> Coded:
        tau = piece.tau(members[task])
        return family.finish(task, tau, recipe.code(family, task, tau, common))

    return run(finish, range(len(members)))
