"""What torch makes of numbers by default, which programs change, changes nothing here."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_models import State, normal

import tvcodec
from tvcodec.encoding.published import SvdHybrid, Tall, TsvC, Tvq
from tvcodec.maths.merge.methods import METHODS


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    yield request.param
    torch.set_default_dtype(torch.float32)


def state(seed: int) -> State:
    base = {"wide": normal(0, 96, 1100), "square": normal(1, 64, 64), "bias": normal(2, 700)}
    thin = normal(seed, 96, 2) @ normal(seed + 1, 2, 1100) if seed else 0
    changed = {name: one + 0.01 * normal(seed + 2, *one.shape) for name, one in base.items()}
    return base | {"wide": changed["wide"] + 0.02 * thin, "bias": changed["bias"]}


BASE, TUNES = state(0), {"ant": state(10), "bee": state(20)}
PUBLISHED = {"svd-hybrid": SvdHybrid(), "tall": Tall(), "tsv-c": TsvC(), "tvq": Tvq()}
RECIPES = {**tvcodec.QUALITIES, **PUBLISHED, "exact": tvcodec.EXACT}


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_and_what_comes_back_are_the_same(
    recipe: str, default: torch.dtype, tmp_path: Path
) -> None:
    seen = []
    for name, dtype in (("usual", torch.float32), ("other", default)):
        torch.set_default_dtype(dtype)
        path = tmp_path / name
        tvcodec.encode(BASE, TUNES, path, recipe=RECIPES[recipe])
        with tvcodec.open(path) as bank:
            seen.append((path.read_bytes(), bank.decode("ant", BASE).load()))
    (data, tensors), (other_data, other_tensors) = seen
    assert data == other_data
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("method", METHODS)
def test_merges_are_the_same(method: str, default: torch.dtype, tmp_path: Path) -> None:
    tvcodec.encode(BASE, TUNES, tmp_path / "a", recipe=tvcodec.Recipe(metric="mse", step=0.5))
    merged = []
    for dtype in (torch.float32, default):
        torch.set_default_dtype(dtype)
        with tvcodec.open(tmp_path / "a") as bank:
            merged.append(bank.merge(BASE, method=method).load())
    for name, tensor in merged[0].items():
        assert torch.equal(tensor, merged[1][name]), name
