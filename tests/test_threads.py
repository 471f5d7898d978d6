"""Counts of threads: one inside, whatever there was before afterwards, and any for `jobs`."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_models import State, normal

import tvcodec
from tvcodec import threads

BASE: State = {
    "a.weight": normal(0, 130, 90),
    "b.weight": normal(1, 64, 200),
    "c.bias": normal(2, 70),
    "d.weight": normal(3, 80, 80),
}
TUNES = {
    task: {name: value + 0.01 * normal(10 * seed, *value.shape) for name, value in BASE.items()}
    for seed, task in enumerate(("ant", "bee", "cow"), 1)
}


@pytest.fixture(autouse=True)
def several() -> Iterator[None]:
    """A count that nobody sets by accident."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


def counted(run: Callable[[], None] = lambda: None) -> int:
    """What a new thread counts after it has run something."""
    counts: list[int] = []

    def count() -> None:
        run()
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=count)
    thread.start()
    thread.join(60)
    return counts[0]


def test_inside_there_is_one_thread_and_afterwards_as_many_as_before() -> None:
    with threads.one_thread():
        assert torch.get_num_threads() == 1
        with threads.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 5
    with pytest.raises(ZeroDivisionError), threads.one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == 5


def test_threads_of_a_pool_count_one_whatever_others_set() -> None:
    with threads.pool(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        torch.set_num_threads(5)
        barrier = threading.Barrier(2)

        def count() -> int:
            with threads.one_thread():
                barrier.wait(60)
            return torch.get_num_threads()

        assert [future.result() for future in [pool.submit(count) for _ in range(2)]] == [1, 1]


@pytest.mark.parametrize("first_out", ["first in", "last in"])
def test_whoever_overlaps_goes_back_to_what_there_was(first_out: str) -> None:
    inside, leave = threading.Event(), threading.Event()
    counts: list[int] = []

    def other() -> None:
        with threads.one_thread():
            inside.set()
            leave.wait(60)
            counts.append(torch.get_num_threads())
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with threads.one_thread():
        thread.start()
        inside.wait(60)
        if first_out == "last in":
            leave.set()
            thread.join(60)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 5
    leave.set()
    thread.join(60)
    assert counts == [1, 5]
    assert torch.get_num_threads() == counted() == 5


def test_two_encodes_at_a_time_give_the_bytes_of_each_alone(tmp_path: Path) -> None:
    alone, beside, other = (tmp_path / name for name in ("alone.tvq", "beside.tvq", "other.tvq"))
    tvcodec.encode(BASE, TUNES, alone)
    arrived = threading.Barrier(2)

    def waits() -> Callable[[int], None]:
        """Goes on, the first time, when the other encode has begun too."""
        left = [arrived]

        def progress(values: int) -> None:
            if left:
                left.pop().wait(60)

        return progress

    def encode() -> None:
        tvcodec.encode(BASE, TUNES, other, jobs=1, progress=waits())

    thread = threading.Thread(target=encode)
    thread.start()
    tvcodec.encode(BASE, TUNES, beside, jobs=2, progress=waits())
    assert torch.get_num_threads() == 5
    thread.join(60)
    assert alone.read_bytes() == beside.read_bytes() == other.read_bytes()
    assert torch.get_num_threads() == counted() == 5


def test_encode_decode_and_merge_give_the_same_bytes_for_any_jobs(tmp_path: Path) -> None:
    found = set()
    for jobs in (1, 2, 3, None):
        path = tmp_path / "bank.tvq"
        recipe = tvcodec.QUALITIES["high"]
        tvcodec.encode(BASE, TUNES, path, recipe=recipe, jobs=jobs, force=True)
        with tvcodec.open(path) as bank:
            models = [bank.decode("ant", BASE), bank.merge(BASE), bank.merge(BASE, method="tsvm")]
            outputs = [path.read_bytes()]
            for number, model in enumerate(models):
                out = tmp_path / f"{number}.safetensors"
                model.save(out, jobs=jobs, force=True)
                outputs.append(out.read_bytes())
        found.add(tuple(outputs))
    assert len(found) == 1
    assert len(set(found.pop())) == 4


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_tensors_are_computed_at_a_time_than_jobs(jobs: int) -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(jobs)

    def compute(name: str) -> torch.Tensor:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        with lock:
            running -= 1
        return torch.tensor([float(name)])

    names = [str(number) for number in range(3 * jobs)]
    made = threads.computed(compute, [(name, 4) for name in names], jobs)
    assert [f"{float(tensor):.0f}" for tensor in made] == names
    assert most == jobs


def test_each_name_is_run_once_and_small_ones_together() -> None:
    sizes = [(f"s{n}", 10) for n in range(50)] + [(f"l{n}", n << 20) for n in range(1, 6)]
    ran: list[tuple[str, int]] = []
    threads.for_each(lambda name: ran.append((name, threading.get_ident())), sizes)
    assert sorted(name for name, _ in ran) == sorted(name for name, _ in sizes)
    assert len({thread for name, thread in ran if name.startswith("s")}) == 1
    assert torch.get_num_threads() == 5


def test_what_one_raises_is_raised_and_the_rest_is_left() -> None:
    ran: list[str] = []
    failed = threading.Event()

    def run(name: str) -> None:
        ran.append(name)
        if name == "bad":
            failed.set()
            raise KeyError(name)
        failed.wait()
        time.sleep(0.01)

    sizes = [("slow", 3 << 20), ("bad", 2 << 20), *((f"{n}", 1 << 20) for n in range(500))]
    with pytest.raises(KeyError, match="bad"):
        threads.for_each(run, sizes)
    assert len(ran) < 250
