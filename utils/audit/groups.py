"""Whether the classes stand apart in the vectors themselves, with no attacker trained.

Friedman and Rafsky (Annals of Statistics 1979): in the minimum spanning tree of all users, count
the edges between users of different classes. Under labels that belong to no vector the count has an
exact null, permuted labels on the same tree. Fewer edges: the classes keep to themselves. More:
each user's neighbours are of the other class, which a method leaves that pushes classes into each
other; that is read as easily.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

MOST = 2000
"""Users that the tree is made of; more are drawn from."""


@dataclass(frozen=True)
class Apart:
    """The count beside its null.

    Attributes:
        edges: of the tree, between classes.
        expected: their mean under permuted labels.
        p: two-sided.
    """

    edges: int
    expected: float
    p: float


def friedman_rafsky(
    vectors: np.ndarray, labels: np.ndarray, permutations: int, rng: np.random.Generator
) -> Apart:
    """The test on standardised vectors.

    Args:
        vectors: (n, d).
        labels: (n,) int64, -1 where unknown: left out.
        permutations: of the labels.
        rng: draws users and permutations.
    """
    users = np.flatnonzero(labels >= 0)
    if len(users) > MOST:
        users = rng.choice(users, MOST, replace=False)
    x, y = vectors[users].astype(np.float64), labels[users]
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    distances = squareform(pdist(x))
    # SciPy takes 0 for "no edge"; the same for every edge, this changes no tree
    distances += 1e-9 * distances.max() or 1.0
    a, b = minimum_spanning_tree(distances).nonzero()
    edges = int((y[a] != y[b]).sum())
    drawn = [rng.permutation(y) for _ in range(permutations)]
    null = np.array([(one[a] != one[b]).sum() for one in drawn])
    sides = ((null <= edges).sum(), (null >= edges).sum())
    p = min(1.0, 2 * (1 + int(min(sides))) / (permutations + 1))
    return Apart(edges, float(null.mean()), p)
