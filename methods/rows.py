"""Rows that no map of a whole class suits: far outliers, equal rows, and rows of one length."""

import numpy as np

from methods.partition import thinned

CORE, FAR = 0.99, 30.0
"""Who lies more than FAR times as far from a column's median as the share CORE of the users do."""
FEW, ALL = 0.005, 0.05
"""Of the users, who can be so far out in a column, a user at least, and in all; more are a tail."""
SAME = 1e-3
"""Lengths that differ by less than this share of the columns' spread are one, in float16 too."""


def far_out(x: np.ndarray) -> np.ndarray:
    """(n,) bool, the users of a table (n, d) who lie far outside of all others in some column.

    A single one of them bends a class's moments, and as the radii are dealt out anew (step 1 of
    `methods.calibrated`), so is theirs: another user would be thrown as far.
    """
    far, some = np.zeros(len(x), bool), thinned(x)
    middle = np.median(some, axis=0)
    limit = FAR * np.quantile(np.abs(some - middle), CORE, axis=0, method="lower")
    reach = np.maximum(x.max(0) - middle, middle - x.min(0))
    for column in np.flatnonzero((reach > limit) & (limit > 0)):
        outside = np.abs(x[:, column] - middle[column]) > limit[column]
        if outside.sum() <= max(1, FEW * len(x)):
            far |= outside
    return far if far.sum() <= max(1, ALL * len(x)) else np.zeros_like(far)


def equals_together(
    edited: np.ndarray, x: np.ndarray, but: np.ndarray | bool = False
) -> np.ndarray:
    """Edited rows (n, d) where users whose rows of x (n, d) are equal are moved as one, as far as
    they are in the mean; `but` for some values, (n, d) bool.

    Each class's map takes them to a point of its own otherwise, where they find one another.
    """
    if x.shape[1] == 1:  # there the map is monotone, and equal users are a value with neighbours
        return edited
    order = np.lexsort(x.T[:2])
    if not (x[order[1:], :2] == x[order[:-1], :2]).all(1).any():  # the same, in a fraction of time
        return edited
    _, which = np.unique(x, axis=0, return_inverse=True)
    shift = np.zeros((which.max() + 1, x.shape[1]))
    np.add.at(shift, which, edited - x)
    shift /= np.bincount(which)[:, None]
    shared = np.bincount(which)[which] > 1
    together: np.ndarray = np.where(shared[:, None] & ~np.asarray(but), x + shift[which], edited)
    return together


def with_lengths(edited: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Edited rows (n, d) on the sphere, if all rows of a table x (n, d) are."""
    some = thinned(x)
    one = np.ptp(np.linalg.norm(some, axis=1)) <= SAME * np.sqrt(some.var(0).sum())
    if x.shape[1] == 1 or not one:
        return edited
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    result: np.ndarray = edited * (lengths / np.linalg.norm(edited, axis=1, keepdims=True))
    return result
