"""Tables with directions that are nearly flat: edited without blowing rounding up."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from methods.calibrated import calibrate
from methods.coordinates import even, uneven
from methods.gaussian import covariance
from methods.partition import Turn
from tests.test_calibrated import QUICK, worst


def planted(n=1200):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 6))
    x[:, 0] += 0.9 * labels
    return x, labels, rng


def sums(x, rng):
    return np.concatenate([x, x[:, :3] + x[:, 3:]], 1)


def low_rank(x, rng):
    return (x @ rng.normal(size=(6, 24))).astype(np.float32)


def wide_column(x, rng):
    x[:, 1] *= 1e5
    return x.astype(np.float32)


def wide_direction(x, rng):
    direction = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return (x * [1, 3e4, 1, 1, 1, 1]) @ direction


def shares(x, rng):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


TABLES = [sums, low_rank, wide_column, wide_direction, shares]


@pytest.mark.parametrize("table", TABLES)
def test_coordinates_are_white_and_lead_back(table):
    x = table(*planted()[::2]).astype(float)
    assert uneven(x)
    coordinates = even(x)
    y = (x - x.mean(0)) @ coordinates.to
    assert y.shape[1] == (5 if table is shares else 6)
    np.testing.assert_allclose(covariance(y), np.eye(y.shape[1]), atol=1e-5)
    np.testing.assert_allclose(y @ coordinates.back + x.mean(0), x, atol=1e-5 * x.std(0).max())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("table", "rounds"),
    [(sums, 0), (low_rank, 0), (low_rank, 30), (wide_column, 0), (wide_column, 30), (shares, 30)],
)
def test_nothing_is_written_into_narrow_directions(table, rounds):
    """The label is hidden, and every column keeps its spread."""
    x, labels, rng = planted()
    x = table(x, rng)
    with threadpool_limits(1):
        assert worst(x, labels, QUICK).leakage > 0.15
        done = calibrate(x, labels, Turn(0.5), rounds, np.random.default_rng(1))
        after = worst(done.table, labels, QUICK)
        assert after.leakage < 0.08, after
    assert done.moved < 0.5
    np.testing.assert_allclose(done.table.std(0), x.std(0), rtol=0.1)


def test_an_even_table_has_no_need_of_them():
    x = planted()[0]
    assert not uneven(x)
    assert not uneven(x * [1, 1, 1, 1, 1, 1e-3])


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_polish_works_in_any_unit(scale):
    """Of what two classes with equal moments tell: the sign of a product."""
    x, labels, _ = planted()
    x[:, 1] = np.where((x[:, 0] * x[:, 1] > 0) == (labels == 1), x[:, 1], -x[:, 1])
    with threadpool_limits(1):
        one, other = (
            calibrate(x * times, labels, Turn(0.5), 12, np.random.default_rng(1)).table / times
            for times in (1, scale)
        )
    np.testing.assert_allclose(one, other, atol=2e-3)
