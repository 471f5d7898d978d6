"""A file that is being changed survives whatever ends the process, as it was or as it becomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from small_models import State, normal

import tvcodec

TOP = Path(__file__).parent.parent
ROUNDS = {"add": 40, "remove": 300}  # TVCODEC_KILLS sets both
BASE = {"a.weight": normal(0, 90, 60), "b.bias": normal(1, 200)}
PROGRAM = """
import json, os, random, re, signal, sys, time
from tvcodec.file import editing
change, rounds = sys.argv[1], int(sys.argv[2])
if change == "add":
    import torch
    from tvcodec import adding
    torch.set_num_threads(1)

def work():
    if change == "add":
        adding.add("bank.tvq", "models/base.safetensors", {"bee": "models/bee.safetensors"}, jobs=1)
    else:
        editing.remove("bank.tvq", ["ant"])

def start():
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return child

def restore(data):
    with open("fresh", "wb") as file:
        file.write(data)
    os.replace("fresh", "bank.tvq")

def read():
    with open("bank.tvq", "rb") as file:
        return file.read()

old = read()
times = []
for _ in range(5):
    restore(old)
    began = time.perf_counter()
    assert os.waitpid(start(), 0)[1] == 0
    times.append(time.perf_counter() - began)
new, longest = read(), 1.3 * sum(times) / len(times)
assert new != old
temporary = re.compile(r"\\.bank\\.tvq-[0-9a-f]{8}\\.tmp")
found = {"old": 0, "new": 0, "other": 0, "half": []}
for _ in range(rounds):
    restore(old)
    child = start()
    time.sleep(random.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    data = read()
    found["old" if data == old else "new" if data == new else "other"] += 1
    names = set(os.listdir()) - {"bank.tvq", "models"}
    found["half"] += [name for name in names if not temporary.fullmatch(name)]
found["left"] = len(os.listdir()) - 2
for name in os.listdir():
    if name.endswith(".tmp"):
        os.utime(name, (0, 0))  # an hour passes
restore(old)
work()
found["final"] = sorted(os.listdir())
print(json.dumps(found))
"""


def tune(seed: int) -> State:
    return {name: value + normal(seed, *value.shape, scale=0.01) for name, value in BASE.items()}


@pytest.mark.parametrize("change", ROUNDS)
def test_killed_at_any_moment(change: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    save_file(BASE, tmp_path / "models" / "base.safetensors")
    save_file(tune(2), tmp_path / "models" / "bee.safetensors")
    tvcodec.encode(BASE, {"ant": tune(1), "cow": tune(3)}, tmp_path / "bank.tvq")
    rounds = int(os.environ.get("TVCODEC_KILLS", ROUNDS[change]))
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    command = [sys.executable, "-c", PROGRAM, change, str(rounds)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["other"] == 0
    assert found["half"] == []
    assert found["old"] + found["new"] == rounds
    assert min(found["old"], found["new"], found["left"]) > 0, found  # killed at all stages
    assert found["final"] == ["bank.tvq", "models"]
    tasks = {"add": {"ant": 1, "bee": 2, "cow": 3}, "remove": {"cow": 3}}[change]
    tvcodec.encode(BASE, {name: tune(seed) for name, seed in tasks.items()}, tmp_path / "all.tvq")
    assert (tmp_path / "bank.tvq").read_bytes() == (tmp_path / "all.tvq").read_bytes()
