"""The benchmark beside other packages, at toy size: its models, and our side of what it runs."""

import json

import difference
import growth
import models
import peers
import processes
import pytest
import roofline
import torch
from safetensors.torch import load_file

import tvcodec


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
        used = processes.launched(side.command)
        assert min(used.seconds, used.processors) > 0
        assert used.memory > 20e6
        assert used.read >= processes.size(made / "base/model.safetensors")
        assert used.written >= processes.size(side.output)
        assert difference.difference(loaded(side.output), wanted, base) < 1e-4
        assert peers.difference(side.output, made / "tasks/task0", made / "base") > 0.1
    assert side.name == "tvcodec, exact"


def test_the_table_has_the_ratios_of_medians():
    runs = [processes.Used(seconds, 45e6, 1, 9e6, 0) for seconds in (1.0, 2.0, 9.0)]
    idle = processes.Used(1, 20e6, 1, 2e6, 0)
    mine = peers.Merged("mine", runs, idle, method="tsvm", difference=0.5)
    theirs = peers.Merged("theirs", [processes.Used(20, 450e6, 20, 0, 0)], idle, method="tsvm")
    line = next(line for line in peers.table([mine, theirs]).splitlines() if "mine" in line)
    for cell in (" 0.10 ", " 45 ", " 7 ", "2.00 (1.00-9.00)"):
        assert cell in line


def test_growth_is_told_by_task_and_beyond_the_imports():
    idle = processes.Used(1, 0, 3.0, 5e6, 0)
    runs = [processes.Used(seconds, 7e6, 11.0, 25e6, 4e6) for seconds in (6.0, 5.0, 9.0)]
    row = growth.Grown("step 2", runs, idle, what="encode", tasks=4)
    cells = growth.table([row]).splitlines()[-1].split("  ")
    found = [cell.strip() for cell in cells if cell.strip()]
    assert found == ["encode", "step 2", "4", "6.00 (5.00-9.00)", "8.0", "2.0", "7", "20", "4"]


def test_a_bound_counts_each_multiply_add_of_factors(tmp_path):
    base = {
        "thin": torch.randn(256, 128),
        "rows": torch.randn(900, 256),
        "bias": torch.randn(64),
        "same": torch.randn(8, 8),
    }
    masked = torch.zeros(900, 256)
    masked[100:300] = torch.randn(200, 2) @ torch.randn(2, 256)
    tune = {
        "thin": base["thin"] + torch.randn(256, 3) @ torch.randn(3, 128),
        "rows": base["rows"] + masked,
        "bias": base["bias"] + 1,
        "same": base["same"],
    }
    bank = tmp_path / "a.tvq"
    tvcodec.encode(base, {"a": tune}, bank, recipe=tvcodec.Recipe(metric="mse", step=0.5))
    assert roofline.of_factors(bank, "a") == 3 * 256 * 128 + 2 * 200 * 256
    assert roofline.Roofline(10.0, 100.0).seconds(20, 300) == 5


def test_the_toy_is_a_model_that_says_what_it_is(made):
    config = json.loads((made / "base/config.json").read_text())
    assert config["hidden_size"] == models.TOY.width
    assert set(loaded(made / "base")) == {name for name, _ in models.TOY.parameters()}
