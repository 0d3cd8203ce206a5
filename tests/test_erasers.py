"""LEACE and the Gaussian barycentre against their theorems."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from methods import barycentre, leace
from methods.gaussian import Moments, covariance
from utils.errors import UserError
from utils.messages import remarks
from utils.threads import UNCHANGED


def planted(n=600, d=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=(classes, d))[labels]
    x *= 1 + 0.3 * labels[:, None]
    return x, labels


def tables_of(x, *names):
    parts = np.array_split(x, len(names), axis=1)
    return {name: torch.from_numpy(part) for name, part in zip(names, parts, strict=True)}


def fitted(method, x, labels, *names):
    tables = tables_of(x, *names)
    truth, rng = {"gender": torch.from_numpy(labels)}, np.random.default_rng(0)
    eraser = method.fit(tables, truth, None, rng, None, UNCHANGED)
    return eraser, torch.cat(list(eraser.apply(tables).values()), 1).numpy()


@pytest.mark.parametrize("names", [("one",), ("a", "b")])
def test_after_leace_no_covariance_with_the_label_is_left_and_no_linear_model_beats_a_constant(
    names,
):
    x, labels = planted()
    _, edited = fitted(leace, x, labels, *names)
    one_hot = np.eye(3)[labels]
    assert np.abs((x - x.mean(0)).T @ (one_hot - one_hot.mean(0)) / len(x)).max() > 0.05
    assert np.abs((edited - edited.mean(0)).T @ (one_hot - one_hot.mean(0)) / len(x)).max() < 1e-12
    np.testing.assert_allclose(edited.mean(0), x.mean(0))
    linear = LogisticRegression(C=1e6, max_iter=5000).fit(edited, labels)
    shares = np.bincount(labels) / len(labels)
    constant = -(shares * np.log(shares)).sum()
    assert log_loss(labels, linear.predict_proba(edited)) == pytest.approx(constant, abs=1e-5)
    linear.fit(x, labels)
    assert log_loss(labels, linear.predict_proba(x)) < constant - 0.1


def test_leace_moves_least_of_all_affine_maps_that_do_so():
    """Against a numerical search over x -> A x with A Σ_xz = 0."""
    x, labels = planted(300, 3, 2)
    x -= x.mean(0)
    _, edited = fitted(leace, x, labels, "one")
    least = ((edited - x) ** 2).sum()
    cross = x.T @ (labels - labels.mean())
    across = np.linalg.svd(cross[:, None])[0][:, 1:]  # A = M acrossᵀ has A cross = 0

    def moved(flat):
        return ((x @ (flat.reshape(3, 2) @ across.T).T - x) ** 2).sum()

    found = minimize(moved, np.zeros(6)).fun
    assert least == pytest.approx(found, rel=1e-6)


def test_leace_can_be_applied_to_other_users():
    x, labels = planted()
    eraser, edited = fitted(leace, x, labels, "one")
    later = {"one": torch.from_numpy(x[:7]).float()}
    assert eraser.apply(later)["one"].dtype == torch.float32
    np.testing.assert_allclose(eraser.apply(later)["one"].numpy(), edited[:7], rtol=1e-4, atol=1e-5)
    for wrong in (tables_of(x, "other"), tables_of(x[:, :4], "one")):
        with pytest.raises(UserError, match="fitted on tables"):
            eraser.apply(wrong)


def test_at_the_barycentre_all_classes_have_the_same_mean_and_covariance():
    x, labels = planted()
    _, edited = fitted(barycentre, x, labels, "a", "b")
    for c in range(3):
        np.testing.assert_allclose(edited[labels == c].mean(0), x.mean(0), atol=1e-9)
        np.testing.assert_allclose(
            covariance(edited[labels == c]), covariance(edited[labels == 0]), rtol=1e-6, atol=1e-9
        )
    moved = [np.linalg.norm(edited[labels == c] - x[labels == c]) for c in range(3)]
    assert min(moved) > 0


def test_leace_says_when_it_leaves_nothing():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(200, 3)), np.arange(200) % 4
    for classes, left in ((4, 0), (3, 1)):
        eraser, edited = fitted(leace, x, labels % classes, "one")
        assert eraser.record["directions_left"] == left
        assert any("nothing is left" in said for said in remarks(eraser.record)) == (not left)
        assert (np.ptp(edited, 0).max() < 1e-12) == (not left)


@pytest.mark.parametrize("narrow", [1e-2, 1e-4, 1e-6])
def test_the_barycentre_widens_no_narrow_column(narrow):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    x = rng.normal(size=(500, 3)) * [1, narrow, narrow]
    _, edited = fitted(barycentre, x + labels[:, None] * [0, narrow, 0], labels, "one")
    assert edited.std(0) == pytest.approx(x.std(0), rel=0.05)


def test_the_barycentre_weighs_classes_by_their_users():
    """One dimension: the standard deviation is the weighted mean of the classes'."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 100])
    x = rng.normal(size=(400, 1)) * np.where(labels == 0, 1.0, 3.0)[:, None]
    _, edited = fitted(barycentre, x, labels, "one")
    expected = 0.75 * x[labels == 0].std() + 0.25 * x[labels == 1].std()
    assert edited[labels == 0].std() == pytest.approx(expected)


@pytest.mark.parametrize("method", [leace, barycentre])
@pytest.mark.parametrize(
    "x", [np.ones((40, 3)), np.zeros((40, 3)), np.arange(40.0)[:, None] * [1, 2]]
)
def test_degenerate_tables_stay_finite_and_unknown_users_have_a_place(method, x):
    labels = np.arange(40) % 3 - 1
    _, edited = fitted(method, x, labels, "one")
    assert np.isfinite(edited).all()
    if method is barycentre:
        np.testing.assert_array_equal(edited[labels < 0], x[labels < 0])


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_leace_does_not_lose_a_column_beside_a_wider_one(scale):
    """What moves least in one coordinate system does so in all, so a column's unit is its own."""
    x, labels = planted()
    units = np.array([scale, 1, 1, 1 / scale, 1])
    _, expected = fitted(leace, x, labels, "one")
    _, edited = fitted(leace, x * units, labels, "one")
    np.testing.assert_allclose(edited / units, expected, atol=1e-9)
    by_passes = leace.of_moments(Moments.of(x * units, labels, 3))
    np.testing.assert_allclose(by_passes(x * units) / units, expected, atol=1e-9)


def test_leace_leaves_a_constant_column_as_it_is():
    x, labels = planted(20_000)
    x[:, 2] = 0.1  # a sum of so many is no multiple
    assert x.mean(0)[2] != 0.1
    for erasing in (leace.least_squares(x, labels), leace.of_moments(Moments.of(x, labels, 3))):
        assert not erasing.projection[2].any() and not erasing.projection[:, 2].any()
    _, edited = fitted(leace, x, labels, "one")
    np.testing.assert_array_equal(edited[:, 2], x[:, 2])
    rest = np.delete(x, 2, axis=1)
    _, expected = fitted(leace, rest, labels, "one")
    np.testing.assert_allclose(np.delete(edited, 2, axis=1), expected, atol=1e-9)
