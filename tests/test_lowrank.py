"""Factors are as good as an exact singular value decomposition allows, and split without loss."""

import numpy as np
import pytest
import torch
from conftest import codes_by_hand, floats_by_hand, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tvcodec.file import index
from tvcodec.maths.lowrank import (
    Factors,
    component_floor,
    fitted_factors,
    quantised_factors,
)
from tvcodec.maths.spectrum import spectrum
from tvcodec.parameter import codec

SHAPES = [(60, 40), (40, 60), (50, 50), (300, 8)]


def decaying(seed: int, rows: int, columns: int, noise: float = 0.0) -> Tensor:
    """A matrix whose singular values halve one after another."""
    rank = min(rows, columns)
    left, _ = torch.linalg.qr(normal(seed, rows, rank).double())
    right, _ = torch.linalg.qr(normal(seed + 1, columns, rank).double())
    sigma = 10 * 0.5 ** torch.arange(rank, dtype=torch.float64)
    product: Tensor = (left * sigma) @ right.T
    return product.float() + normal(seed + 2, rows, columns, scale=noise)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spectrum_is_that_of_an_exact_decomposition(shape: tuple[int, int]) -> None:
    matrix = decaying(1, *shape, noise=1e-3)
    known = spectrum(matrix, 0.1)
    _, sigma, right = torch.linalg.svd(
        matrix.double() if shape[0] >= shape[1] else matrix.double().T, full_matrices=False
    )
    rank = int((sigma > 0.1).sum())
    assert known.sigma.shape == (rank,)
    torch.testing.assert_close(known.sigma.double(), sigma[:rank], rtol=1e-4, atol=1e-5)
    along = (known.vectors.double() * right[:rank].T).sum(0).abs()
    assert float(along.min()) > 1 - 1e-4
    eye = known.vectors.T @ known.vectors
    torch.testing.assert_close(eye, torch.eye(rank), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [0.5, 0.1, 0.02])
def test_factors_lose_what_the_rank_and_the_step_cost(shape: tuple[int, int], step: float) -> None:
    matrix = decaying(5, *shape, noise=1e-3)
    factors = quantised_factors(matrix, spectrum(matrix, 0.0), step, 1.5, 0.5)
    assert factors is not None
    rank = len(factors.scales)
    sigma = torch.linalg.svdvals(matrix.double())
    least = float(sigma[rank:].square().sum())
    lost = float((factors.values().double() - matrix.double()).square().sum())
    assert lost >= least * (1 - 1e-3)  # no rank-r matrix is closer
    coding = rank * sum(shape) * step**2 / 12
    assert lost <= least + 1.3 * coding
    floor = component_floor(shape, step, 1.5)
    assert 0 < rank <= int((sigma > 0.999 * floor).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_sides_fitted_to_each_other_again_lose_less(shape: tuple[int, int]) -> None:
    matrix = decaying(5, *shape, noise=0.05)
    known, energy = spectrum(matrix, 0.0), float(matrix.double().square().sum())
    lost = []
    for fits in (1, 2, 3, 9):
        fitted = fitted_factors(matrix, known, 0.5, 1.0, 0.5, fits)
        assert fitted is not None
        factors, captured = fitted
        lost.append(float((factors.values().double() - matrix.double()).square().sum()))
        assert energy - captured == pytest.approx(lost[-1], rel=1e-3)
    assert lost[3] < lost[0]
    assert max(lost[1:]) < 1.02 * lost[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_scales_leave_a_residual_orthogonal_to_every_component(shape: tuple[int, int]) -> None:
    matrix = decaying(9, *shape)
    factors = quantised_factors(matrix, spectrum(matrix, 0.0), 0.3, 1.5, 0.42)
    assert factors is not None
    residual = matrix.double() - factors.values().double()
    left, right = factors.left.double(), factors.right.double()
    along = (left * (residual @ right)).sum(0) / (left.norm(dim=0) * right.norm(dim=0))
    assert float(along.abs().max()) < 1e-4 * float(matrix.norm())


def test_nothing_is_worth_coding_in_weak_noise() -> None:
    matrix = normal(0, 40, 30)
    assert quantised_factors(matrix, spectrum(matrix, 0.0), 10.0, 1.5, 0.42) is None


@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.integers(0, 30),
    st.sampled_from(["repeated columns", "rank one", "one value", "constant", "noise"]),
    st.sampled_from([3.0, 1.0, 0.1, 0.004]),
    st.sampled_from([1e-18, 1e-6, 1.0, 1e12]),
)
def test_degenerate_matrices(
    shape: tuple[int, int], seed: int, kind: str, step: float, scale: float
) -> None:
    matrix = normal(seed, *shape)
    if kind == "repeated columns":
        matrix = matrix[:, :1].repeat(1, shape[1])
    if kind == "rank one":
        matrix = torch.outer(matrix[:, 0], matrix[0])
    if kind == "one value":
        matrix = torch.zeros(shape)
        matrix[seed % shape[0], seed % shape[1]] = 1.0
    if kind == "constant":
        matrix = torch.ones(shape)
    matrix = matrix * scale
    step *= scale
    factors = quantised_factors(matrix, spectrum(matrix, 0.0), step, 1.5, 0.42)
    if factors is None:
        return
    lost = (factors.values().double() - matrix.double()).norm() / matrix.double().norm()
    assert float(lost) < 1.0 + 1e-5  # the scales may not make it worse than nothing


@pytest.mark.parametrize("step", [0.02, 0.2, 1.0])
def test_split_adds_up_to_the_same(step: float) -> None:
    matrix = decaying(3, 80, 60) + normal(7, 80, 60, scale=step / 2)
    factors = quantised_factors(matrix, spectrum(matrix, 0.0), step, 0.2, 0.42)
    assert factors is not None
    groups = factors.split()
    for part in ("left", "right"):
        whole = torch.cat([getattr(group, part) for group in groups], 1)
        assert torch.equal(whole, getattr(factors, part))
    assert torch.equal(torch.cat([group.scales for group in groups]), factors.scales)
    together = torch.zeros(matrix.shape)
    for group in groups:
        assert group.add_to(together) is together
    torch.testing.assert_close(together, factors.values(), rtol=1e-5, atol=1e-4)


def test_split_keeps_weak_components_apart() -> None:
    strong = torch.randint(-100, 101, (40, 5), generator=torch.Generator().manual_seed(0))
    weak = torch.randint(-1, 2, (40, 6), generator=torch.Generator().manual_seed(0))
    codes = torch.cat([strong, weak], 1).to(torch.int8)
    groups = Factors(codes, codes.clone(), torch.ones(11)).split()
    assert [len(group.scales) for group in groups] == [5, 6]
    assert int(groups[1].left.abs().max()) == 1


def test_stored_factors_are_a_sum_of_outer_products() -> None:
    matrix = decaying(3, 30, 20)
    factors = quantised_factors(matrix, spectrum(matrix, 0.0), 0.05, 1.5, 0.42)
    assert factors is not None
    record, data = codec.store(factors)
    assert isinstance(record, index.Factors)
    ends = np.cumsum([stream.length for stream in record.streams()])
    left = codes_by_hand(record.left, data[: ends[0]], 30 * record.rank)
    right = codes_by_hand(record.right, data[ends[0] : ends[1]], 20 * record.rank)
    scales = floats_by_hand(record.scales, data[ends[1] :], record.rank)
    by_hand = sum(
        scale * np.outer(left[30 * j : 30 * j + 30], right[20 * j : 20 * j + 20])
        for j, scale in enumerate(scales)
    )
    np.testing.assert_allclose(factors.values().numpy(), by_hand, atol=1e-4)
    assert np.linalg.norm(by_hand - matrix.numpy()) < 0.1 * np.linalg.norm(matrix.numpy())
    loaded = codec.load(record, codec.Section(data), index.Extent(30, 20, 600))
    assert isinstance(loaded, Factors)
    np.testing.assert_allclose(loaded.values().numpy(), by_hand, atol=1e-4)
    np.testing.assert_allclose(loaded.scaled(-2.0).values().numpy(), -2 * by_hand, atol=1e-3)


def test_factors_of_floats() -> None:
    left, right = normal(0, 9, 2).half(), normal(1, 5, 2).half()
    record, data = codec.store(Factors(left, right, torch.tensor([2.0, -1.0])))
    loaded = codec.load(record, codec.Section(data), index.Extent(9, 5, 45))
    assert isinstance(loaded, Factors)
    expected = left.double() @ torch.diag(torch.tensor([2.0, -1.0]).double()) @ right.double().T
    torch.testing.assert_close(loaded.values().double(), expected, rtol=1e-5, atol=1e-5)


def test_of_long_sides_the_strongest_triplets_are_found_without_the_rest() -> None:
    side, kept = 1600, 40
    directions = torch.linalg.qr(normal(5, side, side))[0]
    sigma = torch.arange(1, side + 1) ** -0.4
    matrix = (directions * sigma) @ torch.linalg.qr(normal(6, side, side))[0].T
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        known = torch.linalg.eigh
        patch.setattr(torch.linalg, "eigh", lambda gram: calls.append(len(gram)) or known(gram))
        found = spectrum(matrix, float(sigma[kept]) * 1.0001)
    assert calls
    assert max(calls) < side / 3
    assert len(found.sigma) == kept
    torch.testing.assert_close(found.sigma, sigma[:kept], rtol=2e-3, atol=0)
    captured = float((matrix @ found.vectors).square().sum())
    assert captured > 0.999 * float(sigma[:kept].square().sum())


@pytest.mark.parametrize(
    ("shape", "rank"), [((768, 768), 32), ((384, 384), 16), ((1536, 1536), 64), ((600, 400), 30)]
)
@pytest.mark.parametrize("rest", [0.0, 1e-9])
def test_all_components_stand_out_of_nothing(
    shape: tuple[int, int], rank: int, rest: float
) -> None:
    left, right = (normal(seed, side, rank) for seed, side in enumerate(shape))
    matrix = left @ right.T + normal(9, *shape, scale=rest)
    exact = torch.linalg.svdvals(matrix.double())[:rank].float()
    found = spectrum(matrix, 0.5 * float(exact[-1]))
    assert torch.allclose(found.sigma, exact, rtol=1e-3)


@pytest.mark.parametrize("columns", [1, 8, 33, 100])
def test_matrices_of_few_columns_are_decomposed(columns: int) -> None:
    matrix = torch.zeros(512, 512)
    matrix[:, ::5][:, :columns] = normal(1, 512, columns)
    exact = torch.linalg.svdvals(matrix.double())[:columns].float()
    for floor in (0.0, 0.9 * float(exact[-1])):
        found = spectrum(matrix, floor)
        assert torch.allclose(found.sigma[:columns], exact, rtol=1e-3)
