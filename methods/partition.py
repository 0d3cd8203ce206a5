"""Classes that get what the groups of a random partition have: the mathematics of `calibrated`, for
users in memory and for sums over users in blocks alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from methods.blocks import slices
from methods.gaussian import FLOOR, ClassMaps, barycentre, covariance, power, transport

TYLER_ROUNDS = 30
QUANTILES = 201
"""By which a class's radii go to the common ones."""
MOST = 20_000
"""Users that a shape, or a ridge, is fitted on; all are moved."""


def thinned(x: np.ndarray) -> np.ndarray:
    """Rows of x (n, d) at even steps, all of them where there are fewer than twice MOST."""
    return x[:: max(1, len(x) // MOST)]


def tyler_shape(some: np.ndarray) -> np.ndarray:
    """Tyler's shape matrix (d, d) of centred users (n, d), trace 1."""
    shape = covariance(some)
    for _ in range(TYLER_ROUNDS):
        squared = squared_lengths(some, power(shape, -1))
        squared = np.maximum(squared, FLOOR * squared.max())
        shape = (some / squared[:, None]).T @ some
        shape /= np.trace(shape)
    return shape


def squared_lengths(centred: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """(n,) xᵀ M x of users (n, d), M the inverse (d, d) of a shape."""
    squared = np.empty(len(centred))
    for block in slices(len(centred)):
        some = centred[block]
        squared[block] = np.einsum("ij,ij->i", some @ inverse, some)
    return squared


def alike(radius: np.ndarray, z: np.ndarray, own: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Radii (n,) in the pool, of classes z (n,), by quantiles (C, Q) and (Q,)."""
    there = np.empty_like(radius)
    for c in np.unique(z):
        users = np.flatnonzero(z == c)
        there[users] = np.interp(radius[users], own[c], common)
    return there


@dataclass(frozen=True)
class Turn:
    """How a class's new mean is turned towards its old one; see `CalibratedOptions`.

    Attributes:
        rho: the share of its square that then lies along the old one.
        band: in how many directions at a time it is turned, and keeps its length; 0 = in all.
    """

    rho: float
    band: int = 0

    def bands(self, s: np.ndarray) -> list[np.ndarray]:
        """Orthonormal (d, b) of about `band` directions each: those in which S (d, d) is largest,
        the next ones, ...; all of them where band is 0.
        """
        if not self.band:
            return [np.eye(len(s))]
        axes = np.linalg.eigh(s)[1][:, ::-1]
        return np.array_split(axes, -(-len(s) // self.band), axis=1)


@dataclass(frozen=True)
class Pool:
    """Where classes are alike.

    Attributes:
        mean, covariance: (d,), (d, d), of all.
        maps: the classes' there.
    """

    mean: np.ndarray
    covariance: np.ndarray
    maps: ClassMaps


def pooled(p: np.ndarray, means: np.ndarray, covariances: Sequence[np.ndarray]) -> Pool:
    """The pool of classes, which is their Gaussians' barycentre.

    Args:
        p: (C,) the classes' shares of the users.
        means: (C, d).
        covariances: (d, d) of each, shrunk where the class is small.
    """
    s, mu = barycentre(covariances, p), p @ means
    maps = np.array([transport(own, s) for own in covariances])
    return Pool(mu, s, ClassMaps(np.tile(mu, (len(p), 1)), means, maps))


def to_groups(
    p: np.ndarray,
    shrink: Sequence[float],
    covariances: Sequence[np.ndarray],
    pool: Pool,
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
    turn: Turn,
) -> ClassMaps:
    """The maps that give each class the mean and covariance of its random group.

    Args:
        p, covariances: as of `pooled`.
        shrink: (C,), by how much each covariance was shrunk.
        pool: of these classes.
        drawn: mean (d,) and covariance (d, d) of each group's users in the pool.
        turn: of the means, where the pool is white.
    """
    to_white, from_white = power(pool.covariance, -0.5), power(pool.covariance, 0.5)
    share, bands = _shares(p, np.array(shrink)), turn.bands(pool.covariance)
    to, maps = [], []
    for c, (mean, own) in enumerate(drawn):
        towards = to_white @ (mean - pool.mean)
        old = to_white @ (pool.maps.means[c] - pool.mean)
        turned = [axes @ _turned(axes.T @ towards, axes.T @ old, turn.rho) for axes in bands]
        to.append(pool.mean + from_white @ np.sum(turned, axis=0))
        target = share[c] * own + (1 - share[c]) * pool.covariance
        maps.append(transport(covariances[c], target))
    return ClassMaps(np.array(to), pool.maps.means, np.array(maps))


def _shares(p: np.ndarray, shrink: np.ndarray) -> np.ndarray:
    """How much of its random group's covariance a class takes; 1 where nothing is shrunk.

    Of its own covariance's chance part a class keeps the share g_c that was shrunk. Chance parts
    E_c of complementary groups have E <E_i, E_j> = [i = j] / p_i - 1, so that with shares s_c

        F(s) = Σ_c s_c² - 2 Σ_c p_c s_c² + (Σ_c p_c s_c)²

    is how far the classes' covariances lie apart, F(1) = C - 1 for random groups. With
    s_c = k sqrt(1 - g_c²), k is such that F(s) + F(g) = C - 1.
    """

    def apart(s: np.ndarray) -> float:
        return float((s**2).sum() - 2 * p @ s**2 + (p @ s) ** 2)

    share = np.sqrt(1 - shrink**2)
    return share * np.sqrt(max(0.0, len(p) - 1 - apart(shrink)) / apart(share))


def _turned(drawn: np.ndarray, old: np.ndarray, rho: float) -> np.ndarray:
    """`drawn` with its length, turned so that a share rho of its square lies along `old`."""
    length, size = np.linalg.norm(old), np.linalg.norm(drawn)
    if rho == 0 or length == 0 or size == 0:
        return drawn
    along = old / length
    across = drawn - along * (along @ drawn)
    beside = np.linalg.norm(across)
    if beside <= FLOOR * size:  # one dimension: only the sign is free
        return size * along if rho >= 0.5 else drawn
    return size * (np.sqrt(rho) * along + np.sqrt(1 - rho) * across / beside)
