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
one. Both go by histograms, whose bins are 0.08 % of a radius wide. Radii are not brought to
geometric mean 1, which the polish does not see. Its ridges are fitted on as many users as in
memory, but class means, out of fold, are those of SAMPLE users (all, where there are no more): what
is left is known to 1/√SAMPLE, not to 1/√n. Folds too follow from users' numbers, so that who is in
the sample is edited out of fold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from threadpoolctl import threadpool_limits

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
from methods.polish import CHUNK, FOLDS, Round, View, Views, polish
from utils.errors import UserError
from utils.ranks import Ranks
from utils.seeds import numpy_generator, uniform

FEWEST = 50
"""Users of a class: the group of a smaller one could be drawn empty."""

BINS = 2**14
WIDTH = -np.log(FLOOR) / 2 / BINS
"""Of a bin of log radius: from the floor to the longest radius there are BINS of them."""

SAMPLE = 10 * MOST
"""Users whom the polish learns of, about; of a small class MOST / C at least."""

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
class Rounds:
    """The polish's rounds, as arrays: R of them, whose views have D features in all.

    Attributes:
        seed: (), of the folds.
        features: (R,), how many of these are whose.
        kinds: (R, 3) bool, a view's kernel and shifts, and whether it is of radius · v.
        weights: (D, d), offsets: (D,), ridges: (FOLDS, D, C), steps: (R, C), drifts: (R, C, d);
            `methods.polish.Round`.
    """

    seed: np.ndarray
    features: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    ridges: np.ndarray
    steps: np.ndarray
    drifts: np.ndarray

    @classmethod
    def of(cls, seed: int, rounds: Sequence[Round], classes: int, d: int) -> "Rounds":
        """Of C classes and d dimensions."""
        views = [one.view for one in rounds]
        none = np.zeros((0, d), np.float32)
        ridges = [np.zeros((FOLDS, 0, classes), np.float32), *(one.ridges for one in rounds)]
        return cls(
            np.array(seed),
            np.array([len(view.weights) for view in views], np.int64),
            np.array([(one.view.kernel, one.view.shifts, one.scaled) for one in rounds], bool),
            np.concatenate([none, *(view.weights for view in views)]),
            np.concatenate([none[:, 0], *(view.offset for view in views)]),
            np.concatenate(ridges, 1),
            np.array([one.steps for one in rounds], np.float32).reshape(-1, classes),
            np.array([one.drift for one in rounds], np.float32).reshape(-1, classes, d),
        )

    def __iter__(self) -> Iterator[Round]:
        ends = self.features.cumsum()
        for number, (start, end) in enumerate(zip(ends - self.features, ends, strict=True)):
            kernel, shifts, scaled = self.kinds[number].tolist()
            view = View(kernel, self.weights[start:end], self.offsets[start:end], shifts)
            ridges = self.ridges[:, start:end]
            yield Round(view, scaled, ridges, self.steps[number], self.drifts[number])

    def done(
        self, v: np.ndarray, radius: np.ndarray, labels: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        """(n, d) float64 of users v (n, d), radius (n,), labels (n,), whose numbers (n,) ascend."""
        polished = v.astype(np.float32)
        radius = radius.astype(np.float32)
        with threadpool_limits(1):  # the same bytes, however many threads there are
            for number, one in enumerate(self):
                fold = folds(numbers, int(self.seed), number)
                for start in range(0, len(v), CHUNK):
                    at = slice(start, start + CHUNK)
                    polished[at] = one.moved(polished[at], radius[at], labels[at], fold[at])
        return polished.astype(np.float64) if len(self.features) else v


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
        seed, features, kinds, weights, offsets, ridges, steps, drifts: of the polish; `Rounds`.
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
    seed: np.ndarray
    features: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    ridges: np.ndarray
    steps: np.ndarray
    drifts: np.ndarray

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
        new = self.rounds.done(v, radius, z, first + np.flatnonzero(known))
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

    @property
    def rounds(self) -> Rounds:
        return Rounds(**{field.name: getattr(self, field.name) for field in fields(Rounds)})

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


def folds(numbers: np.ndarray, seed: int, number: int) -> np.ndarray:
    """(n,) int64 folds, in a round, of users whose numbers (n,) ascend."""
    if not len(numbers):
        return numbers
    first = int(numbers[0])
    drawn = uniform(first, int(numbers[-1]) + 1, seed, "fold", number)[numbers - first]
    return (drawn * FOLDS).astype(np.int64)


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
    ranks, classes, p = users.ranks, len(users.counts), users.counts / users.counts.sum()
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

    drawn = Moments.none(classes, len(radii.centre))

    def visit_pool(x: np.ndarray, z: np.ndarray, first: int) -> None:
        nonlocal drawn
        known, groups = z >= 0, drawn_groups(first, len(x), p, seed)
        v, _ = directions(x[known], varies, radii, floor)
        drawn = drawn.merged(Moments.of(pool.maps(v, z[known]), groups[known], classes))

    users.go(f"pass 4 of {passes}, groups", visit_pool)
    drawn = of_all(drawn, ranks)
    targets = list(zip(drawn.means, drawn.covariances(), strict=True))
    maps = ranks.agree(lambda: to_groups(p, shrink, covariances, pool, targets, turn))
    none = Rounds.of(seed, [], classes, len(radii.centre))
    known = ToGroups(
        varies, radii.centre, radii.inverse, floor, own, common, third["top"], third["bins"],
        maps.to, maps.means, maps.maps, **vars(none),
    )  # fmt: skip
    if not rounds:
        return known
    return replace(known, **once("pass-5", lambda: _polish(users, known, rounds, views, seed)))


def _polish(users: Users, known: ToGroups, rounds: int, views: Views, seed: int) -> Arrays:
    """The `Rounds`, by the first rank; none by others."""
    least = np.maximum(SAMPLE / users.counts.sum(), MOST / len(users.counts) / users.counts)
    drawn = [np.empty((0, 3 + len(known.centre)))]

    def visit(x: np.ndarray, z: np.ndarray, first: int) -> None:
        share = np.where(z >= 0, least[z], 0.0)
        some = np.flatnonzero(uniform(first, first + len(x), seed, "polish") < share)
        v, radius = known.in_groups(x[some], z[some])
        drawn.append(np.column_stack([first + some, z[some], radius, v]))

    users.go("pass 5 of 6, polish", visit)
    sample = users.ranks.gathered(np.concatenate(drawn))
    sample = sample[sample[:, 0].argsort()]
    classes, p = len(users.counts), users.counts / users.counts.sum()

    def of_sample() -> Arrays:
        numbers, labels = sample[:, :2].T.astype(np.int64)
        radius, v = np.split(sample[:, 2:].astype(np.float32), [1], axis=1)
        rng = numpy_generator(seed, "polish")
        with threadpool_limits(1):
            done = polish(
                v, radius[:, 0], labels, p, lambda number: folds(numbers, seed, number),
                rounds, rng, views, [],
            )  # fmt: skip
            return vars(Rounds.of(seed, [one for one, _ in done], classes, v.shape[1]))

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
