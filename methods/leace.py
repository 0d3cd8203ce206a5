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
from utils.errors import UserError
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads

RANK_TOLERANCE = 1e-10
"""Of the largest variance or singular value: what is below is rounding."""


@dataclass(frozen=True)
class AffineEraser(Eraser):
    """x -> x - (x - centre) projectionᵀ, on the named tables side by side.

    Attributes:
        widths: the tables' dimensions by name, in order.
        centre: (d,).
        projection: (d, d).
        record, history: as in every eraser.
    """

    widths: dict[str, int]
    centre: np.ndarray
    projection: np.ndarray
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
        x = side_by_side(tables)
        return apart(x - (x - self.centre) @ self.projection.T, tables)


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
    centre, projection = least_squares(x[known], z[known])
    moved = share_moved(x, x - (x - centre) @ projection.T)
    record = {"moved": moved, "seconds": time.perf_counter() - start}
    widths = {name: table.shape[1] for name, table in tables.items()}
    return AffineEraser(widths, centre, projection, record, [])


def least_squares(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x̄ (d,) and W⁺ P W (d, d).

    Args:
        x: (n, d).
        labels: (n,) int64, classes 0 .. C-1.
    """
    centre = x.mean(0)
    centred = x - centre
    z = np.eye(labels.max() + 1)[labels]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    wide = values > RANK_TOLERANCE * values.max()
    values, vectors = values[wide], vectors[:, wide]
    if not len(values) or values.max() == 0:
        return centre, np.zeros((x.shape[1], x.shape[1]))
    whiten = vectors / np.sqrt(values) @ vectors.T
    unwhiten = vectors * np.sqrt(values) @ vectors.T
    u, sizes, _ = np.linalg.svd(
        whiten @ (centred.T @ (z - z.mean(0)) / len(x)), full_matrices=False
    )
    u = u[:, sizes > RANK_TOLERANCE**0.5 * max(sizes.max(), RANK_TOLERANCE)]
    return centre, unwhiten @ u @ u.T @ whiten


METHOD = Method("LEACE", fit=fit)
