"""The benchmark beside other packages, at toy size: its models, and our side of what it runs."""

import json

import difference
import models
import peers
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("peers") / "models"
    models.make(root, models.TOY, models.made_up_sizes(), 3)
    return root


def loaded(folder):
    return load_file(folder / "model.safetensors")


def test_the_same_models_are_made_again(made, tmp_path):
    models.make(tmp_path, models.TOY, models.made_up_sizes(), 3)
    assert models.whole(tmp_path, 3)
    for folder in ("base", "tasks/task0", "tasks/task1", "tasks/task2"):
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / folder / file).read_bytes() == (made / folder / file).read_bytes()


def test_task_vectors_have_the_spectra_that_are_asked_for(made):
    name = "encoder.layers.1.mlp.fc1.weight"
    change = loaded(made / "tasks/task2")[name] - loaded(made / "base")[name]
    found = torch.linalg.svdvals(change)
    real = models.made_up_sizes()["up"].spectra[(13 * 2 + 1) % 3]
    wanted = models._stretched(real, 24)
    torch.testing.assert_close(found / found[0], wanted / wanted[0], rtol=0, atol=2e-3)


def test_vit_b_32_has_its_size():
    values = sum(torch.Size(dims).numel() for _, dims in models.VIT_B_32.parameters())
    assert values == 87_456_000


def test_our_side_merges_what_the_fine_tunes_themselves_give(made, tmp_path):
    base, tunes = loaded(made / "base"), [loaded(path) for path in peers.fine_tunes(made)]
    weight = peers.SCALING / len(tunes)
    wanted = {
        name: tensor + weight * sum(tune[name] - tensor for tune in tunes)
        for name, tensor in base.items()
    }
    for side in peers.ours("weighted", ["exact"], made, tmp_path):
        seconds, memory, processors = peers.launched(side.command)
        assert min(seconds, processors) > 0
        assert memory > 20e6
        assert difference.difference(loaded(side.output), wanted, base) < 1e-4
        assert peers.difference(side.output, made / "tasks/task0", made / "base") > 0.1
    assert side.name == "tvcodec, exact"


def test_the_table_has_the_ratios_of_medians():
    mine = peers.Runs("tsvm", "mine", [1.0, 2.0, 9.0], [1.0] * 3, [100, 100, 100], difference=0.5)
    theirs = peers.Runs("tsvm", "theirs", [20.0], [20.0], [450])
    line = next(line for line in peers.table([mine, theirs]).splitlines() if "mine" in line)
    for cell in ("10.0x", "4.5x", "2.00 (1.00-9.00)"):
        assert cell in line


def test_the_toy_is_a_model_that_says_what_it_is(made):
    config = json.loads((made / "base/config.json").read_text())
    assert config["hidden_size"] == models.TOY.width
    assert set(loaded(made / "base")) == {name for name, _ in models.TOY.parameters()}
