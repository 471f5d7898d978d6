"""A live module takes a task's weights in place, or stays as it was."""

from pathlib import Path

import pytest
import torch
from conftest import State, assert_same, normal
from torch import nn

import tvcodec
from tvcodec.errors import CheckpointError


class Net(nn.Module):
    """Tied weights, a buffer, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))


def copied(module: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.fixture
def bank(tmp_path: Path) -> tuple[Net, dict[str, State], tvcodec.Bank]:
    """A module with the base model's weights, its two fine-tunes, and the exact archive of both."""
    torch.manual_seed(0)
    module = Net()
    base = copied(module)
    tunes = {}
    for seed, task in enumerate("ab", 1):
        tune = {**base, "norm.bias": normal(seed, 16), "steps": torch.tensor(seed)}
        tune["embed.weight"] = tune["head.weight"] = normal(seed, 30, 16)
        tunes[task] = tune
    tvcodec.encode(base, tunes, tmp_path / "bank.tvq", recipe=tvcodec.EXACT)
    return module, {"base": base, **tunes}, tvcodec.open(tmp_path / "bank.tvq")


def test_tasks_are_swapped_in_place(bank: tuple[Net, dict[str, State], tvcodec.Bank]) -> None:
    module, states, opened = bank
    before = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    for task in ("a", "b", "a"):
        opened.load_into(module, task, states["base"])
        for name, tensor in module.state_dict().items():
            assert_same(tensor, states[task][name])
            assert tensor.data_ptr() == before[name]


@pytest.mark.parametrize("kind", ["its own", "one of them", "a view"])
def test_a_base_model_that_would_change_under_the_reader_is_refused(
    bank: tuple[Net, dict[str, State], tvcodec.Bank], kind: str
) -> None:
    module, states, opened = bank
    live = dict(module.state_dict())
    base: State = {
        "its own": live,
        "one of them": {**states["base"], "norm.bias": live["norm.bias"]},
        "a view": {name: tensor.view(tensor.shape) for name, tensor in live.items()},
    }[kind]
    with pytest.raises(tvcodec.CheckpointError, match="expected a base model apart from") as caught:
        opened.load_into(module, "a", base)
    assert "copy" in str(caught.value.hint)
    for name, tensor in module.state_dict().items():
        assert_same(tensor, states["base"][name])


def test_another_architecture_is_refused_and_left_alone(
    bank: tuple[Net, dict[str, State], tvcodec.Bank],
) -> None:
    module, states, opened = bank
    module.norm = nn.LayerNorm(15)
    with pytest.raises(
        tvcodec.CheckpointError, match=r"'a': parameter 'norm.bias': .*\[16\], got \[15\]"
    ):
        opened.load_into(module, "a", states["base"])
    del module.norm
    with pytest.raises(tvcodec.CheckpointError, match=r"'a': parameter 'norm.bias': .* without"):
        opened.load_into(module, "a", states["base"])
    assert_same(module.state_dict()["embed.weight"], states["base"]["embed.weight"])


def test_another_base_model_is_refused_and_the_module_left_alone(
    bank: tuple[Net, dict[str, State], tvcodec.Bank],
) -> None:
    module, states, opened = bank
    last = max(states["base"])
    wrong = {**states["base"], last: states["base"][last] + 1}
    with pytest.raises(tvcodec.BaseModelMismatch, match=f"1 of 5 parameters differ: {last}"):
        opened.load_into(module, "a", wrong)
    for name, tensor in module.state_dict().items():
        assert_same(tensor, states["base"][name])


def test_a_module_that_ties_what_the_fine_tune_does_not_is_refused(
    bank: tuple[Net, dict[str, State], tvcodec.Bank], tmp_path: Path
) -> None:
    module, states, _ = bank
    apart = {**states["a"], "head.weight": states["a"]["head.weight"] + 1}
    tvcodec.encode(states["base"], {"a": apart}, tmp_path / "apart.tvq", recipe=tvcodec.EXACT)
    before = copied(module)
    with tvcodec.open(tmp_path / "apart.tvq") as opened:
        with pytest.raises(CheckpointError, match="got one that ties them"):
            opened.load_into(module, "a", states["base"])
        opened.load_into(module, None, states["base"])
    for name, tensor in module.state_dict().items():
        assert_same(tensor, before[name])
