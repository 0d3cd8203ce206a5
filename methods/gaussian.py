"""Gaussians, by mean and covariance: powers, optimal maps, Wasserstein barycentre."""

from collections.abc import Sequence

import numpy as np

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
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def class_covariances(
    x: np.ndarray, members: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """(d, d) of each class, and by how much it is shrunk to the mean of all: a class of fewer than
    4 d users has too poor a covariance to be mapped whole.

    Args:
        x: (n, d).
        members: row numbers of each class.
    """
    shares = [len(users) / len(x) for users in members]
    shrink = [max(0.0, 1 - len(users) / (4 * x.shape[1])) for users in members]
    own = [covariance(x[users]) for users in members]
    pooled = sum(p * a for p, a in zip(shares, own, strict=True))
    return [(1 - g) * a + g * pooled for g, a in zip(shrink, own, strict=True)], shrink


def transport(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The optimal map from N(0, A) to N(0, B): A^-½ (A^½ B A^½)^½ A^-½."""
    root, inverse = power(a, 0.5), power(a, -0.5)
    return inverse @ power(root @ b @ root, 0.5) @ inverse


def barycentre(covariances: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The covariance of the Gaussians' Wasserstein barycentre, by its fixed point
    S = S^-½ (Σ p_c (S^½ A_c S^½)^½)² S^-½ (Álvarez-Esteban et al., J. Math. Anal. Appl. 2016).
    """
    s = sum(p * a for p, a in zip(weights, covariances, strict=True))
    for _ in range(BARYCENTRE_ROUNDS):
        root, inverse = power(s, 0.5), power(s, -0.5)
        middle = sum(
            p * power(root @ a @ root, 0.5) for p, a in zip(weights, covariances, strict=True)
        )
        s = inverse @ middle @ middle @ inverse
    return s
