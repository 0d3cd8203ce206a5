"""LEACE, least-squares concept erasure (Belrose et al., NeurIPS 2023, theorem 4.3).

With W = Σ_xx^{-1/2} (pseudo-inverse) and P the orthogonal projection onto the columns of W Σ_xz,

    r(x) = x - W⁺ P W (x - x̄)

is, of all affine maps after which no linear predictor of the label z beats a constant, the one
that moves the vectors least. It leaves all that is not linear. One map for all users, which asks
for nobody's label: it can be applied to users whom the fit has not seen.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from methods.base import Method, TopScorer
from methods.eraser import Eraser, Labels, UserTables, apart, share_moved, side_by_side
from methods.gaussian import Moments
from methods.passes import Streamed
from methods.passes import moments as learn_moments
from utils.errors import UserError
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads

RANK_TOLERANCE = 1e-10
"""Of the largest variance: a direction of standardised columns below is taken for rounding, and
keeps what it tells."""

CONSTANT = 1e-10
"""A column of less spread, as a share of its mean, is constant but for rounding."""


@dataclass(frozen=True)
class Erasing:
    """x -> x - (x - centre) projectionᵀ, whoever the user is.

    Attributes:
        centre: (d,), the mean of the users of the fit.
        projection: (d, d).
        covariance: (d, d), theirs.
    """

    centre: np.ndarray
    projection: np.ndarray
    covariance: np.ndarray

    def __call__(
        self, x: np.ndarray, labels: np.ndarray | None = None, first: int = 0
    ) -> np.ndarray:
        """(n, d) float64 of x (n, d); nobody's label or number is asked for."""
        return x - (x - self.centre) @ self.projection.T

    @property
    def directions_left(self) -> int:
        """Dimensions of what the map leaves of all vectors."""
        return len(self.centre) - round(float(np.trace(self.projection)))

    def distances(self, x: np.ndarray) -> "Distances":
        """How far these users are from those of the fit, whatever the coordinates.

        Args:
            x: (n, d), n > 0.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        wide = (values > RANK_TOLERANCE * values[-1]) & (values > 0)
        away = x - self.centre
        along = away @ vectors[:, wide]
        squares = (along**2 / values[wide]).sum(1) / max(wide.sum(), 1)
        outside = ((away - along @ vectors[:, wide].T) ** 2).mean(0).sum()
        spread = values[wide].sum() or (self.centre**2).sum() or 1.0
        return Distances(
            int(wide.sum()), float(np.median(squares)), float(squares.mean()), outside / spread
        )


@dataclass(frozen=True)
class Distances:
    """Of users from those of a fit.

    Attributes:
        dimensions: in which the users of the fit differ, r.
        median: of the users' squared Mahalanobis distances over r; about 1 in r dimensions of
            normal users whom the fit has seen, r of n less than n; less where tails are heavy.
        mean: the same; 1 of the very users of the fit.
        outside: mean square of what lies outside of these dimensions, over the fit's variance (or,
            where that is zero, the centre's square).
    """

    dimensions: int
    median: float
    mean: float
    outside: float


@dataclass(frozen=True)
class AffineEraser(Eraser):
    """One map of the named tables side by side.

    Attributes:
        widths: the tables' dimensions by name, in order; d in all.
        erasing: the map.
        record, history: as in every eraser.
    """

    widths: dict[str, int]
    erasing: Erasing
    record: dict[str, Any]
    history: list[dict[str, float]]

    def apply(self, tables: UserTables) -> dict[str, Tensor]:
        """As for every eraser; any users' tables will do.

        Raises:
            UserError: tables of other names or dimensions than those of the fit.
        """
        given = {name: table.shape[1] for name, table in tables.items()}
        if given != self.widths:
            raise UserError(f"fitted on tables of {self.widths} dimensions, got {given}")
        return apart(self.erasing(side_by_side(tables)), tables)


def fit(
    tables: UserTables,
    labels: Labels,
    options: None,
    rng: np.random.Generator,
    scorer: TopScorer | None,
    threads: Threads,
    progress: Progress = FORGETFUL,
) -> AffineEraser:
    """The eraser of one attribute from all tables side by side.

    Args:
        tables, labels: as in every fit, one attribute; users of unknown label say nothing, and
            are moved as all others are.
    """
    start = time.perf_counter()
    (classes,) = labels.values()
    x, z = side_by_side(tables), classes.cpu().numpy()
    known = z >= 0
    erasing = least_squares(x[known], z[known])
    record = {
        "moved": share_moved(x, erasing(x)),
        "directions_left": erasing.directions_left,
        "seconds": time.perf_counter() - start,
    }
    widths = {name: table.shape[1] for name, table in tables.items()}
    return AffineEraser(widths, erasing, record, [])


def least_squares(x: np.ndarray, labels: np.ndarray) -> Erasing:
    """The map of these users.

    Args:
        x: (n, d).
        labels: (n,) int64, classes 0 .. C-1.
    """
    centre = x.mean(0)
    centre += (x - centre).mean(0)  # of 10^6 users a sum's rounding is 10^-11
    centred = x - centre
    z = np.eye(labels.max() + 1)[labels]
    own, cross = centred.T @ centred / len(x), centred.T @ (z - z.mean(0)) / len(x)
    return Erasing(centre, projection(own, cross, centre), own)


def of_moments(moments: Moments) -> Erasing:
    """The map of users with these moments: their covariance is that within classes and that of the
    classes' means.
    """
    p = moments.shares
    centre = p @ moments.means
    away = moments.means - centre
    cross = (p[:, None] * away).T
    own = moments.scatters.sum(0) / moments.counts.sum() + cross @ away
    return Erasing(centre, projection(own, cross, centre), own)


def projection(own: np.ndarray, cross: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """W⁺ P W (d, d) = Σ_xz (Σ_xzᵀ Σ_xx⁺ Σ_xz)⁺ Σ_xzᵀ Σ_xx⁺, which in any coordinates does the same
    to what the users of the fit span: in standardised columns, so that none is lost beside a wider
    one.

    Args:
        own: Σ_xx, (d, d).
        cross: Σ_xz, (d, C).
        centre: x̄, (d,).
    """
    spread = np.sqrt(own.diagonal())
    varies = np.flatnonzero(spread > CONSTANT * np.abs(centre))
    whole = np.zeros_like(own)
    if not len(varies):
        return whole
    scale, these = spread[varies, None], np.ix_(varies, varies)
    values, vectors = np.linalg.eigh(own[these] / scale / scale.T)
    wide = values > RANK_TOLERANCE * values.max()
    values, vectors = values[wide], vectors[:, wide]
    whiten = vectors / np.sqrt(values) @ vectors.T
    unwhiten = vectors * np.sqrt(values) @ vectors.T
    u, sizes, _ = np.linalg.svd(whiten @ (cross[varies] / scale), full_matrices=False)
    u = u[:, sizes > RANK_TOLERANCE**0.5 * max(sizes.max(), RANK_TOLERANCE)]
    whole[these] = scale * (unwhiten @ u @ u.T @ whiten) / scale.T
    return whole


METHOD = Method("LEACE", fit=fit, streamed=Streamed(learn_moments, Moments, of_moments))
