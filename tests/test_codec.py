"""What is stored is loaded, stream by stream, and what was not stored is not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import assert_same, normal
from torch import Tensor

from tvcodec.errors import FormatError
from tvcodec.file import index
from tvcodec.maths import dense, lowrank, quantize, rotated
from tvcodec.parameter import codec, summands

ROWS, COLUMNS = 24, 20
EXTENT = index.Extent(ROWS, COLUMNS, ROWS * COLUMNS)
MATRIX = normal(0, ROWS, COLUMNS)


def frame() -> Tensor:
    return rotated.rotate(MATRIX.reshape(-1), 3, 5)


def codes(largest: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(largest)
    made = torch.randint(-largest, largest + 1, shape, generator=generator)
    return made.to(torch.int8 if largest < 128 else torch.int32)


PARTS: dict[str, Callable[[], summands.Content]] = {
    "factors": lambda: lowrank.Factors(codes(90, ROWS, 3), codes(2, COLUMNS, 3), normal(1, 3)),
    "factors of large codes": lambda: lowrank.Factors(
        codes(9000, ROWS, 3), codes(70000, COLUMNS, 3), normal(1, 3)
    ),
    "largest": lambda: rotated.keep_largest(frame(), 4),
    "uniform": lambda: rotated.keep_uniform(frame(), 1.0, 0.42),
    "stage": lambda: quantize.stage(MATRIX, 0.5, 0.42),
    "fine stage": lambda: quantize.stage(MATRIX, 1e-4, 0.5),
    "grouped": lambda: quantize.Grouped(
        codes(3, ROWS, COLUMNS).add(3).to(torch.uint8), normal(1, 15), normal(2, 15), 32, 7
    ),
    "halves": lambda: dense.Values(MATRIX.half()),
    "floats": lambda: dense.Values(MATRIX),
}
each_part = pytest.mark.parametrize("name", PARTS)


@each_part
def test_parts_come_back(name: str) -> None:
    part = PARTS[name]()
    record, data = codec.store(part)
    assert sum(stream.length for stream in record.streams()) == len(data)
    loaded = codec.load(record, codec.Section(data), EXTENT)
    assert type(loaded) is type(part)
    values = summands.expand((part,), EXTENT, 3)
    assert values.shape == (ROWS, COLUMNS)
    assert float(values.norm()) > 0
    assert torch.equal(summands.expand((loaded,), EXTENT, 3), values)
    again, same = codec.store(loaded)
    assert (again, same) == (record, data)


@each_part
def test_cut_sections_are_refused(name: str) -> None:
    record, data = codec.store(PARTS[name]())
    for length in range(0, len(data), 1 + len(data) // 20):
        with pytest.raises(FormatError):
            codec.load(record, codec.Section(data[:length]), EXTENT)


@each_part
@pytest.mark.parametrize("factor", [0.05, -2.0, 1.0])
def test_scaled_parts_are_multiples(name: str, factor: float) -> None:
    part = PARTS[name]()
    values = summands.expand((part,), EXTENT, 3)
    scaled = summands.expand((summands.scaled(part, factor),), EXTENT, 3)
    tolerance = 1e-6 * abs(factor) * float(values.abs().max())
    torch.testing.assert_close(scaled, factor * values, rtol=1e-5, atol=tolerance)


def test_parts_add_up() -> None:
    parts = [make() for make in PARTS.values()]
    apart = sum((summands.expand((part,), EXTENT, 3) for part in parts), torch.zeros(ROWS, COLUMNS))
    together = summands.expand(parts, EXTENT, 3)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6 * float(apart.abs().max()))
    assert not summands.expand((), EXTENT, 3).any()


def test_exact_differences_have_no_multiple_and_no_sum() -> None:
    exact = dense.Exact(torch.zeros(ROWS * COLUMNS, dtype=torch.int32))
    with pytest.raises(TypeError):
        summands.scaled(exact, 2.0)
    with pytest.raises(TypeError):
        summands.expand((exact,), EXTENT, 3)


@given(
    st.sampled_from([torch.int8, torch.int16, torch.int32]),
    st.integers(1, 31),
    st.integers(0, 300),
    st.integers(0, 99),
)
def test_codes_of_any_size_come_back(dtype: torch.dtype, log2: int, count: int, seed: int) -> None:
    most = min(2**log2, torch.iinfo(dtype).max)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-most, most + 1, (count,), generator=generator).to(dtype)
    stream, data = codec.store_stream(numbers)
    assert len(data) == stream.length
    assert len(data) <= count * dtype.itemsize + 1
    loaded = codec.load_stream(stream, memoryview(data), count)
    assert loaded.tolist() == numbers.tolist()


@pytest.mark.parametrize("most", [-128, 127, 128, -129, -(2**15), 2**31 - 1, -(2**31)])
def test_codes_at_the_ends_come_back(most: int) -> None:
    dtype = torch.int8 if -129 < most < 128 else torch.int32
    numbers = torch.tensor([most, 0, 1, -1], dtype=dtype)
    stream, data = codec.store_stream(numbers)
    assert codec.load_stream(stream, memoryview(data), 4).tolist() == numbers.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_floats_come_back(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    numbers = torch.tensor([0.0, -0.0, 1.5, -info.max, info.tiny, info.tiny / 4], dtype=dtype)
    stream, data = codec.store_stream(numbers)
    assert_same(codec.load_stream(stream, memoryview(data), len(numbers)), numbers)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scales_that_are_no_numbers_are_refused(value: float) -> None:
    for part in (
        lowrank.Factors(codes(2, ROWS, 1), codes(2, COLUMNS, 1), torch.tensor([value])),
        dense.Values(torch.full((ROWS * COLUMNS,), value)),
        replace(rotated.keep_largest(frame(), 4), scales=torch.full((15,), value).half()),
    ):
        record, data = codec.store(part)
        with pytest.raises(FormatError, match="not a finite number"):
            codec.load(record, codec.Section(data), EXTENT)


@given(st.integers(1, 17), st.integers(0, 200), st.integers(0, 99))
def test_unsigned_integers_come_back(width: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 2**width, (count,), generator=generator)
    stream, data = codec.store_bits(numbers, width)
    assert len(data) <= -(-width * count // 8)
    assert torch.equal(codec.load_stream(stream, memoryview(data), count), numbers)


ELEMENTS = {
    "float64": normal(0, 5, 3).double(),
    "bfloat16": normal(0, 5, 3).bfloat16(),
    "float16": torch.tensor([float("nan"), float("-inf"), -0.0], dtype=torch.float16),
    "float32": normal(0, 2, 2, 2, 2),
    "int64": torch.tensor([[2**63 - 1, -(2**63)]]),
    "int32": torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32),
    "int16": torch.tensor([-(2**15)], dtype=torch.int16),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "0-d float32": torch.tensor(1.5),
    "0-d int64": torch.tensor(-3),
    "0-d bool": torch.tensor(True),
    "empty": torch.zeros(0),
    "empty rows": torch.zeros(3, 0, dtype=torch.int64),
    "no rows": torch.zeros(0, 3, dtype=torch.bfloat16),
    "strided": normal(0, 6, 4).T[::2],
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_elements_come_back_bit_for_bit(name: str) -> None:
    tensor = ELEMENTS[name]
    stream, data = codec.store_elements(tensor)
    loaded = codec.load_elements(stream, memoryview(data), tuple(tensor.shape), tensor.dtype)
    assert_same(loaded, tensor)
    planes = np.frombuffer(data, np.uint8)
    assert planes.size == stream.length


def test_streams_of_one_kind_are_not_read_as_another() -> None:
    stream, data = codec.store_elements(normal(0, 4))
    with pytest.raises(FormatError, match="holds no numbers"):
        codec.load_stream(stream, memoryview(data), 4)
