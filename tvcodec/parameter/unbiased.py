"""A matrix as strong factors and white noise of the right length: codes in a rotated frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tvcodec.maths import lowrank, quantize, rotated
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.spectrum import NO_SPECTRUM, spectrum
from tvcodec.parameter import codec, summands
from tvcodec.parameter.judging import Best, Candidate, Judge, Target
from tvcodec.parameter.shrinking import cheapest_split, may_pay

FRONT_PRUNING = 4.0
RUNS_LOG2 = range(3, 11)
COARSEST_STEP = 4.0  # of codes in the rotated frame; beyond, the largest of a run is better
COARSE = 3.0  # steps to know strong components of, where none are coded
OUT_OF_REACH = 2.0  # the same for what might still be helped by factors in front of it


def consider(matrix: Tensor, found: Best, target: Target, seed: int) -> bool:
    """Rotated coding at the best of its rates, alone or behind strong factors; whether what it
    costs is out of reach of anything that shrinks."""
    judge, shape = found.judge, (len(matrix), matrix.shape[1])
    front: tuple[summands.Content, ...] = ()
    coarse = target.factor_step or COARSE * judge.step
    known, left, bits = NO_SPECTRUM, matrix, 0
    floor = lowrank.component_floor(shape, coarse, FRONT_PRUNING)
    if min(shape) > 1:
        known = spectrum(matrix, floor)
    if target.factor_step and len(known.sigma):
        factors = lowrank.quantised_factors(
            matrix, known, target.factor_step, FRONT_PRUNING, quantize.DEAD_ZONE
        )
        if factors is not None:
            front, bits = cheapest_split(factors)
            left = factors.add_to(matrix.clone(), -1.0)
    flat = left.reshape(-1)
    coefficients = rotated.rotate(flat, seed, rotated.best_block_log2(flat.numel()))
    share = squared_norm(coefficients) / judge.energy
    if not share:
        return False
    best = _best_largest(coefficients, share, judge)
    if best is not None:
        stored = codec.store(best.contents[0])[1]
        found.consider(best._replace(contents=(*front, *best.contents)), bits + 8 * len(stored))
    rms = math.sqrt(share * judge.energy / coefficients.numel())
    step = judge.step / math.sqrt(judge.noise_weight) / rms
    if step < COARSEST_STEP:
        uniform = rotated.keep_uniform(coefficients, step, quantize.DEAD_ZONE)
        noise = squared_norm(uniform.coefficients()) / judge.energy - share
        if uniform.gain and noise <= judge.noise_cap:
            stored = codec.store(uniform)[1]
            candidate = Candidate((*front, uniform), 1.0, noise, white=True)
            found.consider(candidate, bits + 8 * len(stored))
    if not found.near or _least_of_factors(known.sigma, floor, shape, judge) < found.cost:
        return False
    return not may_pay(matrix, (), 0.0, 1.0, found, OUT_OF_REACH)


def _least_of_factors(sigma: Tensor, floor: float, shape: tuple[int, int], judge: Judge) -> float:
    """What factors cost at least by squared error, of a matrix with those singular values and
    others up to `floor`: of each component its energy or its bits, in a high-rate approximation,
    which are cheapest by energy where it is strongest."""
    energies = sigma.double().square()

    def bits(energy: Tensor) -> Tensor:
        return sum(shape) / 2 * torch.log2(12 * energy / (sum(shape) * judge.step**2)).clamp_min(0)

    known = torch.minimum(judge.slope * energies, bits(energies)).sum()
    most = torch.tensor(floor**2, dtype=torch.float64)
    rest = max(judge.energy - float(energies.sum()), 0.0)
    return float(known) + rest * min(judge.slope, float(bits(most) / most))


def _best_largest(coefficients: Tensor, share: float, judge: Judge) -> Candidate | None:
    """The run length with the least cost; rates are fixed, so nothing needs to be packed."""
    best, least = None, math.inf
    for run_log2, noise in rotated.noise_of_largest(coefficients, RUNS_LOG2):
        noise = noise / judge.energy - share
        candidate = Candidate((), 1.0, noise, white=True)
        cost = judge.cost((coefficients.numel() >> run_log2) * (run_log2 + 1), candidate)
        if cost < least and noise <= judge.noise_cap:
            best, least = run_log2, cost
    if best is None:
        return None
    part = rotated.keep_largest(coefficients, best)
    return Candidate((part,), 1.0, part.squared_norm() / judge.energy - share, white=True)
