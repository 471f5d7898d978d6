"""The rotated frame is orthonormal, the same for all tasks, and what it keeps is unbiased."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from by_hand import codes_by_hand, floats_by_hand, unframed
from hypothesis import given
from hypothesis import strategies as st
from small_models import normal, relative_error
from torch import Tensor

from tvcodec.file import index
from tvcodec.maths.rotated import (
    Largest,
    Uniform,
    add_unrotated,
    best_block_log2,
    keep_largest,
    keep_uniform,
    rotate,
    signs,
)
from tvcodec.parameter import codec, summands

MASK = 2**64 - 1
Array = npt.NDArray[np.float64]


def splitmix64(seed: int, count: int) -> list[int]:
    """Outputs of the generator started at `seed` * 2^32 steps from zero, in Python's integers."""
    out, state = [], (seed << 32) * 0x9E3779B97F4A7C15 & MASK
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        word = state
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
        word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
        out.append(word ^ word >> 31)
    return out


def signs_by_hand(seed: int, count: int) -> Array:
    words = splitmix64(seed, -(-count // 64))
    return np.array([1.0 - 2.0 * (words[at // 64] >> at % 64 & 1) for at in range(count)])


def hadamard_by_hand(block: Array) -> Array:
    """The orthonormal transform by butterflies."""
    if len(block) == 1:
        return block
    half = len(block) // 2
    low, high = hadamard_by_hand(block[:half]), hadamard_by_hand(block[half:])
    joined: Array = np.concatenate([low + high, low - high]) / np.sqrt(2)
    return joined


def unrotated_by_hand(coefficients: Array, seed: int, count: int) -> Array:
    flat = np.concatenate([hadamard_by_hand(block) for block in coefficients])
    values: Array = flat[:count] * signs_by_hand(seed, count)
    return values


def unrotate(coefficients: Tensor, seed: int, count: int) -> Tensor:
    """The flat values that `rotate` turned into `coefficients`."""
    blocks, size = coefficients.shape
    total = torch.zeros(count)
    frame = Uniform(coefficients, torch.ones(blocks).half(), 1.0, size.bit_length() - 1)
    add_unrotated([frame], seed, total)
    return total


def test_the_generator_is_splitmix64() -> None:
    assert splitmix64(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # published


@pytest.mark.parametrize("seed", [0, 1, 7, 2**16, 2**31 + 5, 2**32 - 1])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_signs_are_the_bits_of_splitmix64(seed: int, count: int) -> None:
    made = signs(seed, count)
    assert made.dtype == torch.float32
    assert np.array_equal(made.numpy(), signs_by_hand(seed, count))


@given(st.integers(1, 300), st.integers(4, 8), st.integers(0, 2**32 - 1))
def test_rotation_is_the_transform_of_signed_blocks(count: int, log2: int, seed: int) -> None:
    values = normal(count, count)
    coefficients = rotate(values, seed, log2)
    padded = np.zeros(-(-count // 2**log2) * 2**log2)
    padded[:count] = values.numpy() * signs_by_hand(seed, count)
    expected = np.stack([hadamard_by_hand(block) for block in padded.reshape(-1, 2**log2)])
    np.testing.assert_allclose(coefficients.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(
        unrotate(coefficients, seed, count).numpy(), values.numpy(), atol=1e-5
    )


@pytest.mark.parametrize("log2", range(4, 17))
def test_rotation_is_orthonormal(log2: int) -> None:
    count = 3 * 2**log2
    one, other = normal(1, count), normal(2, count)
    a, b = rotate(one, 3, log2), rotate(other, 3, log2)
    assert float((a * a).sum()) == pytest.approx(float((one * one).sum()), rel=1e-5)
    assert float((a * b).sum()) == pytest.approx(
        float((one * other).sum()), abs=1e-4 * count**0.5 + 1e-5 * count
    )
    assert relative_error(unrotate(a, 3, count), one) < 1e-5


def test_rotation_spreads_structure() -> None:
    spike = torch.zeros(1 << 12)
    spike[5] = 1.0
    assert float(rotate(spike, 0, 12).abs().max()) == pytest.approx(2.0**-6)
    constant = rotate(torch.ones(1 << 14), 0, 14)
    assert float(constant.abs().max()) < 6.0


@pytest.mark.parametrize("count", [1, 16, 17, 1000, 4096, 40_000, 1 << 14, 100_000, 1_000_003])
def test_blocks_are_large_and_padding_is_small(count: int) -> None:
    log2 = best_block_log2(count)
    assert 4 <= log2 <= 14
    padding = -count % (1 << log2)
    assert padding <= count / 32 or log2 == 4
    larger = [n for n in range(log2 + 1, 15) if -count % (1 << n) <= count / 32]
    assert not larger


@given(st.integers(1, 3000), st.integers(1, 9), st.integers(0, 2**20), st.sampled_from("nosu"))
def test_the_largest_of_each_run_is_unbiased(count: int, run: int, seed: int, kind: str) -> None:
    values = {
        "n": normal(seed, count),
        "o": torch.ones(count),
        "s": torch.zeros(count).index_fill_(0, torch.tensor([count // 2]), 3.0),
        "u": torch.linspace(-1e-6, 2e-6, count),
    }[kind]
    log2 = max(best_block_log2(count), run)
    part = keep_largest(rotate(values, seed, log2), run)
    decoded = unrotate(part.coefficients(), seed, count).double()
    energy = float(values.double().square().sum())
    # what is kept outside the values is lost with the padding
    full = rotate(values, seed, log2).double()
    assert float((part.coefficients().double() * full).sum()) == pytest.approx(energy, rel=1e-3)
    assert float((decoded * values.double()).sum()) == pytest.approx(energy, rel=1e-3)
    assert int((part.coefficients() != 0).sum()) <= len(part.codes)
    assert part.squared_norm() == pytest.approx(
        float(part.coefficients().double().square().sum()), rel=1e-4
    )


@given(st.integers(64, 3000), st.sampled_from([3.0, 1.0, 0.2]), st.integers(0, 2**20))
def test_uniform_codes_are_unbiased(count: int, step: float, seed: int) -> None:
    values = normal(seed, count) * torch.linspace(0.1, 3, count)
    part = keep_uniform(rotate(values, seed, 6), step, 0.42)
    if part.gain == 0:
        assert not part.codes.any()
        return
    decoded = unrotate(part.coefficients(), seed, count).double()
    energy = float(values.double().square().sum())
    assert float((decoded * values.double()).sum()) == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize("run", [3, 6])
def test_the_mean_over_many_frames_is_the_vector(run: int) -> None:
    values = normal(0, 1024) + 1.0
    decoded = [
        unrotate(keep_largest(rotate(values, seed, 10), run).coefficients(), seed, 1024)
        for seed in range(256)
    ]
    alone = sum(relative_error(one, values) for one in decoded) / 256
    mean = relative_error(torch.stack(decoded).mean(0), values)
    assert mean < 1.3 * alone / 256**0.5


def test_tasks_share_a_frame() -> None:
    one, other = normal(1, 5000), normal(2, 5000)
    a, b = (keep_largest(rotate(values, 9, 12), 5) for values in (one, other))
    apart = unrotate(a.coefficients(), 9, 5000) + unrotate(b.coefficients(), 9, 5000)
    together = unrotate(a.coefficients() + b.coefficients(), 9, 5000)
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-4)
    expanded = summands.expand((a, b), index.Extent(50, 100, 5000), 9)
    torch.testing.assert_close(expanded.view(-1), together, rtol=0, atol=1e-4)
    other_frame = summands.expand((a, b), index.Extent(50, 100, 5000), 10)
    assert relative_error(other_frame.view(-1), together) > 1.0


@pytest.mark.parametrize("log2", range(4, 15))
def test_a_part_alone_is_turned_back_like_several(log2: int) -> None:
    """By tables of what a run turns into, which parts that share a frame have none of."""
    count = 5 * (1 << log2) + 3
    for run in range(log2 + 1):
        part = keep_largest(rotate(normal(run, count), 4, log2), run)
        base = normal(9, count)
        total = base.clone()
        add_unrotated([part], 4, total)
        wanted = base + unrotate(part.coefficients(), 4, count)
        torch.testing.assert_close(total, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


@given(st.integers(1, 400), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_signs_are_the_same_in_memory_that_is_there(count: int, first: int, seed: int) -> None:
    room = torch.empty(-(-count // 64) * 64)
    made = signs(seed, count, 64 * first, room)
    assert made.data_ptr() == room.data_ptr()
    assert torch.equal(made, signs(seed, 64 * first + count)[64 * first :])


def stored_largest(values: Tensor, log2: int, run: int) -> tuple[Largest, Array]:
    """A part and its coefficients read from its bytes by hand."""
    part = keep_largest(rotate(values, 7, log2), run)
    record, data = codec.store(part)
    assert isinstance(record, index.RotatedLargest)
    assert (record.block_log2, record.run_log2) == (log2, run)
    blocks = -(-len(values) >> log2)
    scales = floats_by_hand(record.scales, data[: record.scales.length], blocks)
    runs = blocks << log2 - run
    packed = unframed(record.codes, data[record.scales.length :], -(-runs * (run + 1) // 8))
    number = int.from_bytes(packed, "little")
    coefficients = np.zeros((blocks, 1 << log2))
    for at in range(runs):
        code = number >> at * (run + 1) & (2 << run) - 1
        block, start = divmod(at << run, 1 << log2)
        sign = -1.0 if code >> run else 1.0
        value = sign * record.gain * scales[block]
        coefficients[block, start + (code & (1 << run) - 1)] = value
    loaded = codec.load(record, codec.Section(data), index.Extent(1, len(values), len(values)))
    assert isinstance(loaded, Largest)
    assert torch.equal(loaded.codes, part.codes)
    assert torch.equal(loaded.scales, part.scales)
    return part, coefficients


@pytest.mark.parametrize(
    ("count", "log2", "run"), [(16, 4, 1), (500, 6, 3), (2048, 9, 8), (900, 8, 8)]
)
def test_a_stored_largest_part_is_decoded_by_hand(count: int, log2: int, run: int) -> None:
    values = normal(count, count) + 0.3
    part, coefficients = stored_largest(values, log2, run)
    np.testing.assert_allclose(part.coefficients().numpy(), coefficients, rtol=1e-5)
    by_hand = unrotated_by_hand(coefficients, 7, count)
    expanded = summands.expand((part,), index.Extent(1, count, count), 7)
    np.testing.assert_allclose(expanded.view(-1).numpy(), by_hand, atol=1e-4)
    energy = float(values.double().square().sum())
    assert by_hand @ values.double().numpy() == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize("step", [2.0, 0.5, 0.005])
def test_a_stored_uniform_part_is_decoded_by_hand(step: float) -> None:
    values = normal(1, 700) * torch.linspace(0.1, 2, 700)
    part = keep_uniform(rotate(values, 7, 7), step, 0.42)
    record, data = codec.store(part)
    assert isinstance(record, index.RotatedUniform)
    scales = floats_by_hand(record.scales, data[: record.scales.length], 6)
    codes = codes_by_hand(record.codes, data[record.scales.length :], 6 * 128).reshape(6, 128)
    coefficients = record.gain * scales[:, None] * codes
    by_hand = unrotated_by_hand(coefficients, 7, 700)
    np.testing.assert_allclose(
        summands.expand((part,), index.Extent(7, 100, 700), 7).view(-1).numpy(), by_hand, atol=1e-4
    )
    assert by_hand @ values.double().numpy() == pytest.approx(
        float(values.double().square().sum()), rel=1e-3
    )
    loaded = codec.load(record, codec.Section(data), index.Extent(7, 100, 700))
    assert isinstance(loaded, Uniform)
    assert torch.equal(loaded.coefficients(), part.coefficients())


@pytest.mark.parametrize("factor", [0.25, -3.0])
def test_scaled_parts_decode_to_multiples(factor: float) -> None:
    coefficients = rotate(normal(0, 512), 1, 6)
    for part in (keep_largest(coefficients, 3), keep_uniform(coefficients, 1.0, 0.42)):
        torch.testing.assert_close(
            part.scaled(factor).coefficients(), factor * part.coefficients(), rtol=1e-6, atol=0
        )
