"""Whatever a fine-tune did to its base model comes back from a real file."""

import functools
from pathlib import Path

import children
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from round_trip import Coder
from safetensors.torch import load_file, save_file
from small_models import FLOATS, State, assert_same, bits, changed, normal, pairs, relative_error

import tvcodec
from tvcodec import EXACT, QUALITIES, Recipe
from tvcodec.errors import BaseModelMismatch
from tvcodec.parameter import one_task
from tvcodec.remeasure import remeasure

BASE = normal(0, 96, 64)
TUNED = BASE + normal(1, 96, 64, scale=0.01)
recipes = st.sampled_from([*QUALITIES.values(), Recipe(step=0.1), Recipe(gain=0.5)])
each_quality = pytest.mark.parametrize("quality", QUALITIES)
each_recipe = pytest.mark.parametrize(
    "recipe", [EXACT, QUALITIES["small"], QUALITIES["high"]], ids=["exact", "small", "high"]
)
EPSILON = {dtype: torch.finfo(dtype).eps for dtype in FLOATS}


@settings(max_examples=20)
@given(drawn=pairs(), recipe=recipes)
def test_any_fine_tune_comes_back(
    coded: Coder, drawn: tuple[State, dict[str, State]], recipe: Recipe
) -> None:
    base, tunes = drawn
    result = coded(base, tunes, recipe)
    for task in result.summary.tasks:
        restored, vectors = result.restored[task.name], result.task_vectors[task.name]
        assert set(restored) == set(base)
        lost = energy = 0.0
        for name, original in base.items():
            tune, found = tunes[task.name][name], restored[name]
            assert (found.dtype, found.shape) == (tune.dtype, tune.shape)
            tau = (tune.double() - original.double()).float().double()
            decoded = vectors[name].double() if name in vectors else torch.zeros_like(tau)
            if not tau.any():
                assert name not in vectors
                assert_same(found, tune)
            near = original.double() + decoded
            slack = EPSILON[tune.dtype] * near.abs() + 1e-6 * decoded.abs() + 1e-7
            assert (found.double() - near).abs().le(slack).all()
            lost += float((decoded - tau).square().sum())
            energy += float(tau.square().sum())
        measured = (lost / energy) ** 0.5 if energy else 0.0
        assert task.error == pytest.approx(measured, rel=1e-3, abs=1e-5)


@settings(max_examples=20)
@given(drawn=pairs())
def test_any_fine_tune_comes_back_bit_for_bit(
    coded: Coder, drawn: tuple[State, dict[str, State]]
) -> None:
    base, tunes = drawn
    result = coded(base, tunes, EXACT)
    for name, tune in tunes.items():
        assert set(result.restored[name]) == set(tune)
        for parameter, tensor in tune.items():
            assert_same(result.restored[name][parameter], tensor)
    assert all(task.error == 0 for task in result.summary.tasks)


@st.composite
def special(draw: st.DrawFn) -> tuple[State, State]:
    """Floats with odd bits: NaNs of any payload, infinities, zeros of both signs, subnormals."""
    dtype = draw(st.sampled_from(FLOATS))
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    least = torch.iinfo(integer).min
    inf = int(torch.tensor(float("inf"), dtype=dtype).view(integer))
    one = int(torch.tensor(1.0, dtype=dtype).view(integer))
    payload = torch.iinfo(integer).max - inf
    magnitude = (
        st.sampled_from([0, 1, 2, one, one + 1, inf])
        | st.integers(1, payload).map(lambda n: inf + n)
        | st.integers(0, payload)
    )
    number = st.tuples(magnitude, st.booleans()).map(lambda t: t[0] + least if t[1] else t[0])
    count = draw(st.integers(1, 40))
    made = []
    for _ in range(2):
        values = draw(st.lists(number, min_size=count, max_size=count))
        made.append({"w": torch.tensor(values, dtype=integer).view(dtype)})
    return made[0], made[1]


@given(special())
def test_exact_keeps_odd_bits_through_a_file(coded: Coder, drawn: tuple[State, State]) -> None:
    base, tune = drawn
    restored = coded(base, {"a": tune, "b": base, "c": tune}, EXACT).restored
    assert_same(restored["a"]["w"], tune["w"])
    assert_same(restored["b"]["w"], base["w"])
    assert_same(restored["c"]["w"], tune["w"])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_exact_keeps_the_largest_numbers(coded: Coder, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    base = {"w": torch.tensor([most, 0.0, -most, 1.0], dtype=dtype)}
    tune = {"w": torch.tensor([-most, most, 0.0, most / 2], dtype=dtype)}
    restored = coded(base, {"a": tune, "b": {"w": -tune["w"]}}, EXACT).restored
    assert_same(restored["a"]["w"], tune["w"])


@each_recipe
def test_added_values_that_are_no_numbers(coded: Coder, recipe: Recipe) -> None:
    """An attention mask with -inf, say: exact keeps it, the others say where it is."""
    tune = {"w": TUNED, "mask": torch.tensor([0.0, float("-inf"), float("nan")])}
    if recipe is not EXACT:
        with pytest.raises(tvcodec.CheckpointError, match=r"'mask'.*got -inf at \[1\]"):
            coded({"w": BASE}, {"a": tune}, recipe)
        return
    restored = coded({"w": BASE}, {"a": tune}, recipe).restored["a"]
    assert_same(restored["mask"], tune["mask"])


@each_recipe
@pytest.mark.parametrize("place", ["base", "tune"])
def test_lossy_refuses_what_is_no_number(coded: Coder, recipe: Recipe, place: str) -> None:
    states = {"base": {"w": BASE.clone()}, "tune": {"w": TUNED.clone()}}
    states[place]["w"][5, 7] = float("nan")
    if recipe is EXACT:
        found = coded(states["base"], {"a": states["tune"]}, recipe).restored["a"]["w"]
        assert_same(found, states["tune"]["w"])
        return
    where = "base model" if place == "base" else "task 'a'"
    with pytest.raises(tvcodec.CheckpointError, match=rf"{where}.*'w'.*got nan at \[5, 7\]"):
        coded(states["base"], {"a": states["tune"]}, recipe)


@each_recipe
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_single_values(coded: Coder, recipe: Recipe, dtype: torch.dtype) -> None:
    base = {"s": torch.tensor(1.5, dtype=dtype), "v": torch.tensor([-2.0], dtype=dtype)}
    tune = {name: value * 2 for name, value in base.items()}
    restored = coded(base, {"a": tune}, recipe).restored["a"]
    for name, value in tune.items():
        assert restored[name].shape == value.shape
        assert relative_error(restored[name], value) < 0.01


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-23, 1e-19, 1e-12, 1e6, 1e15, 1e33])
@pytest.mark.parametrize("shape", [(128, 48), (300,)])
def test_task_vectors_of_any_size(coded: Coder, scale: float, shape: tuple[int, ...]) -> None:
    """Squares of most of these are none that float32 has."""
    base, tune = {"w": torch.zeros(shape)}, {"w": normal(1, *shape, scale=scale)}
    for recipe in (Recipe(step=0.5), *QUALITIES.values()):
        result = coded(base, {"a": tune}, recipe)
        found, error = result.restored["a"]["w"], result.summary.tasks[0].error
        assert torch.isfinite(found).all()
        assert error == pytest.approx(relative_error(found, tune["w"]), rel=1e-3, abs=1e-6)
        assert error <= (0.3 if recipe.step == 0.5 else 1)
        with tvcodec.open(result.path) as bank:
            assert remeasure(bank, base, "a", tune).differences == []
            assert remeasure(bank, base, "a", {"w": 1.5 * tune["w"]}).differences


@pytest.mark.parametrize(
    ("before", "after"), [(0.0, 1e-60), (1.0, 1 + 2**-52), (0.0, -0.0), (1e-300, 0.0), (0.0, 1e-45)]
)
@pytest.mark.parametrize("shape", [(9,), (80, 60)])
def test_the_least_of_differences_comes_back(
    coded: Coder, before: float, after: float, shape: tuple[int, ...]
) -> None:
    """Where float32 has none, the parameter is stored bit for bit."""
    base = {"w": torch.full(shape, before, dtype=torch.float64), "v": BASE}
    tune = {"w": base["w"].clone(), "v": TUNED}
    tune["w"].view(-1)[3] = after
    for both in (base, tune), ({"w": base["w"]}, {"w": tune["w"]}):
        result = coded(both[0], {"a": both[1]})
        assert torch.isfinite(result.restored["a"]["w"]).all()
        if abs(before - after) < 1e-45:
            assert_same(result.restored["a"]["w"], tune["w"])
        with tvcodec.open(result.path) as bank:
            assert remeasure(bank, both[0], "a", both[1]).differences == []


def test_a_task_vector_too_large_for_float32_is_refused(coded: Coder) -> None:
    base, tune = torch.full((3, 4), 3e38), torch.full((3, 4), -3e38)
    with pytest.raises(tvcodec.CheckpointError, match=r"norm 1e\+36 at most, got inf") as caught:
        coded({"w": base}, {"a": {"w": tune}})
    assert "--exact" in str(caught.value.hint)
    assert_same(coded({"w": base}, {"a": {"w": tune}}, EXACT).restored["a"]["w"], tune)


@pytest.mark.parametrize(("scale", "most"), [(1e-3, 3e-4), (1e6, 1.6e-3)])
def test_fine_steps_over_wide_ranges_fit_half_precision(
    coded: Coder, scale: float, most: float
) -> None:
    """Half precision rounds each value, to 2^-12 of it at most; where it has no room, codes of 16
    bits round all to one step, 200 / 32767 of 1 here: an error of 200 / 32767 / sqrt(12) = 1.76e-3,
    beside a root mean square of sqrt(1 + 200^2 / 300^2) = 1.2."""
    tau = normal(1, 300, 300, scale=scale)
    tau[0, 0] = 200 * scale
    base = normal(2, 300, 300, scale=scale)
    result = coded({"w": base}, {"a": {"w": base + tau}}, Recipe(step=2**-14))
    assert result.stored_bytes("a") <= 2 * tau.numel() + 8
    assert relative_error(result.task_vectors["a"]["w"], base + tau - base) < most


def test_unchanged_tensors_take_no_bytes(coded: Coder) -> None:
    base = {"w": BASE, "v": normal(5, 5000), "n": torch.arange(9), "h": BASE.bfloat16()}
    half = {**base, "w": TUNED}
    same = {name: value.clone() for name, value in base.items()}
    result = coded(base, {"half": half, "same": same})
    assert result.stored_bytes("same") == 0
    assert result.task_vectors["same"] == {}
    assert set(result.task_vectors["half"]) == {"w"}
    summary = {task.name: task for task in result.summary.tasks}
    assert summary["same"].error == 0
    assert summary["same"].bytes < 250
    with tvcodec.open(result.path) as bank:
        index = bank.archive.index("half")
        assert [entry.parameter for entry in index.entries] == [sorted(base).index("w")]
        assert not index.small
        assert not index.replaced
    exact = coded(base, {"same": same}, EXACT, name="exact.tvq")
    assert exact.stored_bytes("same") == 0


def test_frozen_rows_take_a_bit_each(coded: Coder) -> None:
    base = normal(3, 4000, 48)
    tune = base.clone()
    tune[::100] += normal(4, 40, 48, scale=0.01)
    for recipe in (QUALITIES["small"], QUALITIES["high"]):
        result = coded({"w": base}, {"a": {"w": tune}}, recipe)
        assert result.stored_bytes("a") < 40 * 48 + 4000 / 8 + 16
        frozen = torch.ones(4000, dtype=torch.bool)
        frozen[::100] = False
        assert torch.equal(result.restored["a"]["w"][frozen], base[frozen])


def test_rows_are_left_out_where_no_part_has_codes(coded: Coder) -> None:
    """Factors of some rows, a residual of others."""
    tau = normal(1, 4000, 64, scale=1e-4)
    tau[::10] += 20 * normal(2, 400, 1) @ normal(3, 1, 64)
    tau[5:2005:10] += 5 * normal(4, 200, 64)
    base = {"w": normal(0, 4000, 64)}
    tunes = {"t": {"w": base["w"] + tau}}
    found = coded(base, tunes, Recipe(metric="mse", step=1.0))
    with tvcodec.open(found.path) as bank:
        (section, _), *_ = bank.archive.sections("t")
        assert len(section.parts) > 1
        assert 500 < section.mask.kept < 1000
    error = relative_error(found.task_vectors["t"]["w"], tau)
    assert section.error == pytest.approx(error, rel=1e-3)
    assert error < 0.1


@pytest.mark.parametrize("frozen", [0, 500])
def test_rows_without_codes_take_a_bit_each(
    coded: Coder, monkeypatch: pytest.MonkeyPatch, frozen: int
) -> None:
    """Most rows hardly changed, as those of words that a task does not have; some not at all."""
    base = {"words": normal(0, 4000, 64)}
    tau = normal(1, 4000, 64, scale=1e-4)
    tau[:frozen] = 0
    tau[3000::3] += normal(2, 334, 2) @ normal(3, 2, 64)
    tunes = {"t": {"words": base["words"] + tau}}
    recipe = Recipe(metric="mse", step=1.0)
    found = coded(base, tunes, recipe)
    with tvcodec.open(found.path) as bank:
        (section, _), *_ = bank.archive.sections("t")
        assert section.mask.kept == 334
    size = found.path.stat().st_size
    monkeypatch.setattr(one_task, "MASKED", 0.0)
    plain = coded(base, tunes, recipe)
    assert size < plain.path.stat().st_size
    vectors = [one.task_vectors["t"]["words"] for one in (found, plain)]
    torch.testing.assert_close(*vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(one.restored["t"]["words"] for one in (found, plain)))
    assert relative_error(vectors[0], tau) < 0.2


@pytest.mark.parametrize("kind", ["noise", "outlier", "one value", "constant", "low rank"])
@pytest.mark.parametrize("shape", [(1,), (40,), (5000,), (64, 64), (100, 90), (16, 8, 3, 3)])
@each_quality
def test_no_parameter_costs_more_than_half_precision(
    coded: Coder, kind: str, shape: tuple[int, ...], quality: str
) -> None:
    base = normal(0, *shape)
    tune = changed(1, kind, base)
    if torch.equal(tune, base):
        return
    result = coded({"w": base}, {"a": {"w": tune}}, QUALITIES[quality])
    assert result.stored_bytes("a") <= 2 * base.numel() + 8


def test_tasks_that_repeat_decode_alike(coded: Coder) -> None:
    result = coded({"w": BASE}, {"a": {"w": TUNED}, "b": {"w": TUNED.clone()}})
    assert_same(result.restored["a"]["w"], result.restored["b"]["w"])
    with tvcodec.open(result.path) as bank:
        assert bank.similarity()[0][1] == pytest.approx(1.0, abs=0.3)


@each_recipe
def test_integers_and_truth_values_are_kept_where_they_differ(coded: Coder, recipe: Recipe) -> None:
    base = {
        "w": BASE,
        "ids": torch.arange(512).view(1, 512),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(200, dtype=torch.uint8),
        "steps": torch.tensor(3),
        "wide": torch.tensor([-(2**63), 2**63 - 1]),
    }
    tune = {
        **base,
        "w": TUNED,
        "mask": torch.tensor([True, True, True]),
        "steps": torch.tensor(4),
        "wide": torch.tensor([2**63 - 1, -(2**63)]),
    }
    result = coded(base, {"a": tune, "b": base}, recipe)
    for name, tensor in base.items():
        if name != "w":
            assert_same(result.restored["a"][name], tune[name])
            assert_same(result.restored["b"][name], tensor)
    assert result.stored_bytes("b") == 0
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base)
        assert_same(merged["steps"], base["steps"])
        assert_same(merged["mask"], base["mask"])


@each_recipe
def test_tied_weights_are_stored_once(coded: Coder, recipe: Recipe) -> None:
    base: State = {"embed": BASE, "head": BASE, "w": normal(7, 80, 50)}
    tune: State = {"embed": TUNED, "head": TUNED, "w": base["w"]}
    tied = coded(base, {"a": tune}, recipe)
    single = [{n: t for n, t in state.items() if n != "head"} for state in (base, tune)]
    alone = coded(single[0], {"a": single[1]}, recipe, name="alone.tvq")
    assert tied.stored_bytes("a") == alone.stored_bytes("a")
    assert_same(tied.restored["a"]["head"], tied.restored["a"]["embed"])
    assert bits(tied.restored["a"]["head"]) != bits(BASE)
    assert_same(tied.restored["a"]["head"], alone.restored["a"]["embed"])


@each_recipe
@pytest.mark.parametrize("change", ["rows", "dtype", "untied", "one frozen"])
def test_tied_weights_that_change_their_kind(coded: Coder, recipe: Recipe, change: str) -> None:
    base: State = {"embed": BASE, "head": BASE}
    other = BASE + normal(9, 96, 64, scale=0.01)
    both = {"rows": torch.cat([TUNED, normal(8, 3, 64)]), "dtype": TUNED.bfloat16()}.get(change)
    second = {"untied": other, "one frozen": BASE}
    tune = (
        {"embed": TUNED, "head": second[change]} if both is None else {"embed": both, "head": both}
    )
    restored = coded(base, {"a": tune}, recipe).restored["a"]
    for name, tensor in tune.items():
        assert (restored[name].dtype, restored[name].shape) == (tensor.dtype, tensor.shape)
        if recipe is EXACT:
            assert_same(restored[name], tensor)
    assert torch.equal(restored["embed"], restored["head"]) == (both is not None)


@each_recipe
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_merges_of_tied_and_untied_tasks(
    coded: Coder, recipe: Recipe, order: tuple[str, str]
) -> None:
    base = {"embed": BASE, "head": BASE}
    tied = {"embed": TUNED, "head": TUNED}
    untied = {name: BASE + normal(n, 96, 64, scale=0.01) for n, name in [(8, "embed"), (9, "head")]}
    result = coded(base, dict(zip(order, (tied, untied), strict=True)), recipe)
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base, {"a": 0.25, "b": 0.75})
        for name in base:
            expected = base[name] + 0.25 * result.task_vectors["a"][name]
            expected = expected + 0.75 * result.task_vectors["b"][name]
            assert relative_error(merged[name] - base[name], expected - base[name]) < 1e-4


def test_merges_of_small_and_large_codings_of_a_parameter(coded: Coder) -> None:
    """One task's parameter goes with the small ones, the other's has factors of its own."""
    base = normal(0, 64, 64)
    even = base + torch.where(normal(1, 64, 64) > 0, 0.01, -0.01)
    peaked = base + torch.outer(normal(2, 64) ** 3, normal(3, 64) ** 3) * 0.01
    result = coded({"w": base}, {"a": {"w": even}, "b": {"w": peaked}}, Recipe(step=0.25))
    with tvcodec.open(result.path) as bank:
        assert bank.archive.index("a").small is not None
        assert bank.archive.index("b").entries
        merged = bank.merge({"w": base}, "a=0.5,b=0.5")["w"]
    vectors = [result.task_vectors[task]["w"] for task in "ab"]
    assert relative_error(merged - base, (vectors[0] + vectors[1]) / 2) < 1e-4


@each_recipe
def test_added_missing_and_reshaped_parameters(coded: Coder, recipe: Recipe) -> None:
    base = {
        "w": BASE,
        "gone": normal(5, 9),
        "head": normal(6, 10, 64),
        "kind": torch.arange(4),
        "fewer": normal(7, 8, 3),
    }
    tune = {
        "w": TUNED,
        "head": normal(8, 64, 7),
        "kind": torch.arange(4.0),
        "fewer": base["fewer"][:5].clone(),
        "new.weight": normal(9, 5, 4).half(),
        "new.scale": torch.tensor(0.5),
        "new.steps": torch.tensor(7),
        "new.empty": torch.zeros(0, 3),
        "new.flag": torch.tensor([True, False]),
    }
    result = coded(base, {"a": tune}, recipe)
    restored = result.restored["a"]
    assert set(restored) == set(tune)
    for name in set(tune) - {"w"}:
        assert_same(restored[name], tune[name])
    notes = "\n".join(result.summary.tasks[0].notes)
    for name in ("gone", "head", "kind", "fewer", "new.weight", "new.steps"):
        assert f"{name}: " in notes
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base)
        assert set(merged) == set(base)
        for name in ("gone", "head", "kind", "fewer"):
            assert_same(merged[name], base[name])


@each_recipe
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_extra_rows_are_kept_and_common_ones_coded(
    coded: Coder, recipe: Recipe, dtype: torch.dtype
) -> None:
    base = {"w": BASE.to(dtype), "v": normal(3, 6).to(dtype)}
    extra = {"w": normal(4, 5, 64).to(dtype), "v": normal(5, 2).to(dtype)}
    common = {"w": TUNED.to(dtype), "v": (base["v"] * 1.1).to(dtype)}
    tune = {name: torch.cat([common[name], extra[name]]) for name in base}
    result = coded(base, {"a": tune}, recipe)
    for name, tensor in tune.items():
        found = result.restored["a"][name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert_same(found[len(base[name]) :], extra[name])
        if recipe is EXACT:
            assert_same(found, tensor)
        assert result.task_vectors["a"][name].shape == base[name].shape
    with tvcodec.open(result.path) as bank:
        assert bank.merge(base)["w"].shape == (96, 64)
    assert result.stored_bytes("a") < base["w"].nbytes


@each_recipe
@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("frozen", [True, False])
def test_fine_tunes_of_another_dtype(
    coded: Coder, recipe: Recipe, to: torch.dtype, frozen: bool
) -> None:
    base = {"w": BASE, "v": normal(3, 50)}
    tune = {"w": (BASE if frozen else TUNED).to(to), "v": (base["v"] * 1.1).to(to)}
    restored = coded(base, {"a": tune}, recipe).restored["a"]
    for name, tensor in tune.items():
        assert (restored[name].dtype, restored[name].shape) == (tensor.dtype, tensor.shape)
        if recipe is EXACT:
            assert_same(restored[name], tensor)
        assert relative_error(restored[name], tensor) < 0.15


@pytest.mark.parametrize("shape", [(40,), (96, 64), (64, 80)])
@each_quality
def test_double_precision_is_not_lost(coded: Coder, shape: tuple[int, ...], quality: str) -> None:
    """A change of 1e-9 is far below what float32 resolves beside weights of 1."""
    base = normal(0, *shape).double()
    tune = base + normal(1, *shape, scale=1e-9).double()
    result = coded({"w": base}, {"a": {"w": tune}}, QUALITIES[quality])
    found = result.restored["a"]["w"] - base
    wanted = tune - base
    recorded = result.summary.tasks[0].error
    assert relative_error(found, wanted) == pytest.approx(recorded, rel=1e-2, abs=1e-6)
    with tvcodec.open(result.path) as bank:
        merged = bank.merge({"w": base})["w"]
    assert_same(merged, result.restored["a"]["w"])


def test_another_base_model_is_refused_and_nothing_written(coded: Coder, tmp_path: Path) -> None:
    base = {f"p{n}": normal(n, 40, 30) for n in range(9)}
    tune = {name: value + 0.01 for name, value in base.items()}
    path = coded(base, {"a": tune}).path
    wrong = {name: value.clone() for name, value in base.items()}
    for name in ("p3", "p5"):
        wrong[name][7, 7] = torch.nextafter(wrong[name][7, 7], torch.tensor(9.0))
    less = {name: value for name, value in base.items() if name != "p4"}
    other_dtype = {
        name: value.bfloat16() if name == "p6" else value for name, value in base.items()
    }
    other = {name: value + 1 for name, value in base.items()}
    cases = [
        (wrong, "2 of 9 parameters differ: p3, p5"),
        (less, r"1 of 9 parameters differ: p4 \(not there\)"),
        (other_dtype, "1 of 9 parameters differ: p6"),
        (other, r"9 of 9 parameters differ: p0, p1, p2, p3, p4, \.\.\."),
    ]
    before = sorted(tmp_path.iterdir())
    with tvcodec.open(path) as bank:
        for bad, message in cases:
            for name in ("new.safetensors", "new"):
                with pytest.raises(BaseModelMismatch, match=message):
                    bank.decode("a", bad).save(tmp_path / name)
                with pytest.raises(BaseModelMismatch, match=message):
                    bank.merge(bad).save(tmp_path / name)
        one = bank.decode("a", wrong, parameters="p1")
        assert torch.isfinite(one["p1"]).all()  # untouched parameters are not asked for
    assert sorted(tmp_path.iterdir()) == before


@each_recipe
def test_recorded_errors_are_those_measured_again(coded: Coder, recipe: Recipe) -> None:
    base = {
        "big": normal(0, 200, 150),
        "bf16": normal(1, 90, 80).bfloat16(),
        "norm": normal(2, 64),
        "tied": normal(0, 200, 150),
        "rows": normal(3, 50, 20),
    }
    tune = {name: changed(n, "noise", value) for n, (name, value) in enumerate(base.items())}
    tune["tied"] = tune["big"]
    tune["rows"] = torch.cat([tune["rows"], normal(4, 2, 20)])
    path = coded(base, {"a": tune}, recipe).path
    with tvcodec.open(path) as bank:
        assert remeasure(bank, base, "a", tune).differences == []
        for name in ("big", "bf16", "norm", "rows"):
            altered = {**tune, name: tune[name].clone()}
            altered[name].view(-1)[-1] += 0.5
            if name == "big":
                altered["tied"] = altered["big"]
            found = remeasure(bank, base, "a", altered).differences
            assert any(repr(name)[1:-1] in line for line in found), name


@each_recipe
def test_a_twin_that_is_no_longer_one_is_found(coded: Coder, recipe: Recipe) -> None:
    base = {"embed": BASE, "head": BASE.clone(), "w": normal(3, 70, 30)}
    tune = {"embed": TUNED, "head": TUNED.clone(), "w": base["w"] + 0.01}
    with tvcodec.open(coded(base, {"a": tune}, recipe).path) as bank:
        assert bank.archive.index("a").aliases == ((1, 0),)
        assert remeasure(bank, base, "a", tune).differences == []
        altered = {**tune, "head": tune["head"].clone()}
        altered["head"][5, 5] += 1e-3
        found = remeasure(bank, base, "a", altered).differences
        assert found == ["parameter 'head': expected the same bits as 'embed', got others"]


@pytest.mark.parametrize("value", [1e-12, -0.0])
def test_a_change_where_an_exact_task_has_none_is_found(coded: Coder, value: float) -> None:
    base = {"w": BASE, "frozen": torch.zeros(70, 30)}
    tune = {"w": TUNED, "frozen": torch.zeros(70, 30)}
    result = coded(base, {"a": tune, "same": base}, EXACT)
    altered = torch.zeros(70, 30)
    altered[5, 5] = value
    with tvcodec.open(result.path) as bank:
        for task, state in (("a", tune), ("same", base)):
            assert remeasure(bank, base, task, state).differences == []
            found = remeasure(bank, base, task, {**state, "frozen": altered}).differences
            line = "parameter 'frozen': expected the same bits, got others"
            assert line in found


def test_files_and_mappings_encode_alike(tmp_path: Path) -> None:
    base = {"w": BASE, "h": normal(3, 70, 30).bfloat16(), "n": torch.tensor(3)}
    tune = {"w": TUNED, "h": changed(4, "noise", base["h"]), "n": torch.tensor(5)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tune, tmp_path / "tune.safetensors")
    tvcodec.encode(base, {"a": tune}, tmp_path / "memory.tvq")
    tvcodec.encode(
        tmp_path / "base.safetensors", {"a": tmp_path / "tune.safetensors"}, tmp_path / "file.tvq"
    )
    assert (tmp_path / "memory.tvq").read_bytes() == (tmp_path / "file.tvq").read_bytes()
    assert torch.equal(load_file(tmp_path / "base.safetensors")["w"], BASE)


# Memory, measured in processes of their own: multiples of the largest parameter in float32.

MEMORY_PROGRAM = """
import ctypes, sys, torch
M_MMAP_THRESHOLD = -3  # what is freed goes back, and does not count
assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
def peak():  # not ru_maxrss, which starts at that of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
start = peak()
import tvcodec
command, models, quality, tasks, unit = sys.argv[1:]
recipe = tvcodec.EXACT if quality == "exact" else tvcodec.QUALITIES[quality]
bank, base = f"{models}/{quality}{tasks}.tvq", f"{models}/0.safetensors"
if command == "encode":
    tunes = {f"t{n}": f"{models}/{1 + n % 2}.safetensors" for n in range(int(tasks))}
    tvcodec.encode(base, tunes, bank, recipe=recipe, force=True)
else:
    with tvcodec.open(bank) as opened:
        opened.merge(base).save(f"{models}/{quality}.safetensors")
print((peak() - start) / int(unit))
"""
LARGE = (8192, 1024)
UNIT = 4 * LARGE[0] * LARGE[1]
LIBRARIES = (96 << 20) / UNIT  # what matrix products, eigenvectors and zstd hold on to, once


@pytest.fixture(scope="module")
def large_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("large")
    base = {"big": normal(0, *LARGE), **{f"s{n}": normal(n, 64, 64) for n in range(4)}}
    save_file(base, directory / "0.safetensors")
    for n in (1, 2):
        big = base["big"] + normal(n, *LARGE, scale=0.02)
        save_file({**base, "big": big}, directory / f"{n}.safetensors")
    return directory


@functools.cache
def peak(command: str, models: Path, quality: str, tasks: int) -> float:
    done = children.run(MEMORY_PROGRAM, command, models, quality, tasks, UNIT)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("quality", ["balanced", "exact"])
def test_peak_memory_is_bounded_by_the_largest_parameter(large_models: Path, quality: str) -> None:
    peaks = {c: peak(c, large_models, quality, 2) for c in ("encode", "merge")}
    assert max(peaks.values()) <= 2 + 4 + LIBRARIES, peaks


def test_tasks_that_share_nothing_are_not_in_memory_together(large_models: Path) -> None:
    two, four = (peak("encode", large_models, "exact", tasks) for tasks in (2, 4))
    assert four - two < 0.25 * 2
