"""A file that is being changed survives whatever ends the process, as it was or as it becomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
ROUNDS = 300
PROGRAM = """
import json, os, random, re, signal, sys, time, torch, tvcodec
sys.path.insert(0, "tests")
from conftest import normal
torch.set_num_threads(1)
change, directory, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(directory)
BASE = {"a.weight": normal(0, 90, 60), "b.bias": normal(1, 200)}

def tune(seed):
    return {name: value + normal(seed, *value.shape, scale=0.01) for name, value in BASE.items()}

def work():
    if change == "add":
        tvcodec.add("bank.tvq", BASE, {"bee": tune(2)}, jobs=1)
    else:
        tvcodec.remove("bank.tvq", ["ant"])

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

tvcodec.encode(BASE, {"ant": tune(1), "cow": tune(3)}, "bank.tvq")
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
    names = set(os.listdir()) - {"bank.tvq"}
    found["half"] += [name for name in names if not temporary.fullmatch(name)]
found["left"] = len(os.listdir()) - 1
for name in os.listdir():
    if name != "bank.tvq":
        os.utime(name, (0, 0))  # an hour passes
restore(old)
work()
found["final"] = os.listdir()
with tvcodec.open("bank.tvq") as bank:
    bank.archive.verify()
print(json.dumps(found))
"""


@pytest.mark.parametrize("change", ["add", "remove"])
def test_killed_at_any_moment(change: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    command = [sys.executable, "-c", PROGRAM, change, str(tmp_path), str(ROUNDS)]
    done = subprocess.run(command, env=environment, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["other"] == 0
    assert found["half"] == []
    assert found["old"] + found["new"] == ROUNDS
    assert min(found["old"], found["new"], found["left"]) > 0, found  # killed at all stages
    assert found["final"] == ["bank.tvq"]
