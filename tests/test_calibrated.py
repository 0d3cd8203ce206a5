"""Calibrated unlearning: what is planted is gone, what isn't there isn't put there."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from methods import blocks
from methods.calibrated import (
    CalibratedOptions,
    as_random_partition,
    calibrate,
    fit,
    tyler_radius,
)
from methods.gaussian import ClassMaps, Moments, barycentre, covariance, power, transport
from methods.partition import Pool, Turn, to_groups
from methods.polish import MATES, Form, View, _cells
from tests.test_audit import CV, shifted, spread, xor
from utils.audit.leakage import summarise
from utils.audit.null import Worst
from utils.audit.scores import out_of_sample
from utils.threads import UNCHANGED

ATTACKERS = ["logistic", "qda", "svm", "boosting", "knn"]
QUICK = ["logistic", "qda", "knn"]
"""Enough to find a leak, which all would then find too; not to find none."""
N = 1200
NULL = 0.07
"""Just above the worst of ATTACKERS in 40 permutations of random labels (95 %: 0.062)."""


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def random_covariance(rng, d=4):
    root = rng.normal(size=(d, d))
    return root @ root.T + np.eye(d) / 10


def worst(embedding, labels, attackers=ATTACKERS):
    found = summarise(out_of_sample(embedding, labels, attackers, CV), labels)
    return Worst.of(found["attackers"])


def nothing(embedding, labels):
    """Labels that belong to no vector."""


def larger(embedding, labels):
    """Users of class 1 have longer vectors, in a distribution with heavy tails."""
    rng = np.random.default_rng(5)
    embedding *= np.exp(rng.normal(size=len(embedding)) / 2 + 0.4 * labels)[:, None]


@pytest.mark.parametrize(
    "plant",
    [
        nothing,
        xor,
        *(pytest.param(one, marks=pytest.mark.thorough) for one in (shifted, spread, larger)),
    ],
)
@pytest.mark.parametrize("views", ["scaled", pytest.param("all", marks=pytest.mark.thorough)])
def test_neither_what_was_planted_is_found_nor_what_was_not(plant, views):
    """Two-sided."""
    rng = np.random.default_rng(0)
    embedding, labels = rng.normal(size=(N, 6)), rng.integers(0, 2, N)
    plant(embedding, labels)
    assert plant is nothing or worst(embedding, labels, QUICK).leakage > 0.15
    done = calibrate(embedding, labels, Turn(0.5), 60, np.random.default_rng(1), views)
    after = worst(done.table, labels)
    assert after.leakage < NULL, after


def test_classes_get_the_moments_of_a_random_partition():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [150, 100, 50]))  # 4 d users and more each
    v = rng.normal(size=(300, 3)) @ random_covariance(rng, 3) + labels[:, None]
    radius = np.exp(rng.normal(size=300) + labels)
    new_v, new_radius = as_random_partition(v, radius, labels, Turn(0.0), np.random.default_rng(7))

    groups = np.random.default_rng(7).permutation(labels)
    p = np.bincount(labels) / 300
    means = np.stack([v[labels == c].mean(0) for c in range(3)])
    s = barycentre([covariance(v[labels == c]) for c in range(3)], p)
    pool = np.empty_like(v)
    for c in range(3):
        there = transport(covariance(v[labels == c]), s)
        pool[labels == c] = p @ means + (v[labels == c] - means[c]) @ there
    for c in range(3):
        np.testing.assert_allclose(new_v[labels == c].mean(0), pool[groups == c].mean(0))
        np.testing.assert_allclose(
            covariance(new_v[labels == c]), covariance(pool[groups == c]), atol=1e-8
        )
        order = np.argsort(radius[labels == c])
        assert (np.diff(new_radius[labels == c][order]) >= 0).all()  # ranks within a class stay
    assert (
        np.ptp([new_radius[labels == c].mean() for c in range(3)])
        < 1
        < np.ptp([radius[labels == c].mean() for c in range(3)])
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("n", "few", "d"), [(400, 120, 60), (943, 273, 160), (400, 200, 80)])
def test_classes_of_few_users_differ_in_covariance_as_random_groups_do(n, few, d):
    """Fewer than 4 d users. More, and a quadratic attacker finds it; less, and it flips it."""
    rng = np.random.default_rng(0)
    labels = (np.arange(n) < few).astype(np.int64)

    def difference(v, of):
        return ((covariance(v[of == 1]) - covariance(v[of == 0])) ** 2).sum()

    ratios = []
    for draw in range(4):
        v = rng.normal(size=(n, d))
        new, _ = as_random_partition(v, np.ones(n), labels, Turn(0.5), np.random.default_rng(draw))
        by_chance = np.mean([difference(new, rng.permutation(labels)) for _ in range(10)])
        ratios.append(difference(new, labels) / by_chance)
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)


def test_rho_keeps_the_length_of_the_drawn_mean_and_turns_it():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    v = rng.normal(size=(400, 3)) + labels[:, None]
    moved = [
        np.linalg.norm(
            as_random_partition(v, np.ones(400), labels, Turn(rho), np.random.default_rng(3))[0] - v
        )
        for rho in (0.0, 0.5, 1.0)
    ]
    assert moved[0] > moved[1] > moved[2]


@pytest.mark.parametrize("band", [1, 3, 5, 8, 20])
def test_a_mean_keeps_its_length_in_every_band(band):
    rng = np.random.default_rng(0)
    s = random_covariance(rng, 8)
    axes = Turn(1.0, band).bands(s)
    assert sum(one.shape[1] for one in axes) == 8 and max(one.shape[1] for one in axes) <= band
    whole = np.hstack(axes)
    np.testing.assert_allclose(whole.T @ whole, np.eye(8), atol=1e-12)
    widths = np.diag(whole.T @ s @ whole)
    assert (np.diff(widths) <= 0).all()

    old = np.outer([-0.3, 0.7], rng.normal(size=8))
    pool = Pool(np.zeros(8), s, ClassMaps(np.zeros((2, 8)), old, np.array([s, s])))
    drawn = [(mean, s) for mean in rng.normal(size=(2, 8))]
    new = to_groups(np.array([0.7, 0.3]), [0, 0], [s, s], pool, drawn, Turn(1.0, band)).to
    for one in axes:
        white = one.T @ power(s, -0.5)
        for there, (mean, _), before in zip(new, drawn, old, strict=True):
            assert np.linalg.norm(white @ there) == pytest.approx(np.linalg.norm(white @ mean))
            assert (white @ there) @ (white @ before) > 0


def planted_in_the_widest(rng, n=900, d=24):
    """Gaussian users, flatter from column to column; a third is apart in the widest four."""
    labels = (rng.random(n) < 0.3).astype(int)
    scale = np.exp(-np.arange(d) / 6)
    return (rng.normal(size=(n, d)) + 0.5 * labels[:, None] * (np.arange(d) < 4)) * scale, labels


def of_strict_ridges(x, labels, rng):
    """Mean AUC in the other half of ridges that see the widest columns first."""
    aucs = []
    for _ in range(8):
        half, other = np.array_split(rng.permutation(len(x)), 2)
        z = x - x[half].mean(0)
        target = labels[half] - labels[half].mean()
        penalty = 3 * len(half) * x.var(0).max() * np.eye(x.shape[1])
        weights = np.linalg.solve(z[half].T @ z[half] + penalty, z[half].T @ target)
        aucs.append(roc_auc_score(labels[other], z[other] @ weights))
    return np.mean(aucs)


def test_signs_hide_from_who_sees_the_widest_directions_first_what_a_turn_of_all_shows():
    found = {}
    for band in (0, 1):
        aucs = []
        for draw in range(16):
            rng = np.random.default_rng(draw)
            x, labels = planted_in_the_widest(rng)
            v, _ = as_random_partition(x, np.ones(len(x)), labels, Turn(1.0, band), rng)
            aucs.append(of_strict_ridges(v, labels, rng))
        found[band] = np.mean(aucs)
    assert found[0] > 0.53
    assert found[1] == pytest.approx(0.5, abs=0.015)


def test_optimal_maps_and_barycentres_of_gaussians():
    rng = np.random.default_rng(0)
    a, b = random_covariance(rng), random_covariance(rng)
    there = transport(a, b)
    np.testing.assert_allclose(there, there.T, atol=1e-10)
    np.testing.assert_allclose(there @ a @ there, b, rtol=1e-8)
    diagonals, weights = rng.uniform(0.5, 3, size=(3, 4)), np.array([0.5, 0.3, 0.2])
    found = barycentre([np.diag(one) for one in diagonals], weights)
    np.testing.assert_allclose(found, np.diag((weights @ np.sqrt(diagonals)) ** 2), atol=1e-8)


def test_tylers_radius_does_not_see_a_linear_map():
    rng = np.random.default_rng(0)
    x = rng.standard_t(2, size=(500, 4))  # no covariance to speak of
    mapped = x @ random_covariance(rng)
    one, two = (tyler_radius(z, np.random.default_rng(0)) for z in (x, mapped))
    np.testing.assert_allclose(one, two, rtol=1e-3)
    assert np.log(one).mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "table",
    [
        np.ones((40, 3)),
        np.zeros((40, 3)),
        np.random.default_rng(0).normal(size=(40, 1)),
        np.random.default_rng(0).normal(size=(40, 2)) @ np.ones((2, 5)),
        np.random.default_rng(0).normal(size=(40, 30)),
    ],
    ids=["one point", "zeros", "one dimension", "rank one", "more dimensions than a class"],
)
@pytest.mark.parametrize(("views", "slices"), [("scaled", 0), ("all", 0), ("all", 9)])
def test_degenerate_tables_stay_finite(table, views, slices):
    labels, rng = np.arange(40) % 3, np.random.default_rng(0)
    done = calibrate(table, labels, Turn(0.5), 12, rng, views, [table.shape[1]], slices)
    assert np.isfinite(done.table).all()
    assert np.isfinite(done.moved)
    assert np.abs(done.table).max() <= 100 * max(1, np.abs(table).max())


def test_users_of_unknown_label_stay_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.normal(size=(60, 4)).astype(np.float32))
    labels = torch.arange(60) % 3 - 1

    def edited(seed):
        rng = np.random.default_rng(seed)
        options = CalibratedOptions(calibrated_rounds=8)
        eraser = fit({"gmf": table}, {"gender": labels}, options, rng, None, UNCHANGED)
        return eraser.apply({"gmf": table})["gmf"]

    first = edited(0)
    assert first.dtype == table.dtype
    assert torch.equal(first[labels < 0], table[labels < 0])
    assert not (first[labels >= 0] == table[labels >= 0]).all(1).any()
    assert torch.equal(first, edited(0))
    assert not torch.equal(first, edited(1))


def test_blocks_of_users_change_nothing_but_rounding(monkeypatch):
    """Moments, radii, maps and the polish's steps, for more users than a block has."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1000)
    x = rng.standard_t(5, size=(1000, 4)) @ random_covariance(rng, 4) + 9 + labels[:, None]

    def edited():
        return calibrate(x, labels, Turn(0.5, 1), 12, np.random.default_rng(1), "both").table

    at_once, moments = edited(), Moments.of(x, labels, 3)
    for c in range(3):
        own = x[labels == c]
        np.testing.assert_allclose(moments.means[c], own.mean(0))
        np.testing.assert_allclose(moments.covariances()[c], np.cov(own.T, ddof=0))
    apart = np.sort(labels)  # most blocks have one class of the three
    apart[::7] = -1
    sorted_moments = Moments.of(x, apart, 3)
    monkeypatch.setattr(blocks, "BLOCK", 64)
    for expected, z in ((moments, labels), (sorted_moments, apart)):
        for before, after in zip(astuple(expected), astuple(Moments.of(x, z, 3)), strict=True):
            np.testing.assert_allclose(after, before, atol=1e-9)
    assert not np.array_equal(edited(), at_once)  # the blocks were other ones
    np.testing.assert_allclose(edited(), at_once, atol=1e-5 * x.std())


@pytest.mark.parametrize("form", Form)
def test_a_views_gradient_is_that_of_its_scores(form):
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
    view = View(form, rng.normal(size=(4, 3)), rng.normal(size=4), True)
    ridge = rng.normal(size=(4, 2))
    scores, gradient = view.scores_and_gradient(z, ridge, labels)
    np.testing.assert_array_equal(scores, view.features(z) @ ridge)
    np.testing.assert_array_equal(view.gradient(z, ridge.T[labels]), gradient)
    for column, step in enumerate(1e-6 * np.eye(3)):
        ahead, behind = view.features(z + step) @ ridge, view.features(z - step) @ ridge
        slope = ((ahead - behind) / 2e-6)[np.arange(5), labels]
        np.testing.assert_allclose(gradient[:, column], slope, rtol=1e-5)


def test_a_cell_is_shared_by_the_nearest_marks_whatever_the_columns_units():
    rng = np.random.default_rng(0)
    z = rng.standard_t(4, (3000, 6)) * np.array([1e-4, 1, 1, 1, 1, 1e4])
    shares = _cells(z, np.random.default_rng(1)).features(z)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert np.median(1 / (shares**2).sum(1)) == pytest.approx(MATES, rel=0.25)
    marks, unit = np.random.default_rng(1).permutation(3000)[: shares.shape[1]], z / z.std(0)
    nearest = cdist(unit, unit[marks]).argmin(1)
    assert (nearest == shares.argmax(1)).mean() > 0.99
    same = _cells(z / z.std(0), np.random.default_rng(1)).features(z / z.std(0))
    np.testing.assert_allclose(shares, same, atol=1e-3)


@pytest.mark.thorough
def test_what_one_table_of_two_tells_is_gone_if_the_polish_looks_at_it_alone():
    """Beside a wide table, kernels of all columns hardly see a narrow one."""
    rng = np.random.default_rng(0)
    labels, narrow = rng.integers(0, 2, 1600), rng.normal(size=(1600, 6))
    xor(narrow, labels)
    x = np.column_stack([narrow, rng.normal(size=(1600, 80))])
    left = {}
    for views in ("both", "all"):
        rng = np.random.default_rng(1)
        edited = calibrate(x, labels, Turn(0.5, 1), 60, rng, views, [6, 80]).table
        left[views] = worst(edited[:, :6], labels, ["svm"]).leakage
    assert left["all"] < 0.05 < left["both"], left


@pytest.mark.thorough
def test_what_neighbours_and_forests_read_is_gone_if_the_polish_looks_at_neighbourhoods():
    """Sixty places in eight dimensions, each of which is mostly one class's."""
    rng = np.random.default_rng(0)
    place, odds = rng.integers(0, 60, 1600), rng.permutation(np.repeat([0.2, 0.8], 30))
    labels = (rng.random(1600) < odds[place]).astype(np.int64)
    x = rng.normal(size=(60, 8))[place] + 0.35 * rng.normal(size=(1600, 8))
    left = {}
    for views in ("both", "all"):
        edited = calibrate(x, labels, Turn(0.5, 1), 60, np.random.default_rng(1), views).table
        left[views] = [worst(edited, labels, [one]).leakage for one in ("knn", "forest")]
    assert min(left["both"]) > 0.1, left
    assert max(left["all"]) < 0.08, left


@pytest.mark.thorough
def test_tables_are_taken_side_by_side():
    """Neither table tells anything alone."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(N, 6)), rng.integers(0, 2, N)
    x[:, 3] = 0.8 * np.where(labels == 1, 1, -1) * x[:, 0] + 0.6 * x[:, 3]
    tables = {"a": torch.from_numpy(x[:, :3]), "b": torch.from_numpy(x[:, 3:])}
    assert worst(x[:, :3], labels).leakage < 0.08 > worst(x[:, 3:], labels).leakage
    assert worst(x, labels, QUICK).leakage > 0.15
    truth = {"gender": torch.from_numpy(labels)}
    edited = fit(
        tables, truth, CalibratedOptions(), np.random.default_rng(1), None, UNCHANGED
    ).apply(tables)
    assert [table.shape for table in edited.values()] == [(N, 3), (N, 3)]
    assert worst(torch.cat(list(edited.values()), 1).numpy(), labels).leakage < NULL


@pytest.mark.thorough
def test_views_in_own_units_see_what_a_network_reads_in_the_widest_columns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    x = rng.normal(size=(2000, 40))
    x[:, 1] = np.where((x[:, 0] * x[:, 1] > 0) == (labels == 1), x[:, 1], -x[:, 1])
    x[:, :2] *= 6
    leakages = {}
    for views in (None, "scaled", "both"):
        table = x
        if views:
            table = calibrate(x, labels, Turn(0.5), 30, np.random.default_rng(1), views).table
        leakages[views] = worst(table, labels, ["mlp"]).leakage
    assert leakages["both"] < 0.05 < leakages["scaled"] < leakages[None], leakages


def test_one_dimension_is_not_thrown_about():
    """A user's length and direction would be all of it and a sign, which no step can move."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    x = rng.normal(size=(2000, 1)) + 0.5 * labels[:, None]
    table = calibrate(x, labels, Turn(0.5, 1), 20, np.random.default_rng(1), "both").table
    assert np.abs(table - x).max() < 3 * x.std()
    assert worst(table, labels, ["boosting"]).leakage < NULL
