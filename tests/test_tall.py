"""TALL-masks and consensus, TSV-C and BitDelta are what their papers say, in float64."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from round_trip import Coder
from small_models import State, normal

import tvcodec
from tvcodec import TvqError
from tvcodec.encoding.published import BitDelta, Consensus, Tall, TsvC
from tvcodec.file.index import ENTRIES

Matrix = npt.NDArray[np.float64]
TASKS = 5


def models() -> tuple[State, dict[str, State]]:
    base = {"w": normal(0, 24, 18), "b": normal(1, 18), "s": normal(2)}
    tunes = {
        f"t{n}": {
            name: tensor + normal(10 + n, *tensor.shape, scale=0.01)
            for name, tensor in base.items()
        }
        for n in range(TASKS)
    }
    tunes["t1"]["w"][3:9] = base["w"][3:9]
    return base, tunes


def taus(base: State, tunes: Mapping[str, State], name: str = "w") -> Matrix:
    """Tasks x values."""
    return np.stack([(t[name] - base[name]).double().numpy().ravel() for t in tunes.values()])


def found(vectors: Mapping[str, State], name: str = "w") -> Matrix:
    return np.stack([vector[name].double().numpy().ravel() for vector in vectors.values()])


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_a_task_keeps_of_the_sum_what_its_mask_says(coded: Coder, threshold: float) -> None:
    base, tunes = models()
    vectors = coded(base, tunes, Tall(mask_lambda=threshold)).task_vectors
    for name in base:
        each = taus(base, tunes, name)
        total = each.sum(0)
        masks = np.abs(each) > threshold * np.abs(total - each)
        if name == "w":
            assert 0.2 < masks.mean() < 0.8
            wanted = masks * total
            assert np.abs(found(vectors) - wanted).max() < 1e-6 * np.abs(total).max()
        else:
            for task, mask in zip(tunes, masks, strict=True):
                vector = vectors[task].get(name, torch.zeros(mask.size))
                wanted = (mask * total).reshape(-1)
                assert np.allclose(vector.double().numpy().ravel(), wanted, atol=1e-6)


def test_given_masks_are_kept_in_the_file(coded: Coder) -> None:
    base, tunes = models()
    masks = {task: {"w": normal(60 + n, 24, 18) > 1} for n, task in enumerate(tunes)}
    path = coded(base, tunes, Tall()).path.with_name("given.tvq")
    tvcodec.encode(base, tunes, path, recipe=Tall(), masks=masks)
    with tvcodec.open(path) as bank:
        vectors = {task: dict(bank.task_vector(task)) for task in tunes}
        for task in tunes:
            entry = bank.archive.index(task).entries[-1]
            assert entry.mask is not None
            assert (entry.mask.kind, entry.mask.kept) == (ENTRIES, int(masks[task]["w"].sum()))
    total = taus(base, tunes).sum(0)
    wanted = np.stack([masks[task]["w"].numpy().ravel() * total for task in tunes])
    assert np.abs(found(vectors) - wanted).max() < 1e-6 * np.abs(total).max()


def test_a_fitted_lambda_is_closer_than_any_fixed_one(coded: Coder) -> None:
    base, tunes = models()
    fitted = coded(base, tunes, Tall(mask_lambda="fit")).summary
    for threshold in (0.2, 0.4, 0.6, 1.0):
        fixed = coded(base, tunes, Tall(mask_lambda=threshold)).summary
        for one, other in zip(fitted.tasks, fixed.tasks, strict=True):
            assert one.error < other.error


@pytest.mark.parametrize("votes", [0, 1, 2, 3, TASKS])
def test_consensus_keeps_what_enough_tasks_keep(coded: Coder, votes: int) -> None:
    base, tunes = models()
    result = coded(base, tunes, Consensus(votes=votes))
    each = taus(base, tunes)
    total = each.sum(0)
    count = (np.abs(each) > 0.4 * np.abs(total - each)).sum(0)
    wanted = (total * (count >= votes)).reshape(24, 18)
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base, scaling=0.5)["w"].double() - base["w"].double()
    assert np.abs(merged.numpy() - 0.5 * wanted).max() < 1e-6


def test_consensus_of_what_some_tasks_changed_counts_as_much_as_of_all(coded: Coder) -> None:
    base, tunes = models()
    tunes = {
        t: {**tune, "w": base["w"]} if n else tune for n, (t, tune) in enumerate(tunes.items())
    }
    result = coded(base, tunes, Consensus(votes=1))
    changed = {t: tune["w"] - base["w"] for t, tune in tunes.items()}
    with tvcodec.open(result.path) as bank:
        merged = bank.merge(base, task_vector=True)["w"]
    assert torch.allclose(merged, torch.stack(list(changed.values())).sum(0), atol=1e-6)


def test_more_votes_than_tasks_are_refused(coded: Coder) -> None:
    base, tunes = models()
    message = f"votes: expected at most {TASKS}, the number of tasks, got {TASKS + 1}"
    with pytest.raises(TvqError, match=message):
        coded(base, tunes, Consensus(votes=TASKS + 1))


def test_a_parameter_that_the_masks_lack_matters_as_a_whole(coded: Coder) -> None:
    base, tunes = models()
    masks = {task: {"b": torch.ones(18, dtype=torch.bool)} for task in tunes}
    path = coded(base, tunes, Tall()).path.with_name("given.tvq")
    tvcodec.encode(base, tunes, path, recipe=Tall(), masks=masks)
    total = torch.stack([tune["w"] - base["w"] for tune in tunes.values()]).sum(0)
    with tvcodec.open(path) as bank:
        for task in tunes:
            assert torch.allclose(bank.task_vector(task)["w"], total, atol=1e-6)


@pytest.mark.parametrize("fp16", [True, False])
def test_tsv_c_keeps_a_share_of_the_singular_triplets(coded: Coder, fp16: bool) -> None:
    base, tunes = models()
    result = coded(base, tunes, TsvC(fp16=fp16))
    for task, tune in tunes.items():
        u, sigma, v = np.linalg.svd((tune["w"] - base["w"]).double().numpy())
        rank = int(18 * (1 / TASKS))
        wanted = u[:, :rank] * sigma[:rank] @ v[:rank]
        vector = result.task_vectors[task]
        slack = (2e-3 if fp16 else 1e-5) * sigma[0]
        assert np.linalg.norm(vector["w"].double().numpy() - wanted) < slack
        assert torch.allclose(vector["b"], tune["b"] - base["b"], rtol=1e-3 if fp16 else 0)


def test_tsv_c_loses_no_matrix_too_small_for_a_triplet(coded: Coder) -> None:
    base = {"w": normal(0, 3, 40)}
    tunes = {f"t{n}": {"w": base["w"] + normal(5 + n, 3, 40)} for n in range(4)}
    vectors = coded(base, tunes, TsvC()).task_vectors
    assert all(torch.equal(vectors[t]["w"], tunes[t]["w"] - base["w"]) for t in tunes)


def test_tsv_c_keeps_a_matrix_whose_triplets_would_be_larger(coded: Coder) -> None:
    base = {"w": normal(0, 18, 24)}
    tunes = {"one": {"w": base["w"] + normal(5, 18, 24)}}  # alone, it may have all 18 triplets
    vectors = coded(base, tunes, TsvC(fp16=False)).task_vectors
    assert torch.equal(vectors["one"]["w"], tunes["one"]["w"] - base["w"])


def test_bitdelta_keeps_signs_and_the_mean_magnitude(coded: Coder) -> None:
    base, tunes = models()
    vectors = coded(base, tunes, BitDelta()).task_vectors
    for task, tune in tunes.items():
        tau = (tune["w"] - base["w"]).double()
        moved = tau.any(1)
        magnitude = tau[moved].abs().mean()
        assert torch.allclose(vectors[task]["w"][moved].double(), tau[moved].sign() * magnitude)
        assert not vectors[task]["w"][~moved].any()


def test_bitdelta_costs_a_bit(coded: Coder) -> None:
    base = {"w": torch.zeros(400, 300)}
    result = coded(base, {"t": {"w": normal(0, 400, 300)}}, BitDelta())
    assert 0.99 < 8 * result.stored_bytes("t") / 120_000 < 1.01
