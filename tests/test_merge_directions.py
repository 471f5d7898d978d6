"""TSVM and Iso-C against the papers' own formulas, and where those have no answer."""

import pytest
import torch
from torch.linalg import svd

from tvcodec.maths.merge import iso_c, tsvm

SHAPES = [(24, 40), (40, 24), (32, 32), (300, 7), (10, 96)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decaying(shape, tasks, dtype=torch.float64):
    """Matrices with the spectrum of a task vector."""
    found = []
    for task in range(tasks):
        u, s, v = svd(random(*shape, seed=task + 1), full_matrices=False)
        found.append(((u * (s * 0.9 ** torch.arange(len(s)))) @ v).to(dtype))
    return found


def relative(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def published_tsvm(taus, alphas=None, least=0):
    """Algorithm 1 of the paper as FusionBench writes it."""
    m, n = taus[0].shape
    k = max(int(min(m, n) * (1 / len(taus))), least)
    us, ss, vs = [], [], []
    for tau, alpha in zip(taus, alphas or [1.0] * len(taus), strict=True):
        u, s, v = svd(alpha * tau, full_matrices=False)
        us.append(u[:, :k])
        ss.append(s[:k])
        vs.append(v[:k])
    pu, _, qu = svd(torch.cat(us, 1), full_matrices=False)
    pv, _, qv = svd(torch.cat(vs, 0), full_matrices=False)
    return torch.linalg.multi_dot((pu, qu, torch.cat(ss).diag(), pv, qv))


def ours_tsvm(taus, alphas=None):
    rank = tsvm.rank_per_task(taus[0].shape, len(taus))
    triplets = [tsvm.triplets_of_matrix(tau, rank) for tau in taus]
    scaled = [one.scaled(a) for one, a in zip(triplets, alphas or [1.0] * len(taus), strict=True)]
    return tsvm.merge(scaled)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tasks", [1, 2, 3, 7])
def test_tsvm_is_the_published_one(shape, tasks):
    taus = decaying(shape, tasks)
    assert relative(ours_tsvm(taus), published_tsvm(taus)) < 1e-9
    single = [tau.float() for tau in taus]
    wanted = published_tsvm([tau.double() for tau in single])
    assert relative(ours_tsvm(single), wanted) < 1e-5


def test_tsvm_of_one_task_is_the_task():
    (tau,) = decaying((24, 40), 1)
    assert relative(ours_tsvm([tau]), tau) < 1e-12


def test_tsvm_scales_each_task_negative_too():
    taus = decaying((24, 40), 3)
    alphas = [0.5, -1.0, 2.0]
    assert relative(ours_tsvm(taus, alphas), published_tsvm(taus, alphas)) < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_triplets_of_factors_are_those_of_their_product(shape):
    left, right = random(shape[0], 6, seed=1), random(shape[1], 6, seed=2)
    matrix = left @ right.T
    for rank in (1, 3, 6, 50):
        wanted = svd(matrix, full_matrices=False)
        found = tsvm.triplets_of_factors(left, right, rank)
        kept = min(rank, 6)
        assert len(found.sigma) == kept
        torch.testing.assert_close(found.sigma, wanted.S[:kept])
        best = (wanted.U[:, :kept] * wanted.S[:kept]) @ wanted.Vh[:kept]
        assert relative((found.left * found.sigma) @ found.right.T, best) < 1e-10
        for side in (found.left, found.right):
            torch.testing.assert_close(side.T @ side, torch.eye(kept, dtype=torch.float64))


def test_triplets_of_integer_codes():
    left, right = (random(30, 4, seed=1) * 5).to(torch.int8), (random(20, 4) * 5).to(torch.int8)
    found = tsvm.triplets_of_factors(left, right, 4)
    wanted = left.double() @ right.double().T
    assert found.left.dtype == torch.float32
    assert relative((found.left * found.sigma) @ found.right.T, wanted) < 1e-6


def test_factors_without_rank_give_as_many_triplets_as_they_have():
    left, right = random(30, 2), random(20, 2, seed=1)
    doubled = tsvm.triplets_of_factors(torch.cat([left] * 3, 1), torch.cat([right] * 3, 1), 6)
    assert len(doubled.sigma) == 2
    assert relative((doubled.left * doubled.sigma) @ doubled.right.T, 3 * left @ right.T) < 1e-12
    assert tsvm.triplets_of_factors(torch.zeros(5, 0), torch.zeros(7, 0), 3).left.shape == (5, 0)


def test_weak_factors_take_part_only_as_far_as_they_exist():
    """A task of lower rank than its share: no arbitrary directions are filled in."""
    strong = decaying((24, 40), 1)[0]
    weak = random(24, 1) @ random(1, 40, seed=1)
    found = ours_tsvm([strong, weak])
    u, s, v = svd(strong, full_matrices=False)
    wu, ws, wv = svd(weak, full_matrices=False)
    pu, _, qu = svd(torch.cat([u[:, :12], wu[:, :1]], 1), full_matrices=False)
    pv, _, qv = svd(torch.cat([v[:12], wv[:1]]), full_matrices=False)
    wanted = pu @ qu @ torch.cat([s[:12], ws[:1]]).diag() @ pv @ qv
    assert relative(found, wanted) < 1e-10


def test_tsvm_of_zero_tasks_vanishes_and_disturbs_nobody():
    zero = torch.zeros(24, 40)
    assert not ours_tsvm([zero, zero]).any()
    tau = decaying((24, 40), 1, torch.float32)[0]
    u, s, v = svd(tau.double(), full_matrices=False)
    wanted = (u[:, :12] * s[:12]) @ v[:12]
    assert relative(ours_tsvm([tau, zero]), wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_tsvm_of_equal_tasks_is_the_truncated_task(shape, dtype):
    tau = decaying(shape, 1, dtype)[0]
    u, s, v = svd(tau.double(), full_matrices=False)
    k = tsvm.rank_per_task(shape, 2)
    wanted = (u[:, :k] * s[:k]) @ v[:k]
    assert relative(ours_tsvm([tau, tau]), wanted) < 1e-5
    opposite = ours_tsvm([tau, -tau])
    assert float(opposite.norm()) < 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (4, 4), (1, 1), (3, 50)])
def test_a_matrix_shorter_than_the_tasks_are_many_does_not_vanish(shape):
    taus = decaying(shape, 8)
    found = ours_tsvm(taus)
    assert torch.isfinite(found).all()
    assert relative(found, published_tsvm(taus, least=1)) < 1e-5
    assert float(found.norm()) > 0.2 * min(float(tau.norm()) for tau in taus)


def test_rank_per_task_multiplies_before_it_truncates():
    assert tsvm.rank_per_task((768, 3072), 8) == 96
    assert tsvm.rank_per_task((98, 200), 49) == 1
    assert tsvm.rank_per_task((147, 200), 49) == 2
    assert tsvm.rank_per_task((49, 98), 49) == 1  # where the published program has 0
    assert tsvm.rank_per_task((1, 768), 8) == 1


def test_missing_energy_is_made_up():
    tau = decaying((24, 40), 1)[0]
    whole = tsvm.triplets_of_matrix(tau, 12)
    coarse = tsvm.triplets_of_matrix(tau, 5)
    longer = coarse.lengthened(float(tau.norm()), 12)
    energy = [float(one.sigma.square().sum()) for one in (coarse, longer, whole)]
    assert energy == sorted(energy)
    missing = float(tau.square().sum()) - energy[0]
    assert energy[1] == pytest.approx(energy[0] + missing * 7 / 19)
    assert whole.lengthened(float(tau.norm()), 12) is whole
    assert coarse.lengthened(0.0, 12) is coarse


def published_iso_c(taus):
    u, s, v = svd(sum(taus), full_matrices=False)
    return s.mean() * (u @ v)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 64), (64, 1), (1, 1)])
@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_iso_c_is_the_published_one(shape, tasks):
    taus = [random(*shape, seed=task) for task in range(tasks)]
    assert relative(iso_c.merge(taus), published_iso_c(taus)) < 1e-8
    single = [tau.float() for tau in taus]
    assert relative(iso_c.merge(single), published_iso_c([t.double() for t in single])) < 1e-5


def test_iso_c_without_full_rank_fills_nothing_in():
    u, v = random(24, 3), random(3, 40, seed=1)
    total = (u @ v).float()
    p, s, q = svd(u @ v, full_matrices=False)
    wanted = s.mean() * p[:, :3] @ q[:3]
    assert relative(iso_c.merge([total, torch.zeros(24, 40)]), wanted) < 1e-5
    assert not iso_c.merge([total, -total]).any()


def test_iso_c_makes_up_for_what_a_sum_has_lost():
    u, v = svd(random(24, 40), full_matrices=False)[::2]
    sigma = torch.tensor([9.0, 5.0, 3.0, *[0.5] * 21], dtype=torch.float64)
    whole, cut = u * sigma @ v, u[:, :3] * sigma[:3] @ v[:3]
    lost = float((whole - cut).square().sum())
    kept = u[:, :3] @ u[:, :3].T
    assert relative(iso_c.merge([cut], lost), kept @ published_iso_c([whole])) < 1e-8
    assert relative(iso_c.merge([whole], lost), published_iso_c([whole])) < 1e-8


def test_inputs_stay_as_they_were():
    taus = decaying((24, 40), 3)
    before = [tau.clone() for tau in taus]
    iso_c.merge(taus)
    ours_tsvm(taus)
    assert all(torch.equal(a, b) for a, b in zip(taus, before, strict=True))
