"""Sliced transport: whole distributions, where they differ beyond chance."""

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from methods.calibrated import calibrate
from methods.partition import Turn
from methods.sliced import _axes, _quantiles, alike_along, sliced
from utils.audit.statistics import class_aucs


def rms(x):
    return np.sqrt((x**2).mean())


def test_along_one_direction_classes_get_the_barycentres_quantiles():
    """By hand: sorted users of classes of one size, whose mean is the barycentre."""
    rng = np.random.default_rng(0)
    classes = [rng.exponential(size=(5000, 1)), 5 + rng.normal(size=(5000, 1))]
    labels = np.repeat([0, 1], 5000)
    along = np.concatenate(classes)
    moved = along + alike_along(along, labels)
    barycentre = np.mean([np.sort(one[:, 0]) for one in classes], axis=0)
    for c in (0, 1):
        inside = slice(100, -100)  # of the ends a grid of quantiles knows little
        there = np.sort(moved[labels == c, 0])[inside]
        np.testing.assert_allclose(there, barycentre[inside], atol=0.05)
        order = np.argsort(along[labels == c, 0])
        assert (np.diff(moved[labels == c, 0][order]) >= 0).all()


def test_quantiles_are_numpys():
    along, u = np.random.default_rng(0).normal(size=(17, 3)), np.linspace(0, 1, 9)
    np.testing.assert_allclose(_quantiles(along, u), np.quantile(along, u, axis=0))
    np.testing.assert_array_equal(_quantiles(along[:1], u), np.repeat(along[:1], 9, axis=0))


def test_what_differs_by_chance_alone_is_left():
    """Of random labels most of it, and tails are hardly touched."""
    rng = np.random.default_rng(0)
    along, labels = rng.standard_t(3, size=(4000, 40)), rng.integers(0, 2, 4000)
    shifts = alike_along(along, labels)
    assert rms(shifts) < 0.06 * rms(along)

    def gaps(x):
        return x[labels == 1].mean(0) - x[labels == 0].mean(0)

    error = along.std(0) * 2 / np.sqrt(4000)
    assert 0.65 < rms(gaps(along + shifts) / error) < rms(gaps(along) / error) < 1.1
    along[labels == 1] += 0.5
    after = along + alike_along(along, labels)
    assert rms(gaps(after) / error) < 1.2 < 7 < rms(gaps(along) / error)


def test_rare_classes_and_one_class_alone_stay_finite():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 5)), np.repeat([0, 1, 2], [54, 1, 5])
    x[:, 4] = 0  # as one of normal scores may be
    assert np.isfinite(sliced(x, labels, 8, rng, [])).all()
    np.testing.assert_array_equal(sliced(x, np.zeros(60, int), 8, rng, []), x)


def test_the_directions_of_a_pass_are_orthonormal_and_those_of_columns_or_of_the_widest_space():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 40)) * np.linspace(1, 9, 40)
    tables = [np.arange(10), np.arange(10, 40)]
    turns = 3 * 2 * 4
    for number in range(turns):
        axes = _axes(number, x, tables, rng)
        np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-12)
        if number % 2 == 0:
            most = (1, 2, 3)[number // 2 % 3]
            assert axes.shape == (40, 40)
            assert ((np.abs(axes) > 0).sum(0) <= most).all()
    narrow = [_axes(number, x, tables, rng) for number in range(9, 16, 2)]
    assert [axes.shape[1] for axes in narrow] == [4, 8, 10, 10]
    assert all((axes[10:] == 0).all() for axes in narrow)
    leading = _axes(1, x, tables, rng)
    assert (x @ leading).var() > 2 * x.var()


@pytest.fixture
def clusters():
    """Users of two classes in clusters of one mean and covariance, of heavy-tailed size, in the
    four widest of twelve dimensions.
    """
    rng = np.random.default_rng(0)
    labels = (np.arange(2400) % 3 == 0).astype(np.int64)
    corner = rng.choice([-1.0, 1.0], (2400, 3))
    sides = np.where(rng.random(2400) < 0.75, 1, -1) * np.where(labels, 1, -1)
    corner[:, 2] = sides * corner[:, :2].prod(1)
    x = rng.normal(size=(2400, 12)) / 3
    x[:, :3] = 4 * (corner + rng.normal(size=(2400, 3)) / 3)
    x *= np.exp(rng.normal(size=2400) / 2)[:, None]
    return x, labels


def leakage(x, labels):
    """|AUC - 0.5| of a machine with a kernel in the table's own units, trained on one half."""
    x = x.astype(np.float32)
    train = np.random.default_rng(5).permutation(len(x)) < len(x) // 2
    scores = SVC().fit(x[train], labels[train]).decision_function(x[~train])
    (auc,) = class_aucs(np.stack([-scores, scores], 1), labels[~train])[:1]
    return abs(auc - 0.5)


def test_clusters_without_moments_of_their_own_are_hidden(clusters):
    x, labels = clusters
    left = {}
    with threadpool_limits(1):
        for passes in (0, 48):
            rng = np.random.default_rng(1)
            done = calibrate(x, labels, Turn(0.5, 1), 20, rng, "all", [12], passes)
            left[passes] = leakage(done.table, labels)
    assert left[48] < 0.045 < left[0] < 0.2 < leakage(x, labels), left


def test_erasing_random_labels_leaves_attackers_at_chance(clusters):
    x, labels = clusters
    labels = np.random.default_rng(3).permutation(labels)
    with threadpool_limits(1):
        table = calibrate(x, labels, Turn(0.5, 1), 0, np.random.default_rng(1), "all", [12], 48)
    assert leakage(table.table, labels) < 0.045  # by chance: 1.96 standard errors, 0.016 each
    assert kstest(table.table[labels == 1, 0], table.table[labels == 0, 0]).pvalue > 0.01
    assert table.moved < 0.2
