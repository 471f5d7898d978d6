"""`info --diagnostics` counts real bytes, and says of each parameter what became of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from small_models import normal

import tvcodec
from tvcodec.cli import main
from tvcodec.encoding.published import Published, SvdHybrid, TsvC, Tvq

BASE = {"a.weight": normal(0, 40, 30), "b.weight": normal(1, 24, 16), "b.bias": normal(2, 16)}


def tunes() -> dict[str, dict[str, torch.Tensor]]:
    return {
        f"t{n}": {name: value + normal(9 + n, *value.shape) for name, value in BASE.items()}
        for n in range(4)
    }


def diagnosed(path: Path, recipe: Published | tvcodec.Recipe | None) -> dict[str, Any]:
    tvcodec.encode(BASE, tunes(), path, recipe=recipe, force=True)
    result = CliRunner().invoke(main, ["info", "--diagnostics", str(path)])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_keys_are_those_of_svd_hybrid(tmp_path: Path) -> None:
    found = diagnosed(tmp_path / "bank.tvq", SvdHybrid())
    assert set(found) == {"summary", "per_parameter"}
    assert set(found["summary"]) >= {
        "num_parameters",
        "average_rank",
        "average_energy_retained",
        "average_reconstruction_error",
        "average_compression_ratio",
    }
    for parameter in found["per_parameter"].values():
        assert {"k", "energy_retained", "mean_relative_error", "compression_ratios"} <= set(
            parameter
        )
        assert set(parameter["compression_ratios"]) == set(tunes())


def test_ratios_are_of_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    for recipe in (None, Tvq(), SvdHybrid(), TsvC(fp16=True)):
        found = diagnosed(path, recipe)["summary"]
        originals = sum(4 * value.numel() for value in BASE.values())
        assert found["compression_ratio"] == pytest.approx(4 * originals / path.stat().st_size)
        shares = sum(originals / ratio for ratio in found["compression_ratios"].values())
        assert shares == pytest.approx(path.stat().st_size)


@pytest.mark.parametrize("recipe", [Tvq(bits=3), SvdHybrid(), tvcodec.QUALITIES["high"]])
def test_parameters_add_up_to_the_file_but_for_what_is_of_no_parameter(
    tmp_path: Path, recipe: Published | tvcodec.Recipe
) -> None:
    path = tmp_path / "bank.tvq"
    found = diagnosed(path, recipe)
    total = sum(
        4 * BASE[name].numel() / ratio
        for name, row in found["per_parameter"].items()
        for ratio in row["compression_ratios"].values()
    )
    with tvcodec.open(path) as bank:
        kinds = bank.archive.bytes_by_kind()
    other = kinds["root index"] + kinds["similarity"] + 136 + 5 * 800  # empty indexes, recipes
    assert path.stat().st_size - other < total < path.stat().st_size


def test_errors_are_those_of_what_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bank.tvq"
    found = diagnosed(path, Tvq(bits=2))
    with tvcodec.open(path) as bank:
        for name, base in BASE.items():
            for task, tune in tunes().items():
                tau = (tune[name] - base).double()
                decoded = bank.task_vector(task)[name].double()
                error = float((decoded - tau).norm() / tau.norm())
                stated = found["per_parameter"][name]["relative_errors"][task]
                assert stated == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_ranks_and_energies_are_those_of_the_basis_or_the_factors(tmp_path: Path) -> None:
    found = diagnosed(tmp_path / "bank.tvq", SvdHybrid(energy_threshold=0.6))["per_parameter"]
    assert found["a.weight"]["k"] == 2
    assert 0.6 <= found["a.weight"]["energy_retained"] < 0.9
    assert found["b.bias"]["k"] == 0
    found = diagnosed(tmp_path / "bank.tvq", TsvC())["per_parameter"]
    assert found["a.weight"]["k"] == 7  # a quarter of 30
    error = found["a.weight"]["pooled_relative_error"]
    assert found["a.weight"]["energy_retained"] == pytest.approx(1 - error**2)


def test_what_is_not_simply_a_task_vector_is_no_obstacle(tmp_path: Path) -> None:
    base = {
        "w": normal(0, 20, 20),
        "old": normal(1, 8),
        "grown": normal(2, 6, 5),
        "n": torch.ones(3),
    }
    tune = {
        "w": (base["w"] + normal(3, 20, 20)).bfloat16(),
        "grown": normal(4, 9, 5),
        "n": torch.ones(4),
        "new": normal(5, 7),
    }
    save_file(tune, tmp_path / "tune.safetensors")
    tvcodec.encode(base, {"t": tune}, tmp_path / "bank.tvq")
    result = CliRunner().invoke(main, ["info", "--diagnostics", str(tmp_path / "bank.tvq")])
    found = json.loads(result.stdout)["summary"]
    size = sum(
        t.numel() * t.element_size() for t in load_file(tmp_path / "tune.safetensors").values()
    )
    assert found["compression_ratio"] * (tmp_path / "bank.tvq").stat().st_size == pytest.approx(
        size
    )
    assert found["num_parameters"] == 2


def test_a_parameter_lost_altogether_counts_in_the_average_error(tmp_path: Path) -> None:
    base = {"v": normal(0, 90, 64), "w": normal(1, 90, 64)}
    tune = {"v": base["v"] + 6e-3 * normal(2, 90, 64), "w": base["w"] + normal(3, 90, 64)}
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, {"a": tune}, path, recipe=tvcodec.QUALITIES["high"])
    found = json.loads(CliRunner().invoke(main, ["info", "--diagnostics", str(path)]).stdout)
    assert set(found["per_parameter"]) == {"w"}
    stored = found["per_parameter"]["w"]["mean_relative_error"]
    assert found["summary"]["average_reconstruction_error"] == pytest.approx((stored + 1) / 2)


def test_energy_retained_is_that_of_the_vectors_that_are_stored(tmp_path: Path) -> None:
    found = diagnosed(tmp_path / "bank.tvq", SvdHybrid(basis="coded", step=1.5, stages=0))
    assert found["per_parameter"]["a.weight"]["energy_retained"] < 0.85
