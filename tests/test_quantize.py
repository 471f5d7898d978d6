"""Codes are what the formula says, and a stored stage is worth what arithmetic by hand says."""

import numpy as np
import pytest
import torch
from by_hand import codes_by_hand, floats_by_hand, symbols_by_hand, unframed
from hypothesis import given
from hypothesis import strategies as st
from small_models import normal

from tvcodec.file import index
from tvcodec.maths import quantize
from tvcodec.maths.quantize import (
    DEAD_ZONE,
    Grouped,
    Stage,
    least_squares_scale,
    stage,
    uniform_codes,
)
from tvcodec.parameter import codec

shapes = st.lists(st.integers(0, 7), max_size=4)


@given(shapes, st.integers(0, 50), st.sampled_from([0.01, 0.5, 3.0]), st.sampled_from([0.42, 0.5]))
def test_codes_follow_the_formula(shape: list[int], seed: int, step: float, offset: float) -> None:
    values = normal(seed, *shape)
    codes = uniform_codes(values, step, offset)
    assert codes.shape == values.shape
    wide = values.numpy()
    magnitude = np.abs(wide) / np.float32(step) + np.float32(offset)
    clear = np.abs(magnitude - np.round(magnitude)) > 1e-4  # rounding may go either way elsewhere
    expected = np.sign(wide) * np.floor(magnitude)
    assert np.array_equal(codes.numpy()[clear], expected[clear])
    assert (np.abs(codes.numpy() * step - wide) <= (1 - offset) * step * (1 + 1e-4) + 1e-6).all()


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (127, torch.int8),
        (128, torch.int16),
        (32767, torch.int16),
        (32768, torch.int32),
        (1 << 20, torch.int32),
    ],
)
def test_codes_are_as_narrow_as_they_can_be(largest: int, dtype: torch.dtype) -> None:
    for sign in (1, -1):
        codes = uniform_codes(torch.tensor([0.0, sign * float(largest), 1.0]), 1.0)
        assert codes.dtype == dtype
        assert codes.tolist() == [0, sign * largest, 1]


def test_the_dead_zone_is_wider_than_a_step() -> None:
    values = torch.tensor([0.49, 0.57, 0.59, -0.57, -0.59, 1.57, 1.59])
    assert uniform_codes(values, 1.0).tolist() == [0, 1, 1, -1, -1, 2, 2]
    assert uniform_codes(values, 1.0, 0.42).tolist() == [0, 0, 1, 0, -1, 1, 2]


def test_steps_may_differ_from_row_to_row() -> None:
    values = torch.tensor([[4.0, -8.0], [4.0, -8.0]])
    codes = uniform_codes(values, torch.tensor([[1.0], [4.0]]))
    assert codes.tolist() == [[4, -8], [1, -2]]


@given(st.integers(0, 50), st.sampled_from([0.1, 1.0, 2.0]))
def test_no_scale_is_better_than_the_least_squares_one(seed: int, step: float) -> None:
    values = normal(seed, 8, 9)
    codes = uniform_codes(values, step, DEAD_ZONE)
    scale = least_squares_scale(values, codes)
    wide, integers = values.double(), codes.double()
    errors = [float((wide - factor * scale * integers).norm()) for factor in (0.99, 1.0, 1.01)]
    assert errors[1] < min(errors[0], errors[2])
    assert scale == pytest.approx(float((wide * integers).sum() / integers.square().sum()), 1e-5)


def test_nothing_has_the_scale_zero() -> None:
    assert least_squares_scale(normal(0, 4), torch.zeros(4, dtype=torch.int8)) == 0.0
    assert stage(normal(0, 4), 100.0, 0.5).scale == 0.0
    assert stage(torch.zeros(0), 1.0, 0.5).scale == 0.0


@pytest.mark.parametrize("step", [3.0, 1.0, 0.3, 0.05, 0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_a_stored_stage_is_scale_times_code(step: float, count: int) -> None:
    values = normal(3, count)
    values[0] = 2.5
    made = stage(values, step, DEAD_ZONE)
    record, data = codec.store(made)
    assert isinstance(record, index.Stage)
    assert np.float32(record.scale) == record.scale
    by_hand = codes_by_hand(record.codes, data, count) * record.scale
    codes = np.sign(values.numpy()) * np.floor(np.abs(values.numpy()) / np.float32(step) + 0.42)
    np.testing.assert_allclose(by_hand / record.scale, codes, atol=1.0)
    np.testing.assert_allclose(by_hand, made.values().numpy(), rtol=1e-6)
    assert np.abs(by_hand - values.numpy()).max() <= 0.65 * step + 1e-6
    loaded = codec.load(record, codec.Section(data), index.Extent(1, count, count))
    assert isinstance(loaded, Stage)
    np.testing.assert_allclose(loaded.values().numpy(), by_hand, rtol=1e-6)


@pytest.mark.parametrize("group", [0, 7, 10, 64])
def test_a_stored_grouped_stage_is_scale_times_symbol_plus_minimum(group: int) -> None:
    count, alphabet = 64, 6
    groups = -(-count // group) if group else 1
    codes = torch.arange(count, dtype=torch.uint8) * 7 % alphabet
    scales, minimums = normal(1, groups).half(), normal(2, groups)
    made = Grouped(codes, scales, minimums, group, alphabet)
    record, data = codec.store(made)
    assert isinstance(record, index.GroupedStage)
    ends = np.cumsum([stream.length for stream in record.streams()])
    assert ends[-1] == len(data)
    a = floats_by_hand(record.scales, data[: ends[0]], groups)
    b = floats_by_hand(record.minimums, data[ends[0] : ends[1]], groups)
    symbols = symbols_by_hand(unframed(record.codes, data[ends[1] :], 22), alphabet, count)
    which = np.arange(count) // group if group else np.zeros(count, int)
    by_hand = a[which] * symbols + b[which]
    np.testing.assert_allclose(made.values().numpy(), by_hand, rtol=1e-5, atol=1e-6)
    loaded = codec.load(record, codec.Section(data), index.Extent(1, count, count))
    assert isinstance(loaded, Grouped)
    np.testing.assert_allclose(loaded.values().numpy(), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        loaded.scaled(0.25).values().numpy(), by_hand / 4, rtol=1e-5, atol=1e-6
    )


def test_scaled_stages_keep_a_scale_that_a_file_can_keep() -> None:
    made = Stage(torch.tensor([1, -2, 3], dtype=torch.int8), quantize.float32(0.3))
    half = made.scaled(0.1)
    assert float(np.float32(half.scale)) == half.scale
    assert half.scale == pytest.approx(0.03, 1e-6)
    assert half.codes is made.codes


@pytest.mark.parametrize("half", [False, True])
def test_a_group_of_zeros_stays_zero(half: bool) -> None:
    values = normal(3, 6, 64, scale=0.01)
    values[[1, 4]] = 0
    made = quantize.min_max(values, 3, 64, half).values()
    assert not made[[1, 4]].any()
    assert torch.allclose(made, values, atol=0.01)
