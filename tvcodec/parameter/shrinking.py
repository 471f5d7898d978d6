"""A matrix as low rank and codes of one step: what is lost is as small as its bits allow."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tvcodec.maths import lowrank, quantize
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.spectrum import spectrum
from tvcodec.parameter import codec
from tvcodec.parameter.judging import Best, Candidate

RECORD = 24  # bytes that one more part takes in an index
PRUNING = (1.5, 4.0, 60.0)  # from any gain to what stands out of noise
LEAST_PRUNING = 1.5  # below it, codes of a component are mostly zero
CANCELS = 1 / 1000  # share of the energy left, below which a difference of sums does not tell it
EVERY = 13  # rows, of which one is looked at before all are coded
SAMPLE = 1 << 15  # values that such a look has to have
ALIKE = 1.25  # energy of the rows looked at, by which it may differ from that of the others
CLOSE = 1.1  # cost by such a look, of the best one's, from which it is not worth coding all rows


_Front = tuple[tuple[lowrank.Factors, ...], float, float]
"""Factors, their bits, and the share of the energy that they leave."""


def consider(matrix: Tensor, found: Best) -> None:
    """Low rank and one step for everything: factors, factors and a residual, dense codes."""
    step, energy = found.judge.step, found.judge.energy
    fronts: list[_Front] = []
    if min(matrix.shape) > 1:
        prunings = [max(one / found.judge.emphasis, LEAST_PRUNING) for one in PRUNING]
        floor = lowrank.component_floor((len(matrix), matrix.shape[1]), step, min(prunings))
        known = spectrum(matrix, floor)
        short = lowrank.ShortSide.of(matrix, known, step, min(prunings), quantize.DEAD_ZONE)
        for pruning in prunings:
            fitted = short.factors(pruning)
            if fitted is None or (fronts and len(fitted[0].scales) == _rank(fronts[-1][0])):
                continue
            factors, captured = fitted
            lost = 1 - captured / energy
            if lost < CANCELS:
                lost = squared_norm(factors.add_to(matrix.clone(), -1.0)) / energy
            groups, bits = cheapest_split(factors)
            # least-squares scales leave a residual orthogonal to what they scale
            found.consider(Candidate(groups, 1 - lost, lost), bits)
            fronts.append((groups, bits, lost))
    for front in (*fronts, ((), 0.0, 1.0)):
        if may_pay(matrix, *front, found, CLOSE):
            _add_codes(matrix, *front, found)


def _rank(groups: tuple[lowrank.Factors, ...]) -> int:
    return sum(len(group.scales) for group in groups)


def _add_codes(
    matrix: Tensor, groups: tuple[lowrank.Factors, ...], bits: float, lost: float, found: Best
) -> None:
    """Considers codes of what factors leave of the matrix."""
    left = matrix
    if groups:
        left = lowrank.subtracted(matrix, groups)
    stage = quantize.stage(left, found.judge.step, quantize.DEAD_ZONE)
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
    stage = quantize.stage(rows, judge.step, quantize.DEAD_ZONE)
    lost *= 1 - stage.scale**2 * squared_norm(stage.codes.to(torch.float32)) / energy
    bits += share * 8 * len(codec.store(stage)[1])
    return judge.cost(bits, Candidate((), 1 - lost, lost)) < bound * found.cost


def _rows(factors: lowrank.Factors) -> lowrank.Factors:
    """Factors of the rows that are looked at."""
    return replace(factors, left=factors.left[::EVERY])


def cheapest_split(factors: lowrank.Factors) -> tuple[tuple[lowrank.Factors, ...], int]:
    """One part, or several by the size of their codes: whichever takes fewer bytes; its bits."""
    groups, together = factors.split(), len(codec.store(factors)[1])
    if len(groups) > 1:
        apart = [len(codec.store(group)[1]) for group in groups]
        if sum(apart) + RECORD * (len(groups) - 1) < together:
            return groups, 8 * sum(apart)
    return (factors,), 8 * together
