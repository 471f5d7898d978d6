"""Methods that look at the singular directions of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from tvcodec.decoding.merging.values import Tasks, Tau
from tvcodec.decoding.task_vector import Term, summed
from tvcodec.errors import TvqError
from tvcodec.maths.lowrank import Factors
from tvcodec.maths.merge import iso_c as iso_c_maths
from tvcodec.maths.merge import tsvm as tsvm_maths
from tvcodec.parameter.parts import Parts

CUT = 0.01  # share of a matrix's energy that may be missing of the triplets asked for


def tsvm(tasks: Tasks) -> Tau:
    """TSV-Merge, of matrices."""

    def tau(number: int) -> Tensor:
        dims = tasks.parameters[number].dims
        rank = tsvm_maths.rank_per_task(dims, len(tasks.terms))
        found = (_triplets(tasks, term, number, rank) for term in tasks.terms)
        triplets = [one for one in found if one is not None and len(one.sigma)]
        return tsvm_maths.merge(triplets) if triplets else torch.zeros(dims, dtype=torch.float32)

    return tau


def iso_c(tasks: Tasks) -> Tau:
    """Iso-C, of matrices, whose spectrum is made up for the energy that coding took from it."""

    def tau(number: int) -> Tensor:
        missing = sum(term.factor**2 * term.task.lost_energy(number) for term in tasks.terms)
        return iso_c_maths.merge([_finite(tasks.total(number), tasks, number)], missing)

    return tau


def _triplets(tasks: Tasks, term: Term, number: int, rank: int) -> tsvm_maths.Triplets | None:
    """The strongest triplets of a task's matrix: from its factors where it has nothing else."""
    parts = term.parts(number)
    if parts is None or not term.factor:
        return None
    if not all(isinstance(content, Factors) for content in parts.contents) or not parts.by_row:
        matrix = _finite(summed([term], number, tasks.base), tasks, number)
        return tsvm_maths.triplets_of_matrix(matrix, rank)
    left, right = _joined(parts, tasks.parameters[number].dims[0])
    factors = [content for content in parts.contents if isinstance(content, Factors)]
    if all(one.left.is_floating_point() for one in factors):  # not codes: cut off at some rank
        _refuse_cut(tasks, term, number, (left, right), rank)
    found = tsvm_maths.triplets_of_factors(left, right, rank)
    if not term.rotated(number):  # where nothing is known of what the factors lack
        found = found.lengthened(term.task.norm(number), rank)
    return found.scaled(term.factor)


def _refuse_cut(
    tasks: Tasks, term: Term, number: int, factors: tuple[Tensor, Tensor], rank: int
) -> None:
    """TvqError where triplets are asked for that a file of TSV-Compress, which keeps so many that
    all its tasks can merge, may lack. None of them is stronger than the weakest that it kept."""
    kept = factors[0].shape[1]
    if kept >= rank:
        return
    energies = tsvm_maths.triplets_of_factors(*factors, kept).sigma.double().square()
    missing = term.task.norm(number) ** 2 - float(energies.sum())
    most = min(missing, (rank - kept) * float(energies[-1])) if len(energies) else missing
    if most > CUT * term.task.norm(number) ** 2:
        name = tasks.parameters[number].name
        raise TvqError(
            f"{term.task.archive.path}: task {term.task.name!r}: parameter {name!r}: tsvm of"
            f" {len(tasks.terms)} takes {rank} singular triplets of each, the file has {kept}",
            hint="merge all tasks of the file, or encode these together, or with --quality high",
        )


def _finite(matrix: Tensor, tasks: Tasks, number: int) -> Tensor:
    """The matrix, which only a bit-exact file can make otherwise."""
    if not torch.isfinite(matrix).all():
        raise TvqError(
            f"parameter {tasks.parameters[number].name!r}: a task vector has values that are not"
            " finite, and no directions",
            hint="leave it out with --exclude, or merge with --method weighted",
        )
    return matrix


def _joined(parts: Parts, rows: int) -> tuple[Tensor, Tensor]:
    """The factors of all parts side by side, left [rows, r] and right [columns, r]."""
    factors = [content for content in parts.contents if isinstance(content, Factors)]
    left = torch.cat([one.left.to(torch.float32) * one.scales for one in factors], 1)
    if parts.kept is not None:
        left = left.new_zeros(rows, left.shape[1]).index_copy_(0, parts.kept, left)
    return left, torch.cat([one.right.to(torch.float32) for one in factors], 1)
