"""SVD-Hybrid is the projection that its description says, in float64, plus a residual in stages."""

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from round_trip import Coder
from small_models import State, normal, relative_error
from torch import Tensor

import tvcodec
from tvcodec.encoding.published import SvdHybrid

Matrix = npt.NDArray[np.float64]
ROWS, COLUMNS, TASKS = 30, 20, 6
MASKS = {f"t{n}": {"w": normal(70 + n, ROWS, COLUMNS) > 0.6} for n in range(TASKS)}
PLAIN = SvdHybrid(fp16=False, stages=0)


def models(tasks: int = TASKS) -> tuple[State, dict[str, State]]:
    """Task vectors of which a few directions hold most of the energy."""
    base = {"w": normal(0, ROWS, COLUMNS), "b": normal(1, COLUMNS)}
    directions = normal(2, 3, ROWS, COLUMNS, scale=0.01)
    tunes = {}
    for n in range(tasks):
        mixed = torch.einsum("k,krc->rc", normal(10 + n, 3), directions)
        own = normal(20 + n, ROWS, COLUMNS, scale=0.004)
        tunes[f"t{n}"] = {"w": base["w"] + mixed + own, "b": base["b"] + 0.01 * (n + 1)}
    return base, tunes


def matrix(base: State, tunes: Mapping[str, State]) -> Matrix:
    """Values x tasks."""
    columns = [(tune["w"] - base["w"]).double().numpy().ravel() for tune in tunes.values()]
    return np.stack(columns, axis=1)


def projected(taus: Matrix, threshold: float, most: int, center: bool) -> tuple[Matrix, int, float]:
    """The task vectors in the basis, its rank and the energy that it keeps."""
    mean = taus.mean(1, keepdims=True) if center else np.zeros((len(taus), 1))
    u, sigma, _ = np.linalg.svd(taus - mean, full_matrices=False)
    held = np.cumsum(sigma**2) / np.sum(sigma**2)
    rank = min(int(np.argmax(held >= threshold)) + 1, most)
    high = u[:, :rank]
    return mean + high @ (high.T @ (taus - mean)), rank, float(held[rank - 1])


def flat(vectors: Mapping[str, State]) -> Matrix:
    columns = [vectors[task]["w"].double().numpy().ravel() for task in vectors]
    return np.stack(columns, axis=1)


def distance(found: Matrix, wanted: Matrix) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("threshold", "most"), [(0.9, 128), (0.5, 128), (0.999, 2)])
def test_task_vectors_are_projected_on_the_strongest_directions(
    coded: Coder, center: bool, threshold: float, most: int
) -> None:
    base, tunes = models()
    recipe = SvdHybrid(
        fp16=False, stages=0, energy_threshold=threshold, max_rank=most, center=center
    )
    result = coded(base, tunes, recipe)
    wanted, rank, energy = projected(matrix(base, tunes), threshold, most, center)
    assert distance(flat(result.task_vectors), wanted) < 1e-5
    with tvcodec.open(result.path) as bank:
        number = bank.archive.numbers["w"]
        assert bank.archive.vectors[number] == rank + center
        text = bank.archive.index(None).metadata["energy_retained.000"]
        (stated,) = [word.split(":") for word in text.split()]
        assert stated[:2] == [str(number), str(rank)]
        assert float(stated[2]) == pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize(
    ("strategy", "votes"), [("union", 1), ("intersection", TASKS), ("majority", TASKS / 2)]
)
@pytest.mark.parametrize("noise", [False, True])
def test_masks_say_what_is_projected(
    coded: Coder, strategy: str, votes: float, noise: bool
) -> None:
    base, tunes = models()
    recipe = SvdHybrid(
        fp16=False, stages=0, mask_strategy=strategy, include_noise=noise, noise_shrink=0.25
    )
    path = coded(base, tunes, PLAIN).path.with_name("masked.tvq")
    tvcodec.encode(base, tunes, path, recipe=recipe, masks=MASKS)
    with tvcodec.open(path) as bank:
        vectors = {task: dict(bank.task_vector(task)) for task in bank.tasks}
    for task in tunes:
        vectors[task].setdefault("w", torch.zeros(ROWS, COLUMNS))
    count = sum(mask["w"].int() for mask in MASKS.values())
    inside = (count >= votes).numpy().ravel()
    assert 0 < inside.sum() < inside.size or strategy == "intersection"
    taus, wanted = matrix(base, tunes), np.zeros((ROWS * COLUMNS, TASKS))
    if inside.any():
        wanted[inside] = projected(taus[inside], 0.9, 128, True)[0]
    if noise:
        wanted[~inside] = 0.25 * projected(taus[~inside], 0.9, 128, True)[0]
    found = flat(vectors)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(taus).max()


def test_the_residual_gets_smaller_with_each_stage(coded: Coder) -> None:
    base, tunes = models()
    errors = []
    for stages in range(4):
        result = coded(base, tunes, SvdHybrid(fp16=False, low_bits=3, stages=stages))
        errors.append(distance(flat(result.task_vectors), matrix(base, tunes)))
    # each stage divides the range of what is left by 7, and the error with it
    for before, after in itertools.pairwise(errors):
        assert after < before / 3
    assert errors[0] < 0.35


def test_stages_make_up_for_the_rounding_of_the_basis(coded: Coder) -> None:
    base, tunes = models()
    fine = SvdHybrid(low_bits=8, stages=2)
    result = coded(base, tunes, fine)
    assert distance(flat(result.task_vectors), matrix(base, tunes)) < 2e-5


@pytest.mark.parametrize("tasks", range(2, 9))
@pytest.mark.parametrize("threshold", [0.9, 1.0])
def test_stages_make_up_for_a_coded_basis(coded: Coder, tasks: int, threshold: float) -> None:
    """Unrelated tasks: every direction is needed, and all are in the basis."""
    base = {"w": normal(0, 100, 80)}
    tunes = {f"t{n}": {"w": base["w"] + normal(60 + n, 100, 80, scale=0.01)} for n in range(tasks)}
    recipe = SvdHybrid(basis="coded", stages=2, energy_threshold=threshold)
    result = coded(base, tunes, recipe)
    assert max(task.error for task in result.summary.tasks) < 0.02


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("center", [True, False])
def test_few_tasks_are_no_exception(coded: Coder, tasks: int, center: bool) -> None:
    base, tunes = models(tasks)
    result = coded(base, tunes, SvdHybrid(center=center, energy_threshold=1.0))
    assert distance(flat(result.task_vectors), matrix(base, tunes)) < 1e-3
    for task, tune in tunes.items():
        tau = tune["b"] - base["b"]
        assert relative_error(result.task_vectors[task]["b"], tau) < 1e-3


def test_equal_tasks_need_one_vector(coded: Coder) -> None:
    base, tunes = models(1)
    same = {task: tunes["t0"] for task in "abcd"}
    for center in (True, False):
        path = coded(base, same, SvdHybrid(center=center)).path
        with tvcodec.open(path) as bank:
            assert bank.archive.vectors[bank.archive.numbers["w"]] == 1
            assert max(bank.archive.record(task).error for task in same) < 1e-3


def orthogonal() -> tuple[State, dict[str, State]]:
    """Unrelated tasks, each of low rank and a little noise, as real ones are."""
    base = {"w": normal(0, 128, 96)}
    tunes = {}
    for n in range(6):
        low: Tensor = normal(30 + n, 128, 2) @ normal(40 + n, 2, 96)
        tunes[f"t{n}"] = {"w": base["w"] + 0.01 * low + normal(50 + n, 128, 96, scale=0.002)}
    return base, tunes


def test_a_basis_in_fp16_costs_16_bits_and_a_coded_one_a_tenth(coded: Coder) -> None:
    base, tunes = orthogonal()
    costs, errors = {}, {}
    for basis in ("fp16", "coded"):
        result = coded(base, tunes, SvdHybrid(basis=basis, stages=0, energy_threshold=0.99))
        costs[basis] = 8 * result.summary.bytes / (128 * 96 * 6)
        errors[basis] = max(task.error for task in result.summary.tasks)
    assert 13 < costs["fp16"] < 18
    assert costs["coded"] < costs["fp16"] / 10
    assert errors["coded"] < 0.25


def test_merging_uniformly_is_averaging(coded: Coder) -> None:
    base, tunes = models()
    result = coded(base, tunes, SvdHybrid())
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base)["w"] - base["w"]
    assert (
        relative_error(merged, torch.stack([t["w"] for t in tunes.values()]).mean(0) - base["w"])
        < 0.01
    )
