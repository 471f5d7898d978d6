"""Weights by cluster: tasks that resemble each other share the weight of one.

As SVD-Hybrid publishes it: k-means over task vectors of length 1, then 1 / (K |c|) for each task of
a cluster c of K. Distances between vectors follow from their inner products, so it runs on
coordinates made from the N x N Gram matrix and takes no task vector; and it is scikit-learn's, with
the published arguments, since for task vectors at right angles the clusters are what its random
numbers make them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from tvcodec.errors import TvqError


def groups(gram: Sequence[Sequence[float]], tasks: Sequence[str], clusters: int) -> list[list[str]]:
    """The tasks of each cluster, from the inner products (or cosines) of the task vectors.

    The published order of tasks is that of their names, and the clusters may depend on it.
    """
    found: dict[int, list[str]] = {}
    for task, label in zip(tasks, assign(gram, clusters), strict=True):
        found.setdefault(label, []).append(task)
    return list(found.values())


def weights(groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """task -> weight, summing to 1."""
    return {task: 1 / (len(groups) * len(group)) for group in groups for task in group}


def assign(gram: Sequence[Sequence[float]], clusters: int) -> list[int]:
    """The cluster of each task, numbered from 0. Raises TvqError without scikit-learn, or for a
    number of clusters that is not between 1 and that of the tasks."""
    if not 1 <= clusters <= len(gram):
        raise TvqError(f"expected 1 to {len(gram)} clusters, got {clusters}")
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        raise TvqError(
            "cluster weights need scikit-learn", hint="pip install 'tvcodec[cluster]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal tasks: fewer clusters
        kmeans = KMeans(n_clusters=clusters, random_state=42, n_init=10)
        return [int(label) for label in kmeans.fit_predict(coordinates(gram))]


def coordinates(gram: Sequence[Sequence[float]]) -> np.ndarray:
    """Points [N, N] with the distances of the task vectors at length 1; a zero one stays zero."""
    products = np.array(gram, dtype=np.float64)
    norms = np.sqrt(np.diag(products))
    lengths = np.where(norms > 0, norms, 1)
    values, vectors = np.linalg.eigh(products / np.outer(lengths, lengths))
    points: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return points
