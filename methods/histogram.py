"""Histograms of radii that parts of the users, put together, have as all of them do."""

from dataclasses import dataclass

import numpy as np

from methods.gaussian import FLOOR
from utils.ranks import Ranks

BINS = 2**14
WIDTH = -np.log(FLOOR) / 2 / BINS
"""Of a bin of log radius: from the floor to the longest radius there are BINS of them."""

LOWEST = -400.0
"""A log radius below that of any float64 but zero."""


@dataclass(frozen=True)
class Histogram:
    """Log radii by group, in bins that are the same whatever comes: bin k holds
    [k WIDTH, (k + 1) WIDTH). Of them those from top - BINS to top are kept; what is below, which
    the floor is too, counts in the lowest.

    Attributes:
        top: (), the highest bin.
        counts: (G, BINS + 1) int64, the users of each group by bin.
    """

    top: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, logs: np.ndarray, groups: np.ndarray, size: int) -> "Histogram":
        """Of users.

        Args:
            logs: (n,) of their radii; -inf of 0.
            groups: (n,), each below `size`.
            size: G.
        """
        if not len(logs):  # far below whatever comes
            return cls(np.array(-(2**60)), np.zeros((size, BINS + 1), np.int64))
        bins = np.floor(np.maximum(logs, LOWEST) / WIDTH).astype(np.int64)
        top = bins.max()
        cells = groups * (BINS + 1) + np.maximum(bins - (top - BINS), 0)
        counts = np.bincount(cells, minlength=size * (BINS + 1))
        return cls(top, counts.reshape(size, BINS + 1))

    def risen(self, top: np.ndarray) -> "Histogram":
        """The same with a top at least as high."""
        up = int(min(top - self.top, BINS))
        counts = np.zeros_like(self.counts)
        counts[:, : BINS + 1 - up] = self.counts[:, up:]
        counts[:, 0] += self.counts[:, :up].sum(1)
        return Histogram(np.array(top), counts)

    def merged(self, other: "Histogram") -> "Histogram":
        """Of these users and others."""
        top = np.maximum(self.top, other.top)
        one, two = self.risen(top), other.risen(top)
        return Histogram(top, one.counts + two.counts)

    def of_all(self, ranks: Ranks) -> "Histogram":
        """Of the users of all ranks."""
        top = ranks.gathered(self.top[None]).max().astype(np.int64)
        return Histogram(top, ranks.sum(self.risen(top).counts).astype(np.int64))

    def steps(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Log radii, ascending, and the share of a group's users below each: the corners of its
        distribution function, which is flat where nobody is.
        """
        own = self.counts[group]
        there = np.flatnonzero(own)
        above = own[there].cumsum()
        edges = (self.top - BINS + there) * WIDTH
        shares = np.stack([above - own[there], above], 1) / above[-1]
        return np.stack([edges, edges + WIDTH], 1).ravel(), shares.ravel()

    @property
    def typical(self) -> float:
        """The users' geometric mean radius, or about it: that of the bins' middles."""
        logs = (self.top - BINS + np.arange(BINS + 1) + 0.5) * WIDTH
        return float(np.exp(self.counts.sum(0) @ logs / self.counts.sum()))
