"""Recipes from the command line and from files: what is asked for is what is written."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from small_models import normal

import tvcodec
from tvcodec.cli import main
from tvcodec.cli.options import PUBLISHED
from tvcodec.cli.recipe_settings import NAMES
from tvcodec.encoding.published import RECIPES, SvdHybrid, Tvq

TOP = Path(__file__).parents[1]
SAMPLE = TOP / "tools/sample"
LIGHT_FILE = """
base_model_path: base.safetensors
checkpoint_dir: tunes
tasks: [one, two]
output_dir: out
method:
  name: svd_hybrid
  svd_energy_threshold: 0.95
  svd_max_rank: 64
  svd_rtvq_stages: 3
  svd_weighting: performance
  performance_file: accuracies.json
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model, two fine-tunes and their masks, in the working directory."""
    base = {"w": normal(0, 40, 30), "b": normal(1, 30)}
    (tmp_path / "tunes").mkdir()
    (tmp_path / "masks").mkdir()
    save_file(base, tmp_path / "base.safetensors")
    for seed, task in enumerate(("one", "two"), 10):
        tune = {name: tensor + normal(seed, *tensor.shape) for name, tensor in base.items()}
        save_file(tune, tmp_path / f"tunes/{task}.safetensors")
        mask = {name: normal(seed + 5, *tensor.shape) > 0 for name, tensor in base.items()}
        save_file(mask, tmp_path / f"masks/{task}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), prog_name="tvcodec")


def encode(*words: str, models: bool = True) -> Result:
    given = ("base.safetensors", "one=tunes/one.safetensors", "two=tunes/two.safetensors")
    return run("encode", *(given if models else ()), "-o", "bank.tvq", "--force", *words)


def written(*words: str, models: bool = True) -> dict[str, object]:
    """The recipe that is in the file."""
    result = encode(*words, models=models)
    assert result.exit_code == 0, result.output
    with tvcodec.open("bank.tvq") as bank:
        recipe: dict[str, object] = json.loads(bank.archive.index("one").metadata["recipe"])
        return recipe


def settings(recipe: SvdHybrid | Tvq) -> dict[str, object]:
    return dict(json.loads(recipe.as_metadata()["recipe"]))


def test_the_command_line_knows_all_recipes() -> None:
    assert tuple(RECIPES) == PUBLISHED


def test_each_recipe_can_be_named(here: Path) -> None:
    for name in NAMES:
        assert written("--recipe", name)["name"] == name
    assert written("--recipe", "svd_hybrid")["name"] == "svd-hybrid"


def test_options_are_settings(here: Path) -> None:
    assert written("--recipe", "tvq", "--bits", "3", "--fp16") == settings(Tvq(bits=3, fp16=True))
    words = "--energy-threshold 0.95 --max-rank 3 --no-center --no-fp16 --low-bits 5 --stages 1"
    more = "--mask-strategy majority --include-noise --noise-shrink 0.25 --basis coded --step 2"
    wanted = SvdHybrid(
        energy_threshold=0.95,
        max_rank=3,
        center=False,
        fp16=False,
        low_bits=5,
        stages=1,
        mask_strategy="majority",
        include_noise=True,
        noise_shrink=0.25,
        basis="coded",
        step=2.0,
    )
    found = written("--recipe", "svd-hybrid", *words.split(), *more.split(), "--masks", "masks")
    assert found == settings(wanted)


def test_other_settings_are_keys_and_values(here: Path) -> None:
    found = written("--recipe", "rtvq", "--set", "base_bits=4", "--set", "error_correction=no")
    assert (found["base_bits"], found["error_correction"]) == (4, False)
    assert written("--set", "quality=high") == {"name": "auto", "metric": "mse", "step": 1.0}


def test_a_file_is_read_and_overridden(here: Path) -> None:
    (here / "recipe.yaml").write_text(LIGHT_FILE)
    wanted = SvdHybrid(energy_threshold=0.95, max_rank=64, stages=3)
    assert written("--config", "recipe.yaml", models=False) == settings(wanted)
    result = encode("--config", "recipe.yaml")
    assert "svd_weighting, performance_file: for tvcodec merge, not used here" in result.stderr
    for words in (
        ("--set", "method.svd_max_rank=9"),
        ("--set", "svd_max_rank=9"),
        ("--max-rank", "9"),
    ):
        assert written("--config", "recipe.yaml", *words)["max_rank"] == 9
    (here / "flat.yaml").write_text("recipe: tvq\nbits: 3\nhalf: 2\ngroup: 6${half}\n")
    assert encode("--config", "flat.yaml").exit_code == 2
    (here / "flat.yaml").write_text("recipe: tvq\nbits: 3\n")
    assert written("--config", "flat.yaml", "--set", "group=64")["group"] == 64


def test_fine_tunes_of_the_command_line_go_with_the_base_model_of_a_file(here: Path) -> None:
    (here / "recipe.yaml").write_text(LIGHT_FILE)
    words = ("--config", "recipe.yaml", "-o", "bank.tvq", "--force")
    for given in (
        ["three=tunes/one.safetensors"],
        ["a=tunes/two.safetensors", "b=tunes/one.safetensors"],
    ):
        result = run("encode", *given, *words)
        assert result.exit_code == 0, result.output
        with tvcodec.open("bank.tvq") as bank:
            assert list(bank.tasks) == [text.partition("=")[0] for text in given]
    run("encode", "tunes/one.safetensors", "a=tunes/two.safetensors", *words)
    with tvcodec.open("bank.tvq") as bank:  # a base model that is given comes before the file's
        whole = load_file("tunes/one.safetensors")
        assert set(bank.decode("a", whole)) == set(whole)


def test_masks_come_from_the_file_or_the_command_line(here: Path) -> None:
    (here / "recipe.yaml").write_text("method: svd_hybrid\nmask_dir: masks\n")
    encode("--config", "recipe.yaml")
    one = (here / "bank.tvq").read_bytes()
    encode("--recipe", "svd-hybrid", "--masks", "masks")
    assert (here / "bank.tvq").read_bytes() == one
    encode("--recipe", "svd-hybrid")
    assert (here / "bank.tvq").read_bytes() != one


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipe tvq --max-rank 3", "recipe 'tvq' has no setting 'max_rank'"),
        ("--recipe tvq --quality small", "recipe 'tvq' has no setting 'quality'"),
        ("--recipe tvq --bits 2.5", "setting 'bits': expected a whole number"),
        ("--max-rank 3", "recipe 'auto' has no setting 'max_rank'"),
        ("--recipe exact --step 1", "recipe 'exact' has no setting 'step'"),
        ("--exact --recipe tvq", "--recipe tvq and --exact exclude each other"),
        ("--recipe svd", "no recipe 'svd'"),
        ("--recipe tvq --masks masks", "recipe 'tvq' has no use for masks"),
        ("--masks masks", "recipe 'auto' has no use for masks"),
        ("--set bits", "expected KEY=VALUE, got 'bits'"),
        ("--set step=0", "step: expected a number in 0.001..1000, got 0"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(here: Path, words: str, message: str) -> None:
    result = encode(*words.split())
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (here / "bank.tvq").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: 5\n", "recipe: expected a name, got 5"),
        ("checkpoint_dir: 5\n", "checkpoint_dir: expected a path, got 5"),
        ("tasks: [null]\n", "tasks: expected names, got [None]"),
        ("size: -5\n", "size: expected bytes such as 500KB or 1.5MB, got '-5'"),
        ("step: true\n", "step: expected no truth value, got True"),
    ],
)
def test_values_of_another_kind_are_named(here: Path, text: str, message: str) -> None:
    (here / "recipe.yaml").write_text(text)
    result = encode("--config", "recipe.yaml")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_tasks_may_be_listed_with_commas(here: Path) -> None:
    (here / "recipe.yaml").write_text(
        "base_model_path: base.safetensors\ncheckpoint_dir: tunes\noutput_dir: out\n"
    )
    result = encode("--config", "recipe.yaml", "--set", "tasks=one,two", models=False)
    assert result.exit_code == 0, result.stderr
    assert "output_dir: for tvcodec merge, not used here" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: svd_hybrid\nmethod: {a: 1}\n", "duplicate key method"),
        ("- a\n- b\n", "expected keys and values, got a list"),
        ("a: ${b}\n", "expected YAML, got Interpolation key 'b' not found"),
        ("a: [\n", "expected YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(here: Path, text: str, message: str) -> None:
    (here / "recipe.yaml").write_text(text)
    result = encode("--config", "recipe.yaml")
    assert result.exit_code == 1
    assert "recipe.yaml: " in result.stderr
    assert message in result.stderr


def test_without_omegaconf_the_hint_says_what_to_install(here: Path) -> None:
    (here / "recipe.yaml").write_text(LIGHT_FILE)
    program = (
        "import sys; sys.modules['omegaconf'] = None\n"
        "from tvcodec.cli import main; main(['encode', '--config', sys.argv[1], '-o', 'x.tvq'])"
    )
    command = [sys.executable, "-c", program, str(here / "recipe.yaml")]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'tvcodec[config]'" in done.stderr


def test_missing_masks_are_named(here: Path) -> None:
    (here / "masks/two.safetensors").unlink()
    result = encode("--recipe", "tall", "--masks", "masks")
    assert result.exit_code == 1
    assert "masks/two.safetensors" in result.stderr


def test_info_shows_the_recipe(here: Path) -> None:
    encode("--recipe", "rtvq", "--set", "base_bits=4")
    text = " ".join(run("info", "bank.tvq").stdout.split())
    assert "base_bits 4, error_correction True, fp16 False, group 0, offset_bits 2" in text


def test_the_full_example_of_systems_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tasks, weights from accuracies, union masks: on the sample, with masks by the formula
    of TALL-masks."""
    from tvcodec.maths.merge.consensus import tall_mask

    whole = load_file(SAMPLE / "base.safetensors")
    base = {
        n: t for n, t in whole.items() if not n.startswith(("blocks.3", "blocks.4", "blocks.5"))
    }
    for folder in ("checkpoints", "masks"):
        (tmp_path / folder).mkdir()
    with tvcodec.open(SAMPLE / "fine-tunes.tvq") as bank:
        every = {task: bank.decode(task, whole) for task in bank.tasks}
        tunes = {task: {name: tune[name] for name in base} for task, tune in every.items()}
    floats = [name for name in base if base[name].is_floating_point()]
    taus = {
        task: {name: tune[name].float() - base[name].float() for name in floats}
        for task, tune in tunes.items()
    }
    masks: dict[str, dict[str, torch.Tensor]] = {task: {} for task in tunes}
    for name in floats:
        total = torch.stack([tau[name] for tau in taus.values()]).sum(0)
        for task, tau in taus.items():
            masks[task][name] = tall_mask(tau[name], total)
    for task, tune in tunes.items():
        save_file(tune, tmp_path / f"checkpoints/{task}.safetensors")
        save_file(masks[task], tmp_path / f"masks/{task}.safetensors")
    save_file(base, tmp_path / "base.safetensors")
    (tmp_path / "accuracies.json").write_text((SAMPLE / "perf.json").read_text())
    monkeypatch.chdir(tmp_path)

    section = (TOP / "README.md").read_text().split("## Published systems")[1]
    yaml = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    bash = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert yaml is not None
    assert bash is not None
    (tmp_path / "svd-hybrid.yaml").write_text(yaml[1])
    lines = [shlex.split(line) for line in bash[1].replace("\\\n", " ").splitlines()]
    assert [line[1] for line in lines] == ["encode", "merge"]
    for line in lines:
        result = run(*line[1:])
        assert result.exit_code == 0, result.output

    merged = load_file("merged.safetensors")
    accuracies = json.loads((tmp_path / "accuracies.json").read_text())
    powers = {task: torch.tensor(accuracies[task] / 5.0).exp() for task in tunes}
    union = {n: torch.stack([mask[n] for mask in masks.values()]).any(0) for n in floats}
    lost = energy = 0.0
    for name in floats:
        wanted = sum(powers[task] * taus[task][name] for task in tunes) * union[name]
        wanted = wanted / sum(powers.values())
        found = merged[name].float() - base[name].float()
        lost += float((found - wanted).square().sum())
        energy += float(wanted.square().sum())
    assert (lost / energy) ** 0.5 < 0.2  # of which the rounding of the merge to bfloat16 is most
    with tvcodec.open("bank.tvq") as bank:
        assert len(bank.tasks) == 8
        recipe = json.loads(bank.archive.index("mnist").metadata["recipe"])
    assert recipe == settings(SvdHybrid(energy_threshold=0.95, max_rank=64))
