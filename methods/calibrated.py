"""Calibrated unlearning: the classes are made to differ as random groups of users do.

Erasing every difference that is seen in the sample is not hiding: an attacker who trains on some
of the users then finds the others on the wrong side, and flips the sign (Snoek, Miletić and
Scholte, NeuroImage 2019). Any two groups of users differ a little, random ones too. So a random
partition π of the users is drawn, with groups of the classes' sizes, and each class c gets what its
group {π = c} has:

1. radius     s_i, the length of x_i - x̄ under Tyler's shape (Ann. Statist. 1987), geometric mean
              1; v_i = (x_i - x̄) / s_i. Radii follow activity, and a shift of the mean alone would
              mark the users of small radius. Of one dimension nothing but a sign would be left:
              there all radii are 1.
2. pool       classes' radii through their quantiles to the common ones; classes' v through the
              optimal maps between Gaussians, T(A_c, S), to their Wasserstein barycentre S (Agueh
              and Carlier, SIAM J. Math. Anal. 2011) and the common mean μ.
3. partition  class c takes, in its own order, the pool's radii of {π = c}, and the mean and
              covariance of the pool's v there. With rho > 0 the new mean is turned towards the old
              difference, its length kept, which moves the embedding less.
4. polish     rounds of: a ridge to the classes on features of one view (linear, or random Fourier
              features), fitted out of fold; each class is moved along its score's gradient until
              the out-of-fold class means agree. Only what generalises is removed, and a gap that
              has turned negative turns the step round.

For Gaussian data moments and the rest are independent: after step 3, with rho = 0, the labels look
drawn at random. With rho > 0 the difference of the means is as long as by chance, but leans towards
the old one, in its signs alone: it is as long as by chance in every principal direction of the
pool. Who knows the old one knows its signs. With `calibrated_band=0` it is turned as a whole, and
then too long where the pool is wide, and too short elsewhere. Beyond moments there is no theorem,
only the polish, and the audit: `python attack.py method=calibrated attackers=strong null=99`.

A table in which many users share a value (zeros of a non-negative factorisation) is edited in other
coordinates (`methods.atoms`), without radii, and polished twice as long: every other round looks at
the marginals and at two or three columns together, which is where trees look.

What a map of a whole class would tear is kept from it: columns that end at an edge go by rank too,
with radii and all views (`methods.edges`); for users far out, equal rows and spheres see
`methods.rows`.

Views of standardised or whitened vectors are blind to what a network on unscaled features reads in
the widest columns. So with `calibrated_views="both"` every other three rounds' kernel views are in
the vectors' own units, where steps may move a class's mean, and there are twice
`calibrated_rounds`. A round brings the gap of all its features together to nothing: where fine
structure stays beyond chance, squares are taken below it, and are read turned round. So by default,
`calibrated_views="all"`, squares of whitened vectors are a view by themselves, instead of their
kernels, and of several tables each is looked at alone, too. Kernels of all columns hardly see what
a few of them tell, where forests look, nor what the nearest users do: which of 400 users a user is
near, and features of few columns, take the place of the standardised kernels in turn. (Normal
scores of a table with shared values have equal units already; a table with directions that are
nearly flat is edited in `methods.coordinates`.)

What tails and clusters tell, as in tables of other libraries, the polish only nibbles at. With
`calibrated_slices` passes of `methods.sliced` come before the four steps.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydantic
from threadpoolctl import threadpool_limits

from methods.atoms import Atoms, at_atoms, by_rank, normal_scores, uncrowded_with_atoms, with_sums
from methods.base import Method, TopScorer
from methods.calibrated_passes import ToGroups, learn
from methods.coordinates import even, uneven
from methods.edges import edged, with_edges, without_edges
from methods.eraser import Labels, TransductiveEraser, UserTables, apart, share_moved, side_by_side
from methods.gaussian import FLOOR, Moments, power, shrunk
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
from methods.passes import Once, Streamed, Users
from methods.polish import FOLDS, TIMES, Views, polish
from methods.rows import FAR, equals_together, far_out, with_lengths
from methods.sliced import sliced
from utils.errors import UserError
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.schema import CHECKED, Natural, Share, key
from utils.threads import Threads

log = logging.getLogger(__name__)


@pydantic.dataclasses.dataclass(frozen=True, config=CHECKED)
class CalibratedOptions:
    """What calibrated can be told."""

    calibrated_rho: Share = key(0.5, sweep=True)
    """calibrated: how far the classes' new means are turned from the drawn directions (0) towards
    the old differences (1), which moves the embedding least."""
    calibrated_band: Natural = key(1, sweep=True, first=0)
    """calibrated: in how many directions at a time, from the widest to the flattest, a class's new
    mean is turned and keeps the length that was drawn. 1 = it keeps its length in each, and takes
    the old one's sign there if calibrated_rho is at least 0.5. 0 = in all at once: then it is
    longer towards the old difference, and shorter elsewhere, than by chance; who reads one table of
    several, or the widest directions first, sees that."""
    calibrated_rounds: Natural = key(60, sweep=True)
    """calibrated: rounds of its cross-fitted polish; twice as many, unless its views
    are "scaled" alone."""
    calibrated_views: Views = key("all", sweep=True, first="scaled")
    """calibrated: whether its polish looks at "scaled" vectors alone, or at "both", these and the
    vectors in their own units, as a network on unscaled features does; "all" = at all that an audit
    looks at: also at squares, at few columns together, at neighbourhoods, and at each of several
    tables by itself. Of a table with shared values all are "scaled"."""
    calibrated_slices: Natural = key(0, sweep=True)
    """calibrated: passes over orthogonal directions, along which each class first gets the whole
    distribution of a random group, against what tails and clusters tell; 160 are of use. They cost
    utility, and need all users in memory (no stream=on)."""

    @property
    def turn(self) -> Turn:
        """How the drawn means are turned."""
        return Turn(self.calibrated_rho, self.calibrated_band)


@dataclass(frozen=True)
class Calibrated:
    """What came out.

    Attributes:
        table: (n, d) float64, the edited table.
        moved: ||x' - x||_F / ||x||_F.
        alone: (n,) bool, users who lie so far out that they were left where they are.
        history: dicts of a polishing round and its gap: how far, at most, a class's mean score of
            itself lies from that of all users, out of fold.
        seconds: of the whole.
    """

    table: np.ndarray
    moved: float
    alone: np.ndarray
    history: list[dict[str, float]]
    seconds: float


def calibrate(
    table: np.ndarray,
    labels: np.ndarray,
    turn: Turn,
    rounds: int,
    rng: np.random.Generator,
    views: Views = "scaled",
    widths: Sequence[int] = (),
    slices: int = 0,
) -> Calibrated:
    """Edit the users' vectors; see the module's docstring.

    Args:
        table: (n, d), all users with a label.
        labels: (n,) int64, classes 0 .. C-1, each with a user.
        turn: of the drawn means, towards the old differences.
        rounds: of polishing.
        rng: draws the partition, the folds and the features.
        views: see `CalibratedOptions`.
        widths: columns of each table, where several stand side by side.
        slices: passes of `methods.sliced`, before all else.
    """
    start = time.perf_counter()
    x = table.astype(np.float64, order="C")
    alone = far_out(x)
    left = np.bincount(labels[~alone], minlength=labels.max() + 1)
    alone &= left[labels] >= FOLDS  # a class that would be lost is edited as a whole
    varies = (x != x[alone.argmin()])[~alone].any(0)  # constant columns tell nothing, and stay
    of_table = np.repeat(np.arange(len(widths)), widths) if widths else np.zeros(len(varies))
    parts = [np.flatnonzero(of_table[varies] == one) for one in np.unique(of_table[varies])]
    whole, edit = bool(varies.all() and not alone.any()), np.ix_(~alone, varies)
    own = x if whole else np.ascontiguousarray(x[edit])
    history: list[dict[str, float]] = []
    if varies.any():
        own, history = _of_varying(own, labels[~alone], turn, rounds, rng, views, parts, slices)
    edited = own
    if not whole:
        edited = x.copy()
        edited[edit] = own
    return Calibrated(edited, share_moved(x, edited), alone, history, time.perf_counter() - start)


def _of_varying(
    x: np.ndarray,
    labels: np.ndarray,
    turn: Turn,
    rounds: int,
    rng: np.random.Generator,
    views: Views,
    parts: list[np.ndarray],
    slices: int,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Tables all of whose columns vary, edited in the coordinates that suit them.

    Args:
        parts: which columns (k,) are each table's.
    """
    seen = parts if views == "all" and len(parts) > 1 else []
    single, atoms = uncrowded_with_atoms(x)
    if atoms:
        scores = normal_scores(single, rng)
        z, history = _calibrated(scores, labels, turn, 2 * rounds, rng, "scaled", atoms, [], slices)
        edited, at = by_rank(z, single), at_atoms(single, atoms)
        for own in map(_side, parts):
            one = equals_together(edited[:, own], single[:, own], at[:, own])
            edited[:, own] = with_sums(one, x[:, own])
        return edited, history
    edges = edged(x)
    single = without_edges(x, edges, rng) if edges.any() else x
    coordinates = even(single) if uneven(single) else None
    y = (single - single.mean(0)) @ coordinates.to if coordinates else single
    z, history = _calibrated(
        y, labels, turn, TIMES[views] * rounds, rng, views, [], [] if coordinates else seen, slices
    )
    z = single + (z - y) @ coordinates.back if coordinates else z
    for own in map(_side, parts):
        z[:, own] = _as_before(z[:, own], x[:, own], edges[own])
    return z, history


def _side(part: np.ndarray) -> slice:
    """A table's columns (k,), which are neighbours, without a copy of them."""
    return slice(part[0], part[-1] + 1)


def _as_before(edited: np.ndarray, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What an edit of a table x (n, d) is once it has its values at `edges` (d,), equal rows and
    length again.
    """
    edited = with_edges(edited, edges, x) if edges.any() else edited
    return with_lengths(equals_together(edited, x), x)


def _calibrated(
    x: np.ndarray,
    labels: np.ndarray,
    turn: Turn,
    rounds: int,
    rng: np.random.Generator,
    views: Views,
    atoms: list[Atoms],
    parts: list[np.ndarray],
    slices: int,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """The steps; without radii where there are atoms, or one dimension."""
    x = sliced(x, labels, slices, rng, parts)
    centre = x.mean(0)
    v = x - centre
    radius = np.ones(len(v)) if atoms or v.shape[1] == 1 else tyler_radius(v, rng)
    v /= radius[:, None]
    v, radius = as_random_partition(v, radius, labels, turn, rng)
    near = v.astype(np.float32)
    p, n = np.bincount(labels) / len(labels), len(labels)
    done = polish(
        near, radius.astype(np.float32), labels, p, np.zeros_like(p),
        lambda _: rng.permutation(n) % FOLDS, rounds, rng, views, atoms, parts,
    )  # fmt: skip
    history = [{"step": number, "gap": gap} for number, (_, gap) in enumerate(done, start=1)]
    v[:] = near
    v *= radius[:, None]
    v += centre
    return v, history


def fit(
    tables: UserTables,
    labels: Labels,
    options: CalibratedOptions,
    rng: np.random.Generator,
    scorer: TopScorer | None,
    threads: Threads,
    progress: Progress = FORGETFUL,
) -> TransductiveEraser:
    """As of every method that edits (see `methods.base.Fit`): all tables side by side; users of
    unknown label stay as they are. Needs no scores, and works on one thread.
    """
    (classes,) = labels.values()
    x, z = side_by_side(tables), classes.cpu().numpy()
    known = z >= 0
    if (fewest := int(np.bincount(z[known]).min())) < FOLDS:
        raise UserError(
            f"the smallest class has {fewest} users, and method calibrated needs {FOLDS}: leave it "
            "out of the labels, or join it with another"
        )
    with threadpool_limits(1):  # many small products: the same bytes everywhere, and no waiting
        done = calibrate(
            x[known],
            z[known],
            options.turn,
            options.calibrated_rounds,
            rng,
            options.calibrated_views,
            [table.shape[1] for table in tables.values()],
            options.calibrated_slices,
        )
    if count := int(done.alone.sum()):
        log.warning(
            "more than %g times as far out as 99 of 100 users, and left where they are: %d of %d, "
            "first row %d",
            FAR,
            count,
            len(done.alone),
            np.flatnonzero(known)[done.alone.argmax()],
        )
    x[known] = done.table
    record = {"moved": done.moved, "seconds": done.seconds}
    return TransductiveEraser(dict(tables), apart(x, tables), record, done.history)


def tyler_radius(centred: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) lengths under Tyler's shape matrix, geometric mean 1."""
    some = centred if len(centred) <= MOST else centred[rng.choice(len(centred), MOST, False)]
    squared = squared_lengths(centred, power(tyler_shape(some), -1))
    logarithm = np.log(np.maximum(squared, FLOOR * squared.max()))
    return np.exp((logarithm - logarithm.mean()) / 2)


def as_random_partition(
    v: np.ndarray, radius: np.ndarray, labels: np.ndarray, turn: Turn, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Steps 2 and 3: v and radii whose classes have the moments of a random partition's groups.

    Args:
        v: (n, d).
        radius: (n,).
        labels, turn, rng: as of `calibrate`.
    """
    n = len(v)
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    groups = rng.permutation(labels)
    p = np.array([len(users) / n for users in members])

    grid = np.linspace(0, 1, QUANTILES)
    quantiles = [np.quantile(radius[users], grid) for users in members]
    pool_radius = alike(radius, labels, np.array(quantiles), p @ np.array(quantiles))
    new_radius = np.empty_like(radius)
    for c, users in enumerate(members):
        new_radius[users[np.argsort(radius[users])]] = np.sort(pool_radius[groups == c])

    own = Moments.of(v, labels, len(p))
    covariances, shrink = shrunk(own.covariances(), own.counts)
    pool = pooled(p, own.means, covariances)
    group = Moments.of(pool.maps(v, labels), groups, len(p))
    drawn = list(zip(group.means, group.covariances(), strict=True))
    return to_groups(p, shrink, covariances, pool, drawn, turn)(v, labels), new_radius


def _learn(users: Users, options: CalibratedOptions, seed: int, once: Once) -> ToGroups:
    views = options.calibrated_views
    return learn(users, options.turn, TIMES[views] * options.calibrated_rounds, views, seed, once)


METHOD = Method(
    "Calibrated",
    CalibratedOptions,
    fit,
    streamed=Streamed(_learn, ToGroups, lambda known: known, ("calibrated_slices",)),
)
