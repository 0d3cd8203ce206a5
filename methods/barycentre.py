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
from dataclasses import dataclass

import numpy as np

from methods.base import Method, TopScorer
from methods.eraser import Labels, TransductiveEraser, UserTables, apart, share_moved, side_by_side
from methods.gaussian import Moments, barycentre, shrunk, transport
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
    edited = to_barycentre(Moments.of(x, z, z.max() + 1))(x, z)
    record = {
        "moved": share_moved(x, edited),
        "seconds": time.perf_counter() - start,
    }
    return TransductiveEraser(dict(tables), apart(edited, tables), record, [])


@dataclass(frozen=True)
class ToBarycentre:
    """The classes' maps to their common Gaussian.

    Attributes:
        centre: (d,), where all classes go.
        means: (C, d), where they are.
        maps: (C, d, d), of what is left without the mean.
    """

    centre: np.ndarray
    means: np.ndarray
    maps: np.ndarray

    def __call__(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(n, d) float64, edited; users of unknown label stay.

        Args:
            x: (n, d) float64.
            labels: (n,) int64, -1 where unknown.
        """
        edited = x.copy()
        for c, (mean, own) in enumerate(zip(self.means, self.maps, strict=True)):
            users = np.flatnonzero(labels == c)
            edited[users] = self.centre + (x[users] - mean) @ own
        return edited


def to_barycentre(moments: Moments) -> ToBarycentre:
    """The maps of classes with these moments, each with a user."""
    p = moments.shares
    covariances, _ = shrunk(moments.covariances(), moments.counts)
    common = barycentre(covariances, p)
    maps = np.array([transport(own, common) for own in covariances])
    return ToBarycentre(p @ moments.means, moments.means, maps)


METHOD = Method("Gaussian barycentre", fit=fit, of_moments=to_barycentre)
