"""Each kind of task vector gets the family that is cheapest for it, within its bounds."""

import math

import pytest
import torch
from conftest import normal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sample.evaluate import BASE_MODEL, FINE_TUNES
from torch import Tensor

import tvcodec
from tvcodec.file import entropy
from tvcodec.file.index import Extent
from tvcodec.maths import lowrank, quantize, rotated
from tvcodec.maths.spectrum import Spectrum, spectrum
from tvcodec.parameter import codec, shrinking, summands, unbiased
from tvcodec.parameter.auto import NOTHING, Choice, choose
from tvcodec.parameter.judging import NOISE_CAP, Target

ROTATED = (rotated.Largest, rotated.Uniform)
NOISE = normal(0, 192, 160)
RMS = float(NOISE.square().mean().sqrt())


def low_rank(rows: int = 192, columns: int = 160, rank: int = 3) -> Tensor:
    product = normal(1, rows, rank) @ normal(2, rank, columns)
    return product.div(rank**0.5)


def families(choice: Choice) -> set[str]:
    return {type(content).__name__ for content in choice.contents}


def fidelity(choice: Choice, matrix: Tensor) -> tuple[float, float]:
    """Gain along the matrix, and relative error."""
    assert choice.values is not None
    wide, values = matrix.double(), choice.values.double()
    energy = float(wide.square().sum())
    return float((wide * values).sum()) / energy, float((values - wide).norm()) / energy**0.5


def noise_beside(choice: Choice, matrix: Tensor, base_norm: float) -> float:
    """Norm of what is not along the matrix, beside that of the base model."""
    gain, error = fidelity(choice, matrix)
    return math.sqrt(max(error**2 - (1 - gain) ** 2, 0)) * float(matrix.norm()) / base_norm


@pytest.mark.parametrize("metric", ["mse", "function"])
@pytest.mark.parametrize("base_norm", [0.0, 1.0])
def test_a_zero_matrix_gives_nothing(metric: str, base_norm: float) -> None:
    target = Target(1.0, metric, factor_step=2.0)
    assert choose(torch.zeros(30, 20), base_norm, target, 0) == NOTHING


def test_white_noise_beside_a_large_base_model_is_rotated() -> None:
    choice = choose(NOISE, 50 * float(NOISE.norm()), Target(2 * RMS, "function"), 5)
    assert families(choice) == {"Largest"}
    assert choice.bits < 0.15 * NOISE.numel()
    gain, error = fidelity(choice, NOISE)
    assert gain == pytest.approx(1.0, abs=1e-3)
    assert error > 1.0  # by squared error it would be worse than nothing


def test_white_noise_by_squared_error_is_a_stage_or_nothing() -> None:
    base_norm = 50 * float(NOISE.norm())
    fine = choose(NOISE, base_norm, Target(RMS, "mse"), 5)
    assert families(fine) == {"Stage"}
    assert 1.3 < fine.bits / NOISE.numel() < 2.3
    assert fidelity(fine, NOISE)[1] < 0.4
    assert choose(NOISE, base_norm, Target(8 * RMS, "mse"), 5) == NOTHING


@pytest.mark.parametrize("metric", ["mse", "function"])
def test_strong_low_rank_is_factors(metric: str) -> None:
    matrix = low_rank()
    choice = choose(matrix, float(matrix.norm()), Target(2.0, metric), 5)
    assert families(choice) == {"Factors"}
    assert choice.bits < 0.25 * matrix.numel()
    assert fidelity(choice, matrix)[1] < 0.5


def test_low_rank_in_noise_is_factors_and_what_remains() -> None:
    matrix = 5 * low_rank() + NOISE
    dense = choose(matrix, 1.0, Target(1.0, "mse"), 5)
    factors = lowrank.quantised_factors(matrix, spectrum(matrix, 0.0), 1.0, 60.0, 0.42)
    assert factors is not None
    assert len(factors.scales) == 3
    rest = quantize.stage(factors.add_to(matrix.clone(), -1.0), 1.0, 0.42)
    parts: list[summands.Content] = [*factors.split(), rest]
    by_hand = 8 * sum(len(codec.store(part)[1]) for part in parts)
    assert families(dense) == {"Factors", "Stage"}
    assert dense.bits < 1.05 * by_hand
    base_norm = 50 * float(matrix.norm())
    target = Target(0.3 * float(matrix.square().mean().sqrt()), "function", factor_step=3.0)
    noisy = choose(matrix, base_norm, target, 5)
    assert "Factors" in families(noisy)
    assert families(noisy) & {"Largest", "Uniform"}
    assert noisy.bits < dense.bits


def test_each_family_beats_the_other_where_it_should() -> None:
    """By bits at the same slope: forbidding the winner costs bits or fidelity."""
    matrix = low_rank()
    by_factors = choose(matrix, 100 * float(matrix.norm()), Target(1.0, "mse"), 5)
    as_stage = codec.store(quantize.stage(matrix, 1.0, 0.42))
    assert by_factors.bits < 0.2 * 8 * len(as_stage[1])
    frame = rotated.rotate(NOISE.reshape(-1), 5, 10)
    rotated_bits = 8 * len(codec.store(rotated.keep_largest(frame, 6))[1])
    as_factors = lowrank.quantised_factors(NOISE, spectrum(NOISE, 0.0), RMS, 0.01, 0.42)
    assert as_factors is not None
    factor_bits = sum(8 * len(codec.store(group)[1]) for group in as_factors.split())
    choice = choose(NOISE, 50 * float(NOISE.norm()), Target(2 * RMS, "function"), 5)
    assert choice.bits <= 1.6 * rotated_bits < 0.2 * factor_bits


def test_without_a_base_model_there_is_no_room_for_noise() -> None:
    for step in (0.3, 1.0, 3.0):
        choice = choose(NOISE, 0.0, Target(step * RMS, "function"), 5)
        assert not families(choice) & {"Largest", "Uniform"}


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("step", [0.5, 0.9, 1.2, 1.6, 3.0])
def test_unbiased_noise_is_bounded_beside_the_base_model(ratio: float, step: float) -> None:
    base_norm = float(NOISE.norm()) / ratio
    choice = choose(NOISE, base_norm, Target(step * RMS, "function"), 5)
    if any(isinstance(content, ROTATED) for content in choice.contents):
        assert noise_beside(choice, NOISE, base_norm) <= NOISE_CAP * 1.01


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0])
def test_the_gain_exponent_restores_length(gain: float) -> None:
    plain = choose(NOISE, 1.0, Target(1.5 * RMS, "mse"), 5)
    along, _ = fidelity(plain, NOISE)
    assert along < 0.9
    corrected = choose(NOISE, 1.0, Target(1.5 * RMS, "mse", gain), 5)
    assert families(corrected) == families(plain)
    assert fidelity(corrected, NOISE)[0] == pytest.approx(along ** (1 - gain), rel=1e-2)


@pytest.mark.parametrize("metric", ["mse", "function"])
def test_finer_steps_cost_more_and_lose_less(metric: str) -> None:
    matrix = low_rank() + NOISE
    base_norm = 3 * float(matrix.norm())
    steps = [2.0, 1.0, 0.5, 0.25, 0.1, 0.01]
    choices = [choose(matrix, base_norm, Target(step, metric), 5) for step in steps]
    costs = [choice.bits for choice in choices]
    errors = [fidelity(choice, matrix)[1] for choice in choices]
    assert costs == sorted(costs)
    if metric == "mse":  # noise that is forgiven may grow where shrinkage falls
        assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def decaying(power: float, rows: int, columns: int) -> Tensor:
    """Singular values that fall by a power of their number, as those of real task vectors do."""
    left, right = (torch.linalg.qr(normal(side, side, columns))[0] for side in (rows, columns))
    sigma = torch.arange(1, columns + 1, dtype=torch.float32) ** -power
    return (left * sigma) @ right.T


def slow_cost(matrix: Tensor, step: float) -> tuple[float, int]:
    """The least Lagrangian, and its bits, of factors by an exact decomposition and at all prunings,
    of codes, and of both."""
    slope, ends = 6 / math.log(2) / step**2, []
    left, sigma, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    short = right.T if len(left) >= len(right.T) else left
    known = Spectrum(sigma.float(), short.float())
    fronts: list[tuple[lowrank.Factors, ...]] = [()]
    coarser = shrinking.COARSER * step
    for pruning in (1.0, 1.5, 1.8, 2.0, 2.3, 2.6, 3.0, 4.0, 44.0):
        for coded in (
            lowrank.quantised_factors(matrix, known, step, pruning, quantize.DEAD_ZONE),
            lowrank.fitted_factors(matrix, known, coarser, pruning, shrinking.NEAREST, 3),
        ):
            found = coded[0] if isinstance(coded, tuple) else coded
            fronts += [found.split(), (found,)] if found else []
    for front in fronts:
        bits = 8 * sum(len(codec.store(part, entropy.THOROUGH)[1]) for part in front)
        rest = lowrank.subtracted(matrix, front)
        ends.append((bits + slope * float(rest.double().square().sum()), bits))
        stage = quantize.stage(rest, step, quantize.DEAD_ZONE)
        bits += 8 * len(codec.store(stage, entropy.THOROUGH)[1])
        ends.append((bits + slope * float((rest - stage.values()).double().square().sum()), bits))
    return min(ends)


@pytest.mark.parametrize("power", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("step", [0.5, 2.0])
def test_bytes_at_equal_error_are_within_three_percent_of_the_slow_way(
    power: float, step: float
) -> None:
    matrix = decaying(power, 448, 320)
    step *= float(matrix.square().mean().sqrt())
    slow, bits = slow_cost(matrix, step)
    assert quick_cost(matrix, step) - slow < 0.03 * bits


@pytest.mark.parametrize("step", [1.0, 2.0])
def test_real_matrices_take_at_most_two_percent_more_at_equal_error_than_the_slow_way(
    step: float,
) -> None:
    base = load_file(BASE_MODEL)
    with tvcodec.open(FINE_TUNES) as bank:
        tau = bank.task_vector("mnist", BASE_MODEL)
        matrices = [tau[name].float() for name in base if base[name].dim() == 2 and name in tau]
    energy = sum(float(matrix.square().sum()) for matrix in matrices)
    step *= math.sqrt(energy / sum(matrix.numel() for matrix in matrices))
    slow = [slow_cost(matrix, step) for matrix in matrices]
    quick = sum(quick_cost(matrix, step) for matrix in matrices)
    assert quick - sum(cost for cost, _ in slow) < 0.02 * sum(bits for _, bits in slow)


def quick_cost(matrix: Tensor, step: float) -> float:
    """The Lagrangian of what is chosen: at one slope, what differs in error counts as bits."""
    choice = choose(matrix, 0.0, Target(step), 5)
    _, error = fidelity(choice, matrix)
    lost = error**2 * float(matrix.double().square().sum())
    return choice.bits + 6 / math.log(2) / step**2 * lost


@pytest.mark.parametrize("kind", ["decaying", "low rank", "rows", "noise"])
@pytest.mark.parametrize("metric", ["mse", "function"])
def test_no_better_candidate_is_passed_over(
    kind: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = {
        "decaying": decaying(0.6, 832, 640),
        "low rank": low_rank(832, 640, 6),
        "rows": torch.where(torch.arange(832)[:, None] % 40 == 3, normal(4, 832, 640), 0.0),
        "noise": normal(3, 832, 640),
    }[kind]
    rms = float(matrix.square().mean().sqrt())
    target = Target(rms, metric, factor_step=6 * rms, rms=rms)
    base_norm = 200 * float(matrix.norm())
    choice = choose(matrix, base_norm, target, 5)
    for module in (shrinking, unbiased):  # all that is looked at by rows is tried in full
        monkeypatch.setattr(module, "may_pay", lambda *_: True)
    thorough = choose(matrix, base_norm, target, 5)
    assert families(choice) == families(thorough)
    assert choice.bits == thorough.bits


KINDS = ["noise", "heavy tails", "low rank", "outlier", "one value", "constant", "half zero"]


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(KINDS),
    st.sampled_from([8.0, 2.0, 0.5, 0.01, 2.0**-10]),
    st.sampled_from(["mse", "function"]),
    st.sampled_from([0.0, 0.3, 3.0, 100.0]),
    st.sampled_from([1e-9, 1e-3, 1.0]),
    st.integers(0, 50),
)
def test_any_matrix_costs_at_most_half_precision(
    shape: tuple[int, int],
    kind: str,
    step: float,
    metric: str,
    base: float,
    scale: float,
    seed: int,
) -> None:
    matrix = normal(seed, *shape)
    if kind == "heavy tails":
        matrix = matrix**5
    if kind == "low rank":
        matrix = torch.outer(matrix[:, 0], matrix[0])
    if kind == "outlier":
        matrix[seed % shape[0], seed % shape[1]] = 100.0
    if kind == "one value":
        matrix = torch.zeros(shape)
        matrix[seed % shape[0], seed % shape[1]] = -1.0
    if kind == "constant":
        matrix = torch.ones(shape)
    if kind == "half zero":
        matrix[: shape[0] // 2] = 0
    matrix = matrix * scale
    if not matrix.any():
        return
    norm = float(matrix.norm())
    rms = norm / matrix.numel() ** 0.5
    target = Target(step * rms, metric, factor_step=6 * rms if metric == "function" else None)
    choice = choose(matrix, base * norm, target, 5)
    assert choice.bits <= 16 * matrix.numel()
    if choice.values is None:
        assert choice == NOTHING
        return
    extent = Extent(*shape, matrix.numel())
    loaded = [codec.load(record, codec.Section(data), extent) for record, data in choice.stored]
    assert torch.equal(summands.expand(loaded, extent, 5), choice.values)
    gain, error = fidelity(choice, matrix)
    if metric == "mse":
        nothing = 6 / math.log(2) / target.step**2 * norm**2
        assert choice.bits + nothing * error**2 <= nothing * (1 + 1e-3)
    assert 0 < gain < 1.3
