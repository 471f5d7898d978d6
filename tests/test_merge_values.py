"""TIES, DARE, consensus, MagMax and Model Stock against the papers' own formulas."""

import itertools

import pytest
import torch

from tvcodec.errors import TvqError
from tvcodec.maths.merge import consensus, dare, magmax, model_stock, ties


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some(tasks, *shape):
    return [random(*shape, seed=task) for task in range(tasks)]


A = random(30, 20)
CASES = {
    "one": [A],
    "several": some(5, 30, 20),
    "row": some(3, 1, 64),
    "scalar": [torch.tensor(x, dtype=torch.float64) for x in (1.0, -2.0, 0.5)],
    "equal": [A, A, A],
    "opposite": [A, -A],
    "opposite and one": [A, -A, random(30, 20, seed=9)],
    "zero": [torch.zeros(30, 20, dtype=torch.float64)] * 3,
    "with zero": [A, torch.zeros_like(A), random(30, 20, seed=9)],
    "few values": [x.sign() * (x.abs() > 1) for x in some(4, 30, 20)],
}
every_case = pytest.mark.parametrize("taus", CASES.values(), ids=CASES)


def close(found, wanted):
    error, norm = float((found.double() - wanted).norm()), float(wanted.norm())
    return found.shape == wanted.shape and error <= 1e-5 * norm


# TIES, as its authors' program computes it over flat task vectors [N, D].


def published_trim(flat, density):
    place = flat.shape[1] - int(flat.shape[1] * density)
    if place == 0:
        return flat
    kth = flat.abs().kthvalue(place, dim=1, keepdim=True).values
    return flat * (flat.abs() >= kth)


def published_ties(trimmed, summed):
    sign = trimmed.sum(0).sign()
    majority = sign.sum().sign()
    sign[sign == 0] = majority if majority else 1
    selected = trimmed * torch.where(sign > 0, trimmed > 0, trimmed < 0)
    count = 1 if summed else (selected != 0).sum(0).clamp(min=1)
    return selected.sum(0) / count


@every_case
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
@pytest.mark.parametrize("summed", [False, True])
def test_ties_is_the_published_one(taus, density, summed):
    trimmed = [ties.trim(tau, ties.threshold(tau, density)) for tau in taus]
    flat = published_trim(torch.stack([tau.reshape(-1) for tau in taus]), density)
    wanted = published_ties(flat, summed).view(taus[0].shape)
    assert close(ties.merge(trimmed, summed=summed), wanted)


def test_ties_over_a_whole_model_streams_one_parameter_at_a_time():
    shapes = [(300, 200), (77,), (1, 50), (), (64, 64, 3, 3)]
    models = [
        [random(*shape, seed=10 * task + i) * 10.0 ** -(i % 3) for i, shape in enumerate(shapes)]
        for task in range(3)
    ]
    flat = torch.stack([torch.cat([tau.reshape(-1) for tau in model]) for model in models])
    kept = published_trim(flat, 0.2)
    wanted = published_ties(kept, summed=False)
    thresholds = []
    for model, row in zip(models, flat, strict=True):
        magnitudes = ties.Magnitudes()
        for tau in model:
            magnitudes.add(tau)
        thresholds.append(magnitudes.threshold(0.2))
        exact = float(row.abs().kthvalue(len(row) - int(len(row) * 0.2)).values)
        assert exact * (1 - 1e-3) <= thresholds[-1] <= exact
    merged = [
        ties.merge([ties.trim(tau, at) for tau, at in zip(taus, thresholds, strict=True)])
        for taus in zip(*models, strict=True)
    ]
    found = torch.cat([tau.reshape(-1) for tau in merged])
    differ = found != wanted
    assert differ.sum() <= 0.002 * len(wanted)  # those within 0.1 % of a threshold
    assert float((found - wanted).norm() / wanted.norm()) < 0.04


def test_magnitudes_of_nothing_and_of_everything():
    assert ties.Magnitudes().threshold(0.2) == 0
    magnitudes = ties.Magnitudes()
    magnitudes.add(torch.zeros(90))
    assert magnitudes.threshold(0.2) == 0
    magnitudes.add(torch.full((10,), -0.5))
    assert magnitudes.threshold(1.0) == 0
    assert magnitudes.threshold(0.2) == 0  # kept: all, of which half are zero anyway
    assert magnitudes.threshold(0.05) == 0.5


def test_ties_sign_where_tasks_cancel():
    up, down = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([-1.0, 3.0, 2.0])
    assert ties.merge([up, down]).tolist() == [1, 3, 2]
    assert ties.merge([up, down], majority=-1).tolist() == [-1, 3, 2]
    assert ties.merge([-up, -down]).tolist() == [-1, -3, -2]
    assert ties.merge([up, down], summed=True).tolist() == [1, 6, 4]


# DARE


@every_case
def test_dare_keeps_what_the_mask_keeps_rescaled(taus):
    for tau in taus:
        dropped = dare.drop(tau, 0.3, 1, "cars", "w")
        kept = dropped != 0
        assert close(dropped, torch.where(kept, tau / 0.7, 0.0))
        assert torch.equal(dare.drop(tau, 0.0, 1, "cars", "w"), tau)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
def test_dare_drops_the_share_it_should_without_bias(rate):
    ones = torch.ones(1000, 400)
    dropped = dare.drop(ones, rate, 7, "cars", "w")
    deviation = (rate * (1 - rate) / ones.numel()) ** 0.5
    assert float((dropped == 0).double().mean()) == pytest.approx(rate, abs=5 * deviation)
    assert float(dropped.mean()) == pytest.approx(1, abs=5 * deviation / (1 - rate))


def test_dare_is_the_same_at_any_number_of_threads():
    tau = random(1001, 333, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(dare.drop(tau, 0.9, 3, "cars", "w"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_dare_is_known_by_seed_task_and_parameter():
    ones = torch.ones(16)
    masks = {
        tuple(dare.drop(ones, 0.5, *names).tolist())
        for names in itertools.product([0, 1], ["a", "b"], ["x", "y"])
    }
    assert len(masks) == 8
    kept = dare.drop(ones, 0.5, 42, "cars", "visual.proj").bool().int()
    assert "".join(map(str, kept.tolist())) == "0100000001001111"


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dare_refuses_a_rate_that_leaves_nothing(rate):
    with pytest.raises(TvqError, match="drop rate"):
        dare.drop(torch.ones(3), rate, 0, "a", "b")


# Consensus


@every_case
@pytest.mark.parametrize("votes", [0, 1, 2, 3])
def test_consensus_is_the_published_one(taus, votes):
    stacked = torch.stack(taus)
    total = stacked.sum(0)
    for lambdas in (0.4, [0.2 + 0.1 * i for i in range(len(taus))]):
        each = torch.tensor(lambdas, dtype=torch.float64).expand(len(taus))
        each = each.view(-1, *[1] * taus[0].dim())
        masks = stacked.abs() > each * (total - stacked).abs()
        wanted = total * (masks.sum(0) >= votes)
        assert close(consensus.merge(taus, lambdas, votes), wanted)


def test_tall_mask_is_strict():
    tau, total = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0.0, 3.0, 2.9, 3.1])
    assert consensus.tall_mask(tau, total, 0.5).tolist() == [False, False, True, False]


# MagMax


@every_case
def test_magmax_is_the_published_one(taus):
    merged = taus[0]
    for tau in taus[1:]:
        merged = torch.where(tau.abs() >= merged.abs(), tau, merged)
    assert torch.equal(magmax.merge(iter(taus)), merged)
    assert torch.equal(magmax.merge(taus).abs(), torch.stack(taus).abs().amax(0))


# Model Stock


@every_case
def test_model_stock_is_the_published_one(taus):
    count = len(taus)
    pairs = list(itertools.combinations([tau.reshape(-1) for tau in taus], 2))
    cosines = [float(a @ b / (a.norm() * b.norm())) if a.any() and b.any() else 0 for a, b in pairs]
    cosine = max(sum(cosines) / len(pairs), 0) if pairs else 1
    t = count * cosine / (1 + (count - 1) * cosine)
    wanted = t * torch.stack(taus).mean(0)
    assert close(model_stock.share(model_stock.gram(taus)) * torch.stack(taus).mean(0), wanted)


def test_model_stock_share_needs_the_gram_matrix_only():
    assert model_stock.share([[4.0]]) == 1
    assert model_stock.share([[4.0, 0.0], [0.0, 1.0]]) == 0
    assert model_stock.share([[4.0, 2.0], [2.0, 1.0]]) == 1
    assert model_stock.share([[4.0, 1.0], [1.0, 1.0]]) == pytest.approx(2 * 0.5 / 1.5)
    assert model_stock.share([[1.0, -1.0], [-1.0, 1.0]]) == 0
    assert model_stock.share([[0.0, 0.0], [0.0, 0.0]]) == 0


@every_case
def test_inputs_stay_as_they_were(taus):
    before = [tau.clone() for tau in taus]
    ties.merge(taus)
    ties.trim(taus[0], 0.5)
    consensus.merge(taus)
    magmax.merge(taus)
    model_stock.gram(taus)
    dare.drop(taus[0], 0.5, 0, "a", "b")
    assert all(torch.equal(a, b) for a, b in zip(taus, before, strict=True))
