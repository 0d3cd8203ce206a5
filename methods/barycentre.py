"""Gaussian barycentre: every class is mapped to the classes' common Gaussian.

    x' = μ + T(A_c, S) (x - m_c),     c the user's class,

with m_c and A_c the classes' means and covariances, μ = Σ p_c m_c, S the covariance of their
Wasserstein barycentre, weighted by the classes' shares p_c (Agueh and Carlier, SIAM J. Math. Anal.
2011), and T the optimal map between Gaussians. Of all maps that give the classes equal means and
covariances it moves Gaussian data least (Gordaliza et al., ICML 2019). That is the moments' sample
differences, chance ones too: who trains on some of the users finds the others on the wrong side.
`calibrated` mends that. A class of fewer than 4 d users has its covariance shrunk to the mean of
all first (methods.gaussian), so that some of its difference stays.
"""

import time

import numpy as np

from methods.base import Method, TopScorer
from methods.eraser import Labels, TransductiveEraser, UserTables, apart, share_moved, side_by_side
from methods.gaussian import barycentre, class_covariances, transport
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads


def fit(
    tables: UserTables,
    labels: Labels,
    options: None,
    rng: np.random.Generator,
    scorer: TopScorer | None,
    threads: Threads,
    progress: Progress = FORGETFUL,
) -> TransductiveEraser:
    """The eraser of one attribute from all tables side by side; users of unknown label stay."""
    start = time.perf_counter()
    (classes,) = labels.values()
    x, z = side_by_side(tables), classes.cpu().numpy()
    known = z >= 0
    edited = x.copy()
    edited[known] = at_barycentre(x[known], z[known])
    record = {
        "moved": share_moved(x, edited),
        "seconds": time.perf_counter() - start,
    }
    return TransductiveEraser(dict(tables), apart(edited, tables), record, [])


def at_barycentre(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, d): x with every class at the barycentre.

    Args:
        x: (n, d).
        labels: (n,) int64, classes 0 .. C-1, each with a user.
    """
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    p = np.array([len(users) for users in members]) / len(x)
    means = np.array([x[users].mean(0) for users in members])
    covariances, _ = class_covariances(x, members)
    common, mu = barycentre(covariances, p), p @ means
    edited = np.empty_like(x)
    for users, mean, own in zip(members, means, covariances, strict=True):
        edited[users] = mu + (x[users] - mean) @ transport(own, common)
    return edited


METHOD = Method("Gaussian barycentre", fit=fit)
