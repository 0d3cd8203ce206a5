"""calibrated for more users than the memory holds, in passes.

    1  moments     the centre; some users, drawn by their numbers, for Tyler's shape
    2  radii       histograms of the classes' log radii, and with them their quantiles
    3  directions  the classes' moments of v; radii in the pool, by class and by group
    4  groups      the groups' moments of v in the pool
    5  polish      some users, drawn by their numbers, with their new v and radii: all rounds are
                   learnt of these; left out where there are none
    6  writing     every shard; the rounds are done to each user

What differs from the method in memory (methods.calibrated). The random partition gives every user a
group by a draw that follows from the seed and the user's number: whoever the ranks, and wherever
the shards are cut, the group is the same. So the groups have the classes' sizes in expectation,
n_c ± √n_c, not exactly, and class c gets its group's radii by shares of users instead of one by
one. Both go by histograms, whose bins are 0.08 % of a radius wide. The polish's ridges are fitted
on as many users as in memory, but class means, out of fold, are those of SAMPLE users (all, where
there are no more). A sample differs by chance, and a step against that would write it into all
others, the sign turned: so a step is taken in so far as its gap is beyond two standard errors of
what the users outside the sample leave open, and what is left is of that size.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from methods.atoms import uncrowded_with_atoms
from methods.coordinates import uneven
from methods.edges import edged
from methods.gaussian import FLOOR, ClassMaps, Moments, power, shrunk
from methods.histogram import Histogram
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
from methods.polish import Views, polish
from methods.rounds import Rounds, folds
from utils.errors import UserError
from utils.seeds import numpy_generator, uniform

log = logging.getLogger(__name__)

NARROWEST = 1e-100
"""Spread of vectors, at least: moments are made of its squares."""

FEWEST = 50
"""Users of a class: the group of a smaller one could be drawn empty."""

SAMPLE = 10 * MOST
"""Users whom the polish learns of, about; of a small class MOST / C at least."""


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
class ToGroups(Rounds):
    """The map of every user to where a random group would have them, and the polish's rounds.

    Attributes:
        varies: (D,) bool, the d columns that are not the same for all; others stay.
        centre: (d,).
        inverse: (d, d), of Tyler's shape.
        floor: (), r² below counts as this.
        own: (C, QUANTILES), the classes' radii.
        common: (QUANTILES,), those of the pool.
        top: (), counts: (2 C, BINS + 1), radii in the pool, by class, then by group; a `Histogram`.
        to, means: (C, d), maps: (C, d, d), of directions; `ClassMaps`.
        And those of `Rounds`.
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

    def __call__(self, x: np.ndarray, labels: np.ndarray, first: int) -> np.ndarray:
        """(n, D) float64, edited; users of unknown label stay.

        Args:
            x: (n, D) float64.
            labels: (n,) int64, -1 where unknown.
            first: the first user's number.
        """
        known = labels >= 0
        z = labels[known]
        v, radius = self.in_groups(x[known], z)
        new = self.done(v, radius, z, first + np.flatnonzero(known))
        new *= radius[:, None]
        new += self.centre
        edited = x.copy()
        edited[np.ix_(known, self.varies)] = new
        return edited

    def in_groups(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """New v (n, d) and radii (n,), before the polish, of users (n, D) of known class."""
        v, radius = directions(x, self.varies, self.radii, self.floor)
        return ClassMaps(self.to, self.means, self.maps)(v, labels), self._new_radius(
            radius, labels
        )

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


def learn(
    users: Users, turn: Turn, rounds: int, views: Views, seed: int, once: Once = forgetful
) -> ToGroups:
    """All passes but the last.

    Args:
        users: of all classes.
        turn: of the drawn means.
        rounds: of polishing.
        views: that it looks at.
        seed: of the partition, and of whom the shape and the polish are fitted on.
        once: keeps what each pass but the last has learnt.

    Returns:
        What is known; of several ranks the first one alone knows the polish.

    Raises:
        UserError: a class of too few users, vectors that are all the same, or a table in which many
            users share a value.
    """
    ranks, classes, p = users.ranks, len(users.counts), users.shares
    passes = 6 if rounds else 5
    ranks.agree(lambda: _check_fewest(int(users.counts.min())))
    first = once("pass-1", lambda: _first_look(users, seed, passes))
    varies, radii = first["varies"], Radii(first["centre"], first["inverse"])
    second = once("pass-2", lambda: _histogram(users, varies, radii, passes))
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

        users.go(f"pass 3 of {passes}, directions", visit)
        both = both.of_all(ranks)
        return {**vars(of_all(seen, ranks)), "top": both.top, "bins": both.counts}

    third = once("pass-3", in_the_pool)
    seen = Moments(third["counts"], third["means"], third["scatters"])
    covariances, shrink = shrunk(seen.covariances(), seen.counts)
    pool = ranks.agree(lambda: pooled(p, seen.means, covariances))

    def of_groups() -> Arrays:
        drawn = Moments.none(classes, len(radii.centre))

        def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
            nonlocal drawn
            known, groups = z >= 0, drawn_groups(first, len(x), p, seed)
            v, _ = directions(x[known], varies, radii, floor)
            drawn = drawn.merged(Moments.of(pool.maps(v, z[known]), groups[known], classes))

        users.go(f"pass 4 of {passes}, groups", visit)
        return vars(of_all(drawn, ranks))

    drawn = Moments(**once("pass-4", of_groups))
    targets = list(zip(drawn.means, drawn.covariances(), strict=True))
    maps = ranks.agree(lambda: to_groups(p, shrink, covariances, pool, targets, turn))
    none = Rounds.of(seed, histogram.typical, [], classes, len(radii.centre))
    known = ToGroups(
        **vars(none), varies=varies, centre=radii.centre, inverse=radii.inverse, floor=floor,
        own=own, common=common, top=third["top"], counts=third["bins"], to=maps.to,
        means=maps.means, maps=maps.maps,
    )  # fmt: skip
    if not rounds:
        return known
    return replace(known, **once("pass-5", lambda: _polish(users, known, rounds, views, seed)))


def sampled(users: Users, z: np.ndarray, first: int, seed: int) -> np.ndarray:
    """(m,) rows of a block's users whom the polish learns of.

    Args:
        users: of all classes.
        z: (n,) the block's classes.
        first: the block's first user's number.
        seed: of the draw.
    """
    share = np.maximum(SAMPLE / users.counts.sum(), MOST / len(users.counts) / users.counts)
    drawn = uniform(first, first + len(z), seed, "sample")
    return np.flatnonzero(drawn < np.where(z >= 0, share[z], 0.0))


def _polish(users: Users, known: ToGroups, rounds: int, views: Views, seed: int) -> Arrays:
    """The `Rounds`, by the first rank; nothing by others."""
    drawn = [np.empty((0, 3 + len(known.centre)))]

    def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
        some = sampled(users, z, first, seed)
        v, radius = known.in_groups(x[some], z[some])
        drawn.append(np.column_stack([first + some, z[some], radius / known.unit, v]))

    users.go("pass 5 of 6, polish", visit)
    sample = users.ranks.gathered(np.concatenate(drawn))
    drawn.clear()

    def of_sample() -> Arrays:
        own = sample[sample[:, 0].argsort()]
        numbers, labels = own[:, :2].T.astype(np.int64)
        radius, v = np.split(own[:, 2:].astype(np.float32), [1], axis=1)
        p = users.shares
        unseen = 1 - np.bincount(labels) / users.counts
        made, gaps = [], []
        with threadpool_limits(1):
            for one, gap in polish(
                v, radius[:, 0], labels, p, unseen, lambda number: folds(numbers, seed, number),
                rounds, numpy_generator(seed, "polish"), views, [],
            ):  # fmt: skip
                made.append(one)
                gaps.append(gap)
        said = "  polish learnt of %d users: %d rounds, gaps of %.2g (first ten) to %.2g (last)"
        log.info(said, len(v), rounds, np.mean(gaps[:10]), np.mean(gaps[-10:]))
        return vars(Rounds.of(seed, float(known.unit), made, len(p), v.shape[1]))

    return users.ranks.alone(of_sample) or {}


def _check_fewest(fewest: int) -> None:
    if fewest < FEWEST:
        raise UserError(
            f"the smallest class has {fewest} users, and method calibrated needs {FEWEST} where "
            "stream=on: leave it out of the labels, or join it with another"
        )


def _first_look(users: Users, seed: int, passes: int) -> Arrays:
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

    users.go(f"pass 1 of {passes}, moments", visit, check=True)
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
    if varies.sum() == 1:
        raise UserError(
            "one dimension alone tells users apart, and calibrated needs two where stream=on: take "
            "method=barycentre, or leave out stream=on"
        )
    if (spread := float(np.ptp(some, axis=0).max())) < NARROWEST:
        raise UserError(
            f"all users are within {spread:g}, whose squares float64 can't hold; multiply all "
            "shards by a constant"
        )
    if atoms := uncrowded_with_atoms(some[:, varies])[1]:
        column = np.flatnonzero(varies)[atoms[0].column]
        raise UserError(
            f"many users share a value of dimension {column}, or nearly, and calibrated edits such "
            "a table by rank, which has to have all users in memory: leave out stream=on, or take "
            "method=barycentre"
        )
    if (edges := edged(some[:, varies])).any():
        column = np.flatnonzero(varies)[edges.argmax()]
        raise UserError(
            f"dimension {column} ends at an edge, as squashed and positive values do, and "
            "calibrated edits such a column by rank, which has to have all users in memory: leave "
            "out stream=on, or take method=leace"
        )
    if uneven(some[:, varies]):
        raise UserError(
            "some direction of the vectors is narrower than 1/10,000 of the widest, as where a "
            "column is the sum of others; calibrated edits such a table in other coordinates, with "
            "all users in memory: leave out stream=on or a column, divide wide ones, or take "
            "method=barycentre"
        )
    return Radii(centre[varies], power(tyler_shape(some[:, varies] - centre[varies]), -1))


def _histogram(users: Users, varies: np.ndarray, radii: Radii, passes: int) -> Arrays:
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

    users.go(f"pass 2 of {passes}, radii", visit)
    of_all_ranks = seen.of_all(users.ranks)
    most = np.array(users.ranks.gathered(largest).max())
    return {"top": of_all_ranks.top, "bins": of_all_ranks.counts, "largest": most}
