"""The same models give the same bytes, whoever asks, wherever and in whatever order."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import State, normal

import tvcodec

TOP = Path(__file__).parent.parent
QUALITIES = ("small", "balanced", "high", "exact")
PROGRAM = """
import hashlib, sys, tvcodec
models, order, jobs, out = sys.argv[1:5]
tunes = {name: f"{models}/{name}.safetensors" for name in order.split(",")}
for quality in ("small", "balanced", "high", "exact"):
    recipe = tvcodec.EXACT if quality == "exact" else tvcodec.QUALITIES[quality]
    path = f"{out}/{quality}.tvq"
    base = f"{models}/base.safetensors"
    tvcodec.encode(base, tunes, path, recipe=recipe, jobs=int(jobs))
    print(quality, hashlib.sha256(open(path, "rb").read()).hexdigest())
first, *others = tunes
path = f"{out}/by-and-by.tvq"
tvcodec.encode(base, {first: tunes[first], "dog": base}, path, recipe=recipe)
for other in others:
    tvcodec.add(path, base, {other: tunes[other]}, recipe=recipe, jobs=int(jobs))
tvcodec.remove(path, ["dog"])
print(quality, hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


def state(seed: int) -> State:
    base = {
        "a.weight": normal(0, 384, 320),
        "b.weight": normal(1, 700, 40),
        "c.bias": normal(2, 5000),
        "d.weight": normal(3, 30, 30),
    }
    if seed:
        left, right = normal(seed, 384, 2), normal(seed + 1, 2, 320)
        base["a.weight"] = base["a.weight"] + 0.01 * left @ right
        base = {
            name: value + normal(seed, *value.shape, scale=0.01) for name, value in base.items()
        }
        base["b.weight"][100:] = normal(1, 700, 40)[100:]
        base["e.added"] = normal(seed, 50)
    return base


STATES = {"base": state(0), "ant": state(10), "bee": state(20), "cow": state(30)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for name, tensors in STATES.items():
        save_file(tensors, directory / f"{name}.safetensors")
    return directory


def digests(models: Path, out: Path, order: str, jobs: int, cwd: Path, **env: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(TOP), **env}
    paths = [os.path.relpath(path, cwd) for path in (models, out)]
    command = [sys.executable, "-c", PROGRAM, paths[0], order, str(jobs), paths[1]]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bytes_depend_on_nothing_but_the_models(models: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = digests(
        models, one, "ant,bee,cow", 1, TOP, PYTHONHASHSEED="1", TZ="UTC", OMP_NUM_THREADS="1"
    )
    second = digests(
        models,
        other,
        "cow,ant,bee",
        4,
        other,
        PYTHONHASHSEED="2",
        TZ="Asia/Kathmandu",
        LC_ALL="C",
        OMP_NUM_THREADS="3",
    )
    assert first == second
    assert len(set(first.split())) == 2 * len(QUALITIES)
    # in this process, from memory, with threads of its own
    for line in set(first.splitlines()):
        quality, expected = line.split()
        recipe = tvcodec.EXACT if quality == "exact" else tvcodec.QUALITIES[quality]
        path = tmp_path / f"{quality}.tvq"
        tunes = {name: STATES[name] for name in ("bee", "cow", "ant")}
        tvcodec.encode(STATES["base"], tunes, path, recipe=recipe, jobs=3)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected, quality


def test_a_task_is_stored_alike_whatever_is_beside_it(tmp_path: Path) -> None:
    sections: list[bytes] = []
    for names in (["bee"], ["ant", "bee"], ["bee", "cow"]):
        path = tmp_path / f"{len(sections)}.tvq"
        tvcodec.encode(STATES["base"], {name: STATES[name] for name in names}, path)
        with tvcodec.open(path) as bank:
            sections.append(bank.archive.index("bee").digest)
    assert len(set(sections)) == 1


def test_a_goal_finds_the_same_step_with_any_number_of_threads(tmp_path: Path) -> None:
    data = []
    for jobs in (1, 4):
        path = tmp_path / f"{jobs}.tvq"
        goal = tvcodec.Goal(max_error=0.3)
        small = {name: value for name, value in STATES["ant"].items() if name != "a.weight"}
        tvcodec.encode(
            STATES["base"], {"ant": small}, path, recipe=tvcodec.Recipe(), goal=goal, jobs=jobs
        )
        data.append(path.read_bytes())
    assert data[0] == data[1]


def test_decoding_and_merging_are_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    tunes = {name: STATES[name] for name in ("ant", "bee")}
    tvcodec.encode(STATES["base"], tunes, path, recipe=tvcodec.QUALITIES["small"])
    outputs = []
    for run in range(2):
        with tvcodec.open(path) as bank:
            bank.decode("ant", STATES["base"]).save(tmp_path / f"{run}.safetensors")
            merged = bank.merge(
                STATES["base"], {"ant": 0.7, "bee": 0.3} if run else "ant=0.7,bee=0.3"
            )
            merged.save(tmp_path / f"merge{run}.safetensors")
        outputs.append(
            [(tmp_path / f"{name}{run}.safetensors").read_bytes() for name in ("", "merge")]
        )
    assert outputs[0] == outputs[1]


def test_merges_do_not_depend_on_the_order_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    tunes = {name: STATES[name] for name in ("ant", "bee", "cow")}
    tvcodec.encode(STATES["base"], tunes, path, recipe=tvcodec.QUALITIES["small"])
    outputs = []
    for weights in ("ant=0.7,bee=0.3,cow=0.1", "cow=0.1,bee=0.3,ant=0.7"):
        with tvcodec.open(path) as bank:
            bank.merge(STATES["base"], weights).save(tmp_path / "merge.safetensors", force=True)
        outputs.append((tmp_path / "merge.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def test_encoding_leaves_torch_as_it_was(tmp_path: Path) -> None:
    threads, state_before = torch.get_num_threads(), torch.get_rng_state()
    tvcodec.encode(STATES["base"], {"ant": STATES["ant"]}, tmp_path / "bank.tvq")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state_before)
