"""Clusters from the Gram matrix are those of k-means over the task vectors themselves."""

import sys

import numpy as np
import pytest

from tvcodec.errors import TvqError
from tvcodec.maths.merge import clusters

cluster = pytest.importorskip("sklearn.cluster")


def published(vectors, count):
    """Labels as SVD-Hybrid computes them, and its weights."""
    unit = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-8)
    labels = cluster.KMeans(n_clusters=count, random_state=42, n_init=10).fit_predict(unit)
    return [1 / (count * (labels == label).sum()) for label in labels], labels


def same_partition(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def family(tasks, groups, spread, seed):
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((groups, 5000))
    own = generator.standard_normal((tasks, 5000))
    lengths = generator.uniform(0.1, 10, (tasks, 1))
    return (centres[generator.integers(groups, size=tasks)] + spread * own) * lengths


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.3, 1.0, 30.0])
@pytest.mark.parametrize(("tasks", "count"), [(8, 1), (8, 3), (8, 8), (20, 4)])
def test_weights_are_those_of_the_dense_vectors(tasks, count, spread, seed):
    vectors = family(tasks, 3, spread, seed)
    weights, labels = published(vectors, count)
    gram = vectors @ vectors.T
    names = [f"task{i}" for i in range(tasks)]
    found = clusters.weights(clusters.groups(gram.tolist(), names, count))
    assert sorted(found) == sorted(names)
    assert [found[name] for name in names] == pytest.approx(weights)
    assert sum(found.values()) == pytest.approx(1)
    assert same_partition(clusters.assign(gram.tolist(), count), labels.tolist())
    rounded = gram.astype(np.float32).astype(float)  # as the archive keeps it
    assert same_partition(clusters.assign(rounded.tolist(), count), labels.tolist())


def test_coordinates_have_the_distances_of_the_unit_vectors():
    vectors = family(6, 2, 1.0, 0)
    vectors[2] = 0
    vectors[4] = vectors[1] * 3
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    points = clusters.coordinates((vectors @ vectors.T).tolist())
    wanted = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(points[:, None] - points[None], axis=2), wanted, atol=1e-7
    )


def test_equal_tasks_make_fewer_clusters():
    found = clusters.weights(clusters.groups([[1.0] * 3] * 3, ["a", "b", "c"], 2))
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("count", [0, -1, 3])
def test_as_many_clusters_as_tasks_at_most(count):
    with pytest.raises(TvqError, match="expected 1 to 2 clusters"):
        clusters.assign([[1.0, 0.0], [0.0, 1.0]], count)


def test_without_scikit_learn_the_hint_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(TvqError, match="scikit-learn") as caught:
        clusters.assign([[1.0]], 1)
    assert caught.value.hint == "pip install 'tvcodec[cluster]'"
