"""What a task is decoded to, in whatever way it is asked for."""

from pathlib import Path

import pytest
import torch
from small_models import assert_same, normal

import tvcodec
from tvcodec.file import index
from tvcodec.maths.lowrank import Factors
from tvcodec.parameter.parts import Parts


def test_all_tensors_at_once_are_those_read_one_by_one(tmp_path: Path) -> None:
    """Also where a base model's parameter is not float32, and one has no values."""
    base = {"w": normal(0, 700, 900), "h": normal(1, 40, 60).half(), "b": normal(2, 9)}
    base["none"] = torch.zeros(0, 3)
    tune = {name: one + (0.01 * normal(5, *one.shape)).to(one.dtype) for name, one in base.items()}
    path = tmp_path / "bank.tvq"
    for quality in ("high", "balanced"):
        tvcodec.encode(base, {"t": tune}, path, recipe=tvcodec.QUALITIES[quality], force=True)
        with tvcodec.open(path) as bank:
            model = bank.decode("t", base)
            loaded, singly = model.load(), dict(model)
        for name, tensor in loaded.items():
            assert_same(tensor, singly[name])
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            assert tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_factors_are_added_to_a_base_model_with_one_rounding(offset: int) -> None:
    """Wherever it lies in memory."""
    left, right = normal(0, 300, 40), normal(1, 500, 40)
    factors = Factors(left, right, torch.full((40,), 1e-3))
    base = torch.empty(150_000 + offset)[offset:].view(300, 500).copy_(normal(2, 300, 500))
    tau = factors.values()
    wanted = base + tau
    parts = Parts((factors,), index.Extent(300, 500, 150_000))
    assert parts.few
    parts.add_to(base, 0)
    ulp = 2.0**-23 * float(wanted.abs().max())
    torch.testing.assert_close(base, wanted, rtol=0, atol=ulp)
    many = Parts((factors,) * 30, parts.extent)
    assert not many.few


def test_reading_in_inference_mode_leaves_no_trace(tmp_path: Path) -> None:
    base = {"w": normal(0, 256, 256)}
    tune = {"w": base["w"] + 0.01 * normal(1, 256, 256)}
    tvcodec.encode(base, {"ant": tune}, tmp_path / "bank.tvq")
    with tvcodec.open(tmp_path / "bank.tvq") as bank:
        with torch.inference_mode():
            inside = bank.task_vector("ant")["w"].clone()
        assert torch.equal(bank.task_vector("ant")["w"], inside)
