"""What an edit costs where there is nothing but vectors: how many of a user's best items stay.

Scores are inner products of users' and items' vectors. Without a test set nobody knows which items
are right; but a list that stays serves as well as it did.
"""

import numpy as np
from scipy.sparse import csr_array

TOP = 10
BLOCK = 2**24
"""Scores that are held at once, twice."""


def top_kept(
    before: np.ndarray,
    after: np.ndarray,
    items: np.ndarray,
    known: csr_array | None = None,
    top: int = TOP,
) -> float:
    """How many of a user's `top` best items are still among them, mean over the users.

    Args:
        before, after: (n, d) users' vectors.
        items: (m, d), m at least `top`.
        known: (n, m), non-zero where a user has an item, which is then not offered.
        top: how many.
    """
    rows = max(1, BLOCK // len(items))
    shared = 0
    for start in range(0, len(before), rows):
        block = slice(start, start + rows)
        had = None if known is None else known[block].nonzero()
        lists = [_best(users[block] @ items.T, had, top) for users in (before, after)]
        shared += int((lists[0][:, :, None] == lists[1][:, None]).sum())
    return shared / len(before)


def _best(scores: np.ndarray, had: tuple[np.ndarray, np.ndarray] | None, top: int) -> np.ndarray:
    """(n, top) columns of the largest scores (n, m), in no order."""
    if had is not None:
        scores[had] = -np.inf
    return np.argpartition(-scores, top - 1, axis=1)[:, :top]
