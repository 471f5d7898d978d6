"""Tasks share vectors where that pays in bytes for the same error, and only there."""

from pathlib import Path

import pytest
import torch
from round_trip import Coder
from small_models import State, normal

import tvcodec
from tvcodec import QUALITIES, Recipe
from tvcodec.encoding import joint, sharing
from tvcodec.remeasure import remeasure

BASE = {"w": normal(0, 128, 96), "b": normal(1, 96)}
STEP = Recipe(step=1.0)


def related(correlation: float, tasks: int = 6) -> dict[str, State]:
    """Fine-tunes whose task vectors have that correlation in pairs."""
    common = normal(7, 128, 96)
    return {
        f"t{n}": {
            "w": BASE["w"]
            + correlation**0.5 * common
            + (1 - correlation) ** 0.5 * normal(20 + n, 128, 96),
            "b": BASE["b"] + normal(40 + n, 96),
        }
        for n in range(tasks)
    }


def moments(noise: float = 0.0, count: int = 8) -> dict[str, State]:
    """A way that bends, with noise of each moment's own, which is most beside the first."""
    way, aside = normal(3, 128, 96), normal(4, 128, 96)
    own = [noise * normal(60 + n, 128, 96) for n in range(1, count + 1)]
    return {
        f"m{n}": {
            "w": BASE["w"] + n * way + 0.1 * n * (8 - n) * aside + own[n - 1],
            "b": BASE["b"],
        }
        for n in range(1, count + 1)
    }


def vectors(path: Path) -> int:
    with tvcodec.open(path) as bank:
        return bank.archive.vectors.total()


def lagrangian(summary: tvcodec.Summary, step: float = 1.0) -> float:
    """Bits per value, and the error that costs as much, by the slope of the auto codec."""
    values = sum(tensor.numel() for tensor in BASE.values())
    bits = 8 * summary.bytes / values / len(summary.tasks)
    error = sum(task.error**2 for task in summary.tasks) / len(summary.tasks)
    return bits + 6 / 0.6931 * error / step**2


@pytest.mark.parametrize("recipe", [STEP, Recipe(step=2.0), QUALITIES["high"]])
def test_unrelated_tasks_share_nothing(coded: Coder, recipe: Recipe) -> None:
    alone = coded(BASE, related(0.0), Recipe(step=recipe.step, share=False), name="alone.tvq")
    result = coded(BASE, related(0.0), recipe)
    assert vectors(result.path) == 0
    assert result.summary.bytes <= alone.summary.bytes


@pytest.mark.parametrize(("correlation", "least"), [(0.5, 0.08), (0.7, 0.15), (0.9, 0.5)])
def test_related_tasks_share_what_pays(coded: Coder, correlation: float, least: float) -> None:
    tunes = related(correlation)
    alone = coded(BASE, tunes, Recipe(step=1.0, share=False), name="alone.tvq").summary
    shared = coded(BASE, tunes, STEP)
    assert vectors(shared.path) >= 1
    assert shared.summary.bytes < (1 - least) * alone.bytes
    assert lagrangian(shared.summary) < lagrangian(alone)


def test_what_is_shared_is_measured_and_decoded(tmp_path: Path) -> None:
    tunes = related(0.9)
    for task, tune in tunes.items():
        tune["w"][5:90] = BASE["w"][5:90]
        if task in ("t1", "t4"):
            tune["w"] = BASE["w"]
    tvcodec.encode(BASE, tunes, tmp_path / "bank.tvq", recipe=STEP)
    assert vectors(tmp_path / "bank.tvq") >= 1
    with tvcodec.open(tmp_path / "bank.tvq") as bank:
        for task, tune in tunes.items():
            assert remeasure(bank, BASE, task, tune).differences == []
            if "w" in (tau := bank.task_vector(task)):
                assert not tau["w"][5:90].any()
        weights = {task: 0.1 * n for n, task in enumerate(tunes)}
        merged = bank.merge(BASE, weights=weights)["w"] - BASE["w"]
        each = [weights[t] * bank.task_vector(t)["w"] for t in tunes if t not in ("t1", "t4")]
    assert torch.allclose(merged, torch.stack(each).sum(0), atol=1e-5)


def test_shared_bytes_depend_neither_on_order_nor_on_threads(tmp_path: Path) -> None:
    tunes = related(0.8)
    one, other = tmp_path / "one.tvq", tmp_path / "other.tvq"
    tvcodec.encode(BASE, tunes, one, recipe=STEP, jobs=1)
    tvcodec.encode(BASE, dict(reversed(tunes.items())), other, recipe=STEP, jobs=3)
    assert one.read_bytes() == other.read_bytes()
    assert vectors(one)


def test_nothing_is_shared_where_it_could_break_a_promise(coded: Coder) -> None:
    tunes = related(0.9, tasks=2)
    for goal in (tvcodec.Goal(bits=2.0), tvcodec.Goal(size=4000)):
        assert vectors(coded(BASE, tunes, goal=goal).path) == 0
    for recipe in (QUALITIES["small"], tvcodec.EXACT, Recipe(step=1.0, share=False)):
        assert vectors(coded(BASE, tunes, recipe).path) == 0


@pytest.mark.parametrize("error", [0.5, 0.1])
def test_at_an_error_asked_for_sharing_saves_bytes_and_no_task_is_farther_off(
    coded: Coder, error: float
) -> None:
    tunes, goal = moments(0.3, 4), tvcodec.Goal(max_error=error)
    alone = coded(BASE, tunes, Recipe(share=False), goal, name="alone.tvq").summary
    shared = coded(BASE, tunes, goal=goal)
    assert vectors(shared.path) >= 1
    assert shared.summary.bytes < 0.75 * alone.bytes
    with tvcodec.open(shared.path) as bank:
        for before, after in zip(alone.tasks, shared.summary.tasks, strict=True):
            assert after.error <= before.error <= error
            assert remeasure(bank, BASE, after.name, tunes[after.name]).differences == []


def test_vectors_are_coarser_and_what_they_leave_finer_where_that_saves_bytes(
    coded: Coder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunes, goal = moments(0.3, 6), tvcodec.Goal(max_error=0.3)
    least = coded(BASE, tunes, goal=goal).summary.bytes
    with monkeypatch.context() as patch:
        patch.setattr(joint, "COARSER", (1.0,))
        at_first_steps = coded(BASE, tunes, goal=goal, name="first.tvq").summary.bytes
    monkeypatch.setattr(sharing, "FINER", 0)
    as_they_are = coded(BASE, tunes, goal=goal, name="left.tvq").summary.bytes
    assert least < 0.95 * at_first_steps
    assert least < 0.95 * as_they_are


def test_unrelated_tasks_with_an_error_asked_for_are_coded_as_ever(coded: Coder) -> None:
    tunes, goal = related(0.0, tasks=3), tvcodec.Goal(max_error=0.3)
    alone = coded(BASE, tunes, Recipe(share=False), goal, name="alone.tvq")
    assert coded(BASE, tunes, goal=goal).path.read_bytes() == alone.path.read_bytes()


def test_tasks_that_lose_nothing_alone_share_nothing_at_an_error_asked_for(coded: Coder) -> None:
    signs = 0.25 * normal(3, 128, 96).sign()
    base: State = {"w": torch.zeros(128, 96)}
    tunes: dict[str, State] = {f"t{n}": {"w": n * signs} for n in (1, 2)}
    result = coded(base, tunes, goal=tvcodec.Goal(max_error=0.1))
    assert vectors(result.path) == 0
    assert [task.error for task in result.summary.tasks] == [0.0, 0.0]


def test_moments_of_one_run_share_a_direction(coded: Coder) -> None:
    tunes = moments()
    alone = coded(BASE, tunes, Recipe(step=1.0, share=False), name="alone.tvq").summary
    shared = coded(BASE, tunes, STEP).summary
    assert shared.bytes < alone.bytes / 2.5
    assert max(task.error for task in shared.tasks) < max(task.error for task in alone.tasks)


def test_no_more_is_shared_of_a_parameter_than_a_file_may_hold(
    coded: Coder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = normal(7, 128, 96), normal(8, 128, 96)
    tunes = {
        f"t{n}": {**BASE, "w": BASE["w"] + first * (n % 2 * 2 - 1) + second * (n // 2 % 2 * 2 - 1)}
        for n in range(8)
    }
    assert vectors(coded(BASE, tunes, STEP).path) == 2
    monkeypatch.setattr(sharing, "VECTORS_MAX", 1)
    assert vectors(coded(BASE, tunes, STEP, name="less.tvq").path) <= 1
