"""Merges of real files by every method, against the papers' formulas in float64."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import assert_same, normal, relative_error
from torch.linalg import svd

import tvcodec
from tvcodec import EXACT, QUALITIES, Recipe
from tvcodec.decoding.merging.card import card
from tvcodec.decoding.merging.ties_by_model import Candidates
from tvcodec.decoding.stored_task import SharedBasis, StoredTask
from tvcodec.decoding.task_vector import Term
from tvcodec.encoding.published import TsvC
from tvcodec.errors import BaseModelMismatch, TvqError, UnknownTaskError
from tvcodec.file import index
from tvcodec.maths.lowrank import Factors
from tvcodec.maths.merge import ties

SHAPES = {
    "bias": (24,),
    "conv": (4, 3, 3, 3),
    "embed": (300, 32),
    "few": (10, 30),
    "frozen": (20, 20),
    "row": (1, 64),
    "scale": (),
    "tall": (96, 64),
    "wide": (64, 128),
}


def rounded(values):
    """To multiples of 2^-20, of which float32 holds sums and differences exactly."""
    return torch.round(values * 2**20) / 2**20


BASE = {name: rounded(normal(n, *shape)) for n, (name, shape) in enumerate(SHAPES.items())}
BASE |= {"flags": torch.tensor([True, False]), "steps": torch.tensor(3)}
VECTORS = Path(__file__).parent.parent / "spec/vectors"
LARGE_FILES = {VECTORS / "y_frames.tvq", VECTORS / "y_largest_block16.tvq"}
SMALL_FILES = sorted(set(VECTORS.glob("y_*.tvq")) - LARGE_FILES)
METHODS = ["weighted", "tsvm", "ties", "dare", "consensus", "model-stock", "iso-c", "magmax"]
RECIPES = {"exact": EXACT, "coarse": Recipe(step=2.0), "fine": Recipe(step=0.3)}


def tuned(seed, scale=0.01):
    """A fine-tune with the spectrum of one: strong directions, white noise, rows left alone."""
    tune = dict(BASE, steps=torch.tensor(seed))
    for n, (name, shape) in enumerate(SHAPES.items()):
        tau = normal(100 * seed + n, *shape, scale=scale)
        if len(shape) == 2:
            left = normal(100 * seed + n + 20, shape[0], 4)
            tau = tau * 0.3 + left @ normal(100 * seed + n + 40, 4, shape[1], scale=scale)
        if name == "embed":
            tau[::2] = 0
        tune[name] = BASE[name] + rounded(tau) if name != "frozen" else BASE[name]
    return tune


A, B, C = tuned(1), tuned(2, 0.03), tuned(3)
NEGATIVE = {name: 2 * BASE[name] - A[name] if name in SHAPES else A[name] for name in A}
CASES = {
    "three": {"ant": A, "bee": B, "cow": C},
    "one": {"ant": A},
    "equal": {"ant": A, "bee": A, "cow": A},
    "opposite": {"ant": A, "bee": NEGATIVE, "cow": C},
    "unchanged": {"ant": A, "bee": dict(BASE), "cow": C},
    "nothing": {"ant": dict(BASE), "bee": dict(BASE)},
}


LOOKING = ["tsvm", "iso-c", "ties", "consensus", "magmax"]
ROTATED = {
    "y_aliases_seed",
    "y_largest",
    "y_largest_one_run",
    "y_largest_shortest_run",
    "y_uniform_integers",
    "y_uniform_symbols",
}
SURE = {"dare": {"rate": 0.0}}


PAIRS = [
    *itertools.product(CASES, ["exact"]),
    *itertools.product(["three", "equal", "unchanged"], ["coarse"]),
    *itertools.product(["three", "opposite"], ["fine"]),
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def bank(request, tmp_path_factory):
    case, recipe = request.param
    path = tmp_path_factory.mktemp("merging") / "bank.tvq"
    tvcodec.encode(BASE, CASES[case], path, recipe=RECIPES[recipe])
    with tvcodec.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    path = tmp_path_factory.mktemp("merging") / "three.tvq"
    tvcodec.encode(BASE, CASES["three"], path, recipe=RECIPES["coarse"])
    with tvcodec.open(path) as opened:
        yield opened


def decoded(bank):
    """task -> name -> task vector in float64, zeros where nothing changed."""
    found = {}
    for task in bank.tasks:
        tau = bank.task_vector(task, BASE)
        found[task] = {
            name: tau[name].double() if name in tau else torch.zeros(shape).double()
            for name, shape in SHAPES.items()
        }
    return found


# The papers, in float64: of each parameter the task vectors -> the merged one.


def mean(taus):
    return sum(taus) / len(taus)


def published_tsvm(taus, norms=None, exact=1e-6):
    """TSV-Merge by full decompositions; only triplets that exist, by pseudo-inverse polar factors.
    With `norms`, factors are lengthened to them."""
    shape = taus[0].shape
    rank = max(int(min(shape) * (1 / len(taus))), 1)
    us, ss, vs = [], [], []
    for tau, norm in zip(taus, norms or [None] * len(taus), strict=True):
        u, s, v = svd(tau, full_matrices=False)
        there = int((s > exact * s[0]).sum()) if s[0] > 0 else 0
        kept = min(rank, there)
        s = s[:kept]
        found = float(s.square().sum())
        if norm and kept and kept < rank and norm**2 > found:
            even = (rank - kept) / (min(shape) - kept)
            s = s * math.sqrt(1 + (norm**2 - found) / found * even)
        us.append(u[:, :kept])
        ss.append(s)
        vs.append(v[:kept])
    u, s, v = torch.cat(us, 1), torch.cat(ss), torch.cat(vs)
    return polar(u, exact) @ s.diag() @ polar(v, exact)


def polar(matrix, cutoff):
    p, d, q = svd(matrix, full_matrices=False)
    kept = int((d > cutoff * d[0]).sum()) if len(d) else 0
    return p[:, :kept] @ q[:kept]


def published_iso_c(taus, lost=0.0):
    """Iso-C by a full decomposition, without directions that the sum does not have, over which the
    energy `lost` is spread before singular values are averaged."""
    p, s, q = svd(sum(taus), full_matrices=False)
    kept = int((s > 1e-6 * s[0]).sum()) if s[0] > 0 else 0
    even = math.sqrt(lost / (len(s) - kept)) if kept < len(s) else 0.0
    average = (s[:kept].sum() + even * (len(s) - kept)) / len(s)
    return average * p[:, :kept] @ q[:kept]


def published_ties(taus, thresholds):
    stacked = torch.stack(taus)
    limit = torch.tensor(thresholds, dtype=torch.float64).view(-1, *[1] * taus[0].dim())
    stacked = stacked * (stacked.abs() >= limit)
    sign = stacked.sum(0).sign()
    sign[sign == 0] = 1 if sign.sum() >= 0 else -1
    agrees = (stacked.sign() == sign) & (stacked != 0)
    return (stacked * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def kth(values, density):
    place = len(values) - int(len(values) * density)
    return float(values.abs().kthvalue(place).values) if place else 0.0


def published_consensus(taus, lambda_, votes):
    stacked = torch.stack(taus)
    total = stacked.sum(0)
    return total * ((stacked.abs() > lambda_ * (total - stacked).abs()).sum(0) >= votes)


def published_magmax(taus):
    merged = taus[0]
    for tau in taus[1:]:
        merged = torch.where(tau.abs() >= merged.abs(), tau, merged)
    return merged


def published_stock(taus):
    count, flat = len(taus), [tau.reshape(-1) for tau in taus]
    cosines = [
        float(a @ b / (a.norm() * b.norm())) if a.any() and b.any() else 0.0
        for a, b in itertools.combinations(flat, 2)
    ]
    cosine = max(sum(cosines) / len(cosines), 0) if cosines else 1
    return count * cosine / (1 + (count - 1) * cosine) * mean(taus)


def assert_merged(bank, wanted, tolerance=1e-5, **request):
    """The task vector of a merge, in a file and in the model, is what `wanted` makes of those of
    each parameter."""
    taus = decoded(bank)
    found = bank.merge(BASE, task_vector=True, **request)
    model = bank.merge(BASE, **request)
    assert set(model) == set(BASE)
    assert_same(model["steps"], BASE["steps"])
    assert_same(model["frozen"], BASE["frozen"])
    for name in SHAPES:
        expected = wanted(name, [tau[name] for tau in taus.values()])
        if name not in found:
            assert not expected.any()
            assert_same(model[name], BASE[name])
            continue
        assert found[name].dtype == torch.float32
        error = float((found[name].double() - expected).norm())
        scale = max(float(tau[name].norm()) for tau in taus.values())
        assert error <= tolerance * scale, name
        assert_same(model[name], BASE[name] + found[name])


def norms_of_factors(bank, name):
    """The recorded norms, of tasks whose parameter has factors and nothing else."""
    number, norms = bank.archive.numbers[name], []
    for task in bank.tasks:
        entries = [e for e in bank.archive.index(task).entries if e.parameter == number]
        only = entries and all(isinstance(part, index.Factors) for part in entries[0].parts)
        norms.append(entries[0].norm if only else None)
    return norms


def test_tsvm_is_the_published_one(bank):
    def wanted(name, taus):
        if len(SHAPES[name]) != 2 or name == "few":
            return mean(taus)
        return published_tsvm(taus, norms_of_factors(bank, name))

    assert_merged(bank, wanted, method="tsvm", exclude=["few"])


def energy_lost(bank, name, taus):
    """What coding took of the energies of tasks whose parameter has a section of its own."""
    number, lost = bank.archive.numbers[name], 0.0
    for task, tau in zip(bank.tasks, taus, strict=True):
        entries = [e for e in bank.archive.index(task).entries if e.parameter == number]
        lost += sum(max(entry.norm**2 - float(tau.square().sum()), 0.0) for entry in entries)
    return lost


def test_iso_c_is_the_published_one(bank):
    def wanted(name, taus):
        if len(SHAPES[name]) != 2:
            return mean(taus)
        return published_iso_c(taus, energy_lost(bank, name, taus))

    assert_merged(bank, wanted, method="iso-c")


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_ties_by_parameter_is_the_published_one(bank, density):
    def wanted(name, taus):
        return published_ties(taus, [kth(tau.reshape(-1), density) for tau in taus])

    assert_merged(bank, wanted, method="ties", scope="parameter", density=density)


def test_ties_by_model_has_one_threshold_per_task(bank):
    taus = decoded(bank)
    thresholds = [
        kth(torch.cat([t.reshape(-1) for t in tau.values()]), 0.2) for tau in taus.values()
    ]
    read = []
    found = bank.merge(BASE, method="ties", task_vector=True, progress=read.append)
    assert not read
    differ = count = 0
    for name in found:
        wanted = published_ties([tau[name] for tau in taus.values()], thresholds)
        differ += int(((found[name] - wanted).abs() > 1e-6 * wanted.abs()).sum())
        count += wanted.numel()
    assert differ <= 0.003 * count  # values within 0.1 % of a threshold
    whole = sum(parameter.count for parameter in bank.archive.root.base_model)
    assert sum(read) == (whole * len(bank.tasks) if len(found) else 0)


def test_ties_by_model_measures_again_what_it_could_not_measure(tmp_path):
    """No thresholds of some of the tasks are left behind for the next parameter."""
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, CASES["three"], path, recipe=EXACT)
    with tvcodec.open(path) as bank:
        _, place = next(bank.archive.sections("cow"))
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with tvcodec.open(path) as bank:
        merged = bank.merge(BASE, method="ties")
        for name in ("wide", "tall", "wide"):
            with pytest.raises(tvcodec.FormatError, match="task 'cow'"):
                merged[name]


@pytest.mark.parametrize(("threshold", "votes"), [(0.4, 2), (0.6, 1)])
def test_consensus_is_the_published_one(bank, threshold, votes):
    assert_merged(
        bank,
        lambda name, taus: published_consensus(taus, threshold, votes),
        method="consensus",
        threshold=threshold,
        votes=votes,
    )


def test_magmax_is_the_published_one(bank):
    assert_merged(bank, lambda name, taus: published_magmax(taus), method="magmax")


def test_model_stock_is_the_published_one(bank):
    assert_merged(bank, lambda name, taus: published_stock(taus), method="model-stock")


def test_model_stock_of_the_whole_model_sums_inner_products_of_its_parameters(bank):
    every = decoded(bank)
    whole = [torch.cat([tau[name].reshape(-1) for name in SHAPES]) for tau in every.values()]
    cosines = [
        float(a @ b / (a.norm() * b.norm())) if a.any() and b.any() else 0.0
        for a, b in itertools.combinations(whole, 2)
    ]
    cosine = max(sum(cosines) / len(cosines), 0) if cosines else 1
    share = len(whole) * cosine / (1 + (len(whole) - 1) * cosine)
    assert_merged(bank, lambda name, taus: share * mean(taus), method="model-stock", scope="model")


def test_dare_without_drops_is_the_weighted_sum(bank):
    assert_merged(bank, lambda name, taus: mean(taus), method="dare", rate=0.0)
    assert_merged(bank, lambda name, taus: mean(taus))


def test_dare_drops_what_it_should_and_makes_up_for_it(three):
    taus = decoded(three)
    kept = []
    for task in three.tasks:
        found = three.merge(BASE, method="dare", tasks=[task], rate=0.75, seed=5, task_vector=True)
        for name in found:
            there = found[name] != 0
            torch.testing.assert_close(found[name][there], 4 * taus[task][name][there].float())
        kept.append(found["tall"] != 0)
        assert float(kept[-1].float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_the_same_at_any_number_of_threads(three, tmp_path, method):
    threads, written = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            path = tmp_path / f"{count}.safetensors"
            three.merge(BASE, method=method).save(path)
            assert torch.get_num_threads() == count
            written.append(path.read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert written[0] == written[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_subset_is_what_its_tasks_alone_would_give(three, tmp_path, method):
    alone = tmp_path / "alone.tvq"
    tvcodec.encode(BASE, {"ant": A, "cow": C}, alone, recipe=RECIPES["coarse"])
    with tvcodec.open(alone) as bank:
        wanted = dict(bank.merge(BASE, method=method))
    found = three.merge(BASE, method=method, tasks=["cow", "ant"])
    for name in wanted:
        assert_same(found[name], wanted[name])


@pytest.mark.parametrize("method", METHODS)
def test_files_of_one_base_model_merge_like_one_file(three, tmp_path, method):
    paths = [tmp_path / "ant.tvq", tmp_path / "others.tvq"]
    tvcodec.encode(BASE, {"ant": A}, paths[0], recipe=RECIPES["coarse"])
    tvcodec.encode(BASE, {"bee": B, "cow": C}, paths[1], recipe=RECIPES["coarse"])
    wanted = three.merge(BASE, method=method)
    with tvcodec.open(paths[1]) as bank, tvcodec.open(paths[0]) as other:
        found = bank.merge(BASE, method=method, others=[other])
        assert len(json.loads(found.metadata.pop("tvcodec.archives"))) == 2
        assert len(json.loads(wanted.metadata.pop("tvcodec.archives"))) == 1
        assert found.metadata == wanted.metadata
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-7)


def test_a_file_that_does_not_say_how_alike_its_tasks_are(tmp_path, monkeypatch):
    path = tmp_path / "bank.tvq"
    with monkeypatch.context() as patch:  # another writer
        patch.setattr("tvcodec.file.similarity.triangle", lambda *_: b"")
        tvcodec.encode(BASE, {"ant": A, "bee": dict(BASE)}, path, recipe=RECIPES["coarse"])
    with tvcodec.open(path) as bank:
        with pytest.raises(TvqError, match="does not say how alike its tasks are") as caught:
            bank.merge(BASE, "cluster:2")
        assert "another method" in caught.value.hint
        assert bank.merge(BASE, method="model-stock", scope="model")["bias"].shape == (24,)


def test_files_that_do_not_belong_together_are_refused(three, tmp_path):
    path = tmp_path / "other.tvq"
    tvcodec.encode(BASE, {"dog": A}, path, recipe=RECIPES["coarse"])
    strange = tmp_path / "strange.tvq"
    tvcodec.encode(dict(BASE, bias=BASE["bias"] + 1), {"dog": A}, strange)
    with tvcodec.open(path) as other, tvcodec.open(strange) as stranger:
        with pytest.raises(TvqError, match=r"task 'ant' is in .*three.tvq and in .*three.tvq"):
            three.merge(BASE, others=[three])
        with pytest.raises(
            BaseModelMismatch, match=r"strange.tvq: expected tasks of the base model"
        ):
            three.merge(BASE, others=[stranger])
        with pytest.raises(TvqError, match=r"no inner products .*three.tvq, .*other.tvq"):
            three.merge(BASE, "cluster:2", others=[other])
        with pytest.raises(UnknownTaskError, match=r"no task 'fox' in .*three.tvq, .*other.tvq"):
            three.merge(BASE, tasks=["fox"], others=[other])
        assert three.merge(BASE, "cluster:2", others=[other], tasks=["ant", "cow"])["bias"].any()


# Every kind of part, mask, tie and basis


@pytest.mark.parametrize("path", SMALL_FILES, ids=lambda path: path.stem)
def test_whatever_a_file_may_hold_merges(path):
    base = load_file(VECTORS / "base.safetensors")
    with tvcodec.open(path) as bank:
        taus = [bank.task_vector(task, base) for task in bank.tasks]
        terms = [
            Term(StoredTask(bank.archive, task), SharedBasis(bank.archive)) for task in bank.tasks
        ]
        for method in METHODS if taus else ():
            request = {"method": method, **SURE.get(method, {})}
            if method in LOOKING and path.stem in ROTATED:
                with pytest.raises(TvqError, match="coded in a rotated frame"):
                    bank.merge(base, **request)
                continue
            found = bank.merge(base, task_vector=True, **request)
            assert set(found) == set().union(*taus)
            for name, tensor in found.items():
                each = [tau[name] if name in tau else torch.zeros(tensor.shape) for tau in taus]
                if not torch.isfinite(torch.stack(each)).all():
                    assert path.stem.startswith("y_exact_")
                    continue
                assert torch.isfinite(tensor).all()
                wanted = None
                if method in ("weighted", "dare"):
                    wanted = mean([tau.double() for tau in each])
                elif method == "magmax" and not any(
                    term.rotated(bank.archive.numbers[name]) for term in terms
                ):
                    wanted = published_magmax(each)
                if wanted is not None:
                    scale = 1e-5 * max(float(tau.norm()) for tau in each)
                    assert float((tensor - wanted).norm()) <= scale


# Weights, scaling, signs


def test_cluster_weights_are_those_of_the_task_vectors(tmp_path):
    from sklearn.cluster import KMeans

    near = {
        name: A[name] + 0.1 * (C[name] - BASE[name]) if name in SHAPES else A[name] for name in A
    }
    tunes = {"dog": C, "ant": A, "bee": near, "cow": B}
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, tunes, path, recipe=EXACT)
    with tvcodec.open(path) as bank:
        taus = decoded(bank)
        rows = [torch.cat([t.reshape(-1) for t in taus[task].values()]) for task in sorted(tunes)]
        unit = torch.stack([row / row.norm() for row in rows]).numpy()
        labels = KMeans(n_clusters=3, random_state=42, n_init=10).fit_predict(unit)
        wanted = {
            task: 1 / (3 * int((labels == label).sum()))
            for task, label in zip(sorted(tunes), labels, strict=True)
        }
        model = bank.merge(BASE, "cluster:3")
        assert json.loads(model.metadata["tvcodec.weights"]) == pytest.approx(wanted)
        assert wanted["ant"] == wanted["bee"] == pytest.approx(1 / 6)
        model.save(tmp_path / "merged.safetensors")
        direct = bank.merge(BASE, wanted)
        for name, tensor in load_file(tmp_path / "merged.safetensors").items():
            assert_same(tensor, direct[name])
        with pytest.raises(TvqError, match="expected 1 to 4 clusters, got 5"):
            bank.merge(BASE, "cluster:5")
        with pytest.raises(TvqError, match="cluster:K with a number K, got 'cluster:two'"):
            bank.merge(BASE, "cluster:two")


@pytest.mark.parametrize("method", METHODS)
def test_a_scaling_multiplies_and_a_sign_turns(three, method):
    plain = three.merge(BASE, method=method, task_vector=True)
    scaled = three.merge(BASE, method=method, scaling=-2.5, task_vector=True)
    turned = three.merge(BASE, method=method, negate=["ant", "bee", "cow"], task_vector=True)
    each = three.merge(
        BASE, method=method, scaling=dict.fromkeys(three.tasks, 2.0), task_vector=True
    )
    for name in plain:
        scale = 1e-5 * float(plain[name].norm()) + 1e-9
        for other, factor in ((scaled, -2.5), (turned, -1.0), (each, 2.0)):
            if method != "ties" or factor != 2.0:  # whose thresholds are in bins
                assert float((other[name] - factor * plain[name]).norm()) <= 3 * scale, name


def test_tsvm_scales_each_task_before_it_merges(tmp_path):
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, CASES["three"], path, recipe=EXACT)
    scaling = {"ant": 0.5, "bee": -1.2, "cow": 0.0}
    with tvcodec.open(path) as bank:

        def wanted(name, taus):
            scaled = [tau * scaling[task] for task, tau in zip(scaling, taus, strict=True)]
            return published_tsvm(scaled) if len(SHAPES[name]) == 2 else mean(scaled)

        assert_merged(bank, wanted, method="tsvm", scaling=scaling)
        model = bank.merge(BASE, method="tsvm", scaling=scaling)
        assert json.loads(model.metadata["tvcodec.scaling"]) == scaling


def test_accuracies_may_be_at_a_path(three, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"ant": 0.9, "bee": 0.8, "cow": 0.1}))
    found = three.merge(BASE, weights=tmp_path / "a.json")
    assert found.metadata == three.merge(BASE, weights=str(tmp_path / "a.json")).metadata


def test_negated_and_negative_weights_are_the_same(three):
    direct = three.merge(BASE, {"ant": -0.5, "bee": 1.0})
    turned = three.merge(BASE, {"ant": 0.5, "bee": 1.0}, negate=["ant"])
    assert direct.metadata == turned.metadata
    assert json.loads(turned.metadata["tvcodec.weights"]) == {"ant": -0.5, "bee": 1.0}
    taus = decoded(three)
    for name in SHAPES:
        assert_same(direct[name], turned[name])
        wanted = BASE[name] - 0.5 * taus["ant"][name] + taus["bee"][name]
        torch.testing.assert_close(direct[name], wanted.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"method": "average"}, "no merge method 'average'"),
        ({"method": "tsvm", "weights": "uniform"}, "weights has no effect with method 'tsvm'"),
        ({"method": "magmax", "seed": 0}, "seed has no effect with method 'magmax'"),
        ({"temperature": 2.0}, "a temperature has no effect with weights 'uniform'"),
        ({"temperature": 2.0, "weights": {"ant": 1}}, "a temperature has no effect"),
        ({"weights": {}}, "expected a weight for at least one task, got none"),
        ({"method": "ties", "density": 0.0}, "expected a density above 0 and up to 1, got 0.0"),
        ({"method": "ties", "scope": "layer"}, "expected the scope 'model' or 'parameter'"),
        ({"method": "dare", "rate": 1.0}, "expected a drop rate of at least 0 and below 1"),
        ({"method": "consensus", "threshold": math.inf}, "expected a finite threshold from 0"),
        ({"method": "tsvm", "exclude": ["head*"]}, "exclude: no parameter matches 'head.'"),
        ({"scaling": math.nan}, "scaling: expected a number in .*, got nan"),
        ({"scaling": {"ant": 1.0}}, "one for each task, got none for bee, cow"),
        ({"scaling": {t: 1.0 for t in ("ant", "bee", "cow", "fox")}}, "scaling: no task 'fox'"),
        ({"negate": ["fox"]}, "negate: no task 'fox'"),
        ({"tasks": ["ant"], "negate": ["bee"]}, "negate: no task 'bee'"),
        ({"tasks": "ant"}, "tasks: expected a list of names, got 'ant'"),
        ({"negate": "ant"}, "negate: expected a list of names"),
        ({"method": "tsvm", "exclude": "tall"}, "exclude: expected names or globs in a list"),
        ({"method": "consensus", "votes": -3}, "expected votes from 0, got -3"),
        ({"method": "consensus", "votes": 1.5}, "votes: expected a whole number, got 1.5"),
        ({"method": "dare", "seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"method": "ties", "density": "0.2"}, "density: expected a number, got '0.2'"),
        ({"scaling": "0.5"}, "scaling: expected a number, or one for each task, got '0.5'"),
        ({"scaling": True}, "scaling: expected a number, or one for each task, got True"),
        ({"tasks": []}, "expected at least one task to merge, got none"),
    ],
)
def test_what_means_nothing_is_refused(three, request_, message):
    with pytest.raises(TvqError, match=message):
        three.merge(BASE, **request_)


@pytest.mark.parametrize("method", ["tsvm", "iso-c"])
def test_a_matrix_that_is_not_finite_is_named(tmp_path, method):
    path = tmp_path / "bank.tvq"
    tvcodec.encode(BASE, {"ant": dict(A, tall=A["tall"] * math.nan)}, path, recipe=EXACT)
    with tvcodec.open(path) as bank:
        with pytest.raises(TvqError, match="parameter 'tall': a task vector has values that are"):
            bank.merge(BASE, method=method)["tall"]
        assert bank.merge(BASE, method=method, exclude=["tall"])["tall"].isnan().all()


def test_a_model_needs_the_base_model_and_a_task_vector_does_not(three, tmp_path):
    with pytest.raises(TvqError, match="a merge needs the base model"):
        three.merge(None)
    for method in METHODS:
        found = three.merge(None, method=method, task_vector=True)
        assert found["tall"].any() or method == "model-stock"  # no agreement: no change
        assert set(found) == set(SHAPES) - {"frozen"}


def test_tsvm_refuses_to_make_up_triplets_that_tsv_c_did_not_keep(tmp_path):
    base = {"w": torch.zeros(40, 30), "b": torch.zeros(30)}
    tunes = {t: {"w": normal(n, 40, 30), "b": normal(n, 30)} for n, t in enumerate("abcd")}
    tvcodec.encode(base, tunes, tmp_path / "bank.tvq", recipe=TsvC(fp16=True))
    with tvcodec.open(tmp_path / "bank.tvq") as opened:
        opened.merge(base, method="tsvm")["w"]
        message = "bank.tvq: task 'a': parameter 'w': tsvm of 2 takes 15 .* of each, the file has 7"
        with pytest.raises(TvqError, match=message):
            opened.merge(base, method="tsvm", tasks=["a", "b"])["w"]
    low = {
        t: {"w": normal(n, 40, 3) @ normal(n + 9, 3, 30), "b": base["b"]}
        for n, t in enumerate("abcd")
    }
    tvcodec.encode(base, low, tmp_path / "low.tvq", recipe=TsvC())
    with tvcodec.open(tmp_path / "low.tvq") as opened:
        wanted = published_tsvm([low["a"]["w"].double(), low["b"]["w"].double()])
        found = opened.merge(base, method="tsvm", tasks=["a", "b"])["w"].double()
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def test_files_of_one_name_are_told_apart_in_what_is_written_down(tmp_path):
    paths = [tmp_path / folder / "bank.tvq" for folder in ("one", "two")]
    for path, tunes in zip(paths, ({"ant": A}, {"bee": B}), strict=True):
        path.parent.mkdir()
        tvcodec.encode(BASE, tunes, path)
    with tvcodec.open(paths[0]) as one, tvcodec.open(paths[1]) as two:
        told = json.loads(one.merge(BASE, others=[two]).metadata["tvcodec.archives"])
        assert told == {"bank.tvq": one.root, "bank.tvq (2)": two.root}


def test_a_card_leaves_out_what_others_say_and_keeps_letters_of_any_language(three):
    metadata = three.merge(BASE).metadata | {"tvcodec.base_model": '"名前-\U0001f600"'}
    text = card(metadata | {"author": "no JSON: {"})
    assert text == card(metadata)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "名前-\U0001f600"


def test_what_was_used_is_written_down(three):
    model = three.merge(BASE, method="tsvm", exclude=["few"], negate=["cow"], scaling=0.5)
    archives = json.dumps({Path(three.archive.path).name: three.root})
    assert model.metadata == {
        "tvcodec.archives": archives,
        "tvcodec.merge": "tsvm",
        "tvcodec.tasks": '["ant", "bee", "cow"]',
        "tvcodec.scaling": "0.5",
        "tvcodec.negate": '["cow"]',
        "tvcodec.settings": '{"exclude": ["few"]}',
    }


# Rotated parts


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Factors before a rotated rest ("balanced"), and rotated coding alone ("small")."""
    folder = tmp_path_factory.mktemp("noisy")
    base = {"w": normal(0, 256, 256), "v": normal(1, 256, 256)}
    tunes = {}
    for seed, task in enumerate(["ant", "bee", "cow"], 2):
        strong = normal(seed, 256, 2) @ normal(seed + 10, 2, 256, scale=0.002)
        tunes[task] = {
            "w": base["w"] + strong + normal(seed + 20, 256, 256, scale=0.001),
            "v": base["v"] + normal(seed + 30, 256, 256, scale=0.001),
        }
    for quality in ("small", "balanced"):
        tvcodec.encode(base, tunes, folder / f"{quality}.tvq", recipe=QUALITIES[quality])
    return base, tunes, folder


SETTINGS = {"ties": {"scope": "parameter"}}


@pytest.mark.parametrize("method", LOOKING)
def test_a_rotated_archive_is_refused_by_methods_that_look(noisy, method):
    base, _, folder = noisy
    with tvcodec.open(folder / "small.tvq") as bank, pytest.raises(TvqError) as refused:
        bank.merge(base, method=method)
    assert f"small.tvq: task 'ant': {method} looks at directions" in str(refused.value)
    assert "which 2 of 2 parameters do not have" in str(refused.value)
    assert "--quality high" in str(refused.value.hint)


@pytest.mark.parametrize("method", ["weighted", "dare", "model-stock"])
def test_a_rotated_archive_serves_methods_that_add(noisy, method):
    base, tunes, folder = noisy
    with tvcodec.open(folder / "small.tvq") as bank:
        found = bank.merge(base, method=method, task_vector=True)
        mean_tau = mean([tune["w"] - base["w"] for tune in tunes.values()])
        gain = float((found["w"] * mean_tau).sum() / mean_tau.square().sum())
    wanted = published_stock([tune["w"].double() - base["w"] for tune in tunes.values()])
    share = float(wanted.norm() / mean_tau.double().norm()) if method == "model-stock" else 1.0
    assert gain == pytest.approx(share, abs=0.25)


@pytest.mark.parametrize("drowned", [0.0, 1e9])
@pytest.mark.parametrize("method", LOOKING)
def test_a_rotated_part_is_looked_at_or_added_beside(noisy, method, drowned, monkeypatch):
    base, _, folder = noisy
    monkeypatch.setattr("tvcodec.decoding.merging.strategies.DROWNED", drowned)
    with tvcodec.open(folder / "balanced.tvq") as bank:
        taus, number = [], bank.archive.numbers["w"]
        for task in bank.tasks:
            stored = StoredTask(bank.archive, task)
            assert stored.rotated(number)
            parts = stored.parts(number).contents
            taus.append(sum(part.values().double() for part in parts if isinstance(part, Factors)))
        whole = [bank.task_vector(task)["w"].double() for task in bank.tasks]
        settings = SETTINGS.get(method, {})
        found = bank.merge(base, method=method, task_vector=True, **settings)["w"]
    seen = whole if method == "iso-c" or (method == "tsvm" and drowned) else taus
    wanted = {
        "tsvm": lambda: published_tsvm(seen),
        "iso-c": lambda: published_iso_c(seen),
        "ties": lambda: published_ties(seen, [kth(tau.reshape(-1), 0.2) for tau in seen]),
        "consensus": lambda: published_consensus(seen, 0.4, 2),
        "magmax": lambda: published_magmax(seen),
    }[method]()
    rest = sum(whole) - sum(seen)
    assert relative_error(found, wanted + 2 / 3 * rest) < 1e-5


def test_noise_is_what_comes_back_across_the_task_vector(noisy):
    base, tunes, folder = noisy
    with tvcodec.open(folder / "balanced.tvq") as bank:
        for task in bank.tasks:
            tau = tunes[task]["w"].double() - base["w"]
            found = bank.task_vector(task)["w"].double()
            along = float((found * tau).sum() / tau.square().sum())
            across = float((found - along * tau).square().sum() / tau.square().sum())
            noise = StoredTask(bank.archive, task).noise(bank.archive.numbers["w"])
            assert noise == pytest.approx(across, rel=1e-3)


# What is read


@pytest.mark.parametrize(
    ("quality", "method"),
    [
        *(("balanced", method) for method in METHODS),
        *(("small", method) for method in METHODS if method not in LOOKING),  # others refuse it
    ],
)
def test_a_merge_reads_each_section_once(noisy, method, quality, monkeypatch, tmp_path):
    base, _, folder = noisy
    read = []
    original = tvcodec.file.archive.Archive.read
    with tvcodec.open(folder / f"{quality}.tvq") as bank:
        monkeypatch.setattr(
            "tvcodec.file.archive.Archive.read",
            lambda archive, task, section, offset: (
                read.append((task, offset)) or original(archive, task, section, offset)
            ),
        )
        bank.merge(base, method=method).save(tmp_path / "merged.safetensors")
    assert len(read) == len(set(read)) == 6


def test_ties_keeps_of_a_spooled_task_vector_what_its_threshold_may_keep():
    candidates = Candidates()
    values = {(n, t): normal(3 * n + t, 31, 7) for n in range(2) for t in range(3)}
    for (number, task), tensor in values.items():
        candidates.put(number, task, tensor, 0.5 * task)
    candidates.put(2, 0, torch.zeros(4), 0.0)
    for (number, task), tensor in reversed(values.items()):
        found = candidates.take(number, task, (31, 7))
        assert_same(found, torch.where(tensor.abs() >= 0.5 * task, tensor, 0.0))
    assert not candidates.take(2, 0, (4,)).any()
    assert candidates.take(9, 9, ()).shape == ()


def test_a_threshold_never_falls_while_a_task_vector_is_counted():
    count, magnitudes, found = 30 * 500, ties.Magnitudes(), [0.0]
    values = [normal(n, 500, scale=1 + n % 5) for n in range(30)]
    for piece in values:
        magnitudes.add(piece)
        found.append(magnitudes.threshold(0.2, count))
    assert found == sorted(found)
    exact = kth(torch.cat(values), 0.2)
    assert exact * (1 - 1e-3) <= found[-1] <= exact
    assert 0 < found[10] < exact
