"""Columns that end at an edge, such as those of a softmax, of squashed or of positive vectors.

Where a column's density stops short, a map that differs by class moves the end to another place in
each class, and any tree reads the few users between the two ends: even of labels drawn at random.
Such a column is edited as its normal scores, which have no end (`methods.atoms`), at its own mean
and width; the way back is by rank, so that it keeps its values.
"""

import numpy as np

from methods.atoms import by_rank, normal_scores, with_sums
from methods.partition import thinned

END, HARD, SOFT = 0.05, 0.1, 0.3
"""The outermost share of the users at an edge, and how far they reach at most, of the way from
there to the median: of 3,000 uniform users 0.11, of log-normal ones 0.2, of Gaussian ones 1.07.
"""
MANY = 0.25
"""Of the columns, that have to be soft for soft edges to count. In one of many, as in an SVD's
first, they hardly show, and normal scores would hide the column's tail from the polish.
"""


def edged(x: np.ndarray) -> np.ndarray:
    """(d,) bool, which columns of a table (n, d) end at an edge that counts. A soft one is zero,
    too, of a column without negative values that comes nearer to it than the END users reach.
    """
    ends = np.array([_ends(column) for column in thinned(x).T])
    reach, near_zero = ends.T
    soft: np.ndarray = (reach < SOFT) | (near_zero > 0)
    return soft if soft.mean() >= MANY else reach < HARD


def _ends(column: np.ndarray) -> tuple[float, bool]:
    """How far the users of the sharper end of a column (n,) reach, and whether one is zero."""
    last, few = len(column) - 1, int(END * len(column))
    at = [0, few, len(column) // 2, last - few, last]
    first, low, middle, high, top = np.partition(column, at)[at]
    reach = [
        (inner - outer) / (middle - inner)
        for outer, inner in ((first, low), (top, high))
        if middle != inner  # half of the users have one value: atoms
    ]
    return min(reach, default=1.0), 0 <= first < low - first or 0 <= -top < top - high


def without_edges(x: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The table (n, d) whose `columns` (d,) are normal scores, at their own means and widths."""
    result, own = x.copy(), x[:, columns]
    result[:, columns] = own.mean(0) + own.std(0) * normal_scores(own, rng)
    return result


def with_edges(edited: np.ndarray, columns: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What an edit of `without_edges(x, columns)` is in x's own columns. Shares stay shares."""
    result = edited.copy()
    result[:, columns] = by_rank(edited[:, columns], x[:, columns])
    summed = with_sums(result, x)
    if summed is result or x.min() < 0:
        return summed
    shares: np.ndarray = result * (x.sum(1) / result.sum(1))[:, None]
    return shares
