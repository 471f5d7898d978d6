"""What people get wrong on the command line, and what they are told."""

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from small_models import normal

import tvcodec
from tvcodec.cli import main, paths
from tvcodec.wording import meant

BASE = {"weight": normal(0, 16, 16), "bias": normal(1, 16)}
TASKS = ("cars", "textures", "MNIST")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(BASE, "base.safetensors")
    tunes = {
        task: {name: value + normal(seed, *value.shape) for name, value in BASE.items()}
        for seed, task in enumerate(TASKS)
    }
    tvcodec.encode(BASE, tunes, "bank.tvq")
    return tmp_path


def said(code, *words):
    result = CliRunner().invoke(main, words, prog_name="tvcodec")
    assert result.exit_code == code, result.output
    return result.stderr.splitlines()[-1]


def test_a_mistyped_command_is_guessed():
    assert said(2, "decod") == "Error: No such command 'decod'; did you mean decode?"
    assert said(2, "varify", "x") == "Error: No such command 'varify'; did you mean verify?"
    assert "did you mean" not in said(2, "frobnicate")
    assert said(2, "--jsn").startswith("Error: No such option")


def test_a_mistyped_option_is_guessed():
    assert "--weights" in said(2, "merge", "bank.tvq", "--wieghts", "uniform", "-o", "x")


@pytest.mark.parametrize(
    "words", [("decode", "bank.tvq", "texture"), ("remove", "bank.tvq", "mnist")]
)
def test_a_mistyped_task_is_guessed(here, words):
    base = ("--base-model", "base.safetensors", "-o", "out") if words[0] == "decode" else ()
    task = "textures" if words[0] == "decode" else "MNIST"
    hint = f"hint: did you mean {task}? it holds MNIST, cars, textures"
    assert said(1, *words, *base) == hint


def test_a_mistyped_task_of_a_merge_is_guessed(here):
    merge = ("merge", "bank.tvq", "--base-model", "base.safetensors", "-o", "out")
    for words in (("--tasks", "car"), ("--weights", "car=1"), ("--negate", "car")):
        assert said(1, *merge, *words).startswith("hint: did you mean cars? ")
    assert said(1, *merge, "--tasks", "pets").startswith("hint: there is MNIST, cars")


def test_what_is_meant_is_found_among_many():
    known = [f"task{number:04}" for number in range(1000)]
    assert meant("tsk0777", known) == "did you mean task0777? "
    assert meant("other", known) == meant("x", []) == ""


def test_a_fine_tune_that_is_the_base_model_is_noted(here):
    save_file({**BASE, "bias": BASE["bias"] + 1}, "tuned.safetensors")
    words = ("encode", "base.safetensors", "same=base.safetensors", "other=tuned.safetensors")
    result = CliRunner().invoke(main, (*words, "-o", "new.tvq"))
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("note")] == [
        "note: task 'same': no value differs from the base model's: is it the right checkpoint?"
    ]


def test_only_urls_are_not_looked_for_on_the_disk(here):
    paths.check("s3://b/k", "bank.tvq", output="https://example.org/new.tvq")
    for path in ("./s3://b/k", "C://bank.tvq", "nowhere.tvq"):
        with pytest.raises(FileNotFoundError):
            paths.check(path)
        with pytest.raises(FileNotFoundError):
            paths.check("bank.tvq", output=f"{path}/new.tvq")
