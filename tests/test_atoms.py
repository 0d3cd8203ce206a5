"""Tables in which many users share a value: edited by rank, and hidden from trees too."""

import numpy as np
import pytest
from scipy.stats import kstest, norm
from threadpoolctl import threadpool_limits

from methods.atoms import (
    at_atoms,
    by_rank,
    collapsed,
    normal_scores,
    uncrowded_with_atoms,
    with_sums,
)
from methods.calibrated import calibrate
from methods.partition import Turn
from tests.test_audit import CV
from utils.audit.leakage import summarise
from utils.audit.null import Worst
from utils.audit.scores import out_of_sample


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def sparse(n=1500, seed=0):
    """Non-negative, two thirds zeros; class 1 has a zero less often in two columns, and larger
    values in a third.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(int)
    x = rng.gamma(1.0, size=(n, 6))
    absent = np.full((n, 6), 0.66)
    absent[labels == 1, :2] = 0.4
    x[labels == 1, 2] *= 1.8
    x[rng.random((n, 6)) < absent] = 0
    return x, labels


def worst(x, labels):
    found = summarise(out_of_sample(x, labels, ["logistic", "forest", "boosting"], CV), labels)
    return Worst.of(found["attackers"])


def test_atoms_are_found_with_their_shares():
    x = np.array([[0.0, 1, 5], [0, 2, 5], [3, 3, 5], [7, 4, 6]] * 25)
    x[:, 1] += np.arange(100) / 1e3
    _, (first, third) = uncrowded_with_atoms(x)
    assert (first.column, first.low.tolist(), first.high.tolist()) == (
        0,
        [0, 0.5, 0.75],
        [0.5, 0.75, 1],
    )
    assert third.column == 2
    at = at_atoms(x, [first, third])
    assert at[:, 0].all() and not at[:, 1].any() and at[:, 2].all()
    assert at_atoms(np.append(x, [[0, 0, 9]], 0), [third])[-1].tolist() == [False] * 3
    np.testing.assert_allclose(first.middle, norm.ppf([0.25, 0.625, 0.875]))
    assert uncrowded_with_atoms(np.random.default_rng(0).normal(size=(500, 3)))[1] == []
    assert uncrowded_with_atoms(np.arange(6.0).reshape(3, 2))[1] == []  # a single user is no atom


def test_scores_are_normal_whatever_the_ties_and_the_way_back_is_the_table():
    x, _ = sparse()
    z = normal_scores(x, np.random.default_rng(0))
    for column in z.T:
        assert kstest(column, "norm").pvalue > 0.99
    np.testing.assert_array_equal(by_rank(z, x), x)
    for z_of, x_of in zip(z.T, x.T, strict=True):  # ties alone are in random order
        assert (np.diff(x_of[np.argsort(z_of)]) >= 0).all()


def test_who_is_at_an_atom_is_seen_at_its_middle():
    x, _ = sparse()
    x[:, 1] = np.round(x[:, 1], 1)  # several atoms
    z, atoms = normal_scores(x, np.random.default_rng(0)), uncrowded_with_atoms(x)[1]
    seen = collapsed(z, atoms, [one.bounds(z) for one in atoms])
    for one in atoms:
        column, values = x[:, one.column], np.unique(x[:, one.column])
        shares = [(column == value).mean() for value in values]
        for value, share in zip(values, shares, strict=True):
            at, number = column == value, np.flatnonzero(np.isclose(one.high - one.low, share))
            if share > 0.01:
                assert len(np.unique(seen[at, one.column])) == 1
                assert seen[at, one.column][0] in one.middle[number]
            else:
                np.testing.assert_array_equal(seen[at, one.column], z[at, one.column])


@pytest.mark.thorough
def test_a_sparse_table_keeps_its_values_and_hides_its_classes_from_trees():
    x, labels = sparse()
    assert worst(x, labels).leakage > 0.15
    edited = calibrate(x, labels, Turn(0.5), 30, np.random.default_rng(1)).table
    np.testing.assert_array_equal(np.sort(edited, axis=0), np.sort(x, axis=0))
    assert np.mean((edited == 0) == (x == 0)) > 0.9
    assert worst(edited, labels).leakage < 0.055  # by chance less in 95 of 100 of 60 draws


def topics(n=1500, seed=0):
    """Shares of 6 topics: of those that a user has none of all are the same small number, less for
    who has many interactions. Class 1 likes the first two.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(int)
    taste = np.where(labels[:, None] == 1, [5, 5, 1, 1, 1, 1], 1) * rng.gamma(0.3, size=(n, 6))
    taste[taste < 0.1] = 0
    counts = taste * rng.lognormal(4, 1, size=(n, 1)) + 1 / 6
    return counts / counts.sum(1, keepdims=True), labels


def test_what_crowds_is_one_value_and_nothing_else_moves():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 3))
    x[:400, 0] = 7 + 1e-4 * rng.random(400)
    single, atoms = uncrowded_with_atoms(x)
    assert [one.column for one in atoms] == [0]
    assert len(np.unique(single[:400, 0])) == 1
    np.testing.assert_array_equal(single[400:], x[400:])
    np.testing.assert_array_equal(single[:, 1:], x[:, 1:])
    heavy = rng.standard_t(2, size=(900, 3))
    assert uncrowded_with_atoms(heavy) == (heavy, [])
    again, _ = uncrowded_with_atoms(single)
    np.testing.assert_array_equal(again, single)


def test_one_user_far_off_makes_no_crowd_of_the_others():
    x = np.random.default_rng(0).normal(size=(2000, 3))
    x[7] *= 1e6
    assert uncrowded_with_atoms(x) == (x, [])


@pytest.mark.thorough
def test_shares_keep_their_sum_and_hide_their_classes():
    x, labels = topics()
    assert worst(x, labels).leakage > 0.15
    edited = calibrate(x, labels, Turn(0.5), 30, np.random.default_rng(1)).table
    np.testing.assert_allclose(edited.sum(1), 1)
    assert worst(edited, labels).leakage < 0.055
    np.testing.assert_array_equal(with_sums(edited[:, :5], x[:, :5]), edited[:, :5])  # no one sum


def test_a_common_offset_makes_no_shares():
    rng = np.random.default_rng(0)
    x, edited = rng.normal(size=(2, 200, 4))
    np.testing.assert_array_equal(with_sums(edited, x + 1e6), edited)


@pytest.mark.thorough
def test_random_labels_are_not_written_into_a_sparse_table():
    x, labels = sparse(seed=3)
    labels = np.random.default_rng(4).permutation(labels)
    edited = calibrate(x, labels, Turn(0.5), 30, np.random.default_rng(1)).table
    assert worst(edited, labels).leakage < 0.055


def test_a_constant_column_stays_one_beside_others():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(400, 3)), np.ones(400)])
    labels = np.arange(400) % 2
    x[:, 0] += labels
    edited = calibrate(x, labels, Turn(0.5), 3, np.random.default_rng(1)).table
    np.testing.assert_array_equal(edited[:, 3], 1)
    alone = calibrate(x[:, :3], labels, Turn(0.5), 3, np.random.default_rng(1)).table
    np.testing.assert_array_equal(edited[:, :3], alone)
