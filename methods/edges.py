"""Columns that end at an edge, such as those of a softmax, of squashed or of positive vectors.

Where a column's density stops short, a map that differs by class moves the end to another place in
each class, and any tree reads the few users between the two ends: even of labels drawn at random.
Such a column is edited as its normal scores, which have no end (`methods.atoms`), at its own mean
and width; the way back is by rank, so that it keeps its values.
"""

import numpy as np

from methods.atoms import by_rank, normal_scores, with_sums

END, SHARP = 0.05, 0.3
"""The outermost share of the users at an edge, and how far they reach at most, of the way from
there to the median: of 3,000 uniform users 0.11, of Gaussian ones 1.07. Of a column without
negative values zero is an edge, too, if the outermost users come nearer to it than to the rest.
"""


def edged(x: np.ndarray) -> np.ndarray:
    """(d,) bool, which columns of a table (n, d) end at an edge, or at zero."""
    return _low_edge(x) | _low_edge(-x)


def _low_edge(x: np.ndarray) -> np.ndarray:
    ordered = np.sort(x, axis=0)
    first, low, middle = ordered[0], ordered[int(END * len(x))], ordered[len(x) // 2]
    sharp: np.ndarray = low - first < SHARP * (middle - low)
    return sharp | ((first >= 0) & (first < low - first))


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
