"""Who pays for the unlearning: the recommendations' quality by class, beside the original's."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

METRICS = ("HR@10", "NDCG@10")


@dataclass(frozen=True)
class Mean:
    """A mean over users and its 95 % interval, from their spread; a single user has none."""

    mean: float
    low: float | None
    high: float | None
    users: int


def mean_of(values: np.ndarray) -> Mean:
    """Of a value a user."""
    mean = float(values.mean())
    if len(values) == 1:
        return Mean(mean, None, None, 1)
    half = float(norm.ppf(0.975) * values.std(ddof=1)) / len(values) ** 0.5
    return Mean(mean, mean - half, mean + half, len(values))


def by_class(values: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Mean]:
    """The mean of each class's users; classes without users are left out.

    Args:
        values: (n,), a value a user; NaN where a user has none.
        labels: (n,) int64, -1 where unknown.
        classes: the classes' names.
    """
    has = ~np.isnan(values)
    groups = {name: values[has & (labels == c)] for c, name in enumerate(classes)}
    return {name: mean_of(group) for name, group in groups.items() if len(group)}
