"""TVQ and RTVQ give the codes of their paper, and nothing breaks them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from round_trip import Coded, Coder
from small_models import State, normal, relative_error
from torch import Tensor

import tvcodec
from tvcodec.encoding.published import Rtvq, Tvq
from tvcodec.maths import quantize
from tvcodec.maths.quantize import min_max

finite = st.floats(-(2.0**127), 2.0**127, width=32)
near = st.floats(-1, 1, width=32)


def published_codes(values: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and zero point as the authors' code has them, in float32."""
    least, most = values.min(), values.max()
    scale = (2**bits - 1) / (most - least)
    zero_point = -torch.round(scale * least)
    codes = torch.clamp(torch.round(scale * values + zero_point), 0, 2**bits - 1)
    return codes.to(torch.uint8), scale, zero_point


def published_values(values: Tensor, bits: int) -> Tensor:
    codes, scale, zero_point = published_codes(values, bits)
    return (codes.float() - zero_point) / scale


def stored(coded: Coded, task: str, parameter: str) -> quantize.Grouped:
    """The one part of codes that a task has of a parameter."""
    with tvcodec.open(coded.path) as bank:
        parts = bank._task(task).parts(bank.archive.numbers[parameter])
        assert parts is not None
        (part,) = [item for item in parts.contents if isinstance(item, quantize.Grouped)]
        return part


def models(tasks: int = 3, common: float = 0.0) -> tuple[State, dict[str, State]]:
    base = {"w": normal(0, 60, 50), "b": normal(1, 50), "conv": normal(2, 8, 4, 3, 3)}
    together = {name: normal(50, *tensor.shape, scale=0.01) for name, tensor in base.items()}
    tunes = {
        f"t{n}": {
            name: tensor + common * together[name] + normal(7 + n, *tensor.shape, scale=0.01)
            for name, tensor in base.items()
        }
        for n in range(tasks)
    }
    return base, tunes


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_those_of_the_paper_bit_for_bit(coded: Coder, bits: int) -> None:
    base, tunes = models()
    result = coded(base, tunes, Tvq(bits=bits))
    for task, tune in tunes.items():
        for name in ("w", "conv"):
            codes, scale, zero_point = published_codes(tune[name] - base[name], bits)
            part = stored(result, task, name)
            assert torch.equal(part.codes, codes.reshape(-1))
            wanted = ((codes.double() - zero_point.double()) / scale.double()).float()
            found = result.task_vectors[task][name]
            assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-8)


def test_each_group_has_codes_of_its_own_range(coded: Coder) -> None:
    base, tunes = models(1)
    part = stored(coded(base, tunes, Tvq(bits=3, group=128)), "t0", "w")
    tau = (tunes["t0"]["w"] - base["w"]).reshape(-1)
    wanted = torch.cat([published_codes(piece, 3)[0] for piece in tau.split(128)])
    assert len(part.scales) == math.ceil(3000 / 128)
    assert torch.equal(part.codes, wanted)


def test_groups_save_values_from_one_outlier(coded: Coder) -> None:
    base, tunes = models(1)
    tunes["t0"]["w"][3, 4] = 100.0
    alone = coded(base, tunes, Tvq(bits=4)).task_vectors["t0"]["w"]
    grouped = coded(base, tunes, Tvq(bits=4, group=64)).task_vectors["t0"]["w"]
    tau, rest = tunes["t0"]["w"] - base["w"], torch.ones(60, 50, dtype=torch.bool)
    rest[3, 4] = False
    assert relative_error(alone[rest], tau[rest]) > 0.99
    assert relative_error(grouped[rest], tau[rest]) < 0.3


def test_what_is_no_matrix_is_kept(coded: Coder) -> None:
    base, tunes = models(1)
    found = coded(base, tunes, Tvq(bits=2)).task_vectors["t0"]["b"]
    assert torch.equal(found, tunes["t0"]["b"] - base["b"])


@pytest.mark.parametrize(("bits", "most"), [(2, 0.9), (3, 2.1), (4, 3.2)])
def test_codes_take_what_they_carry_and_not_their_width(
    coded: Coder, bits: int, most: float
) -> None:
    base = {"w": torch.zeros(400, 400)}
    tunes = {"t": {"w": normal(3, 400, 400)}}
    assert 8 * coded(base, tunes, Tvq(bits=bits)).stored_bytes("t") / 160_000 < most


def test_unchanged_values_stay_so(coded: Coder) -> None:
    base, tunes = models(1)
    tunes["t0"]["w"][10:20] = base["w"][10:20]
    found = coded(base, tunes, Tvq(bits=3)).task_vectors["t0"]["w"]
    assert not found[10:20].any()


@given(values=st.lists(finite | near, min_size=1, max_size=30), bits=st.integers(1, 8))
def test_any_finite_values_decode_to_finite_ones_in_their_range(
    values: list[float], bits: int
) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    decoded = min_max(tensor, bits).values().double()
    wide = tensor.double()
    step = (wide.max() - wide.min()) / (2**bits - 1)
    slack = step + 1e-5 * wide.abs().max() + 1e-37
    assert decoded.isfinite().all()
    assert decoded.min() >= wide.min() - slack
    assert decoded.max() <= wide.max() + slack


@given(value=finite, count=st.integers(1, 20), group=st.integers(0, 7))
def test_constants_come_back(value: float, count: int, group: int) -> None:
    tensor = torch.full((count,), value)
    decoded = min_max(tensor, 4, group).values()
    assert torch.allclose(decoded, tensor, rtol=1e-6, atol=1e-37)


def test_offsets_are_from_the_mean_as_decoded(coded: Coder) -> None:
    base, tunes = models(4, common=1.0)
    result = coded(base, tunes, Rtvq(base_bits=3, offset_bits=2))
    taus = [tune["w"] - base["w"] for tune in tunes.values()]
    mean = published_values(torch.stack(taus).double().mean(0).float(), 3)
    for task, tau in zip(tunes, taus, strict=True):
        wanted = mean + published_values(tau - mean, 2)
        found = result.task_vectors[task]["w"]
        assert float(torch.isclose(found, wanted, atol=1e-6).double().mean()) > 0.999


def test_without_error_correction_offsets_are_from_the_mean_itself(coded: Coder) -> None:
    base, tunes = models(4, common=1.0)
    result = coded(base, tunes, Rtvq(base_bits=3, offset_bits=2, error_correction=False))
    taus = [tune["w"] - base["w"] for tune in tunes.values()]
    mean = torch.stack(taus).double().mean(0).float()
    for task, tau in zip(tunes, taus, strict=True):
        wanted = published_values(mean, 3) + published_values(tau - mean, 2)
        found = result.task_vectors[task]["w"]
        assert float(torch.isclose(found, wanted, atol=1e-6).double().mean()) > 0.999


def test_error_correction_brings_the_mean_closer(coded: Coder) -> None:
    base, tunes = models(8, common=1.0)
    errors = {}
    for correction in (True, False):
        result = coded(base, tunes, Rtvq(error_correction=correction))
        found = torch.stack([result.task_vectors[task]["w"] for task in tunes]).mean(0)
        mean = torch.stack([tune["w"] for tune in tunes.values()]).mean(0) - base["w"]
        errors[correction] = relative_error(found, mean)
    assert errors[True] < 0.8 * errors[False]


def test_what_tasks_share_is_stored_once(coded: Coder) -> None:
    base, tunes = models(8, common=3.0)
    with tvcodec.open(coded(base, tunes, Rtvq()).path) as bank:
        assert dict(bank.archive.vectors) == {
            bank.archive.numbers["w"]: 1,
            bank.archive.numbers["conv"]: 1,
        }
