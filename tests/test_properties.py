"""Random inputs: the door and the readers know nothing but results and UserErrors; metrics agree
with scikit-learn; losses have the symmetries that they should have.
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from data.layout import read_candidates, read_pairs, read_users
from data.prepare import leave_any_out, leave_one_out
from data.sources.lfm2b import read_lfm2b
from data.sources.movielens import read_ml1m, read_ml100k
from data.sources.own import read_csv, read_recbole
from data.sources.pickles import load_dict
from data.sources.readers import PrepareSettings, read_named, read_table
from data.tables.files import load_table
from data.tables.labels import load_labels
from methods import ExperimentConfig, d2d, u2u
from utils.config import AttackConfig, load_configs
from utils.errors import UserError
from utils.metrics import hit_and_ndcg
from utils.runs.folder import load_weights

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def fields(cls) -> st.SearchStrategy:
    return st.sampled_from([field.name for field in dataclasses.fields(cls)])


@pytest.mark.thorough
@pytest.mark.parametrize("cls", [ExperimentConfig, AttackConfig])
@given(data=st.data())
@settings(QUICK, max_examples=200)
def test_the_door_gives_a_config_or_a_user_error(tmp_path, cls, data):
    names = fields(cls) | st.text(max_size=5)
    content = data.draw(st.dictionaries(names, values, max_size=3) | values)
    overrides = data.draw(
        st.lists(st.builds("{}={}".format, names, st.text(max_size=6) | values), max_size=2)
    )
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    choices = {"method": ["original", "u2u"], "model": ["ncf"], "attackers": ["mlp", "xgb"]}
    try:
        configs = load_configs(cls, path, overrides, choices)
    except UserError:
        return
    for config in configs:
        assert json.loads(json.dumps(dataclasses.asdict(config))) is not None
        path.write_text(json.dumps(dataclasses.asdict(config)))
        assert load_configs(cls, path, [], choices) == [config]  # what is let in may come again


@given(st.binary(max_size=60))
@QUICK
def test_a_config_of_random_bytes(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with contextlib.suppress(UserError):
        load_configs(ExperimentConfig, tmp_path / "c.json", [], {})


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
@QUICK
def test_metrics_agree_with_scikit_learn_where_there_are_no_ties(columns, rows, seed):
    rng = np.random.default_rng(seed)
    scores = np.stack([rng.permutation(columns) for _ in range(rows)]).astype(float)
    truth = np.zeros((rows, columns))
    truth[:, 0] = 1
    cutoffs = sorted({1, min(5, columns), columns})
    ours = hit_and_ndcg(torch.from_numpy(scores), cutoffs)
    for k in cutoffs:
        expected = ndcg_score(truth, scores, k=k)
        assert ours[f"NDCG@{k}"].mean().item() == pytest.approx(expected, abs=1e-12)
        if columns > 2 and k < columns:
            hits = top_k_accuracy_score(np.zeros(rows), scores, k=k, labels=np.arange(columns))
            assert ours[f"HR@{k}"].mean().item() == pytest.approx(hits, abs=1e-12)
    torch.testing.assert_close(
        hit_and_ndcg(torch.from_numpy(np.exp(scores)), cutoffs), ours, rtol=0, atol=0
    )  # only the order counts


def users_of(seed: int, classes: int, n: int = 24, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = torch.cat(
        [torch.arange(classes).repeat(2), torch.randint(classes, (n,), generator=generator)]
    )
    return theta, labels[:n][torch.randperm(n, generator=generator)]


def both(method, labels, theta):
    loss = method.distinguishability(labels)
    return loss.value(theta), loss.gradient(theta)


@pytest.mark.parametrize("method", [u2u, d2d])
@given(st.integers(0, 2**31), st.integers(2, 4))
@settings(QUICK, max_examples=25)
def test_losses_see_neither_order_nor_names_nor_place(method, seed, classes):
    theta, labels = users_of(seed, classes)
    value, gradient = both(method, labels, theta)
    order = torch.randperm(len(theta), generator=torch.Generator().manual_seed(seed))
    again, moved = both(method, labels[order], theta[order])
    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(again, value, **close)
    torch.testing.assert_close(moved, gradient[order], **close)
    names = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    again, renamed = both(method, names[labels], theta)
    torch.testing.assert_close(again, value, **close)
    torch.testing.assert_close(renamed, gradient, **close)
    again, shifted = both(method, labels, theta + 2)
    torch.testing.assert_close(again, value, **close)
    torch.testing.assert_close(shifted, gradient, **close)


@given(st.integers(0, 2**31), st.integers(2, 4), st.floats(0.1, 10))
@settings(QUICK, max_examples=25)
def test_u2u_grows_with_the_square_of_the_scale_and_mmd_not_at_all(seed, classes, scale):
    theta, labels = users_of(seed, classes)
    for method, power in ((u2u, 2), (d2d, 0)):
        value, gradient = both(method, labels, theta)
        scaled, steeper = both(method, labels, scale * theta)
        torch.testing.assert_close(scaled, value * scale**power, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(steeper, gradient * scale ** (power - 1), rtol=1e-6, atol=1e-9)


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=9), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.sampled_from(["last", "first"]),
)
@QUICK
def test_the_splitter_takes_the_last_two_of_every_user(times, random, time_ties):
    rows = [(user, time) for user, own in enumerate(times) for time in own]
    random.shuffle(rows)
    user, time = np.array(rows).T
    split = leave_one_out(user, time, time_ties)
    assert user[split.test].tolist() == user[split.validation].tolist() == list(range(len(times)))
    assert (~split.train).sum() == len(times)
    for test, validation in zip(split.test, split.validation, strict=True):
        own = np.flatnonzero(user == user[test])
        line = 1 if time_ties == "last" else -1
        recent = sorted(own, key=lambda row: (time[row], line * row))
        assert recent[-2:] == [validation, test]


@given(st.lists(st.integers(3, 9), min_size=1, max_size=6), st.integers(0, 2**32), st.randoms())
@QUICK
def test_a_random_split_takes_two_different_ones_of_every_user(counts, seed, random):
    rows = [user for user, count in enumerate(counts) for _ in range(count)]
    random.shuffle(rows)
    user = np.array(rows)
    split, again = (leave_any_out(user, np.random.default_rng(seed)) for _ in range(2))
    assert user[split.test].tolist() == user[split.validation].tolist() == list(range(len(counts)))
    assert (split.test != split.validation).all()
    assert np.flatnonzero(~split.train).tolist() == sorted(split.test)
    for part in ("test", "validation", "train"):
        assert np.array_equal(getattr(split, part), getattr(again, part))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30), st.randoms())
@QUICK
def test_the_first_line_wins_ties_where_the_last_one_does_in_the_file_read_backwards(rows, random):
    rows += [(user, 0) for user in range(3) for _ in range(3)]
    user, time = np.array(rows).T
    forwards = leave_one_out(user, time, "first")
    backwards = leave_one_out(user[::-1], time[::-1], "last")
    for part in ("test", "validation"):
        mirrored = len(rows) - 1 - getattr(backwards, part)
        assert getattr(forwards, part).tolist() == mirrored.tolist()
    distinct = np.array(random.sample(range(len(rows)), len(rows)))
    first, last = (leave_one_out(user, distinct, ties) for ties in ("first", "last"))
    for part in ("test", "validation"):  # no ties, no choice
        assert getattr(first, part).tolist() == getattr(last, part).tolist()


SETTINGS = PrepareSettings(3, 1, 0)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, user_embedding=np.eye(3, dtype=np.float32))
    return file.getvalue()


def _weights() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    return file.getvalue()


READERS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "x.npy": (_npy(np.eye(4, dtype=np.float32)), load_table),
    "x.npz": (_npz(), load_table),
    "labels.npy": (_npy(np.array(["F", "M"])), lambda path: load_labels(path, "gender", 2)),
    "labels.csv": (b"id,gender\n1,F\n2,M\n", lambda path: load_labels(path, "gender", 2)),
    "dict.npy": (_npy(np.array({0: "F", 1: np.int64(2)}, dtype=object)), load_dict),
    "x.pth": (_weights(), lambda path: load_weights(path, torch.nn.Linear(2, 2))),
    "pairs.csv": (b"0,1\n1,2\n", read_pairs),
    "users.csv": (b"index,raw_id,gender\n0,7,F\n", lambda path: read_users(path.parent)),
    "candidates": (b"(0,1)\t2\t3\n(1,2)\t0\t4\n", read_candidates),
    "table": (b"1::2\n3::4\n", lambda path: read_table(path, "::", {"a": int, "b": float})),
    "named.csv": (b'a,b\n1,"2"\n', lambda path: read_named(path, ",", csv.QUOTE_MINIMAL)),
}
PAIRS: dict[str, tuple[bytes, bytes, Callable]] = {
    "ml-100k": (b"1\t2\t3\t4\n", b"1|24|M|writer|85711\n", read_ml100k),
    "ml-1m": (b"1::2::3::4\n", b"1::F::1::10::48067\n", read_ml1m),
    "recbole": (
        b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n",
        b"user_id:token\tgender:token\n1\tF\n",
        read_recbole,
    ),
    "csv": (b"user,item,timestamp\n1,2,3\n", b"user,gender\n1,F\n", read_csv),
    "lfm-2b": (
        b"user_id\ttrack_id\talbum_id\ttimestamp\n1\t2\t3\t2020-01-01 00:00:00\n",
        b"user_id\tcountry\tage\tgender\tcreation_time\n1\tUS\t24\tm\t2013-01-01\n",
        read_lfm2b,
    ),
}


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Random bytes, or `whole` cut off, or with a few bytes put in place of others."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    start, length = draw(st.integers(0, len(whole))), draw(st.integers(0, 4))
    tail = b"" if draw(st.booleans()) else whole[start + length :]
    return whole[:start] + draw(st.binary(max_size=6)) + tail


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@QUICK
def test_readers_know_only_results_and_user_errors(tmp_path, name, data):
    whole, read = READERS[name]
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(whole)))
    with contextlib.suppress(UserError):
        read(path)


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
@QUICK
def test_readers_of_raw_formats_too(name, data):
    interactions, users, read = PAIRS[name]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "listening-events.tsv", Path(folder) / "users.tsv"]
        which = data.draw(st.sampled_from([0, 1]))
        for number, (path, whole) in enumerate(zip(paths, (interactions, users), strict=True)):
            path.write_bytes(data.draw(damaged(whole)) if number == which else whole)
        with contextlib.suppress(UserError):
            raw = read(paths, SETTINGS)
            assert isinstance(raw.users, pd.DataFrame)


def test_the_undamaged_samples_are_read(tmp_path):
    for name, (whole, read) in READERS.items():
        (tmp_path / name).write_bytes(whole)
        read(tmp_path / name)
    for interactions, users, read in PAIRS.values():
        paths = [tmp_path / "listening-events.tsv", tmp_path / "users.tsv"]
        for path, whole in zip(paths, (interactions, users), strict=True):
            path.write_bytes(whole)
        assert len(read(paths, SETTINGS).interactions) <= 1
