"""What a merge says of itself: no place on a disk, and which tasks were taken for alike."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import normal

import tvcodec
from tvcodec.cli import main

BASE = {"weight": normal(0, 40, 40)}
COMMON = {group: normal(seed, 40, 40) for seed, group in enumerate("xy", 1)}
GROUPS = {"ant": "x", "bee": "y", "cow": "x", "dog": "x"}


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Tasks of two kinds, the base model in a directory."""
    place = tmp_path / "private" / "base"
    place.mkdir(parents=True)
    save_file(BASE, place / "model.safetensors")
    tunes = {
        task: {"weight": BASE["weight"] + COMMON[group] + normal(seed, 40, 40, scale=0.1)}
        for seed, (task, group) in enumerate(GROUPS.items(), 5)
    }
    tvcodec.encode(BASE, tunes, tmp_path / "private" / "bank.tvq")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "private" / "bank.tvq"


def merged(bank, *words):
    base = str(bank.parent / "base")
    words = ("merge", str(bank), "--base-model", base, *words, "-o", "out", "--force")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    text = Path("out/README.md").read_text()
    assert str(bank.parent) not in text
    with safe_open("out/model.safetensors", "pt") as file:
        assert str(bank.parent) not in str(file.metadata())
    return yaml.safe_load(text.split("---\n")[1]), text, result


def test_the_command_has_names_of_files_and_no_places(bank):
    accuracies = bank.parent / "accuracies.json"
    accuracies.write_text(json.dumps(dict.fromkeys(GROUPS, 0.5)))
    front, _, _ = merged(bank, "--weights", str(accuracies), "--scaling", "0.5")
    assert front["tvcodec"]["command"] == (
        "tvcodec merge bank.tvq --base-model base --weights accuracies.json --scaling 0.5"
    )
    front, _, _ = merged(bank, "--weights=ant=0.5,bee=1")
    assert front["tvcodec"]["command"].endswith(" --weights ant=0.5,bee=1")


@pytest.mark.parametrize(
    ("noted", "called"),
    [
        ("org/some-model", "org/some-model"),
        ("gpt2", "gpt2"),
        ("/data/models/base", "base"),
        ("../base", "base"),
        ("a/b/c", "base"),
        ("here/base", "base"),
        (7, "base"),
    ],
)
def test_the_base_model_has_the_name_that_its_config_has_of_the_hub(bank, noted, called):
    Path("here/base").mkdir(parents=True)
    (bank.parent / "base/config.json").write_text(json.dumps({"_name_or_path": noted}))
    front, text, _ = merged(bank)
    assert front["base_model"] == called
    assert f"the base model `{called}`" in text


@pytest.mark.parametrize("config", [None, "{", "[]", "{}"])
def test_without_such_a_config_it_is_called_like_its_directory(bank, config):
    if config is not None:
        (bank.parent / "base/config.json").write_text(config)
    assert merged(bank)[0]["base_model"] == "base"


def test_clusters_are_told(bank):
    front, text, result = merged(bank, "--weights", "cluster:2")
    assert sorted(front["tvcodec"]["clusters"]) == [["ant", "cow", "dog"], ["bee"]]
    rows = [line.split() for line in result.stderr.splitlines()[:6]]
    assert rows[0] == ["task", "weight", "cluster"]
    numbers = {task: number for task, _, number in rows[2:]}
    assert numbers["ant"] == numbers["cow"] == numbers["dog"] != numbers["bee"]
    assert f"| bee | 0.5 | {numbers['bee']} |" in text
    _, _, result = merged(bank, "--weights", "cluster:2", "--json")
    assert json.loads(result.stdout)["clusters"] == front["tvcodec"]["clusters"]
    assert "cluster" not in merged(bank)[1]
