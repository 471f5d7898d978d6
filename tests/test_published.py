"""Published systems: nothing breaks any of them, and what a file says of them is true."""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from round_trip import Coder
from small_models import State, bits, changed, normal, pairs
from torch import Tensor

import tvcodec
from tvcodec import TvqError
from tvcodec.encoding.published import (
    RECIPES,
    BitDelta,
    Consensus,
    Published,
    Rtvq,
    SvdHybrid,
    Tall,
    TsvC,
    Tvq,
    published,
)
from tvcodec.errors import CheckpointError
from tvcodec.maths.dense import as_half
from tvcodec.remeasure import remeasure

EACH = [
    Tvq(bits=1),
    Tvq(bits=8, group=5, fp16=True),
    Rtvq(),
    Rtvq(error_correction=False, group=7),
    SvdHybrid(),
    SvdHybrid(center=False, fp16=False, energy_threshold=1.0),
    SvdHybrid(energy_threshold=0.0, low_bits=1, stages=15),
    SvdHybrid(basis="coded", stages=0),
    SvdHybrid(mask_strategy="majority", include_noise=True, group=3),
    SvdHybrid(mask_strategy="intersection", basis="coded"),
    Tall(),
    Tall(mask_lambda="fit", fp16=True),
    Consensus(votes=1),
    TsvC(),
    TsvC(fp16=True),
    BitDelta(fp16=True),
]
each = pytest.mark.parametrize("recipe", EACH, ids=lambda recipe: repr(recipe)[:60])
recipes = st.sampled_from(EACH)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reader_of_the_specification", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there for their module
    spec.loader.exec_module(module)
    return module


READER = _load(Path(__file__).parents[1] / "spec/reader.py")


def random_masks(seed: int, tunes: Mapping[str, State]) -> dict[str, State]:
    """Truth values for the parameters of each task; one parameter in three has none."""
    masks = {}
    for task, (name, tune) in enumerate(tunes.items()):
        masks[name] = {
            parameter: normal(seed + task, *tensor.shape) > 0.5
            for number, (parameter, tensor) in enumerate(tune.items())
            if (number + seed) % 3 or number == 0
        }
    return masks


@settings(max_examples=80)
@given(drawn=pairs(), recipe=recipes, seed=st.none() | st.integers(0, 9))
def test_nothing_that_a_fine_tune_did_breaks_a_recipe(
    tmp_path: Path, drawn: tuple[State, dict[str, State]], recipe: Published, seed: int | None
) -> None:
    base, tunes = drawn
    masks = random_masks(seed, tunes) if recipe.uses_masks and seed is not None else None
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, tunes, path, recipe=recipe, masks=masks, force=True)
    with tvcodec.open(path) as bank:
        bank.archive.verify()
        for task, tune in tunes.items():
            assert remeasure(bank, base, task, tune).differences == []
            restored = bank.decode(task, base)
            for name, tensor in tune.items():
                if bits(tensor) == bits(base[name]):
                    assert bits(restored[name]) == bits(tensor)
                assert restored[name].isfinite().all()
            error = bank.archive.record(task).error
            assert error == error


def family() -> tuple[State, dict[str, State]]:
    """Tasks with something in common, with small and odd parameters and unchanged rows among it."""
    base = {
        "w": normal(0, 40, 24),
        "conv": normal(1, 6, 5, 3, 3),
        "bias": normal(2, 24),
        "scale": normal(3),
        "line": normal(4, 1, 30),
        "frozen": normal(5, 8, 8),
    }
    tunes: dict[str, State] = {}
    for seed, task in enumerate("abcd", 10):
        tune = {name: changed(seed, "noise", tensor) for name, tensor in base.items()}
        tune["w"] = tune["w"] + normal(50, 40, 24, scale=0.02)
        tune["w"][7:29] = base["w"][7:29]
        tune["conv"] = changed(seed, "low rank", base["conv"])
        tunes[task] = {**tune, "frozen": base["frozen"]}
    return base, tunes


@each
def test_another_reader_decodes_the_same(tmp_path: Path, recipe: Published) -> None:
    base, tunes = family()
    masks = random_masks(1, tunes) if isinstance(recipe, SvdHybrid | Tall) else None
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, tunes, path, recipe=recipe, masks=masks)
    theirs = READER.File(path.read_bytes())
    theirs.verify()
    with tvcodec.open(path) as bank:
        for task in tunes:
            ours = bank.task_vector(task)
            taus = theirs.taus(task)
            assert set(ours) == {theirs.names[number] for number in taus}
            for number, tau in taus.items():
                found = ours[theirs.names[number]].numpy()
                assert np.abs(found - tau.values).max() <= READER.TOLERANCE * tau.magnitude


@each
def test_bytes_depend_neither_on_order_nor_on_threads(tmp_path: Path, recipe: Published) -> None:
    base, tunes = family()
    one, other = tmp_path / "one.tvq", tmp_path / "other.tvq"
    tvcodec.encode(base, tunes, one, recipe=recipe, jobs=1)
    tvcodec.encode(base, dict(reversed(tunes.items())), other, recipe=recipe, jobs=4)
    assert one.read_bytes() == other.read_bytes()


@each
def test_a_task_that_changed_nothing_stays_the_base_model(coded: Coder, recipe: Published) -> None:
    base, tunes = family()
    result = coded(base, {**tunes, "same": dict(base)}, recipe)
    assert result.task_vectors["same"] == {}
    assert all(bits(result.restored["same"][name]) == bits(base[name]) for name in base)


@each
def test_recipes_come_back_from_their_text(tmp_path: Path, recipe: Published) -> None:
    path = tmp_path / "bank.tvq"
    base, tunes = family()
    tvcodec.encode(base, tunes, path, recipe=recipe)
    with tvcodec.open(path) as bank:
        settings = json.loads(bank.archive.index("a").metadata["recipe"])
    text = {key: str(value) for key, value in settings.items()}
    assert published(text.pop("name"), text) == recipe


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("tvq", {"bits": "9"}, "bits: expected 1..8, got 9"),
        ("tvq", {"bits": "2.5"}, "setting 'bits': expected a whole number, got '2.5'"),
        ("tvq", {"base_bits": 2}, "recipe 'tvq' has no setting 'base_bits'"),
        ("rtvq", {"error_correction": "maybe"}, "expected true or false, got 'maybe'"),
        ("svd-hybrid", {"basis": "int8"}, "basis: expected fp16 or coded, got 'int8'"),
        ("svd-hybrid", {"energy_threshold": "nan"}, "energy_threshold: expected 0..1, got nan"),
        ("svd-hybrid", {"stages": 16}, "stages: expected 0..15, got 16"),
        ("tall", {"mask_lambda": "best"}, "mask_lambda: expected a number or 'fit', got 'best'"),
        ("svd", {}, "no recipe 'svd'"),
    ],
)
def test_settings_that_a_recipe_cannot_have_are_named(
    name: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(TvqError, match=message.replace(".", r"\.")):
        published(name, given)


def test_settings_are_read_from_text() -> None:
    assert published("tall", {"mask_lambda": "0.3", "fp16": "Yes"}) == Tall(
        mask_lambda=0.3, fp16=True
    )
    assert published("tall", {"mask_lambda": "fit"}) == Tall(mask_lambda="fit")
    assert set(RECIPES) == {
        "svd-hybrid",
        "tvq",
        "rtvq",
        "tall",
        "consensus",
        "tsv-c",
        "bitdelta",
    }


@pytest.mark.parametrize("name", ["svd-hybrid", "rtvq", "tall", "consensus", "tsv-c"])
def test_what_depends_on_all_tasks_is_not_added(tmp_path: Path, name: str) -> None:
    base, tunes = family()
    path = tmp_path / "bank.tvq"
    new = {"d": tunes.pop("d")}
    tvcodec.encode(base, tunes, path, recipe=published(name))
    before = path.read_bytes()
    read: list[int] = []
    with pytest.raises(TvqError, match=f"bank.tvq: recipe {name!r} codes a task by") as caught:
        tvcodec.add(path, base, new, recipe=published(name), progress=read.append)
    assert "together, or add by another recipe (auto, exact, tvq, bitdelta)" in caught.value.hint
    assert path.read_bytes() == before
    assert not read


def test_what_a_recipe_has_no_use_for_is_refused(tmp_path: Path) -> None:
    base, tunes = family()
    masks = random_masks(0, tunes)
    path = tmp_path / "bank.tvq"
    with pytest.raises(ValueError, match="'tvq' has no use for masks"):
        tvcodec.encode(base, tunes, path, recipe=Tvq(), masks=masks)
    with pytest.raises(ValueError, match="'auto' has no use for masks"):
        tvcodec.encode(base, tunes, path, masks=masks)
    with pytest.raises(ValueError, match="'tvq' takes no goal"):
        tvcodec.encode(base, tunes, path, recipe=Tvq(), goal=tvcodec.Goal(bits=2.0))
    with pytest.raises(ValueError, match=r"expected a mask for each task.* b, c, d"):
        tvcodec.encode(base, tunes, path, recipe=Tall(), masks={"a": masks["a"]})
    wrong: dict[str, dict[str, Tensor]] = {**masks, "b": {"w": torch.ones(3, dtype=torch.bool)}}
    with pytest.raises(CheckpointError, match=r"mask of task 'b'.*'w'.*\[40, 24\], got bool \[3\]"):
        tvcodec.encode(base, tunes, path, recipe=Tall(), masks=wrong)
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tvq(bits=2.5), "bits: expected a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: Tvq(group=True), "group: expected a whole number, got True"),
        (lambda: SvdHybrid(stages=1.5), "stages: expected a whole"),  # type: ignore[arg-type]
        (lambda: SvdHybrid(step="1"), "step: expected a number, got '1'"),  # type: ignore[arg-type]
        (lambda: Consensus(votes=1.5), "votes: expected a whole"),  # type: ignore[arg-type]
        (lambda: tvcodec.Recipe(step=0.0), "step: expected"),
        (lambda: tvcodec.Recipe(step=float("nan")), "step: expected"),
        (lambda: tvcodec.Recipe(gain=2.0), "gain: expected 0..1, got 2"),
        (lambda: tvcodec.Recipe(metric="mean"), "metric: expected mse or function, got 'mean'"),
    ],
)
def test_recipes_are_of_settings_that_mean_something(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_name_is_no_recipe(tmp_path: Path) -> None:
    base, tunes = family()
    with pytest.raises(
        ValueError, match="a Recipe, as in QUALITIES, or a published one, got 'tvq'"
    ):
        tvcodec.encode(base, tunes, tmp_path / "bank.tvq", recipe="tvq")  # type: ignore[arg-type]


def test_an_error_of_zero_is_out_of_reach(tmp_path: Path) -> None:
    base, tunes = {"w": normal(0, 80, 90)}, {"a": {"w": normal(1, 80, 90)}}
    with pytest.raises(TvqError, match="reaches error 0 per task"):
        tvcodec.encode(base, tunes, tmp_path / "bank.tvq", goal=tvcodec.Goal(max_error=0.0))


@each
def test_zeros_of_another_sign_come_back(coded: Coder, recipe: Published) -> None:
    base, tunes = family()
    base["zero"] = torch.zeros(6)
    tunes = {task: {**tune, "zero": torch.zeros(6)} for task, tune in tunes.items()}
    tunes["b"]["zero"] = -torch.zeros(6)
    restored = coded(base, tunes, recipe).restored
    assert all(bits(restored[task]["zero"]) == bits(tunes[task]["zero"]) for task in tunes)


def test_half_precision_is_for_what_it_holds() -> None:
    for value in (1e20, 1e-25):
        kept = as_half(torch.full((4,), value))
        assert kept.dtype == torch.float32
        assert kept[0] == torch.tensor(value)
    assert as_half(torch.tensor([1.5, 0.25])).dtype == torch.float16


def test_magnitudes_of_bitdelta_that_float16_cannot_hold_are_float32(coded: Coder) -> None:
    base = {"w": torch.zeros(20, 30)}
    tune = {"w": 40000 * normal(0, 20, 30).sign()}
    result = coded(base, {"a": tune}, BitDelta(fp16=True))
    assert torch.equal(result.task_vectors["a"]["w"], tune["w"])


def test_groups_larger_than_a_parameter_are_the_whole_of_it(coded: Coder) -> None:
    base, tunes = family()
    huge = coded(base, tunes, Tvq(group=2**36)).task_vectors
    whole = coded(base, tunes, Tvq()).task_vectors
    assert all(torch.equal(huge[t][name], whole[t][name]) for t in tunes for name in whole[t])
