"""calibrated's polish: what tells a class and generalises is found out of fold, and taken away.

Rounds of: a ridge to the classes on features of one view, fitted on users of the other folds; each
class is moved along its score's gradient until the out-of-fold class means agree. A gap that has
turned negative turns the step round. What a round does to a user follows from the user's vector,
class and fold alone, by what it has learnt (`Round`): so it can be done to users whom it has not
seen, too (methods.calibrated_passes).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from methods.atoms import Atoms, collapsed
from methods.blocks import slices
from methods.gaussian import FLOOR, covariance, power
from methods.partition import MOST

FOLDS = 5
FEATURES = 400
"""Of a view that isn't linear: random Fourier features, squares or marks."""
WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Squared kernel widths, in numbers of dimensions of standardised features."""
FEW_COLUMNS = 3
"""Standardised features, at most, that one of a view's few-column features looks at."""
FREQUENCIES = (0.7, 1.5, 3.0)
"""Of these, in turn."""
MATES = 15
"""Marks, about, that a user is shared between, where a view looks at neighbourhoods."""
ASKED, HALVINGS = 100, 25
"""Users, at most, that are asked for it, and how often a step towards it is halved."""
STEP = 0.7
DOUBT = 2.0
"""Standard errors of a gap that are left, where there are users whom the polish doesn't see."""
CHUNK = 2_048
"""Users whose features are held at once: few enough for a cache."""

Views = Literal["scaled", "both", "all"]
TIMES: dict[Views, int] = {"scaled": 1, "both": 2, "all": 2}
"""How often a round of scaled views alone is done."""


class Form(IntEnum):
    """What a view's features are: Fz + b; sqrt(2/D) cos(Fz + b), random Fourier features;
    sqrt(2/D) (Fz + b)²; or softmax(Fz + b), to which of D marks a user is near.
    """

    LINEAR = 0
    WAVES = 1
    SQUARES = 2
    CELLS = 3


RIDGE = {Form.LINEAR: 10.0, Form.WAVES: 1.0, Form.SQUARES: 1.0, Form.CELLS: 1.0}


@dataclass(frozen=True)
class View:
    """Features of users z.

    Attributes:
        form: which.
        weights: (D, d) float32, F.
        offset: (D,) float32, b.
        shifts: whether a step along their scores may move a class's mean.
    """

    form: Form
    weights: np.ndarray
    offset: np.ndarray
    shifts: bool

    def features(self, z: np.ndarray) -> np.ndarray:
        return self._of(self._inner(z))

    def gradient(self, z: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Of features(z) · coefficients in z, a row a user."""
        return self._slope(self._inner(z) if self.form else z, coefficients)

    def scores_and_gradient(
        self, z: np.ndarray, ridge: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The scores features(z) · ridge (n, C), and the gradient (n, d) of each user's own."""
        inner = self._inner(z)
        return self._of(inner) @ ridge, self._slope(inner, ridge.T[labels])

    def _inner(self, z: np.ndarray) -> np.ndarray:
        """What features and slopes are made of: Fz + b, or its softmax."""
        inner = z @ self.weights.T
        inner += self.offset
        if self.form is Form.CELLS:
            inner -= inner.max(1, keepdims=True)
            np.exp(inner, out=inner)
            inner /= inner.sum(1, keepdims=True)
        return inner

    def _of(self, inner: np.ndarray) -> np.ndarray:
        if self.form in (Form.LINEAR, Form.CELLS):
            return inner
        return self._norm * (np.cos(inner) if self.form is Form.WAVES else inner**2)

    def _slope(self, inner: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        if self.form is Form.LINEAR:
            return coefficients @ self.weights
        if self.form is Form.CELLS:
            mean = np.einsum("ij,ij->i", inner, coefficients)[:, None]
            return (inner * (coefficients - mean)) @ self.weights
        waves = self.form is Form.WAVES
        slopes, factor = (np.sin(inner), -self._norm) if waves else (inner, 2 * self._norm)
        slopes *= factor
        return np.multiply(slopes, coefficients, out=slopes) @ self.weights

    @property
    def _norm(self) -> np.float32:
        return np.float32(np.sqrt(2 / len(self.weights)))


@dataclass(frozen=True)
class Round:
    """What a round does to a user.

    Attributes:
        view: of v, or of radius · v.
        scaled: whether of the latter.
        ridges: (FOLDS, D, C) float32, coefficients that were fitted without a fold.
        steps: (C,) float32, how far a class goes along its score's gradient.
        drift: (C, d) float32, the gradient's mean, which is left out of it; 0 where the view
            shifts.
    """

    view: View
    scaled: bool
    ridges: np.ndarray
    steps: np.ndarray
    drift: np.ndarray

    def moved(
        self, v: np.ndarray, radius: np.ndarray, labels: np.ndarray, fold: np.ndarray
    ) -> np.ndarray:
        """(n, d) float32 of any users; none may have shared values.

        Args:
            v: (n, d) float32.
            radius: (n,) float32.
            labels, fold: (n,) int64.
        """
        s = _factor(radius, self.scaled)
        coefficients = self.ridges.transpose(0, 2, 1)[fold, labels]
        gradient = self.view.gradient(v * s, coefficients) * s
        return v - self.steps[labels, None] * _step(gradient, s, self.drift[labels])


def polish(
    v: np.ndarray,
    radius: np.ndarray,
    labels: np.ndarray,
    p: np.ndarray,
    unseen: np.ndarray,
    folds: Callable[[int], np.ndarray],
    rounds: int,
    rng: np.random.Generator,
    views: Views,
    atoms: list[Atoms],
    parts: Sequence[np.ndarray] = (),
) -> Iterator[tuple[Round, float]]:
    """Rounds, each after it was done, and its gap: how far, at most, a class's mean score of itself
    lies from that of all users, out of fold. Views are of v and of radius · v in turn; with atoms,
    of v as it is seen, and of few columns between.

    Args:
        v: (n, d) float32; moved in place.
        radius: (n,) float32.
        labels: (n,) int64, classes 0 .. C-1, each with a user.
        p: (C,), the classes' shares of all users, who may be others too.
        unseen: (C,), the share of each class that these others are. A gap counts in so far as it
            is beyond DOUBT standard errors of what is not known of them.
        folds: of a round's number, the users' folds (n,).
        rounds: how many.
        rng: draws the features, and whom they are fitted on.
        views: see `methods.calibrated.CalibratedOptions`.
        atoms: values that many users share.
        parts: column numbers (k,) of which the views of some rounds are made instead of all, but
            for linear ones: those of one table, of several side by side.
    """
    n = len(v)
    count, of_all = np.bincount(labels), not unseen.any()
    flat = FLOOR / max(float(v.var()), float(np.finfo(np.float32).tiny))  # of slopes, in v's units
    weight = (n / (len(count) * count[labels])).astype(np.float32)
    targets = np.eye(len(count), dtype=np.float32)[labels]
    targets -= targets.mean(0)
    own = np.empty_like(v)  # gradients
    looks: list[Any] = [slice(None), *parts]
    drawn = v[rng.choice(n, min(n, MOST), False)].astype(np.float64)
    whites = [power(covariance(drawn[:, columns]), -0.5) for columns in looks]
    for number in tqdm(range(rounds), desc="polishing", unit="round", leave=False):
        scaled = number % 3 == 2 or number % 6 == 3
        fit_on = rng.choice(n, min(n, MOST), False)
        known = _seen(v, radius, fit_on, scaled)
        between = [one.bounds(known) for one in atoms]
        known = collapsed(known, atoms, between)
        which = number // 6 % len(looks) if number % 3 else 0
        looked = known[:, looks[which]]
        if atoms and number % 2:
            view = _few_columns(number, known, rng)
        elif views == "all" and number % 6 == 1:
            view = _squares(looked, whites[which], rng)
        elif views == "all" and number % 6 == 2:
            view = _near(number // 6 // len(looks), looked, rng)
        elif views != "scaled" and number % 3 and number // 3 % 2:
            view = _own_units(looked, rng)
        else:
            view = _view(number // 2 if atoms else number, looked, whites[which], rng)
        if which:
            weights = np.zeros((len(view.weights), v.shape[1]), np.float32)
            weights[:, looks[which]] = view.weights
            view = replace(view, weights=weights)
        fold = folds(number)
        ridges = _ridges(view, known, targets[fit_on], weight[fit_on], fold[fit_on])
        total, squares = np.zeros((2, len(count), len(count)))
        for k, ridge in enumerate(ridges):
            users = np.flatnonzero(fold == k)
            for some in np.array_split(users, max(1, len(users) // CHUNK)):
                z = collapsed(_seen(v, radius, some, scaled), atoms, between)
                scores, gradient = view.scores_and_gradient(z, ridge, labels[some])
                np.add.at(total, labels[some], scores)
                if not of_all:
                    np.add.at(squares, labels[some], scores**2)
                own[some] = gradient * _factor(radius[some], scaled)
        mean = total / count[:, None]
        excess = np.diag(mean) - p @ mean
        if not of_all:
            variances = (squares / count[:, None] - mean**2) * (unseen / count)[:, None]
            error = ((np.eye(len(count)) - p[:, None]) ** 2 * variances).sum(0)
            excess *= np.maximum(0, 1 - DOUBT**2 * error / np.maximum(excess**2, 1e-300))
        steps = np.zeros(len(count), np.float32)
        drift = np.zeros((len(count), v.shape[1]), np.float32)
        for c in range(len(count)):
            users = np.flatnonzero(labels == c)
            blocks = [users[block] for block in slices(len(users))]
            near = [(some, _factor(radius[some], scaled)) for some in blocks]
            many = np.float32(len(users))
            if not view.shifts:
                weighted = sum((s * own[some]).sum(0) for some, s in near) / many
                drift[c] = weighted / (sum((s**2).sum() for _, s in near) / many)
            slopes = (own[some] * _step(own[some], s, drift[c]) for some, s in near)
            slope = max(float(sum(one.sum(1).sum() for one in slopes) / many), flat)
            steps[c] = STEP * excess[c] / slope
            for some, s in near:
                v[some] -= steps[c] * _step(own[some], s, drift[c])
        yield Round(view, scaled, ridges, steps, drift), float(np.abs(excess).max())


def _seen(v: np.ndarray, radius: np.ndarray, some: np.ndarray, scaled: bool) -> np.ndarray:
    """(m, d), v of some users, or radius · v."""
    return v[some] * _factor(radius[some], scaled)


def _factor(radius: np.ndarray, scaled: bool) -> np.ndarray:
    """(m, 1), what a view sees of users is this times their v."""
    return radius[:, None] if scaled else np.ones_like(radius)[:, None]


def _step(gradient: np.ndarray, factor: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """(m, d), a view's gradient less its class's drift, of which a view that shifts has none."""
    return gradient - factor * drift


def _view(number: int, z: np.ndarray, white: np.ndarray, rng: np.random.Generator) -> View:
    """Linear, whitened and standardised kernel views in turn; z are the users it is scaled by."""
    scale = white if number % 3 == 1 else np.diag(1 / _spread(z))
    if number % 3 == 0:
        weights = scale.T.astype(np.float32)
        return View(Form.LINEAR, weights, -(z.mean(0) @ scale).astype(np.float32), True)
    return _fourier(scale, False, rng)


def _spread(z: np.ndarray) -> np.ndarray:
    """(d,) standard deviations of the columns, none of them nearly 0 beside the widest."""
    spread = z.std(0)
    return np.maximum(spread, FLOOR * max(spread.max(), FLOOR))


def _fourier(scale: np.ndarray, shifts: bool, rng: np.random.Generator) -> View:
    """Random Fourier features of all columns, scaled by (d, d)."""
    d = len(scale)
    widths = np.resize(np.array(WIDTHS) * d, FEATURES)
    frequencies = rng.normal(size=(FEATURES, d)) * np.sqrt(2 / widths)[:, None]
    offset = rng.uniform(0, 2 * np.pi, FEATURES).astype(np.float32)
    return View(Form.WAVES, (frequencies @ scale).astype(np.float32), offset, shifts)


def _squares(z: np.ndarray, white: np.ndarray, rng: np.random.Generator) -> View:
    """Squares of whitened vectors along random directions: what covariances tell."""
    d = z.shape[1]
    weights = rng.normal(size=(FEATURES, d)) / np.sqrt(d) @ white
    offset = -(weights @ z.mean(0)).astype(np.float32)
    return View(Form.SQUARES, weights.astype(np.float32), offset, False)


def _near(turn: int, z: np.ndarray, rng: np.random.Generator) -> View:
    """What neighbours tell, and what few columns tell together, in turn."""
    return _few_columns(turn // 2, z, rng) if turn % 2 else _cells(z, rng)


def _cells(z: np.ndarray, rng: np.random.Generator) -> View:
    """Which of FEATURES users a user is near, all columns standardised: what neighbours tell.

    The share of mark m is the softmax of -t |u - u_m|², with t such that half of some users are
    shared between MATES marks or fewer, counted as 1 / Σ share².
    """
    scale = 1 / _spread(z)
    some = z[rng.permutation(len(z))[: FEATURES + ASKED]] * scale
    marks = some[:FEATURES]
    squared = (marks**2).sum(1)
    distances = squared - 2 * some[-ASKED:] @ marks.T  # but for the user's own length: no matter
    low, high = 1e-6, 1e6
    unit = 1 / max(float(distances.std(1).mean()), FLOOR)
    for _ in range(HALVINGS):
        t = np.sqrt(low * high)
        shares = softmax(-t * unit * distances, axis=1)
        many = np.median(1 / (shares**2).sum(1)) > MATES
        low, high = (t, high) if many else (low, t)
    weights, offset = 2 * t * unit * marks * scale, -t * unit * squared
    return View(Form.CELLS, weights.astype(np.float32), offset.astype(np.float32), False)


def _own_units(z: np.ndarray, rng: np.random.Generator) -> View:
    """Random Fourier features of all columns on one scale."""
    spread = max(float(np.sqrt(z.var(0).mean())), FLOOR)
    return _fourier(np.eye(z.shape[1]) / spread, True, rng)


def _few_columns(number: int, z: np.ndarray, rng: np.random.Generator) -> View:
    """Random Fourier features of a few columns each."""
    d = z.shape[1]
    chosen = rng.random((FEATURES, d)).argsort(1) < rng.integers(1, FEW_COLUMNS + 1, (FEATURES, 1))
    frequencies = rng.normal(size=(FEATURES, d)) * chosen * FREQUENCIES[number % len(FREQUENCIES)]
    weights = frequencies / _spread(z)
    offset = rng.uniform(0, 2 * np.pi, FEATURES).astype(np.float32)
    return View(Form.WAVES, weights.astype(np.float32), offset, True)


def _ridges(
    view: View, z: np.ndarray, targets: np.ndarray, weight: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """(FOLDS, D, C) float32, for each fold the coefficients that were fitted without it."""
    features = view.features(z)
    weighted = features * weight[:, None]
    grams = [weighted[fold == k].T @ features[fold == k] for k in range(FOLDS)]
    sides = [weighted[fold == k].T @ targets[fold == k] for k in range(FOLDS)]
    penalty = RIDGE[view.form] * np.eye(features.shape[1])
    gram, side = sum(grams), sum(sides)
    return np.array(
        [
            np.linalg.solve(gram - one + penalty, side - other)
            for one, other in zip(grams, sides, strict=True)
        ],
        np.float32,
    )
