"""A live module takes a task's weights in place, or stays as it was."""

from pathlib import Path

import pytest
import torch
from small_models import State, assert_same, normal
from torch import nn

import tvcodec


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


def test_a_base_model_that_lacks_a_parameter_is_refused(
    bank: tuple[Net, dict[str, State], tvcodec.Bank],
) -> None:
    module, states, opened = bank
    less = {name: tensor for name, tensor in states["base"].items() if name != "norm.bias"}
    with pytest.raises(tvcodec.BaseModelMismatch, match=r"differ: norm.bias \(not there\)"):
        opened.load_into(module, "a", less)
    for name, tensor in module.state_dict().items():
        assert_same(tensor, states["base"][name])


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.empty(16, device="meta"), "expected a tensor in memory, got a meta one"),
        (torch.zeros(16, dtype=torch.int64), "expected floats, got torch.int64"),
        (torch.zeros(1).expand(16), "expected memory of its own for each value"),
    ],
)
def test_a_tensor_that_cannot_take_the_values_is_refused_before_any_other_is_written(
    bank: tuple[Net, dict[str, State], tvcodec.Bank], tensor: torch.Tensor, said: str
) -> None:
    module, states, opened = bank
    module.norm.weight = nn.Parameter(tensor, requires_grad=False)
    with pytest.raises(tvcodec.CheckpointError, match=f"'a': parameter 'norm.weight': {said}"):
        opened.load_into(module, "a", states["base"])
    assert_same(module.state_dict()["embed.weight"], states["base"]["embed.weight"])


def test_views_and_transposes_are_written_in_their_place(
    bank: tuple[Net, dict[str, State], tvcodec.Bank],
) -> None:
    module, states, opened = bank
    around = torch.zeros(20, 50)
    module.embed.weight.data = around[2:18, 10:40].T  # and so that of the head, which is tied
    opened.load_into(module, "a", states["base"])
    assert_same(module.state_dict()["head.weight"].contiguous(), states["a"]["head.weight"])
    assert int(around.count_nonzero()) == int(states["a"]["head.weight"].count_nonzero())
    assert module.embed.weight.requires_grad


def test_a_task_that_unties_weights_is_refused_by_a_module_that_ties_them(
    bank: tuple[Net, dict[str, State], tvcodec.Bank], tmp_path: Path
) -> None:
    """As an adapter of the embeddings does: one of the two values would win."""
    module, states, _ = bank
    tune = {**states["base"], "embed.weight": states["a"]["embed.weight"]}
    tvcodec.encode(states["base"], {"c": tune}, tmp_path / "c.tvq", recipe=tvcodec.EXACT)
    with tvcodec.open(tmp_path / "c.tvq") as opened:
        with pytest.raises(
            tvcodec.CheckpointError, match=r"'head.weight': expected memory apart from 'embed"
        ):
            opened.load_into(module, "c", states["base"])
        assert_same(module.state_dict()["embed.weight"], states["base"]["embed.weight"])
        module.head.weight = nn.Parameter(module.embed.weight.detach().clone())
        opened.load_into(module, "c", states["base"])
    for name, tensor in module.state_dict().items():
        assert_same(tensor, tune[name])


def test_a_damaged_file_leaves_the_module_as_it_was(
    bank: tuple[Net, dict[str, State], tvcodec.Bank],
) -> None:
    module, states, opened = bank
    *_, (section, offset) = opened.archive.sections("a")
    path = Path(opened.archive.path)
    data = bytearray(path.read_bytes())
    data[offset + section.length - 1] ^= 1
    path.write_bytes(data)
    before = copied(module)
    with tvcodec.open(path) as damaged, pytest.raises(tvcodec.FormatError):
        damaged.load_into(module, "a", states["base"])
    for name, tensor in module.state_dict().items():
        assert_same(tensor, before[name])
