"""Encoding by workers in other processes: the bytes of this one, or an error that says why not."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from children import FORKED, Child
from click.testing import CliRunner, Result
from distributed import Client
from safetensors.torch import save_file
from small_models import State, normal

import tvcodec
from tvcodec.cli import main
from tvcodec.encoding.cluster import connected
from tvcodec.encoding.published import Rtvq, Tall

Cluster = tuple[str, list[Child]]
DASK = "import os, sys; os.chdir(sys.argv.pop(1)); from dask.__main__ import main; main()"
TASKS = ("ant", "bee", "cow")
RECIPES: dict[str, dict[str, Any]] = {
    "balanced": {"recipe": tvcodec.QUALITIES["balanced"]},
    "shared": {"recipe": tvcodec.Recipe(step=1.0)},
    "exact": {"recipe": tvcodec.EXACT},
    "a size": {"goal": tvcodec.Goal(size=9_000)},
    "an error": {"goal": tvcodec.Goal(max_error=0.4)},
    "rtvq": {"recipe": Rtvq()},
    "tall": {"recipe": Tall()},
}


def state(seed: int) -> State:
    """Tied weights, rows that were added, zeros of another sign, integers, a frozen parameter."""
    base = {
        "a.weight": normal(0, 120, 90),
        "b.weight": normal(1, 70, 40),
        "c.bias": normal(2, 5000),
        "d.frozen": normal(3, 30, 30),
        "e.steps": torch.arange(7),
        "g.zero": torch.zeros(9),
    }
    if seed:
        common, own = normal(99, 120, 90), normal(seed, 120, 90)
        base["a.weight"] = base["a.weight"] + 0.01 * common + 0.002 * own
        base["b.weight"] = torch.cat([base["b.weight"] * 1.01, normal(seed, 2, 40)])
        base["c.bias"] = base["c.bias"] + normal(seed, 5000, scale=0.01)
        base["e.steps"] = base["e.steps"] + seed
        base["g.zero"] = -base["g.zero"]
        base["h.added"] = normal(seed, 50)
    return base | {"f.tied": base["a.weight"].clone()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", *TASKS)):
        save_file(state(10 * seed), directory / f"{name}.safetensors")
    return directory


@pytest.fixture
def given(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Path]]:
    """Base model and fine-tunes by relative paths, which workers elsewhere cannot follow."""
    monkeypatch.chdir(tmp_path)
    models = Path(os.path.relpath(models))
    return models / "base.safetensors", {name: models / f"{name}.safetensors" for name in TASKS}


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, FORKED) as pool:
        yield pool


class Late(Executor):
    """Runs nothing before its answer is asked for, and the last that it was given first."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.most = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        self.most = max(self.most, len(self.waiting))
        wait = future.result

        def result(timeout: float | None = None) -> Any:
            while self.waiting:
                self.waiting.pop()()
            return wait(0)

        future.result = result  # type: ignore[method-assign]
        return future


@pytest.mark.parametrize("name", RECIPES)
def test_other_processes_give_the_same_bytes(
    processes: Executor, given: tuple[Path, dict[str, Path]], name: str
) -> None:
    told: list[list[int]] = [[], []]
    summaries = [
        tvcodec.encode(*given, "here.tvq", **RECIPES[name], progress=told[0].append),
        tvcodec.encode(
            *given, "there.tvq", **RECIPES[name], executor=processes, progress=told[1].append
        ),
    ]
    assert Path("here.tvq").read_bytes() == Path("there.tvq").read_bytes()
    assert summaries[0].tasks == summaries[1].tasks
    assert sum(told[0]) == sum(told[1])


def test_masks_reach_workers(processes: Executor, given: tuple[Path, dict[str, Path]]) -> None:
    masks = {}
    for seed, task in enumerate(TASKS):
        masks[task] = f"mask-{task}.safetensors"
        save_file({"a.weight": normal(seed, 120, 90) > 0}, masks[task])
    plain = tvcodec.encode(*given, "plain.tvq", recipe=Tall())
    here = tvcodec.encode(*given, "here.tvq", recipe=Tall(), masks=masks)
    there = tvcodec.encode(*given, "there.tvq", recipe=Tall(), masks=masks, executor=processes)
    assert plain.root != here.root == there.root


@pytest.mark.parametrize("ahead", [1, 3, None])
def test_order_of_answers_does_not_matter_and_few_are_awaited(
    given: tuple[Path, dict[str, Path]], ahead: int | None
) -> None:
    late = Late()
    there = tvcodec.encode(*given, "there.tvq", executor=late, jobs=ahead)
    assert there.root == tvcodec.encode(*given, "here.tvq").root
    assert late.most == (ahead or 7 * len(TASKS))  # all that there are
    with ThreadPoolExecutor(3) as pool:
        assert tvcodec.encode(*given, "threads.tvq", executor=pool).root == there.root
        assert set(pool.map(lambda _: torch.get_num_threads(), range(9))) == {
            torch.get_num_threads()
        }


def test_what_is_sent_is_small(given: tuple[Path, dict[str, Path]]) -> None:
    sizes: list[int] = []

    class Weighing(Late):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            sizes.append(len(pickle.dumps(args)))
            return super().submit(fn, *args, **kwargs)

    tvcodec.encode(*given, "bank.tvq", executor=Weighing(), recipe=Rtvq())
    assert len(sizes) == 7 + 3 * 7 + 7
    assert max(sizes) < 4000


def test_models_in_memory_are_refused(given: tuple[Path, dict[str, Path]]) -> None:
    base, tunes = given
    for models in ((state(0), tunes), (base, {**tunes, "bee": state(20)})):
        with pytest.raises(tvcodec.CheckpointError, match="expected a path that workers") as caught:
            tvcodec.encode(*models, "bank.tvq", executor=Late())
        assert "save it as .safetensors" in str(caught.value.hint)
    assert not Path("bank.tvq").exists()


def test_a_worker_that_sees_other_files_says_so(given: tuple[Path, dict[str, Path]]) -> None:
    base, tunes = given
    moved = Path("moved.safetensors")
    moved.write_bytes(tunes["bee"].read_bytes())

    class Elsewhere(Late):
        """The survey is through when the file changes."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if len(sent) == 7 * 4:
                waiting.pop()()
            sent.append(fn)
            return super().submit(fn, *args, **kwargs)

    changes: list[tuple[Callable[[], object], str]] = [
        (moved.unlink, "moved.safetensors: No such file or directory"),
        (lambda: moved.write_bytes(b"other"), "moved.safetensors: expected the file as it was"),
    ]
    for change, message in changes:
        waiting = [change]
        moved.write_bytes(tunes["bee"].read_bytes())
        sent: list[object] = []
        with pytest.raises(tvcodec.CheckpointError, match=message) as caught:
            tvcodec.encode(base, {**tunes, "bee": moved}, "bank.tvq", executor=Elsewhere())
        assert str(caught.value).startswith("worker ")
        assert str(moved.absolute()) in str(caught.value)
        assert caught.value.hint
        assert [path.name for path in Path().iterdir()] in ([], ["moved.safetensors"])


def test_a_dead_process_of_a_pool_is_an_error(given: tuple[Path, dict[str, Path]]) -> None:
    base, tunes = given
    with ProcessPoolExecutor(1, FORKED) as pool:

        def kill(values: int) -> None:
            for process in multiprocessing.active_children():
                if process.pid in pool._processes:
                    process.kill()
            time.sleep(0.1)

        with pytest.raises(tvcodec.TvqError, match="got a dead one") as caught:
            tvcodec.encode(base, tunes, "bank.tvq", executor=pool, jobs=2, progress=kill)
        assert caught.value.hint
    assert not Path("bank.tvq").exists()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """The address of a scheduler, and two workers, which live elsewhere in the file system."""
    place = tmp_path_factory.mktemp("cluster")
    started: list[Child] = []

    def start(*words: str) -> None:
        started.append(Child(DASK, place, *words, "--scheduler-file", "where.json"))

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    for _ in range(2):
        start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    try:
        with Client(scheduler_file=str(place / "where.json"), timeout=120) as client:
            client.wait_for_workers(2, timeout=120)
            address = client.scheduler.address
        yield address, started[1:]
    finally:
        for child in started:
            child.send_signal(signal.SIGKILL)
        for child in started:
            child.wait()


def encoded(words: list[str], *more: str) -> Result:
    return CliRunner().invoke(main, ["encode", *words, *more])


@pytest.fixture
def words(given: tuple[Path, dict[str, Path]]) -> list[str]:
    base, tunes = given
    return [str(base), *(f"{name}={path}" for name, path in tunes.items())]


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(
    cluster: Cluster, words: list[str], given: tuple[Path, dict[str, Path]]
) -> None:
    address, (one, other) = cluster
    done = encoded(words, "--cluster", address, "-o", "there.tvq")
    assert done.exit_code == 0, done.stderr
    here = tvcodec.encode(*given, "here.tvq")
    assert Path("here.tvq").read_bytes() == Path("there.tvq").read_bytes()
    half = (1 + 2 * len(TASKS)) * sum(value.numel() for value in state(0).values()) // 2
    seen = 0

    def lose(values: int) -> None:
        nonlocal seen
        seen += values
        if seen >= half:
            one.send_signal(signal.SIGKILL)

    with connected(address) as (executor, suits):
        assert suits == 8
        again = tvcodec.encode(*given, "again.tvq", executor=executor, jobs=suits, progress=lose)
    assert again.root == here.root
    assert one.wait().returncode == -signal.SIGKILL
    assert other.running


def test_a_cluster_that_does_not_answer_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvcodec.encoding.cluster.TIMEOUT", 1)
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        done = encoded(words, "-o", "bank.tvq", "--cluster", address)
        assert done.exit_code == 1
        assert f"Error: {address}: expected a dask scheduler, got no answer" in done.stderr
        assert "hint: start one with `dask scheduler`" in done.stderr
    assert not Path("bank.tvq").exists()


def test_without_dask_a_cluster_says_what_to_install(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = encoded(words, "-o", "bank.tvq", "--cluster", "tcp://127.0.0.1:1")
    assert done.exit_code == 1
    assert "expected dask, which a cluster needs, got none installed" in done.stderr
    assert "hint: pip install 'tvcodec[dask]'" in done.stderr
