"""Gaussians, by mean and covariance: moments, powers, optimal maps, Wasserstein barycentre."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from methods.blocks import slices

FLOOR = 1e-12
"""Eigenvalues below this share of the largest count as this share."""

BARYCENTRE_ROUNDS = 30


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive semidefinite matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = np.maximum(values, FLOOR * max(values.max(), np.finfo(float).tiny))
    return (vectors * values**exponent) @ vectors.T


def covariance(x: np.ndarray) -> np.ndarray:
    """(d, d), with 1/n."""
    return scatter(x) / len(x)


def scatter(x: np.ndarray) -> np.ndarray:
    """Σ (x - x̄)(x - x̄)ᵀ, (d, d)."""
    mean, total = x.mean(0), np.zeros((x.shape[1], x.shape[1]))
    for block in slices(len(x)):
        centred = x[block] - mean
        total += centred.T @ centred
    return total


@dataclass(frozen=True)
class Moments:
    """What closed forms need to know of users by class. Of a class without users all is zero.

    Attributes:
        counts: (C,) int64, users.
        means: (C, d) float64.
        scatters: (C, d, d) float64, Σ (x - mean)(x - mean)ᵀ.
    """

    counts: np.ndarray
    means: np.ndarray
    scatters: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, classes: int) -> "Moments":
        """Of users.

        Args:
            x: (n, d) float64.
            labels: (n,) int64, 0 .. classes - 1; others, -1, count for nothing.
            classes: C.
        """
        made = cls.none(classes, x.shape[1])
        for block in slices(len(x)):
            some = cls.none(classes, x.shape[1])
            for c in range(classes):
                own = x[block][labels[block] == c]
                if len(own):
                    some.counts[c], some.means[c] = len(own), own.mean(0)
                    centred = own - some.means[c]
                    some.scatters[c] = centred.T @ centred
            made = made.merged(some)
        return made

    @classmethod
    def none(cls, classes: int, d: int) -> "Moments":
        """Of nobody."""
        shape = classes, d
        return cls(np.zeros(classes, np.int64), np.zeros(shape), np.zeros((*shape, d)))

    def moved(self, by: np.ndarray) -> "Moments":
        """Of the same users, `by` (d,) added to each."""
        return replace(self, means=np.where(self.counts[:, None] > 0, self.means + by, 0.0))

    def merged(self, other: "Moments") -> "Moments":
        """Of these users and others (Chan, Golub and LeVeque 1983): nothing large is subtracted, so
        that vectors far from the origin lose nothing.
        """
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1)
        away = other.means - self.means
        between = (self.counts * share)[:, None, None] * outer(away)
        means = self.means + share[:, None] * away
        return Moments(counts, means, self.scatters + other.scatters + between)

    @property
    def shares(self) -> np.ndarray:
        """(C,) of the users."""
        return self.counts / self.counts.sum()

    def covariances(self) -> list[np.ndarray]:
        """(d, d) of each class, with 1/n; every class has a user."""
        return [one / n for one, n in zip(self.scatters, self.counts, strict=True)]


@dataclass(frozen=True)
class ClassMaps:
    """x -> to_c + (x - m_c) M_c, c the user's class; who has none stays.

    Attributes:
        to: (C, d), where the classes' means go.
        means: (C, d), m.
        maps: (C, d, d), M.
    """

    to: np.ndarray
    means: np.ndarray
    maps: np.ndarray

    def __call__(self, x: np.ndarray, labels: np.ndarray, first: int = 0) -> np.ndarray:
        """(n, d) float64, edited.

        Args:
            x: (n, d) float64.
            labels: (n,) int64, -1 where unknown.
            first: the first user's number, which makes no difference.
        """
        edited = x.copy()
        for c, (to, mean, own) in enumerate(zip(self.to, self.means, self.maps, strict=True)):
            members = np.flatnonzero(labels == c)
            for block in slices(len(members)):
                users = members[block]
                edited[users] = to + (x[users] - mean) @ own
        return edited


def outer(vectors: np.ndarray) -> np.ndarray:
    """(C, d, d), v vᵀ of each of (C, d)."""
    return vectors[:, :, None] * vectors[:, None, :]


def shrunk(
    own: Sequence[np.ndarray], counts: Sequence[int] | np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """(d, d) of each class, and by how much it is shrunk to the mean of all: a class of fewer than
    4 d users has too poor a covariance to be mapped whole.

    Args:
        own: the classes' covariances, (d, d) each.
        counts: their users.
    """
    shares = [n / sum(counts) for n in counts]
    shrink = [max(0.0, 1 - n / (4 * len(own[0]))) for n in counts]
    pooled = sum(p * a for p, a in zip(shares, own, strict=True))
    return [(1 - g) * a + g * pooled for g, a in zip(shrink, own, strict=True)], shrink


def transport(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The optimal map from N(0, A) to N(0, B): A^-½ (A^½ B A^½)^½ A^-½."""
    root, inverse = power(a, 0.5), power(a, -0.5)
    return inverse @ middle(root, b) @ inverse


def middle(root: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(R B R)^½. In R B R the narrow directions are narrower, below `FLOOR` where R² and B are not:
    then by the singular values of B^½ R, which it is the square of.
    """
    product = root @ b @ root
    values, vectors = np.linalg.eigh((product + product.T) / 2)
    if values.min() > FLOOR * values.max():
        return (vectors * values**0.5) @ vectors.T
    _, sizes, right = np.linalg.svd(power(b, 0.5) @ root)
    return (right.T * sizes) @ right


def barycentre(covariances: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The covariance of the Gaussians' Wasserstein barycentre, by its fixed point
    S = S^-½ (Σ p_c (S^½ A_c S^½)^½)² S^-½ (Álvarez-Esteban et al., J. Math. Anal. Appl. 2016).
    """
    s = sum(p * a for p, a in zip(weights, covariances, strict=True))
    for _ in range(BARYCENTRE_ROUNDS):
        root, inverse = power(s, 0.5), power(s, -0.5)
        mean = sum(p * middle(root, a) for p, a in zip(weights, covariances, strict=True))
        s = inverse @ mean @ mean @ inverse
    return s
