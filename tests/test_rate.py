"""A goal is reached from the good side, for each task on its own."""

from collections.abc import Callable

import pytest
import torch
from round_trip import Coder
from small_models import normal, relative_error

import tvcodec
from tvcodec.errors import TvqError
from tvcodec.parameter import rate
from tvcodec.parameter.rate import Goal, Measured, find_step

BASE = {"w": normal(0, 160, 128), "v": normal(1, 300), "u": normal(2, 70, 96)}
VALUES = sum(tensor.numel() for tensor in BASE.values())
TUNES = {
    "strong": {n: t + normal(3 + len(t), *t.shape, scale=0.1) for n, t in BASE.items()},
    "weak": {n: t + normal(5 + len(t), *t.shape, scale=1e-3) for n, t in BASE.items()},
}
MSE = tvcodec.Recipe()


def smooth(step: float) -> Measured:
    """Size falls and error grows with the step."""
    return Measured(int(100_000 / step), step / 10)


@pytest.mark.parametrize("size", [1700, 20_000, 1_000_000, 90_000_000])
def test_a_size_is_reached_from_below(size: int) -> None:
    got = smooth(find_step(Goal(size=size), smooth)).size
    assert 0.985 * size <= got <= size


@pytest.mark.parametrize("error", [0.0002, 0.01, 0.5, 1.0, 6.0])
def test_an_error_is_reached_from_below(error: float) -> None:
    got = smooth(find_step(Goal(max_error=error), smooth)).error
    assert 0.985 * error <= got <= error


def test_a_goal_that_any_step_reaches_takes_the_end() -> None:
    assert find_step(Goal(max_error=1e6), smooth) > 60
    assert find_step(Goal(size=10**12), smooth) < 2**-9.9


@pytest.mark.parametrize("goal", [Goal(size=100), Goal(size=0), Goal(max_error=1e-6)])
def test_a_goal_out_of_reach_is_refused(goal: Goal) -> None:
    with pytest.raises(TvqError, match=r"expected a step that reaches .* per task, got ") as caught:
        find_step(goal, smooth)
    assert caught.value.hint


def test_steps_of_a_staircase_are_never_past_the_goal() -> None:
    def stairs(step: float) -> Measured:
        return Measured(int(100_000 / step) // 7000 * 7000, step)

    for size in (7000, 20_000, 50_001):
        assert stairs(find_step(Goal(size=size), stairs)).size <= size


def test_bits_are_bytes_of_the_base_model() -> None:
    assert Goal(bits=0.5).in_bytes(8000) == Goal(size=500)
    assert Goal(size=7).in_bytes(8000) == Goal(size=7)
    assert Goal(max_error=0.1).in_bytes(8000) == Goal(max_error=0.1)


@pytest.mark.parametrize("bits", [2.5, 5.0])
def test_bits_per_task(coded: Coder, bits: float) -> None:
    result = coded(BASE, TUNES, MSE, Goal(bits=bits))
    for task in result.summary.tasks:
        assert 0.9 * bits <= 8 * task.bytes / VALUES <= bits


@pytest.mark.parametrize("size", [6000, 15_000])
def test_size_per_task(coded: Coder, size: int) -> None:
    result = coded(BASE, TUNES, MSE, Goal(size=size))
    for task in result.summary.tasks:
        assert 0.9 * size <= task.bytes <= size
        with tvcodec.open(result.path) as bank:
            group = bank.archive.record(task.name)
            assert group.sections_length + group.index_length <= task.bytes


def test_a_size_counts_all_that_a_task_takes(coded: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of its own, extra vocabulary rows, tied weights, another dtype, a buffer, a gap."""
    embed = normal(8, 80, 40)
    base = {
        **BASE,
        "embed": embed,
        "output": embed,
        "half": normal(9, 90),
        "count": torch.tensor(1),
        "gone": normal(10, 4),
    }
    rows = torch.cat([embed + normal(11, 80, 40, scale=0.1), normal(12, 5, 40)])
    tune = {
        **TUNES["strong"],
        "embed": rows,
        "output": rows.clone(),
        "half": base["half"].half(),
        "count": torch.tensor(5),
        "head": normal(13, 30, 60),
    }
    sizes = []
    search = rate.find_step

    def watched(goal: Goal, measure: Callable[[float], Measured]) -> float:
        step = search(goal, measure)
        sizes.append(measure(step).size)
        return step

    monkeypatch.setattr(rate, "find_step", watched)
    for size in (20_000, 30_000):
        (task,) = coded(base, {"a": tune}, MSE, Goal(size=size)).summary.tasks
        assert sizes.pop() == task.bytes
        assert 0.95 * size <= task.bytes <= size


@pytest.mark.parametrize("quality", ["small", "balanced", "high"])
@pytest.mark.parametrize("error", [0.5, 0.05])
def test_error_per_task_never_pooled(coded: Coder, quality: str, error: float) -> None:
    result = coded(BASE, TUNES, tvcodec.QUALITIES[quality], Goal(max_error=error))
    for task in result.summary.tasks:
        vectors = result.task_vectors[task.name]
        decoded = torch.cat([vectors[n].flatten() for n in BASE])
        wanted = torch.cat([(TUNES[task.name][n] - BASE[n]).flatten() for n in BASE])
        measured = relative_error(decoded, wanted)
        assert measured <= error * (1 + 1e-6)
        assert measured >= 0.8 * error
        assert task.error == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("quality", ["small", "balanced", "high"])
def test_small_errors_are_within_reach(coded: Coder, quality: str) -> None:
    result = coded(BASE, {"a": TUNES["weak"]}, tvcodec.QUALITIES[quality], Goal(max_error=0.005))
    assert 0.003 < result.summary.tasks[0].error <= 0.005


def test_a_size_below_the_index_is_refused_and_nothing_written(coded: Coder) -> None:
    message = r"task 'strong': expected a step that reaches 10 bytes per task, got \d+ bytes"
    with pytest.raises(TvqError, match=message):
        coded(BASE, TUNES, MSE, Goal(size=10), name="never.tvq")


def test_a_goal_beside_an_exact_recipe_is_refused(coded: Coder) -> None:
    with pytest.raises(ValueError, match="expected a goal or an exact recipe, got both"):
        coded(BASE, TUNES, tvcodec.EXACT, Goal(size=10_000))


@pytest.mark.parametrize(
    "fields", [{}, {"bits": 1, "size": 9}, {"max_error": float("nan")}, {"bits": -1}]
)
def test_a_goal_is_one_number(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected one of bits, size and max_error"):
        Goal(**fields)  # type: ignore[arg-type]


def test_tasks_get_steps_of_their_own(coded: Coder) -> None:
    """Relative errors of a strong and a weak task come out alike, whatever else is in the file."""
    together = coded(BASE, TUNES, MSE, Goal(max_error=0.2))
    alone = coded(BASE, {"weak": TUNES["weak"]}, MSE, Goal(max_error=0.2), name="alone.tvq")
    by_name = {task.name: task.error for task in together.summary.tasks}
    assert by_name["weak"] == alone.summary.tasks[0].error
    assert by_name["strong"] == pytest.approx(by_name["weak"], rel=0.1)


def test_the_search_reports_progress() -> None:
    seen: list[float] = []

    def measure(counted: Callable[[float], Measured]) -> Callable[[float], Measured]:
        def run(step: float) -> Measured:
            seen.append(step)
            return counted(step)

        return run

    find_step(Goal(size=20_000), measure(smooth))
    assert 1 <= len(seen) <= 12
    assert all(2**-10 <= step <= 2**6 for step in seen)
