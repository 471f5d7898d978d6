"""Bit-exact differences restore every bit pattern there is; squares of every float are summed."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import FLOATS, assert_same, bits
from torch import Tensor

from tvcodec.file import index
from tvcodec.maths import dense
from tvcodec.maths.dense import Exact, Values, exact_difference, exact_restore
from tvcodec.parameter import codec

each_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def patterns(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


@st.composite
def any_bits(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    dtype = draw(st.sampled_from(FLOATS))
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
    length = int(np.prod(shape)) * dtype.itemsize
    one, other = (draw(st.binary(min_size=length, max_size=length)) for _ in range(2))
    return patterns(one, dtype, shape), patterns(other, dtype, shape)


@given(any_bits())
def test_any_bits_come_back(drawn: tuple[Tensor, Tensor]) -> None:
    fine_tune, base = drawn
    assert_same(exact_restore(base, exact_difference(fine_tune, base)), fine_tune)


@given(any_bits())
def test_any_bits_come_back_from_bytes(drawn: tuple[Tensor, Tensor]) -> None:
    fine_tune, base = drawn
    record, data = codec.store(exact_difference(fine_tune, base))
    assert isinstance(record, index.Exact)
    count = base.numel()
    loaded = codec.load(record, codec.Section(data), index.Extent(1, count, count))
    assert isinstance(loaded, Exact)
    assert_same(exact_restore(base, loaded), fine_tune)


@each_float
def test_neighbours_differ_by_one(dtype: torch.dtype) -> None:
    base = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 5.0], dtype=dtype)
    ways = torch.tensor([2.0, 0.0, -2.0, 0.0, 1.0, -1.0, 5.0], dtype=dtype)
    neighbours = torch.nextafter(base, ways)
    expected = [1, -1, -1, 1, 1, -2, 0]  # between 0 and its lower neighbour lies -0
    assert exact_difference(neighbours, base).differences.tolist() == expected


def test_differences_count_the_floats_between() -> None:
    base, tune = torch.tensor([0.0, -0.0, 1.0]), torch.tensor([-0.0, 1e-45, float("inf")])
    inf = int.from_bytes(struct.pack("<f", float("inf")), "little")
    one = int.from_bytes(struct.pack("<f", 1.0), "little")
    assert exact_difference(tune, base).differences.tolist() == [-1, 2, inf - one]


@each_float
def test_special_values_come_back(dtype: torch.dtype) -> None:
    whole = torch.iinfo({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    ends = [0, 1, 2, -1, -2, whole.max, whole.max - 1, whole.min, whole.min + 1]
    info = torch.finfo(dtype)
    floats = [float("inf"), float("-inf"), float("nan"), info.tiny, info.tiny / 2, info.max]
    special = torch.cat(
        [torch.tensor(ends, dtype=integer).view(dtype), torch.tensor(floats, dtype=dtype)]
    )
    fine_tune, base = (grid.reshape(-1) for grid in torch.meshgrid(special, special, indexing="ij"))
    restored = exact_restore(base.contiguous(), exact_difference(fine_tune, base))
    assert bits(restored) == bits(fine_tune)


def test_the_shape_is_that_of_the_base_model() -> None:
    for shape in [(), (1,), (0, 3), (2, 3, 4), (1, 2, 1, 2)]:
        base = torch.full(shape, 1.5)
        restored = exact_restore(base, exact_difference(base + 1, base))
        assert_same(restored, base + 1)


def test_strided_tensors_are_taken_as_they_look() -> None:
    base = torch.arange(12.0).view(3, 4).T
    tune = base * -3
    assert torch.equal(exact_restore(base, exact_difference(tune, base)), tune)


def test_values_times_a_weight_lose_nothing_to_half_precision() -> None:
    values = torch.tensor([1e-5, -3.3e-6, 0.1, 60000.0], dtype=torch.float16)
    scaled = Values(values).scaled(0.05).values.double()
    torch.testing.assert_close(scaled, values.double() * 0.05, rtol=1e-6, atol=0)
    assert torch.isfinite(Values(values).scaled(4.0).values).all()


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1.0, 1e30, 3e38])
def test_squares_of_all_floats_are_summed(scale: float) -> None:
    values = torch.full((3, 5), scale)
    wanted = 15 * float(values[0, 0]) ** 2
    assert dense.squared_norm(values) == pytest.approx(wanted, rel=1e-12, abs=0)
    assert dense.inner_product(values, -values) == pytest.approx(-wanted, rel=1e-12, abs=0)
    unit = dense.unit(float(values[0, 0]))
    divided = dense.divided(values, unit)
    assert 1 <= float(divided.min()) <= float(divided.max()) < 2
    assert torch.equal(divided.double() * unit, values.double())


def test_squares_are_summed_over_more_than_a_piece() -> None:
    values = torch.ones(dense.PIECE + 7)
    assert dense.squared_norm(values) == dense.PIECE + 7
    assert dense.inner_product(values, 2 * values) == 2 * (dense.PIECE + 7)
