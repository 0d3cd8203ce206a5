"""Values that many users share, such as the exact zeros of a non-negative factorisation.

A map that differs by class moves a shared value to another place in each class, where any tree
finds it. So a table with such atoms is edited in other coordinates, its columns' normal scores

    z_ij = Φ⁻¹((r_ij - 1/2) / n),

with r_ij the rank of x_ij in column j and ties in random order, whoever they are (the randomised
probability integral transform). The way back is by rank too: column j gets its old values again,
the smallest where z is now smallest. So no value is new, every atom keeps its size and a positive
table stays positive; and since nobody's label is asked for on this way, what can't be told from z
can't be told from the table.

Values that crowd, such as the shares of topics that a user has none of, are made one value first,
and an atom: all of a user's follow the number of interactions in the same way, and no map that
differs by class keeps them to that. Shares sum to one for everybody, so that what is left of a sum
would say how far a user was moved: the largest takes it.

Users at an atom are one point to whoever sees the table, wherever their z lie. Scores that are to
find what an attacker would are therefore fitted on z with each atom's users at its middle.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

SHARE = 0.01
"""Of the users, who must have a value in common for it to be an atom."""

CROWD, CLOSE = 0.25, 0.05
"""Such a share of the users within so many standard deviations is a crowd. Of a Gaussian the
closest quarter takes 0.64.
"""
FAR = 0.001
"""Of the users at each end, a user at least, who can make that at most twice as much: one alone
could be so far off that all others were a crowd beside.
"""
SAME = 1e-4
"""Row sums that differ by less than this share of the columns' spread are one."""

Bounds = tuple[np.ndarray, np.ndarray]
"""Above which z and up to which (k,) the users of each atom of a column are."""


@dataclass(frozen=True)
class Atoms:
    """The values of one column that many users share, in order.

    Attributes:
        column: its number.
        low, high: (k,) the shares of users with a smaller value, and with one that is not larger.
    """

    column: int
    low: np.ndarray
    high: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """(k,) the normal score of each one's middle."""
        return norm.ppf((self.low + self.high) / 2)

    def bounds(self, z: np.ndarray) -> Bounds:
        """Of the users z (m, d), who stand for all."""
        own = z[:, self.column]
        low = np.where(self.low > 0, np.quantile(own, self.low), -np.inf)
        return low, np.where(self.high < 1, np.quantile(own, self.high), np.inf)


def uncrowded_with_atoms(x: np.ndarray) -> tuple[np.ndarray, list[Atoms]]:
    """A table (n, d) whose crowds are one value each, their median, and the atoms of each of its
    columns that has some. Without a crowd it is the given one.
    """
    n, found, result = len(x), [], x
    for column in range(x.shape[1]):
        values = np.sort(x[:, column])
        if crowd := _crowd(values):
            middle, close = crowd
            result = x.copy() if result is x else result
            result[np.abs(x[:, column] - middle) < close, column] = middle
            values = np.sort(result[:, column])
        starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        ends = np.append(starts[1:], n)
        many = ends - starts > max(1, SHARE * n)
        if many.any():
            found.append(Atoms(column, starts[many] / n, ends[many] / n))
    return result, found


def _crowd(values: np.ndarray) -> tuple[float, float] | None:
    """The middle of the closest users, and how near to it the crowd is, if it is one.

    Args:
        values: (n,) of a column, in order.
    """
    few, far = max(1, int(CROWD * len(values))), max(1, int(FAR * len(values)))
    widths = values[few:] - values[:-few]
    spread = min(values.std(), 2 * values[far:-far].std())
    start, close = int(widths.argmin()), CLOSE * float(spread)
    return (float(values[start + few // 2]), close) if 0 < widths[start] < close else None


def normal_scores(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, d): z of a table x (n, d)."""
    scores, ties = np.empty(x.shape), rng.random(x.shape)
    of_rank = norm.ppf((np.arange(len(x)) + 0.5) / len(x))
    for column, own in enumerate(x.T):  # one at a time: users may be many
        scores[np.lexsort((ties[:, column], own)), column] = of_rank
    return scores


def by_rank(z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(n, d): every column of x in the order of that of z (n, d)."""
    values = np.empty_like(x)
    np.put_along_axis(values, np.argsort(z, axis=0, kind="stable"), np.sort(x, axis=0), 0)
    return values


def at_atoms(x: np.ndarray, atoms: list[Atoms]) -> np.ndarray:
    """(n, d) bool: which values of a table x (n, d) are at one of its atoms."""
    at = np.zeros(x.shape, bool)
    for one in atoms:
        own = x[:, one.column]
        first = np.rint(one.low * len(x)).astype(int)
        at[:, one.column] = np.isin(own, np.sort(own)[first])
    return at


def with_sums(edited: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Edited rows (n, d), with the sums of a table x (n, d) if all of its rows have the same."""
    sums = x.sum(1)
    if np.ptp(sums) > SAME * np.sqrt(x.var(0).sum()):
        return edited
    result, rows, largest = edited.copy(), np.arange(len(x)), edited.argmax(1)
    result[rows, largest] += sums - edited.sum(1)
    return result


def collapsed(z: np.ndarray, atoms: list[Atoms], bounds: list[Bounds]) -> np.ndarray:
    """What is seen of z (m, d): who is at an atom is at its middle."""
    seen = z.copy() if atoms else z
    for one, (low, high) in zip(atoms, bounds, strict=True):
        own = z[:, one.column]
        which = np.minimum(np.searchsorted(high, own), len(high) - 1)
        inside = (own > low[which]) & (own <= high[which])
        seen[inside, one.column] = one.middle[which[inside]]
    return seen
