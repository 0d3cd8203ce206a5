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
from methods.gaussian import ClassMaps, Moments, shrunk
from methods.partition import pooled
from methods.passes import Streamed
from methods.passes import moments as learn_moments
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


def to_barycentre(moments: Moments) -> ClassMaps:
    """The maps of classes with these moments, each with a user."""
    covariances, _ = shrunk(moments.covariances(), moments.counts)
    return pooled(moments.shares, moments.means, covariances).maps


METHOD = Method(
    "Gaussian barycentre", fit=fit, streamed=Streamed(learn_moments, Moments, to_barycentre)
)
