"""Several tasks given back by one command, into a directory that appears whole or not at all."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from small_models import assert_same, normal

import tvcodec
from tvcodec.cli import main

BASE = {"a.weight": normal(0, 20, 30), "b.bias": normal(1, 9)}
TUNES = {
    task: {name: value + normal(seed, *value.shape, scale=0.01) for name, value in BASE.items()}
    for seed, task in enumerate(("ant", "bee", "cow"), 2)
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """ant was a directory with a config, bee and cow were single files, as the base model is."""
    monkeypatch.chdir(tmp_path)
    save_file(BASE, "base.safetensors")
    for task in ("bee", "cow"):
        save_file(TUNES[task], f"{task}.safetensors")
    Path("ant").mkdir()
    save_file(TUNES["ant"], "ant/model.safetensors")
    Path("ant/config.json").write_text('{"of": "ant"}')
    tunes = {"ant": "ant", "bee": "bee.safetensors", "cow": "cow.safetensors"}
    tvcodec.encode("base.safetensors", tunes, "bank.tvq", recipe=tvcodec.EXACT)
    return tmp_path


def decode(*words, base="base.safetensors", out="out"):
    words = ("decode", "bank.tvq", *words, "--base-model", base, "-o", out)
    return CliRunner().invoke(main, words, prog_name="tvcodec")


def refused(code, *words, **places):
    before = sorted(Path().rglob("*"))
    result = decode(*words, **places)
    assert result.exit_code == code, result.output
    assert sorted(Path().rglob("*")) == before
    return result.stderr.splitlines()


def test_all_tasks_come_back_each_as_what_it_was(here):
    result = decode("--all")
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == ("", "wrote out: 3 tasks, 6 parameters\n")
    assert sorted(os.listdir("out")) == ["ant", "bee.safetensors", "cow.safetensors"]
    assert json.loads(Path("out/ant/config.json").read_text()) == {"of": "ant"}
    for task, path in {"ant": "ant/model", "bee": "bee", "cow": "cow"}.items():
        for name, value in load_file(f"out/{path}.safetensors").items():
            assert_same(value, TUNES[task][name])


def test_some_tasks_of_a_directory_come_as_directories(here):
    Path("base").mkdir()
    save_file(BASE, "base/model.safetensors")
    Path("base/config.json").write_text('{"of": "base"}')
    assert decode("cow", "bee", base="base").stderr == "wrote out: 2 tasks, 4 parameters\n"
    for task in ("bee", "cow"):
        assert sorted(os.listdir(f"out/{task}")) == ["config.json", "model.safetensors"]
        assert_same(load_file(f"out/{task}/model.safetensors")["b.bias"], TUNES[task]["b.bias"])


def test_task_vectors_are_files(here):
    assert decode("ant", "bee", "--task-vector").exit_code == 0
    assert sorted(os.listdir("out")) == ["ant.safetensors", "bee.safetensors"]


def test_a_fault_in_the_last_leaves_nothing(here):
    with tvcodec.open("bank.tvq") as bank:
        _, at = next(iter(bank.archive.sections("cow")))
    data = bytearray(Path("bank.tvq").read_bytes())
    data[at] ^= 1
    Path("bank.tvq").write_bytes(data)
    assert "task 'cow'" in refused(1, "--all")[0]
    assert decode("ant", "bee").exit_code == 0


def test_what_is_there_is_replaced_only_with_force_and_where_nothing_else_is_lost(here):
    assert decode("--all").exit_code == 0
    assert refused(1, "--all") == ["Error: out: exists already", "hint: --force overwrites it"]
    assert decode("--all", "--force").exit_code == 0
    assert "--force would delete" in refused(1, "ant", "bee", "--force")[0]
    Path("out/notes.txt").write_text("mine")
    assert "--force would delete notes.txt" in refused(1, "--all", "--force")[0]


def test_a_file_is_not_replaced_by_a_directory(here):
    Path("base").mkdir()
    save_file(BASE, "base/model.safetensors")
    Path("out").mkdir()
    Path("out/ant").write_text("mine")
    assert "--force would delete ant" in refused(1, "ant", "bee", "--force", base="base")[0]
    assert Path("out/ant").read_text() == "mine"


@pytest.mark.parametrize("task", ["ant.safetensors", "ant.gguf"])
def test_a_task_that_no_directory_can_be_called_by_is_refused(here, task):
    Path("base").mkdir()
    save_file(BASE, "base/model.safetensors")
    tvcodec.encode(BASE, {"ant": TUNES["ant"], task: TUNES["bee"]}, "two.tvq", recipe=tvcodec.EXACT)
    words = ["decode", "two.tvq", "--all", "--base-model", "base", "-o", "out"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert f"task {task!r}: " in result.stderr
    assert not Path("out").exists()


def test_mistakes_are_told_before_anything_is_read(here):
    assert refused(2)[-1] == "Error: Missing argument 'TASK...' (or --all)."
    assert refused(2, "ant", "--all")[-1] == "Error: TASK and --all exclude each other: give one"
    assert refused(2, "ant", "ant")[-1] == "Error: task 'ant' is given twice"
    assert "no task 'eel'" in refused(1, "ant", "eel")[0]
    for name, code in {"out.safetensors": 2, "out.tvq": 1}.items():
        assert any(name in line for line in refused(code, "--all", out=name))
