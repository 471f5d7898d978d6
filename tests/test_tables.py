"""What is printed fits a terminal of 80 columns, whatever tasks are called."""

import json

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from small_models import normal

from tvcodec.cli import main, printing

USUAL = [f"{animal}-of-the-mountain" for animal in ("ant", "bee", "cat", "cow", "dog", "elk")]
LONG = [f"{number}-{'long' * 14}-{number}" for number in range(6)]
ALIKE = [f"{'long' * 8}-{number}-{'long' * 8}" for number in range(3)]


def widest(output):
    assert "\x1b" not in output
    return max(map(len, output.splitlines()))


@pytest.fixture(params=[USUAL, LONG], ids=["usual", "long"])
def tasks(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"weight": normal(0, 16, 16)}
    save_file(base, "base.safetensors")
    for number, task in enumerate(request.param):
        save_file({"weight": base["weight"] + normal(number + 1, 16, 16)}, f"{task}.safetensors")
    return request.param


def test_tables_fit_80_columns(tasks):
    tunes = [f"{task}={task}.safetensors" for task in tasks]
    against = [word for tune in tunes for word in ("--against", tune)]
    base = ("--base-model", "base.safetensors")
    for words in (
        ("encode", "base.safetensors", *tunes, "-o", "bank.tvq"),
        ("info", "bank.tvq"),
        ("merge", "bank.tvq", *base, "-o", "merged.safetensors"),
        ("verify", "bank.tvq", *base, *against),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert widest(result.output) <= printing.WIDTH == 80
        shown = [line for line in result.output.splitlines() if line.startswith(tasks[2][:4])]
        assert shown or words[0] == "info"


def test_long_names_lose_their_middle():
    rows = [(name, 20 * "x", 20 * "y") for name in LONG]
    text = printing.table(("task", "one", "two"), rows)
    assert 79 <= widest(text) <= 80
    starts = [line.split()[0] for line in text.splitlines()[2:]]
    assert starts[0].startswith("0-long")
    assert starts[0].endswith("long-0")
    assert "..." in starts[0]
    assert len(set(starts)) == len(LONG)


def test_names_that_would_look_alike_stay_whole():
    rows = [(name, 40 * "x") for name in ALIKE]
    text = printing.table(("task", "one"), rows)
    assert [line.split()[0] for line in text.splitlines()[2:]] == ALIKE


def test_names_of_several_columns_share_what_there_is():
    rows = [("0.50", 40 * "a" + str(n), 70 * "b" + str(n)) for n in range(3)]
    text = printing.table(("similarity", "task", "task"), rows, left=(1, 2), narrow=(1, 2))
    assert 76 <= widest(text) <= 80


def test_a_long_recipe_is_wrapped_and_not_cut(tasks):
    tunes = [f"{task}={task}.safetensors" for task in tasks]
    CliRunner().invoke(
        main,
        ["encode", "base.safetensors", *tunes, "--recipe", "svd-hybrid", "-o", "long.tvq"],
    )
    value = json.loads(CliRunner().invoke(main, ("info", "long.tvq", "--json")).stdout)
    recipe = printing.recipe(value["tasks"][0]["recipe"])
    assert len(recipe) > 60
    text = CliRunner().invoke(main, ("info", "long.tvq")).stdout
    assert widest(text) <= printing.WIDTH
    head, *lines = text[text.index("\ntask ") + 1 : text.index("\n(common)")].splitlines()
    shown = " ".join(line[head.index("recipe") :].strip() for line in lines[1:])
    assert shown == " ".join([recipe] * len(tasks))
