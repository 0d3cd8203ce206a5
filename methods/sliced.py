"""Sliced transport: along many directions, classes get the distributions of random groups.

Means, covariances and radii are all that `methods.partition` makes alike; users of real tables are
no Gaussians, but lie in tails and clusters. Along one direction optimal transport is by quantiles,
and the barycentre's quantile function is the classes' mean one, Q = Σ p_c Q_c (Rabin, Peyré, Delon
and Bernot, SSVM 2011; Bonneel, Rabin, Peyré and Pfister, J. Math. Imaging Vis. 2015). Passes over
orthogonal directions, each time other ones, bring whole distributions together (Pitié, Kokaram and
Dahyot, Comput. Vis. Image Underst. 2007).

What would be alike at last would be more alike than random groups are, and be read turned round. So
users get groups π by a random partition. In a pass class c goes from its quantile function Q_c not
to Q but to G_c, which the users of {π = c} have after all are mapped to Q. Two groups of n_c of the
n users differ by chance with the standard error s,

    s(u)² = 2 u (1 - u) Q'(u)² (1/n_c - 1/n),

and of D = Q_c - G_c a pass leaves λ D, λ = min(1, BEYOND s² / D²), both averaged over neighbouring
u: all of it where it is small beside what may be by chance, else the less, the larger it is.
Groups are drawn anew now and then: a class that stays with one slowly bends to it, and what is by
chance fades. The means of random classes then differ, after any number of passes, nearly as before
(tests/test_sliced.py); finer structure less so, which the polish makes good.
"""

import numpy as np
from scipy.ndimage import correlate1d
from scipy.stats import rankdata
from tqdm import tqdm

from methods.gaussian import FLOOR, covariance

GRID = 401
"""Points by which a quantile function is known, in the middles of as many shares of the users."""
BEYOND = 0.5
"""D² / s² above which a difference isn't left as it is."""
TOGETHER = 16
"""Passes with the same groups."""
NEAR = 9
"""Points over which D² and s² are averaged."""
ENDS = 5
"""Users of a class at each end who are shifted as the next one is: s² is too small there."""
COLUMNS = (1, 2, 3)
"""How many columns at a time every other pass turns, which is where trees look."""
LEADING = (4, 8, 16, None)
"""Within how many principal directions the passes between do, where a network on unscaled features
looks; None = all."""


def sliced(
    x: np.ndarray,
    labels: np.ndarray,
    passes: int,
    rng: np.random.Generator,
    parts: list[np.ndarray],
) -> np.ndarray:
    """Users (n, d) float64 after so many passes; x itself after none, which draw nothing.

    Args:
        x: (n, d) float64.
        labels: (n,) int64, classes 0 .. C-1, each with a user.
        passes: over orthogonal directions.
        rng: draws the groups and the directions.
        parts: column numbers (k,) whose principal directions take turns with all columns' ones:
            those of one table, of several side by side.
    """
    if not passes:
        return x
    moved, groups = x.copy(), labels
    for number in tqdm(range(passes), desc="slicing", unit="pass", leave=False):
        if number % TOGETHER == 0:
            groups = rng.permutation(labels)
        axes = _axes(number, moved, parts, rng)
        moved += towards_groups(moved @ axes, labels, groups) @ axes.T
    return moved


def towards_groups(along: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Shifts (n, k), λ D - D, of users (n, k) along k directions.

    Args:
        along: (n, k).
        labels: (n,) int64, classes 0 .. C-1, each with a user.
        groups: (n,) int64, as many of each.
    """
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    n, u = len(along), (np.arange(GRID) + 0.5) / GRID
    own, places = zip(*(_quantiles_and_places(along[users], u) for users in members), strict=True)
    common = sum(len(users) / n * one for users, one in zip(members, own, strict=True))
    pooled = np.empty_like(along)
    for users, one, place in zip(members, own, places, strict=True):
        pooled[users] = along[users] + _at(place, common - one)
    spread = 2 * (u * (1 - u))[:, None] * np.gradient(common, u, axis=0) ** 2
    least = FLOOR * along.var(0) + np.finfo(float).tiny
    shifts = np.zeros_like(along)
    for c, (users, one, place) in enumerate(zip(members, own, places, strict=True)):
        end = min(round(GRID * ENDS / len(users)), GRID // 2)
        inside = slice(end, GRID - end)
        difference = (one - _quantiles(np.sort(pooled[groups == c], axis=0), u))[inside]
        by_chance = spread[inside] * (1 / len(users) - 1 / n)
        beyond = _smooth(difference**2) / np.maximum(_smooth(by_chance), least)
        wanted = difference * (BEYOND / np.maximum(beyond, BEYOND) - 1)
        wanted = np.pad(wanted, ((end, end), (0, 0)), mode="edge")
        shifts[users] = _at(place, wanted)
    return shifts


def _quantiles(ordered: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(Q, k) of sorted users (m, k) at u (Q,), between the two nearest ones: seven times as fast as
    `np.quantile` at so many points, sorting included.
    """
    at = u * (len(ordered) - 1)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, len(ordered) - 1)
    share = (at - low)[:, None]
    return (1 - share) * ordered[low] + share * ordered[high]


def _quantiles_and_places(along: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of users (m, k), (Q, k) at u (Q,), and where they are on the grid, (m, k), 0 .. GRID - 1:
    who share a value share the place.
    """
    order = along.argsort(0)
    ordered = np.take_along_axis(along, order, axis=0)
    if (ordered[1:] == ordered[:-1]).any():
        rank = rankdata(along, axis=0)
    else:  # three times as fast
        rank = np.empty_like(along)
        np.put_along_axis(rank, order, np.arange(1.0, len(along) + 1)[:, None], axis=0)
    return _quantiles(ordered, u), np.clip((rank - 0.5) / len(along) * GRID - 0.5, 0, GRID - 1)


def _at(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(m, k) of values (Q, k) on the grid."""
    low = np.minimum(places.astype(np.int64), GRID - 2)
    below, above = (np.take_along_axis(values, one, axis=0) for one in (low, low + 1))
    return below + (places - low) * (above - below)


def _smooth(values: np.ndarray) -> np.ndarray:
    """(Q, k), means over NEAR points: each sum by itself, since a running one keeps what rounding
    leaves of a large value.
    """
    return correlate1d(values, np.full(NEAR, 1 / NEAR), axis=0, mode="nearest")


def _axes(
    number: int, x: np.ndarray, parts: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """(d, k) orthonormal directions of a pass."""
    d, turn = x.shape[1], number // 2
    if number % 2 == 0:
        axes = np.zeros((d, d))
        groups = -(-d // COLUMNS[turn % len(COLUMNS)])
        for some in np.array_split(rng.permutation(d), groups):
            axes[np.ix_(some, some)] = _rotation(len(some), rng)
        return axes
    looks = [np.arange(d), *parts]
    look = looks[turn // len(LEADING) % len(looks)]
    k = min(len(look), LEADING[turn % len(LEADING)] or d)
    axes, turned = np.zeros((d, k)), _rotation(k, rng)
    if k < len(look):  # else any directions are as good
        turned = np.linalg.eigh(covariance(x[:, look]))[1][:, ::-1][:, :k] @ turned
    axes[look] = turned
    return axes


def _rotation(k: int, rng: np.random.Generator) -> np.ndarray:
    """(k, k) orthogonal."""
    return np.linalg.qr(rng.normal(size=(k, k)))[0]
