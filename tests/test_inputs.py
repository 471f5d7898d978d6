"""No output costs an input, whatever it is called and whether or not it may overwrite."""

import hashlib
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from small_models import State, normal

import tvcodec
from tvcodec.cli import main

BASE: State = {"w": normal(0, 40, 30), "v": normal(1, 7)}
TUNED: State = {name: value + 0.01 for name, value in BASE.items()}
DECODE = ("decode", "bank.tvq", "cars", "--base-model")
MERGE = ("merge", "bank.tvq", "--base-model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models in every form, and links to them."""
    monkeypatch.chdir(tmp_path)
    for name, state in (("base", BASE), ("cars", TUNED)):
        directory = tmp_path / "models" / name
        directory.mkdir(parents=True)
        save_file(state, directory / "model.safetensors")
        (directory / "config.json").write_text("{}")
        save_file(state, tmp_path / f"{name}.safetensors")
    os.symlink("cars.safetensors", "link.safetensors")
    os.symlink("cars.safetensors", "link.tvq")
    os.link("base.safetensors", "base.tvq")
    os.link("cars.safetensors", "hard.tvq")
    os.symlink("models/base", "base-link")
    os.mkdir("banks")
    tvcodec.encode(BASE, {"cars": TUNED}, "bank.tvq")
    tvcodec.encode(BASE, {"cars": TUNED}, "banks/bank.tvq")
    return tmp_path


def contents(directory: Path) -> dict[str, str]:
    """Every file below by name: what it holds, or where it leads."""
    return {
        str(path.relative_to(directory)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def refuses(directory: Path, *words: str) -> str:
    """The message of a command that fails, with --force too, and changes nothing."""
    before = contents(directory)
    for options in ((), ("--force",)):
        result = CliRunner().invoke(main, [*words, *options], prog_name="tvcodec")
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert contents(directory) == before
    message, hint = result.stderr.splitlines()
    assert hint == "hint: choose another output"
    return message


@pytest.mark.parametrize(
    ("base", "cars", "output", "relation"),
    [
        ("base.safetensors", "cars.safetensors", "base.tvq", "the same file as"),
        ("base.safetensors", "cars.safetensors", "./hard.tvq", "the same file as"),
        ("base.safetensors", "link.safetensors", "hard.tvq", "the same file as"),
        ("base.safetensors", "cars.safetensors", "link.tvq", "the same file as"),
        ("models/base", "models/cars", "models/cars/model.tvq", "one within"),
        ("models/base", "models/cars", "models/cars/config.json", "one within"),
        ("base-link", "models/cars", "models/base/config.json", "one within"),
        ("models/base", "models/cars", "base-link/config.json", "one within"),
        ("models/base", "models/cars", "models/x/../base/new.tvq", "one within"),
    ],
)
def test_encode_never_writes_over_an_input(
    here: Path, base: str, cars: str, output: str, relation: str
) -> None:
    (here / "models" / "x").mkdir()
    message = refuses(here, "encode", base, f"cars={cars}", "-o", output)
    assert message.startswith(f"Error: {output}: expected an output apart from all inputs, got ")
    assert relation in message


@pytest.mark.parametrize("command", [DECODE, MERGE])
@pytest.mark.parametrize(
    ("base", "output", "relation"),
    [
        ("base.safetensors", "base.safetensors", "the same file as base.safetensors"),
        ("base.safetensors", "bank.tvq", "the same file as bank.tvq"),
        ("models/base", "models/base", "the same directory as models/base"),
        ("models/base", "base-link", "the same directory as models/base"),
        ("base-link", "models/base", "the same directory as base-link"),
        ("models/base", "models", "a directory around"),
        ("base-link", "models", "a directory around"),
        ("models/base/model.safetensors", "models", "a directory around"),
        ("models/base/model.safetensors", "models/base", "a directory around"),
        ("models/base", "models/base/restored", "one within"),
        ("models/base", "base-link/a/b", "one within"),
        ("models/base", "models/base/model.safetensors", "one within"),
        ("models/base", "models/base/new.safetensors", "one within"),
        ("base.safetensors", ".", "a directory around"),
    ],
)
def test_decode_and_merge_never_write_over_an_input(
    here: Path, command: tuple[str, ...], base: str, output: str, relation: str
) -> None:
    assert relation in refuses(here, *command, base, "-o", output)


def test_the_directory_of_the_archive_is_not_replaced(here: Path) -> None:
    save_file(BASE, here / "banks" / "model.safetensors")
    words = ("decode", "banks/bank.tvq", "cars", "--task-vector", "-o", "banks")
    assert "a directory around banks/bank.tvq" in refuses(here, *words)


def test_outputs_beside_inputs_are_fine(here: Path) -> None:
    for words in (
        ("encode", "models/base", "cars=models/cars", "-o", "models/new.tvq"),
        ("encode", "base.safetensors", "cars=cars.safetensors", "-o", "new.tvq"),
        (*DECODE, "base.safetensors", "-o", "new.safetensors"),
        (*DECODE, "models/base", "-o", "models/base-restored"),
        (*MERGE, "models/base/model.safetensors", "-o", "models/base/merged.safetensors"),
        (*MERGE, "models/base", "-o", "merged"),
    ):
        result = CliRunner().invoke(main, words, prog_name="tvcodec")
        assert result.exit_code == 0, result.output
