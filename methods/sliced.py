"""Sliced transport: along many directions, classes get one distribution where they differ beyond
chance.

Means, covariances and radii are all that `methods.partition` makes alike; users of real tables are
no Gaussians, but lie in tails and clusters. Along one direction optimal transport is by quantiles,
and the barycentre's quantile function is the classes' mean one, Q = Σ p_c Q_c (Rabin, Peyré, Delon
and Bernot, SSVM 2011; Bonneel, Rabin, Peyré and Pfister, J. Math. Imaging Vis. 2015). Passes over
orthogonal directions, each time other ones, bring whole distributions together (Pitié, Kokaram and
Dahyot, Comput. Vis. Image Underst. 2007). With D = Q_c - Q and the standard error s that n_c users
of n leave it by chance,

    s(u)² = u (1 - u) Q'(u)² (1/n_c - 1/n),

a pass leaves Q + λ D, λ = min(1, BEYOND s² / D²), D² / s² averaged over neighbouring u: all of what
may be by chance, and of a difference the less, the more it is beyond that. So random labels move
users little and differ as before, and tails, of which few users tell, are moved as little as these
allow.
"""

import numpy as np
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from methods.gaussian import covariance

GRID = 401
"""Points by which a quantile function is known."""
BEYOND = 2.0
"""D² / s² above which a difference isn't left as it is. At 1, 160 passes over random labels take so
much of what is by chance that trees read the rest turned round."""
NEAR = 9
"""Of these, over how many D² / s² is averaged."""
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
    """Users (n, d) float64 after so many passes.

    Args:
        x: (n, d) float64.
        labels: (n,) int64, classes 0 .. C-1, each with a user.
        passes: over orthogonal directions.
        rng: draws them.
        parts: column numbers (k,) whose principal directions take turns with all columns' ones:
            those of one table, of several side by side.
    """
    moved = x.copy()
    if not passes:
        return moved
    for number in tqdm(range(passes), desc="slicing", unit="pass", leave=False):
        axes = _axes(number, moved, parts, rng)
        moved += alike_along(moved @ axes, labels) @ axes.T
    return moved


def alike_along(along: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Shifts (n, k), λ D - D, of users (n, k) along k directions."""
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    n = len(along)
    u = (np.arange(GRID) + 0.5) / GRID
    own = [_quantiles(along[users], u) for users in members]
    common = sum(len(users) / n * one for users, one in zip(members, own, strict=True))
    spread = (u * (1 - u))[:, None] * np.gradient(common, u, axis=0) ** 2
    shifts = np.zeros_like(along)
    for users, one in zip(members, own, strict=True):
        difference = one - common
        by_chance = spread * (1 / len(users) - 1 / n)
        beyond = difference**2 / np.maximum(by_chance, np.finfo(float).tiny)
        beyond = uniform_filter1d(beyond, NEAR, axis=0, mode="nearest")
        wanted = difference * (BEYOND / np.maximum(beyond, BEYOND) - 1)
        for k in range(along.shape[1]):
            shifts[users, k] = np.interp(along[users, k], one[:, k], wanted[:, k])
    return shifts


def _quantiles(along: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(Q, k) of users (m, k) at u (Q,), between the two nearest ones: seven times as fast as
    `np.quantile` at so many points.
    """
    ordered = np.sort(along, axis=0)
    at = u * (len(along) - 1)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, len(along) - 1)
    share = (at - low)[:, None]
    return (1 - share) * ordered[low] + share * ordered[high]


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
    axes = np.zeros((d, k))
    axes[look] = np.linalg.eigh(covariance(x[:, look]))[1][:, ::-1][:, :k] @ _rotation(k, rng)
    return axes


def _rotation(k: int, rng: np.random.Generator) -> np.ndarray:
    """(k, k) orthogonal."""
    return np.linalg.qr(rng.normal(size=(k, k)))[0]
