"""Coordinates in which a table's directions are equally wide.

Columns of very different scales, or columns that are sums of others, leave directions that are
nearly flat beside the widest. A matrix's narrow eigenvalues are rounding there, and what is divided
by their roots is rounding blown up. Such a table is edited along the directions that its
standardised columns have, at unit width; of what they haven't, rounding, nothing is changed.
"""

from dataclasses import dataclass

import numpy as np

from methods.gaussian import covariance

UNEVEN = 1e-8
"""Variances below this share of the largest are narrow."""

FLAT = 1e-10
"""The same of standardised columns: narrower directions are rounding."""


@dataclass(frozen=True)
class Coordinates:
    """Of vectors x (n, d): y = (x - x̄) to, (n, k), with covariance I.

    Attributes:
        to: (d, k).
        back: (k, d), its left inverse.
    """

    to: np.ndarray
    back: np.ndarray


def uneven(x: np.ndarray) -> bool:
    """Whether some direction of a table (n, d) is narrow."""
    widths = np.linalg.eigvalsh(covariance(x))
    return bool(widths.min() < UNEVEN * widths.max())


def even(x: np.ndarray) -> Coordinates:
    """Of a table (n, d) whose columns all vary."""
    spread = x.std(0)
    widths, directions = np.linalg.eigh(covariance(x / spread))
    wide = widths > FLAT * widths.max()
    directions, deviations = directions[:, wide], np.sqrt(widths[wide])
    return Coordinates(
        directions / deviations / spread[:, None], (directions * deviations).T * spread
    )
