"""How alike the tasks are, in an order that puts like ones side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvcodec.file.archive import Archive, mirrored

MOST_TASKS = 1000


@dataclass(frozen=True, slots=True)
class Likeness:
    """Cosines [tasks, tasks] of the `tasks` in their new order, the tree that gave it as SciPy's
    linkage matrix, and the standard deviation of an estimated cosine, None if it is not known."""

    tasks: tuple[str, ...]
    cosines: npt.NDArray[np.float64]
    tree: npt.NDArray[np.float64]
    deviation: float | None

    def closest(self, pairs: int) -> list[tuple[float, str, str]]:
        """The most similar pairs of tasks, the closest first."""
        rows, columns = np.tril_indices(len(self.tasks), -1)
        flat = self.cosines[rows, columns]
        order = np.argsort(-flat, kind="stable")[:pairs]
        return [(float(flat[at]), self.tasks[columns[at]], self.tasks[rows[at]]) for at in order]


def likeness(archive: Archive) -> Likeness | None:
    """Tasks ordered by the tree of average linkage over 1 - cosine; None for a single task, for
    more than MOST_TASKS, and where the file does not say."""
    if not 2 <= len(archive.tasks) <= MOST_TASKS or not archive.root.gram_length:
        return None
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    cosines = np.clip(np.array(mirrored(archive.similarity())), -1.0, 1.0)
    distances = 1.0 - cosines
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    order = leaves_list(tree)
    return Likeness(
        tuple(archive.tasks[at] for at in order),
        cosines[np.ix_(order, order)],
        tree,
        archive.similarity_deviation(),
    )
