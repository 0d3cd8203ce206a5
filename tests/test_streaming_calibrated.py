"""calibrated by passes: what a plain computation in memory gives, whoever shares the work."""

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import main
from data.tables.shards import block_rows
from methods import ExperimentConfig
from methods.calibrated_passes import drawn_groups, learn, sampled
from methods.gaussian import barycentre, covariance, power, transport
from methods.histogram import BINS, WIDTH, Histogram
from methods.partition import Turn
from methods.polish import polish
from methods.streaming import look, write
from tests.test_streaming import (
    CALIBRATED,
    SIZES,
    STREAM,
    refused,
    shards,
    shop,
    whole,
    write_shards,
)
from utils.ranks import Ranks
from utils.seeds import numpy_generator, scattered, uniform

__all__ = ["shop"]


def in_bins(values):
    """Corners of the distribution of log values: shares of them below, and the logs there."""
    logs = np.log(values)
    bins = np.arange(np.floor(logs.min() / WIDTH), np.floor(logs.max() / WIDTH) + 2)
    counts, _ = np.histogram(logs, bins * WIDTH)
    shares, corners = [], []
    for number, below in zip(np.flatnonzero(counts), counts.cumsum()[counts > 0], strict=True):
        shares += [below - counts[number], below]
        corners += [bins[number] * WIDTH, (bins[number] + 1) * WIDTH]
    return np.array(shares) / len(values), np.array(corners)


def plainly(x, labels, groups, rho, band):
    """The docstring of methods.calibrated, steps 1 to 3, of users in memory in these groups."""
    centred, classes = x - x.mean(0), range(labels.max() + 1)
    shape = covariance(x)
    for _ in range(30):
        squared = np.array([one @ np.linalg.solve(shape, one) for one in centred])
        shape = sum(np.outer(one, one) / s for one, s in zip(centred, squared, strict=True))
        shape /= np.trace(shape)
    radius = np.sqrt([one @ np.linalg.solve(shape, one) for one in centred])
    v, p = centred / radius[:, None], np.bincount(labels) / len(x)

    grid, pool_radius = np.linspace(0, 1, 201), np.empty(len(x))
    own = [np.exp(np.interp(grid, *in_bins(radius[labels == c]))) for c in classes]
    for c in classes:
        pool_radius[labels == c] = np.interp(radius[labels == c], own[c], p @ own)
    new_radius = np.empty(len(x))
    for c in classes:
        shares, corners = in_bins(pool_radius[labels == c])
        share = np.interp(np.log(pool_radius[labels == c]), corners, shares)
        new_radius[labels == c] = np.exp(np.interp(share, *in_bins(pool_radius[groups == c])))

    means = np.array([v[labels == c].mean(0) for c in classes])
    covariances = [covariance(v[labels == c]) for c in classes]
    s, mu, pool = barycentre(covariances, p), p @ means, np.empty_like(v)
    for c in classes:
        pool[labels == c] = mu + (v[labels == c] - means[c]) @ transport(covariances[c], s)
    widest = np.linalg.eigh(s)[1][:, ::-1]
    for c in classes:
        turned = np.zeros(len(s))
        for at in range(0, len(s), band):
            some = widest[:, at : at + band]
            drawn = some.T @ power(s, -0.5) @ (pool[groups == c].mean(0) - mu)
            old = some.T @ power(s, -0.5) @ (means[c] - mu)
            old /= np.linalg.norm(old)
            across = drawn - old * (old @ drawn)
            across /= np.linalg.norm(across)
            towards = np.linalg.norm(drawn) * (rho**0.5 * old + (1 - rho) ** 0.5 * across)
            turned += some @ (towards if rho else drawn)
        there = transport(covariances[c], covariance(pool[groups == c]))
        v[labels == c] = mu + power(s, 0.5) @ turned + (v[labels == c] - means[c]) @ there
    return x.mean(0) + v * new_radius[:, None]


def groups_of(labels, seed=0):
    """Of the known users."""
    known = labels >= 0
    p = np.bincount(labels[known]) / known.sum()
    return drawn_groups(0, len(labels), p, seed)[known]


@pytest.mark.parametrize(
    ("dtype", "rho", "band"), [(np.float32, 0.5, 0), (np.float64, 0.0, 0), (np.float64, 0.5, 2)]
)
def test_passes_give_what_a_plain_computation_does(shop, dtype, rho, band):
    x, labels = np.load("vectors.npy").astype(dtype), np.load("labels.npy")
    for number, part in enumerate(np.split(x, np.cumsum(SIZES)[:-1])):
        np.save(f"vectors/part-{number}.npy", part)
    turn = [f"calibrated_rho={rho}", f"calibrated_band={band}"]
    assert main.main([*STREAM, *CALIBRATED, *turn, "output=out/"]) == 0
    known, out = labels >= 0, whole("out")
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[~known], x[~known])
    expected = plainly(
        x[known].astype(np.float64), labels[known], groups_of(labels), rho, band or x.shape[1]
    )
    np.testing.assert_allclose(out[known], expected, rtol=1e-5, atol=1e-5 * x.std())
    assert np.abs(expected - x[known]).max() > 0.1


@dataclass(frozen=True)
class Threaded(Ranks):
    """Ranks that are threads."""

    meet: threading.Barrier | None = None
    given: dict[int, np.ndarray] = field(default_factory=dict)

    def sum(self, array):
        self.given[self.rank] = np.array(array, np.float64)
        self.meet.wait(30)
        total = sum(self.given[rank] for rank in range(self.size))
        self.meet.wait(30)
        return total


def by_threads(size, output):
    meet, given = threading.Barrier(size), {}
    config = ExperimentConfig(user_embedding="vectors/", labels="labels/")
    Path(output).mkdir()

    def work(rank):
        ranks = Threaded(rank, size, meet=meet, given=given)
        users = look(config, ranks)
        write(users, of_seed(users), Path(output), ranks)

    started = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    return whole(output)


def test_neither_ranks_nor_shards_nor_blocks_make_a_difference(shop, monkeypatch):
    monkeypatch.setattr("methods.calibrated_passes.MOST", 500)  # the shape is of some users
    assert main.main([*STREAM, *CALIBRATED, "output=one/"]) == 0
    expected, x = whole("one"), np.load("vectors.npy")
    close = {"rtol": 1e-5, "atol": 1e-5 * x.std()}
    np.testing.assert_allclose(by_threads(2, "two"), expected, **close)
    np.testing.assert_allclose(by_threads(4, "four"), expected, **close)
    for folder in ("vectors", "labels"):
        Path(folder).rename(f"{folder}-before")
        Path(f"{folder}.npy").rename(f"{folder}-whole.npy")
    write_shards(x, np.load("labels-whole.npy"), (1, 501, 0, 200, 421))
    monkeypatch.setattr("data.tables.shards.BLOCK", 1000)
    np.testing.assert_allclose(by_threads(2, "other"), expected, **close)


def of_seed(users, seed=0, **keys):
    config = {"turn": Turn(0.5, 1), "rounds": 0, "views": "both", **keys}
    return learn(users, seed=seed, **config)


@pytest.mark.parametrize("views", ["both", "all"])
def test_the_polish_is_that_of_memory_by_the_numbers_folds(shop, views):
    """Of all users, where they are no more than the sample."""
    keys = ["method=calibrated", "calibrated_rounds=5", f"calibrated_views={views}"]
    assert main.main([*STREAM, *keys, "output=out/"]) == 0
    x, labels = np.load("vectors.npy").astype(np.float64), np.load("labels.npy")
    known = labels >= 0
    numbers, z = np.flatnonzero(known), labels[known]
    before = of_seed(look(ExperimentConfig(user_embedding="vectors/", labels="labels/"), Ranks()))
    v, radius = before.in_groups(x[known], z)
    near, p = v.astype(np.float32), np.bincount(z) / len(z)

    def by_number(number):
        return scattered(numbers, 5, 0, "fold", number)

    rng, none = numpy_generator(0, "polish"), np.zeros(3)
    typical = np.exp(np.log(radius).mean()).astype(np.float32)
    near_radius = radius.astype(np.float32) / typical
    done = polish(near, near_radius, z, p, none, by_number, 10, rng, views, [])
    assert len([*done]) == 10
    expected = x.mean(0, where=known[:, None]) + near * radius[:, None]
    np.testing.assert_allclose(whole("out")[known], expected, rtol=1e-4, atol=1e-4 * x.std())
    assert np.abs(near - v).max() > 0.05 * v.std()


@pytest.mark.thorough
def test_a_polish_that_some_users_were_asked_for_hides_what_others_tell(shop, monkeypatch):
    """Planted: the sign of a product of three columns, which moments don't see."""
    monkeypatch.setattr("methods.calibrated_passes.SAMPLE", 2500)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 6000)
    x = rng.normal(size=(6000, 3))
    wrong = x.prod(1) * (2 * labels - 1) * rng.choice([1, 1, -1], 6000) < 0
    x[wrong, 2] *= -1
    for folder in ("vectors", "labels"):
        shutil.rmtree(folder)
        Path(f"{folder}.npy").unlink()
    write_shards(x, labels, (3000, 3000))
    users = look(ExperimentConfig(user_embedding="vectors/", labels="labels/"), Ranks())
    others = uniform(0, 6000, 0, "sample") > 2500 / 6000
    told = {}
    for rounds in (0, 120):
        edited = of_seed(users, rounds=rounds)(x, labels, 0)
        product = (edited - edited.mean(0)).prod(1)
        told[rounds] = roc_auc_score(labels[others], product[others])
    assert told[0] > 0.65 and abs(told[120] - 0.5) < (told[0] - 0.5) / 3, told


def test_small_classes_are_in_the_polish_s_sample(shop, monkeypatch):
    """Of a class that the sample's share would leave out, as many as there are, or MOST / C."""
    monkeypatch.setattr("methods.calibrated_passes.SAMPLE", 100)
    monkeypatch.setattr("methods.calibrated_passes.MOST", 180)
    labels = np.load("labels.npy")
    labels[labels == 2] = 1
    labels[:55] = 2
    for number, part in enumerate(np.split(labels, np.cumsum(SIZES)[:-1])):
        np.save(f"labels/part-{number}.npy", part)
    users = look(ExperimentConfig(user_embedding="vectors/", labels="labels/"), Ranks())
    chosen = sampled(users, labels, 0, seed=0)
    counts = np.bincount(labels[chosen], minlength=3)
    assert counts[2] == 55 and 30 < counts[0] < 100 and 30 < counts[1] < 100
    parts = [sampled(users, labels[a : a + 100], a, 0) + a for a in range(0, len(labels), 100)]
    np.testing.assert_array_equal(np.concatenate(parts), chosen)


@pytest.mark.thorough
def test_a_sample_s_polish_writes_no_difference_into_the_others(workspace, monkeypatch):
    """Random labels: who was not in the sample differs as random groups do, in means and squares.
    Were the sample's chance taken for truth, its T² would be added n / SAMPLE times.
    """
    monkeypatch.setattr("methods.calibrated_passes.SAMPLE", 2500)
    monkeypatch.setattr("methods.calibrated_passes.MOST", 2000)
    rng, found = np.random.default_rng(0), []
    x, labels = rng.normal(size=(50_000, 8)), rng.integers(0, 2, 50_000)
    write_shards(x, labels, (50_000,))
    users = look(ExperimentConfig(user_embedding="vectors/", labels="labels/"), Ranks())
    for seed in range(3):
        for rounds in (0, 60):
            edited = of_seed(users, seed, turn=Turn(0.0), rounds=rounds)(x, labels, 0)
            others = np.setdiff1d(np.arange(50_000), sampled(users, labels, 0, seed))
            own = edited[others] - edited[others].mean(0)
            found.append(hotelling(np.hstack([own, own**2]), labels[others]))
    before, after = found[::2], found[1::2]
    assert np.mean(after) < np.mean(before) + 4 * np.sqrt(2 * 16 / 3), (before, after)


@pytest.mark.parametrize("bins", [-68_000, 55_000])
def test_the_polish_works_in_any_unit_by_passes_too(shop, bins):
    unit = np.exp(bins * WIDTH)  # 1e-25 and 1e20: the same bins, but for their numbers
    keys = [*STREAM, "method=calibrated", "calibrated_rounds=3"]
    assert main.main([*keys, "output=one/"]) == 0
    for number in range(len(SIZES)):
        path = Path(f"vectors/part-{number}.npy")
        np.save(path, np.load(path).astype(np.float64) * unit)
    assert main.main([*keys, "output=other/"]) == 0
    close = {"rtol": 1e-4, "atol": 1e-4 * whole("one").std()}
    np.testing.assert_allclose(whole("other") / unit, whole("one"), **close)


def test_each_pass_is_done_once_whatever_interrupts(shop, monkeypatch, capsys):
    keys = [*STREAM, "method=calibrated", "calibrated_rounds=1", "output=out/"]
    assert main.main([*keys[:-1], "output=whole/"]) == 0
    with monkeypatch.context() as broken:
        broken.setattr("methods.streaming.begin", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main.main(keys)
    kept = sorted(Path("out").glob(".pass-*.npz"))
    assert [path.name[:7] for path in kept] == [f".pass-{number}" for number in range(1, 6)]
    kept[3].write_bytes(kept[3].read_bytes()[:50])  # a disk's doing
    capsys.readouterr()
    assert main.main(keys) == 0
    said = capsys.readouterr().out
    again = [number for number in range(1, 6) if f"pass-{number} was done" not in said]
    assert again == [4]
    for path in Path("whole").glob("*.npy"):
        assert Path("out", path.name).read_bytes() == path.read_bytes()


def hotelling(x, labels):
    """T² of two classes."""
    sizes, apart = np.bincount(labels), x[labels == 1].mean(0) - x[labels == 0].mean(0)
    return sizes.prod() / sizes.sum() * apart @ np.linalg.solve(covariance(x), apart)


@pytest.mark.parametrize("plant", [0.0, 0.5])
def test_classes_differ_in_their_means_as_random_groups_do(workspace, plant):
    """Hotelling's T² has the mean d for random groups; 0 would be equal means, which an attacker
    reads with the sign turned round.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    x = rng.normal(size=(1000, 6)) + plant * labels[:, None]
    write_shards(x, labels, (600, 400))
    users = look(ExperimentConfig(user_embedding="vectors/", labels="labels/"), Ranks())
    found = []
    for seed in range(30):
        edited = of_seed(users, seed, turn=Turn(0.0))(x, labels, 0)
        found.append(hotelling(edited, labels))
    assert plant == 0 or hotelling(x, labels) > 100
    assert np.mean(found) == pytest.approx(6, abs=4 * np.sqrt(2 * 6 / 30))
    assert min(found) < 3.5 and max(found) > 9


def test_what_does_not_vary_stays_and_who_is_at_the_centre_is_no_trouble(shop):
    x, labels = np.load("vectors.npy").astype(np.float64), np.load("labels.npy")
    x = np.concatenate([x, -x, np.zeros((10, 6))])
    x[:, 2] = 0.7
    labels = np.concatenate([labels, labels, np.ones(10, int)])
    for folder in ("vectors", "labels"):
        for path in Path(folder).iterdir():
            path.unlink()
    np.save("vectors/a.npy", x)
    np.save("labels/a.npy", labels)
    assert main.main([*STREAM, *CALIBRATED, "output=out/"]) == 0
    (out,) = shards("out")
    np.testing.assert_array_equal(out[:, 2], x[:, 2])
    assert np.isfinite(out).all()
    assert np.abs(out - x)[: 2 * len(labels) // 5].max() > 0.1


def test_histograms_of_parts_are_that_of_all_and_know_the_quantiles():
    rng = np.random.default_rng(0)
    logs, groups = rng.normal(size=4000), rng.integers(0, 3, 4000)
    logs[:5] = -np.inf
    logs[5] = logs[4:].max() - 2 * BINS * WIDTH  # below the floor
    parts = [Histogram.of(logs[a : a + 50], groups[a : a + 50], 3) for a in range(0, 4000, 50)]
    merged = Histogram.of(logs[:0], groups[:0], 3)
    for part in [*parts[40:], *parts[:40], Histogram.of(logs[:3], groups[:3], 3)]:
        merged = merged.merged(part)
    expected = Histogram.of(np.append(logs, logs[:3]), np.append(groups, groups[:3]), 3)
    assert merged.top == expected.top
    np.testing.assert_array_equal(merged.counts, expected.counts)
    assert merged.counts[:, 0].sum() == 9
    one = Histogram.of(logs[6:], groups[6:], 3)
    grid = np.linspace(0, 1, 11)
    for group in range(3):
        found = np.interp(grid, *one.steps(group)[::-1])
        there = np.quantile(logs[6:][groups[6:] == group], grid, method="inverted_cdf")
        np.testing.assert_allclose(found, there, atol=0.02)
        np.testing.assert_allclose(found[[0, -1]], there[[0, -1]], atol=WIDTH)


def test_a_draw_follows_from_the_user_s_number():
    at_once = uniform(0, 1000, 3, "groups")
    for start in range(0, 990, 7):
        np.testing.assert_array_equal(uniform(start, start + 10, 3, "groups"), at_once[start:][:10])
    assert (uniform(0, 1000, 4, "groups") != at_once).all()
    p = np.array([0.2, 0.5, 0.3])
    shares = np.bincount(drawn_groups(10**9, 100_000, p, 0)) / 100_000
    np.testing.assert_allclose(shares, p, atol=0.006)


def test_draws_for_scattered_numbers_are_even_and_follow_from_them():
    numbers = np.arange(100_000)
    drawn = scattered(numbers, 5, 3, "fold", 1)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 0.2, atol=0.005)
    pairs = np.bincount(5 * drawn[:-1] + drawn[1:]) / (len(drawn) - 1)
    np.testing.assert_allclose(pairs, 0.04, atol=0.003)
    other = scattered(numbers, 5, 3, "fold", 2)
    np.testing.assert_allclose(np.bincount(5 * drawn + other) / len(drawn), 0.04, atol=0.003)
    mixed = np.array([10**15, 7, 99_999, 0])
    found = scattered(mixed, 5, 3, "fold", 1)
    np.testing.assert_array_equal(found[1:], drawn[mixed[1:]])


def test_a_block_of_narrow_vectors_is_no_longer_than_ranks_can_be_silent():
    assert block_rows(64) == block_rows(1) == 2**14 and block_rows(2**19) == 2


def test_what_calibrated_can_not_do_in_passes_is_said_in_a_line(shop, capsys):
    keys = [*STREAM, *CALIBRATED, "output=out/"]
    assert main.main(keys) == 0
    assert "made with other seed" in refused(capsys, *keys, "seed=1")
    assert "made with other options" in refused(capsys, *keys, "calibrated_rho=0")
    x, labels = np.load("vectors/part-0.npy"), np.load("labels/part-0.npy")
    keys[-1] = "output=new/"
    np.save("labels/part-0.npy", np.where(np.arange(700) < 49, 9, np.minimum(labels, 8)))
    assert "smallest class has 49 users, and method calibrated needs 50" in refused(capsys, *keys)
    np.save("labels/part-0.npy", labels)
    x[:300, 4] = 0
    np.save("vectors/part-0.npy", x)
    assert "many users share a value of dimension 4" in refused(capsys, *keys)
    for number, n in enumerate(SIZES):
        wide = np.random.default_rng(number).exponential(size=(n, 6)) * (1, 1, 1, 1, 1, -1) - 1
        np.save(f"vectors/part-{number}.npy", wide)
    assert "dimension 0 ends at an edge" in refused(capsys, *keys)
    for number, n in enumerate(SIZES):
        wide = np.random.default_rng(number).normal(size=(n, 6)) * np.eye(6)[3]
        np.save(f"vectors/part-{number}.npy", wide)
    assert "one dimension alone tells users apart" in refused(capsys, *keys)
    for number, n in enumerate(SIZES):
        tiny = np.random.default_rng(number).normal(size=(n, 6)) * 1e-160
        np.save(f"vectors/part-{number}.npy", tiny)
    assert "multiply all shards by a constant" in refused(capsys, *keys)
    for number, n in enumerate(SIZES):
        np.save(f"vectors/part-{number}.npy", np.ones((n, 6), np.float32))
    assert "all users have the same vector" in refused(capsys, *keys)
    assert not Path("new/manifest.json").exists()
