"""calibrated without its polish, for more users than the memory holds: steps 1 to 3 in passes.

    1  moments     the centre; some users, drawn by their numbers, for Tyler's shape
    2  radii       histograms of the classes' log radii, and with them their quantiles
    3  directions  the classes' moments of v; radii in the pool, by class and by group
    4  groups      the groups' moments of v in the pool
    5  writing     every shard

What differs from the method in memory (methods.calibrated). The random partition gives every user a
group by a draw that follows from the seed and the user's number: whoever the ranks, and wherever
the shards are cut, the group is the same. So the groups have the classes' sizes in expectation,
n_c ± √n_c, not exactly, and class c gets its group's radii by shares of users instead of one by
one. Both go by histograms, whose bins are 0.08 % of a radius wide. Radii are not brought to
geometric mean 1: step 4 alone would see it.
"""

from dataclasses import dataclass

import numpy as np

from methods.atoms import atoms_of, uncrowded
from methods.coordinates import uneven
from methods.gaussian import FLOOR, ClassMaps, Moments, power, shrunk
from methods.partition import (
    MOST,
    QUANTILES,
    Turn,
    alike,
    pooled,
    squared_lengths,
    to_groups,
    tyler_shape,
)
from methods.passes import Arrays, Once, Users, forgetful, moments_near, of_all
from utils.errors import UserError
from utils.ranks import Ranks
from utils.seeds import uniform

FEWEST = 50
"""Users of a class: the group of a smaller one could be drawn empty."""

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


@dataclass(frozen=True)
class Radii:
    """Tyler's radii r of users, and their directions (x - centre) / r.

    Attributes:
        centre: (d,).
        inverse: (d, d), of the shape.
    """

    centre: np.ndarray
    inverse: np.ndarray

    def squared(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centred users (n, d), and r² (n,)."""
        centred = x - self.centre
        return centred, np.maximum(squared_lengths(centred, self.inverse), 0.0)


@dataclass(frozen=True)
class ToGroups:
    """The map of every user to where a random group would have them.

    Attributes:
        varies: (D,) bool, the d columns that are not the same for all; others stay.
        centre: (d,).
        inverse: (d, d), of Tyler's shape.
        floor: (), r² below counts as this.
        own: (C, QUANTILES), the classes' radii.
        common: (QUANTILES,), those of the pool.
        top: (), counts: (2 C, BINS + 1), radii in the pool, by class, then by group; a `Histogram`.
        to, means: (C, d), maps: (C, d, d), of directions; `ClassMaps`.
    """

    varies: np.ndarray
    centre: np.ndarray
    inverse: np.ndarray
    floor: np.ndarray
    own: np.ndarray
    common: np.ndarray
    top: np.ndarray
    counts: np.ndarray
    to: np.ndarray
    means: np.ndarray
    maps: np.ndarray

    def __call__(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(n, D) float64, edited; users of unknown label stay.

        Args:
            x: (n, D) float64.
            labels: (n,) int64, -1 where unknown.
        """
        known = labels >= 0
        z = labels[known]
        v, radius = directions(x[known], self.varies, self.radii, self.floor)
        new = ClassMaps(self.to, self.means, self.maps)(v, z)
        new *= self._new_radius(radius, z)[:, None]
        new += self.centre
        edited = x.copy()
        edited[np.ix_(known, self.varies)] = new
        return edited

    @property
    def radii(self) -> Radii:
        return Radii(self.centre, self.inverse)

    def _new_radius(self, radius: np.ndarray, z: np.ndarray) -> np.ndarray:
        """(n,): a user as far up in the group as in the class."""
        logs, seen = np.log(alike(radius, z, self.own, self.common)), len(self.own)
        histogram = Histogram(self.top, self.counts)
        for c in np.unique(z):
            users = np.flatnonzero(z == c)
            share = np.interp(logs[users], *histogram.steps(c))
            logs[users] = np.interp(share, *histogram.steps(seen + c)[::-1])
        return np.exp(logs)


def varying(x: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """The columns (n, d) of a block (n, D), which is not copied where all vary."""
    return x if varies.all() else x[:, varies]


def directions(
    x: np.ndarray, varies: np.ndarray, radii: Radii, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of users (n, D), v (n, d) and radii (n,)."""
    centred, squared = radii.squared(varying(x, varies))
    radius = np.sqrt(np.maximum(squared, floor))
    centred /= radius[:, None]
    return centred, radius


def drawn_groups(first: int, count: int, p: np.ndarray, seed: int) -> np.ndarray:
    """(count,) int64 groups of users from number `first` on, drawn with probabilities p (C,)."""
    bounds = p.cumsum()[:-1]
    return np.searchsorted(bounds, uniform(first, first + count, seed, "groups"), side="right")


def learn(users: Users, turn: Turn, seed: int, once: Once = forgetful) -> ToGroups:
    """All passes but the last.

    Args:
        users: of all classes.
        turn: of the drawn means.
        seed: of the partition, and of who the shape is fitted on.
        once: keeps what each pass but the last has learnt.

    Raises:
        UserError: a class of too few users, vectors that are all the same, or a table in which many
            users share a value.
    """
    ranks, classes, p = users.ranks, len(users.counts), users.counts / users.counts.sum()
    ranks.agree(lambda: _check_fewest(int(users.counts.min())))
    first = once("pass-1", lambda: _first_look(users, seed))
    varies, radii = first["varies"], Radii(first["centre"], first["inverse"])
    second = once("pass-2", lambda: _histogram(users, varies, radii))
    histogram = Histogram(second["top"], second["bins"])
    floor = np.array(FLOOR * second["largest"])
    grid = np.linspace(0, 1, QUANTILES)
    own = np.exp([np.interp(grid, *histogram.steps(c)[::-1]) for c in range(classes)])
    common = p @ own

    def in_the_pool() -> Arrays:
        seen = Moments.none(classes, len(radii.centre))
        both = Histogram.of(np.empty(0), np.empty(0, int), 2 * classes)

        def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
            nonlocal seen, both
            known, groups = z >= 0, drawn_groups(first, len(x), p, seed)
            z, groups = z[known], groups[known]
            v, radius = directions(x[known], varies, radii, floor)
            seen = seen.merged(Moments.of(v, z, classes))
            logs = np.log(alike(radius, z, own, common))
            of_block = np.concatenate([z, classes + groups])
            both = both.merged(Histogram.of(np.tile(logs, 2), of_block, 2 * classes))

        users.go("pass 3 of 5, directions", visit)
        both = both.of_all(ranks)
        return {**vars(of_all(seen, ranks)), "top": both.top, "bins": both.counts}

    third = once("pass-3", in_the_pool)
    seen = Moments(third["counts"], third["means"], third["scatters"])
    covariances, shrink = shrunk(seen.covariances(), seen.counts)
    pool = ranks.agree(lambda: pooled(p, seen.means, covariances))

    drawn = Moments.none(classes, len(radii.centre))

    def visit_pool(x: np.ndarray, z: np.ndarray, first: int) -> None:
        nonlocal drawn
        known, groups = z >= 0, drawn_groups(first, len(x), p, seed)
        v, _ = directions(x[known], varies, radii, floor)
        drawn = drawn.merged(Moments.of(pool.maps(v, z[known]), groups[known], classes))

    users.go("pass 4 of 5, groups", visit_pool)
    drawn = of_all(drawn, ranks)
    targets = list(zip(drawn.means, drawn.covariances(), strict=True))
    maps = ranks.agree(lambda: to_groups(p, shrink, covariances, pool, targets, turn))
    return ToGroups(
        varies, radii.centre, radii.inverse, floor, own, common,
        third["top"], third["bins"], maps.to, maps.means, maps.maps,
    )  # fmt: skip


def _check_fewest(fewest: int) -> None:
    if fewest < FEWEST:
        raise UserError(
            f"the smallest class has {fewest} users, and method calibrated needs {FEWEST} where "
            "stream=on: leave it out of the labels, or join it with another"
        )


def _first_look(users: Users, seed: int) -> Arrays:
    """Which columns vary (D,), and the `Radii` of these by at most MOST users."""
    d, share = users.dimensions, MOST / users.counts.sum()
    seen = Moments.none(1, d)
    low, high = np.full(d, np.inf), np.full(d, -np.inf)
    drawn = [np.empty((0, 2 + d))]

    def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
        nonlocal seen
        known = z >= 0
        seen = seen.merged(moments_near(x, np.where(known, 0, -1), 1))
        np.minimum(low, x[known].min(0, initial=np.inf), out=low)
        np.maximum(high, x[known].max(0, initial=-np.inf), out=high)
        draw = uniform(first, first + len(x), seed, "shape")
        chosen = np.flatnonzero(known & (draw < share))
        drawn.append(np.column_stack([draw[chosen], first + chosen, x[chosen]]))

    users.go("pass 1 of 5, moments", visit, check=True)
    ranks = users.ranks
    low, high = ranks.gathered(low[None]).min(0), ranks.gathered(high[None]).max(0)
    some = ranks.gathered(np.concatenate(drawn))
    some = some[some[:, 0].argsort(kind="stable")[:MOST]]
    some = some[some[:, 1].argsort()][:, 2:]
    varies, centre = low < high, of_all(seen, ranks).means[0]
    return {"varies": varies, **vars(ranks.agree(lambda: _shape(some, varies, centre)))}


def _shape(some: np.ndarray, varies: np.ndarray, centre: np.ndarray) -> Radii:
    """From users (n, D).

    Raises:
        UserError: see `learn`.
    """
    if not varies.any():
        raise UserError(
            "all users have the same vector, which tells nothing: there is no more to do"
        )
    if atoms := atoms_of(uncrowded(some[:, varies])):
        column = np.flatnonzero(varies)[atoms[0].column]
        raise UserError(
            f"many users share a value of dimension {column}, and calibrated edits such a table by "
            "rank, which has to have all users in memory: leave out stream=on, or take "
            "method=barycentre"
        )
    if uneven(some[:, varies]):
        raise UserError(
            "some direction of the vectors is narrower than 1/10,000 of the widest, as where a "
            "column is the sum of others; calibrated edits such a table in other coordinates, with "
            "all users in memory: leave out stream=on or a column, divide wide ones, or take "
            "method=barycentre"
        )
    return Radii(centre[varies], power(tyler_shape(some[:, varies] - centre[varies]), -1))


def _histogram(users: Users, varies: np.ndarray, radii: Radii) -> Arrays:
    """The `Histogram` of the classes' log radii, and the largest r², ()."""
    classes, largest = len(users.counts), np.zeros(1)
    seen = Histogram.of(np.empty(0), np.empty(0, int), classes)

    def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
        nonlocal seen
        known = z >= 0
        _, squared = radii.squared(varying(x[known], varies))
        np.maximum(largest, squared.max(initial=0.0), out=largest)
        with np.errstate(divide="ignore"):  # of 0
            seen = seen.merged(Histogram.of(np.log(squared) / 2, z[known], classes))

    users.go("pass 2 of 5, radii", visit)
    of_all_ranks = seen.of_all(users.ranks)
    most = np.array(users.ranks.gathered(largest).max())
    return {"top": of_all_ranks.top, "bins": of_all_ranks.counts, "largest": most}
