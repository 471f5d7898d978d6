"""A matrix as low rank and codes: what is lost is as small as its bits allow."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tvcodec.maths import lowrank, quantize
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.spectrum import Spectrum, spectrum
from tvcodec.parameter import codec
from tvcodec.parameter.judging import Best, Candidate, Judge

RECORD = 24  # bytes that one more part takes in an index
# Step of factors, of that of codes. As one side makes up for errors of the other, it is larger, and
# rounds to nearest: with FITS 1.5 to 4 % fewer bytes at equal error than by one step and one fit.
COARSER = 1.17
FITS = 3  # of sides to each other
PRUNING = 2.6  # where a component of normal values gains a little more than it costs
LONG, PRUNING_LONG = 8, 1.7  # the same where one side is so many times the other, or more
OUTSTANDING = 44.0  # what stands out of noise that is coded itself
LARGE = 1 << 16  # bytes from which parts by the size of their codes take fewer
CANCELS = 1 / 1000  # share of the energy left, below which a difference of sums does not tell it
NEAREST = 0.5  # rounding offset of factors
EVERY = 13  # rows, of which one is looked at before all are coded
SAMPLE = 1 << 15  # values that such a look has to have
ALIKE = 1.25  # energy of the rows looked at, by which it may differ from that of the others
CLOSE = 1.1  # cost by such a look, of the best one's, from which it is not worth coding all rows


_Front = tuple[tuple[lowrank.Factors, ...], float, float]
"""Factors, their bits, and the share of the energy that they leave."""


def consider(matrix: Tensor, found: Best) -> None:
    """Low rank and codes: factors, what stands out and codes of the rest, codes alone."""
    fronts: list[_Front] = [((), 0.0, 1.0)]
    if min(matrix.shape) > 1:
        shape, step = (len(matrix), matrix.shape[1]), COARSER * found.judge.shrinking_step
        pruning = least_pruning(shape, found.judge)
        known = spectrum(matrix, lowrank.component_floor(shape, step, pruning))
        alone = _add_factors(matrix, known, step, pruning, FITS, found)
        outstanding = known.sigma > lowrank.component_floor(shape, step, OUTSTANDING)
        if alone and outstanding.all():
            fronts.append(alone)
        elif outstanding.any() and (
            few := _add_factors(matrix, known, step, OUTSTANDING, 1, found)
        ):
            fronts.append(few)
    for front in fronts:
        if may_pay(matrix, *front, found, CLOSE):
            _add_codes(matrix, *front, found)


def least_pruning(shape: tuple[int, int], judge: Judge) -> float:
    """From where a component of a matrix gains more than it costs; what a correction of the gain
    makes of the others is worth another one earlier."""
    pruning = PRUNING_LONG if max(shape) >= LONG * min(shape) else PRUNING
    return pruning / (1 + judge.exponent)


def _add_factors(
    matrix: Tensor, known: Spectrum, step: float, pruning: float, fits: int, found: Best
) -> _Front | None:
    """Considers factors of the components worth it, and returns them; None where there is none."""
    fitted = lowrank.fitted_factors(matrix, known, step, pruning, NEAREST, fits)
    if fitted is None:
        return None
    factors, captured = fitted
    lost = 1 - captured / found.judge.energy
    if lost < CANCELS:
        lost = squared_norm(factors.add_to(matrix.clone(), -1.0)) / found.judge.energy
    groups, bits = cheapest_split(factors)
    # least-squares scales leave a residual orthogonal to what they scale
    found.consider(Candidate(groups, 1 - lost, lost), bits)
    return groups, bits, lost


def _add_codes(
    matrix: Tensor, groups: tuple[lowrank.Factors, ...], bits: float, lost: float, found: Best
) -> None:
    """Considers codes of what factors leave of the matrix."""
    left = matrix
    if groups:
        left = lowrank.subtracted(matrix, groups)
    stage = quantize.stage(left, found.judge.shrinking_step, quantize.DEAD_ZONE)
    if stage.scale:
        lost -= stage.scale**2 * squared_norm(stage.codes.to(torch.float32)) / found.judge.energy
        candidate = Candidate((*groups, stage), 1 - lost, lost)
        found.consider(candidate, bits + 8 * len(codec.store(stage)[1]))


def may_pay(
    matrix: Tensor,
    groups: tuple[lowrank.Factors, ...],
    bits: float,
    lost: float,
    found: Best,
    bound: float,
) -> bool:
    """Whether codes of what factors leave might cost less than `bound` times the best, as far as
    some rows tell; True where they are too few to tell, or unlike the others."""
    judge, rows = found.judge, matrix[::EVERY]
    if rows.numel() < SAMPLE:
        return True
    if groups:
        rows = lowrank.subtracted(rows, [_rows(group) for group in groups])
    energy, share = squared_norm(rows), len(matrix) / len(rows)
    if not 1 / ALIKE < energy * share / max(lost * judge.energy, 1e-300) < ALIKE:
        return True
    stage = quantize.stage(rows, judge.shrinking_step, quantize.DEAD_ZONE)
    lost *= 1 - stage.scale**2 * squared_norm(stage.codes.to(torch.float32)) / energy
    bits += share * 8 * len(codec.store(stage)[1])
    return judge.cost(bits, Candidate((), 1 - lost, lost)) < bound * found.cost


def _rows(factors: lowrank.Factors) -> lowrank.Factors:
    """Factors of the rows that are looked at."""
    return replace(factors, left=factors.left[::EVERY])


def cheapest_split(factors: lowrank.Factors) -> tuple[tuple[lowrank.Factors, ...], int]:
    """One part, or several by the size of their codes: whichever takes fewer bytes; its bits."""
    groups = factors.split()
    apart = [len(codec.store(group)[1]) for group in groups]
    size = sum(apart) + RECORD * (len(groups) - 1)
    if len(groups) > 1 and size < LARGE:
        together = len(codec.store(factors)[1])
        if together <= size:
            return (factors,), 8 * together
    return groups, 8 * sum(apart)
