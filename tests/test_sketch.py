"""Cosines between task vectors, estimated from what each task keeps of its own."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import second_reader
from small_models import State, changed, normal
from torch import Tensor

import tvcodec
from tvcodec.file import similarity
from tvcodec.file.similarity import Known
from tvcodec.maths.sketch import Sketch

SHAPES = [(700, 300), (300, 300), (5000,)]
VALUES = 22_700_000  # whose sketch has 4096 bits
BITS = 4096
DEVIATIONS = 4.5


def vector(seed: int, kind: str) -> list[Tensor]:
    parts = []
    for number, shape in enumerate(SHAPES):
        part = normal(100 * seed + number, *shape)
        if kind == "low rank" and len(shape) == 2:
            part = normal(100 * seed + number, shape[0], 2) @ normal(
                100 * seed + 50 + number, 2, shape[1]
            )
        if kind == "one in a thousand":
            part = part * (normal(100 * seed + 50 + number, *shape) > 3.09)
        parts.append(part)
    norm = math.sqrt(sum(float(part.square().sum()) for part in parts))
    return [part / norm for part in parts]


def sketched(parts: list[Tensor], order: int = 1, values: int = VALUES) -> bytes:
    sketch = Sketch(similarity.bits(values))
    for number, part in list(enumerate(parts))[::order]:
        sketch.add(part, number)
    return sketch.packed().tobytes()


def cosine(one: bytes, other: bytes) -> float:
    data = similarity.triangle([Known(1.0, one), Known(1.0, other)])
    first, between, second = struct.unpack("<3f", data)
    assert first == second == 1
    return float(between)


@pytest.mark.parametrize("kind", ["dense", "low rank", "one in a thousand"])
@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.6, 0.9, 0.99, -0.5])
def test_estimates_are_as_near_as_stated(kind: str, wanted: float) -> None:
    one, noise = vector(1, kind), vector(2, kind)
    other = [wanted * a + math.sqrt(1 - wanted**2) * b for a, b in zip(one, noise, strict=True)]
    product = sum(float((a * b).double().sum()) for a, b in zip(one, other, strict=True))
    norm = math.sqrt(sum(float(b.double().square().sum()) for b in other))
    angle = math.acos(product / norm)
    deviation = math.sin(angle) * math.sqrt(angle * (math.pi - angle) / 4096)
    estimate = cosine(sketched(one), sketched(other))
    assert abs(estimate - product / norm) < DEVIATIONS * deviation


def test_changes_of_single_values_are_orthogonal_unless_they_are_the_same() -> None:
    def single(at: int, also: float = 0.0) -> list[Tensor]:
        part = torch.zeros(300, 300)
        part.view(-1)[at], part.view(-1)[4096] = 1.0, also
        return [part]

    deviation = similarity.deviation(sketched(single(5)))
    assert deviation == pytest.approx(math.pi / 2 / 64)
    for at in (6, 70_000):
        assert abs(cosine(sketched(single(5)), sketched(single(at)))) < DEVIATIONS * deviation
    assert cosine(sketched(single(5)), sketched(single(5, also=0.7))) == pytest.approx(
        1 / math.sqrt(1.49), abs=DEVIATIONS * deviation
    )


def test_a_sketch_depends_on_direction_alone() -> None:
    parts = vector(3, "dense")
    one = sketched(parts)
    assert sketched(parts, order=-1) == one
    assert sketched([3 * part for part in parts]) == one
    assert sketched([1e30 * part for part in parts]) == one
    assert cosine(one, sketched([-part for part in parts])) == -1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert sketched(parts) == one
    finally:
        torch.set_num_threads(threads)


def test_a_sketch_is_what_the_specification_says() -> None:
    """By the signs and the transform of the second reader, in float64."""
    reader, parts, size = second_reader(), vector(6, "low rank"), 4096
    sums = np.zeros(size)
    for number, part in enumerate(parts):
        flat = part.double().numpy().reshape(-1)
        flat = flat * reader.signs(number, flat.size)
        np.add.at(sums, np.arange(flat.size) % size, flat)
    for number in (2**32 - 1, 2**32 - 2):
        sums = reader.hadamard((sums * reader.signs(number, size))[None])[0]
    wanted, got = sums < 0, np.frombuffer(sketched(parts), np.uint8)
    differ = np.unpackbits(got, bitorder="little").astype(bool) != wanted
    assert abs(sums[differ]).max(initial=0) < 1e-5 * abs(sums).max()  # rounding, next to zero


def test_equal_parameters_of_other_numbers_are_not_the_same_change() -> None:
    part = normal(4, 300, 300)
    one, other = Sketch(BITS), Sketch(BITS)
    one.add(part, 0)
    other.add(part, 1)
    assert abs(cosine(one.packed().tobytes(), other.packed().tobytes())) < 0.12


@pytest.mark.parametrize(
    ("values", "size"),
    [(0, 1024), (1000, 1024), (9_000_000, 2048), (22_713_216, 4096), (7_000_000_000, 16384)],
)
def test_sketches_grow_with_the_model(values: int, size: int) -> None:
    assert similarity.bits(values) == size
    assert len(sketched([], values=values)) == size // 8


def test_products_of_what_is_known() -> None:
    zero, half = bytes(512), bytes([0x0F]) * 512

    def rows(*tasks: Known) -> tuple[float, ...]:
        data = similarity.triangle(tasks)
        return struct.unpack(f"<{len(data) // 4}f", data)

    assert rows(Known(2.0, zero)) == ()
    assert rows(Known(2.0, zero), Known(3.0, zero)) == (4, 6, 9)
    assert rows(Known(2.0, zero), Known(3.0, half)) == pytest.approx((4, 0, 9), abs=1e-12)
    assert rows(Known(0.0), Known(3.0, half)) == (0, 0, 9)  # unchanged
    assert rows(Known(1.0), Known(3.0, half)) == ()  # nobody knows
    assert rows(Known(1.0, bytes(256)), Known(3.0, half)) == ()
    assert rows(Known(3e38, zero), Known(3e38, zero)) == pytest.approx((3.4e38,) * 3)
    stored = {(0, 0): 0.5, (1, 0): 2.5}
    data = similarity.triangle([Known(1.0), Known(3.0)], lambda *pair: stored.get(pair))
    assert struct.unpack("<3f", data) == (0.5, 2.5, 9)


@pytest.mark.parametrize("text", ["", "====", "no base64!", "AAA", "\u00e9", "AAAA", "A" * 1368])
def test_other_metadata_is_no_sketch(text: str) -> None:
    assert similarity.from_metadata({"sketch": text}, 1000) is None
    assert similarity.from_metadata({}, 1000) is None


def test_a_sketch_is_read_back_where_it_has_the_length_that_the_model_asks_for() -> None:
    metadata = similarity.as_metadata(bytes(range(128)))
    assert similarity.from_metadata(metadata, 1000) == bytes(range(128))
    assert similarity.from_metadata(metadata, 9_000_000) is None


@pytest.mark.parametrize("recipe", [*tvcodec.QUALITIES.values(), tvcodec.EXACT])
def test_a_file_knows_equal_tasks_and_unchanged_ones(
    recipe: tvcodec.Recipe, tmp_path: Path
) -> None:
    base: State = {"a": normal(0, 90, 80), "b": normal(1, 5000), "c": normal(2, 0, 3)}
    one = {name: changed(5, "noise", value) for name, value in base.items()}
    back = {name: 2 * value - one[name] for name, value in base.items()}
    tunes = {"again": dict(one), "back": back, "one": one, "same": base}
    path = tmp_path / "bank.tvq"
    tvcodec.encode(base, tunes, path, recipe=recipe)
    with tvcodec.open(path) as bank:
        assert bank.similarity() == [
            pytest.approx(row, abs=1e-4)
            for row in ([1, -1, 1, 0], [-1, 1, -1, 0], [1, -1, 1, 0], [0, 0, 0, 0])
        ]
        assert bank.similarity()[0][2] == pytest.approx(1, abs=1e-7)
        assert bank.similarity()[3] == [0, 0, 0, 0]
        assert "sketch" not in bank.archive.index("same").metadata
        assert bank.archive.similarity_deviation() == pytest.approx(math.pi / 2 / 1024**0.5)
