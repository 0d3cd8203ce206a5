"""Filter, indices, split, negatives: against naive oracles and by hand."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import load_attribute, load_dataset
from data.prepare import (
    build,
    contiguous,
    k_core,
    leave_any_out,
    leave_one_out,
    prepared_folder,
)
from data.sampling import NegativeSampler, sample_negatives
from data.sources.readers import PrepareSettings, RawData, latest
from data.tables.labels import load_labels
from tests.conftest import write_ml100k
from utils.errors import UserError

pairs = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60)
events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60
)


def naive_core(log: set[tuple[int, int]], minimum: int) -> set[tuple[int, int]]:
    for side in (0, 1):
        for index in range(9):
            mine = {pair for pair in log if pair[side] == index}
            if mine and len(mine) < minimum:
                return naive_core(log - mine, minimum)
    return log


@given(pairs, st.integers(1, 5))
def test_k_core_is_the_largest_set_in_which_all_have_enough(log, minimum):
    rows = sorted(log)
    user, item = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(user, item, minimum)
    assert {row for row, stays in zip(rows, kept, strict=True) if stays} == naive_core(log, minimum)


@given(events)
def test_of_equal_times_of_a_repeated_pair_the_first_line_counts_on_request(log):
    user, item, time = np.array(log).T
    best = {}
    for row, (u, i, t) in enumerate(log):
        if t > log[best.setdefault((u, i), row)][2]:
            best[u, i] = row
    assert latest(user * 6 + item, time, "first").tolist() == sorted(best.values())


@given(events)
def test_a_repeated_pair_counts_at_its_latest_time_and_the_later_line_wins_ties(log):
    user, item, time = np.array(log).T
    best = {}
    for row, (u, i, t) in enumerate(log):
        if t >= log[best.get((u, i), row)][2]:
            best[u, i] = row
    assert latest(user * 6 + item, time).tolist() == sorted(best.values())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40))
def test_the_most_recent_interaction_is_the_test_and_the_one_before_the_validation(log):
    log += [(user, 0) for user in range(4) for _ in range(3)]
    user, time = np.array(log).T
    split = leave_one_out(user, time)
    for index in range(4):
        mine = sorted((t, row) for row, (u, t) in enumerate(log) if u == index)
        assert split.test[index] == mine[-1][1]
        assert split.validation[index] == mine[-2][1]
    assert sorted([*np.flatnonzero(split.train), *split.test]) == list(range(len(log)))


def test_between_equal_times_the_later_line_is_the_more_recent():
    user = np.array([0, 1, 0, 1, 0, 1])
    time = np.array([7, 7, 7, 9, 7, 7])
    split = leave_one_out(user, time)
    assert split.test.tolist() == [4, 3]
    assert split.validation.tolist() == [2, 5]
    split = leave_one_out(user, time, "first")
    assert split.test.tolist() == [0, 3]
    assert split.validation.tolist() == [2, 1]


def test_any_pair_of_a_users_interactions_is_held_out_as_often_as_any_other():
    count, n_users = 5, 20_000
    user = np.random.default_rng(0).permutation(np.repeat(np.arange(n_users), count))
    split = leave_any_out(user, np.random.default_rng(1))
    own = np.argsort(user, kind="stable").reshape(n_users, count)
    places = [(own == rows[:, None]).argmax(1) for rows in (split.test, split.validation)]
    seen = np.bincount(places[0] * count + places[1], minlength=count**2).reshape(count, count)
    assert (np.diag(seen) == 0).all()
    pairs = seen[~np.eye(count, dtype=bool)]
    expected = n_users / len(pairs)
    # chi-squared with 19 degrees of freedom: mean 19, 0.999 quantile 43.8
    assert ((pairs - expected) ** 2 / expected).sum() < 43.8


def held_out_items(folder: Path) -> list[list[int]]:
    dataset = load_dataset(folder, "tiny", True)
    assert dataset.validation is not None
    return [part.items[:, 0].tolist() for part in (dataset.test, dataset.validation)]


def test_a_random_split_follows_from_its_seed_and_holds_out_what_the_user_touched(tmp_path):
    raw = raw_log()
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = PrepareSettings(3, 10, seed, held_out="random")
        build(raw, settings, tmp_path / name, "tiny")
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert found[0] == found[1]
    assert held_out_items(tmp_path / "a") != held_out_items(tmp_path / "c")
    build(raw, PrepareSettings(3, 10, 0), tmp_path / "latest", "tiny")
    assert held_out_items(tmp_path / "a") != held_out_items(tmp_path / "latest")
    ids = pd.read_csv(tmp_path / "a" / "items.csv")["raw_id"].to_numpy()
    own = raw.interactions.groupby("user")["item"].agg(set)
    for user, (test, validation) in enumerate(zip(*held_out_items(tmp_path / "a"), strict=True)):
        assert test != validation
        assert {ids[test], ids[validation]} <= own[user]
    # the negatives have streams of their own: the same whatever is held out
    negatives = [
        load_dataset(tmp_path / name, "tiny", True).test.items[:, 1:] for name in ("a", "latest")
    ]
    assert torch.equal(*negatives)


def test_the_tie_rule_reaches_the_prepared_folder(tmp_path):
    log = pd.DataFrame({"user": 0, "item": [5, 6, 7, 8, 6], "timestamp": 3})
    log = pd.concat([log, log.assign(user=1, item=14 - np.arange(5))], ignore_index=True)
    raw = RawData(log, pd.DataFrame({"gender": ["F", "M"]}, index=["0", "1"]))
    items = {}
    for ties in ("last", "first"):
        build(raw, PrepareSettings(1, 1, 0, time_ties=ties), tmp_path / ties, "tiny")
        ids = pd.read_csv(tmp_path / ties / "items.csv")["raw_id"].to_numpy()
        items[ties] = [ids[part].tolist() for part in held_out_items(tmp_path / ties)]
    # user 0's item 6 stands in two lines and counts at the last one, or at the first
    assert items == {"last": [[6, 10], [8, 11]], "first": [[5, 14], [6, 13]]}


def test_without_a_filter_all_stay(tmp_path):
    raw = raw_log()
    build(raw, PrepareSettings(1, 10, 0), tmp_path / "p", "tiny")
    meta = json.loads((tmp_path / "p" / "meta.json").read_text())
    assert meta["interactions"] == len(raw.interactions)
    assert meta["items"] == raw.interactions["item"].nunique()


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in folder.iterdir()
        if path.suffix != ".npy"  # pickles may differ from one version of NumPy to the next
    }


def test_the_default_split_is_what_it_was_before_there_was_a_choice(tmp_path):
    write_ml100k(tmp_path / "ml-100k")
    folder = prepared_folder(tmp_path, "ml-100k", PrepareSettings(5, 20, 0))
    found = checksums(folder)
    del found["meta.json"]  # names all settings
    assert found == {
        "items.csv": "4c96a072364911a5",
        "test_neg_interactions": "f98f0c3aba3bb94d",
        "train_interactions.csv": "8c1486ce40461d91",
        "users.csv": "8b4f62dd8e43142e",
        "validation_neg_interactions": "63bfa40aeddd5b0f",
    }


@pytest.mark.parametrize("newer", [("held_out", "time_ties"), ("time_ties",)])
def test_a_folder_older_than_a_key_was_made_with_its_default(tmp_path, newer):
    write_ml100k(tmp_path / "ml-100k")
    folder = prepared_folder(tmp_path, "ml-100k", PrepareSettings(5, 20, 0))
    meta = json.loads((folder / "meta.json").read_text())
    for name in newer:
        del meta["settings"][name]
    (folder / "meta.json").write_text(json.dumps(meta))
    before = checksums(folder)
    prepared_folder(tmp_path, "ml-100k", PrepareSettings(5, 20, 0))
    assert checksums(folder) == before
    assert not folder.with_name("preprocess.1").exists()
    prepared_folder(tmp_path, "ml-100k", PrepareSettings(5, 20, 0, time_ties="first"))
    assert checksums(folder) != before
    assert checksums(folder.with_name("preprocess.1")) == before


@pytest.mark.parametrize("damage", [None, [], "latest", {"held_out": "latest"}, {"future": 1}])
def test_settings_that_are_not_these_are_no_reason_to_trust_the_folder(tmp_path, damage):
    write_ml100k(tmp_path / "ml-100k")
    settings = PrepareSettings(5, 20, 0)
    folder = prepared_folder(tmp_path, "ml-100k", settings)
    meta = json.loads((folder / "meta.json").read_text())
    known = meta["settings"] | damage if damage == {"future": 1} else damage
    (folder / "meta.json").write_text(json.dumps(meta | {"settings": known}))
    prepared_folder(tmp_path, "ml-100k", settings)
    assert folder.with_name("preprocess.1").exists()
    assert json.loads((folder / "meta.json").read_text()) == meta


@pytest.mark.parametrize(
    ("raw", "ordered"),
    [
        ([10, 2, 10], [2, 10]),
        (["10", "2", "10"], ["2", "10"]),
        (["10", "2", "b"], ["10", "2", "b"]),
    ],
)
def test_indices_follow_the_raw_ids(raw, ordered):
    index, ids = contiguous(np.array(raw, dtype=object if isinstance(raw[0], str) else int))
    assert list(ids) == ordered
    assert [ids[at] for at in index] == raw


@given(events, st.integers(0, 2**32))
@settings(max_examples=40)
def test_sampled_negatives_are_different_items_that_the_user_never_touched(log, seed):
    user, item, _ = np.array(log).T
    negatives = sample_negatives(user, item, 9, 3, np.random.default_rng(seed))
    for index, row in enumerate(negatives.tolist()):
        assert len(set(row)) == 3
        assert not set(row) & {i for u, i, _ in log if u == index}


def test_a_user_who_touched_nearly_everything_leaves_no_negatives():
    user, item = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2])
    with pytest.raises(UserError, match=r"user 1 .* 3 of 4 items.*test_num_ng to at most 1"):
        sample_negatives(user, item, 4, 2, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"user 1 .* all 3 items"):
        NegativeSampler(torch.tensor(np.stack([user, item], axis=1)), 2, 3, 1)


@pytest.fixture
def sampler_and_rows() -> tuple[NegativeSampler, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, [30, 12], (200, 2)), axis=0)
    rows = rows[rows[:, 1] != 11]  # nobody has touched everything
    return NegativeSampler(torch.from_numpy(rows), 30, 12, 4), rows


def test_training_negatives_are_no_training_positives_and_make_up_the_epoch(sampler_and_rows):
    sampler, rows = sampler_and_rows
    users, items, labels = sampler.examples(torch.Generator().manual_seed(0))
    positives = {tuple(row) for row in rows.tolist()}
    drawn = list(zip(users.tolist(), items.tolist(), labels.bool().tolist(), strict=True))
    assert sorted((u, i) for u, i, label in drawn if label) == sorted(positives)
    assert not positives & {(u, i) for u, i, label in drawn if not label}
    assert len(drawn) == 5 * len(rows)
    # each user has four negatives a positive
    of_user = np.bincount(users, minlength=30)
    np.testing.assert_array_equal(of_user, 5 * np.bincount(rows[:, 0], minlength=30))


def test_comparisons_pair_each_positive_with_untouched_items_of_its_user(sampler_and_rows):
    sampler, rows = sampler_and_rows
    users, positives, negatives = sampler.comparisons(torch.Generator().manual_seed(0))
    touched = {tuple(row) for row in rows.tolist()}
    left = sorted(zip(users.tolist(), positives.tolist(), strict=True))
    assert left == sorted(pair for pair in touched for _ in range(4))
    assert not touched & set(zip(users.tolist(), negatives.tolist(), strict=True))


def raw_log(n_users: int = 12, n_items: int = 30, per_user: int = 9) -> RawData:
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.choice(n_items, per_user, replace=False) for _ in range(n_users)])
    users = np.repeat(np.arange(n_users), per_user)
    log = pd.DataFrame({"user": users, "item": items, "timestamp": rng.integers(0, 9, len(users))})
    genders = ["F" if user % 3 == 0 else "M" for user in range(n_users)]
    people = pd.DataFrame({"gender": genders}, index=[str(user) for user in range(n_users)])
    return RawData(log, people)


def test_every_interaction_lands_in_one_part_and_held_out_negatives_are_untouched(tmp_path):
    raw = raw_log()
    build(raw, PrepareSettings(3, 10, 0), tmp_path / "p", "tiny")
    held_out, left_in = (load_dataset(tmp_path / "p", "tiny", flag) for flag in (True, False))
    assert left_in.validation is None
    assert len(left_in.train) == len(held_out.train) + held_out.n_users
    touched = {tuple(pair) for pair in left_in.train.tolist()}
    touched |= set(zip(left_in.test.users.tolist(), left_in.test.items[:, 0].tolist(), strict=True))
    for part in (held_out.test, held_out.validation):
        for user, (positive, *negatives) in zip(
            part.users.tolist(), part.items.tolist(), strict=True
        ):
            assert (user, positive) in touched
            assert len(set(negatives)) == 10
            assert not touched & {(user, item) for item in negatives}
    assert not set(map(tuple, held_out.train.tolist())) & set(
        zip(
            held_out.validation.users.tolist(),
            held_out.validation.items[:, 0].tolist(),
            strict=True,
        )
    )


def prepared(folder, **settings):
    build(raw_log(), PrepareSettings(4, 5, 0, **settings), folder, "tiny")
    return load_dataset(folder, "tiny", hold_out_validation=True)


def test_the_whole_catalogue_keeps_removed_items_as_negatives_and_their_numbers(tmp_path):
    filtered, whole = (prepared(tmp_path / c, catalogue=c) for c in ("filtered", "whole"))
    assert whole.n_items == 30 > filtered.n_items
    raw_ids = pd.read_csv(tmp_path / "filtered/items.csv")["raw_id"].to_numpy()
    pairs = [
        np.concatenate([dataset.train.numpy(), np.stack([part.users, part.items[:, 0]], 1)])
        for dataset in (filtered, whole)
        for part in (dataset.test,)
    ]
    pairs[0][:, 1] = raw_ids[pairs[0][:, 1]]  # in the whole catalogue a number is the raw id
    np.testing.assert_array_equal(*pairs)
    removed = set(range(30)) - set(raw_ids.tolist())
    for part in (whole.test, whole.validation):
        assert removed & set(part.items[:, 1:].flatten().tolist())
        assert not removed & set(part.items[:, 0].tolist())


def test_items_that_no_line_names_are_counted(tmp_path):
    """The last raw items can be filtered out and never drawn."""
    prepared(tmp_path / "p", catalogue="whole")
    meta = json.loads((tmp_path / "p/meta.json").read_text())
    (tmp_path / "p/meta.json").write_text(json.dumps(meta | {"items": 50}))
    assert load_dataset(tmp_path / "p", "tiny", hold_out_validation=True).n_items == 50


@pytest.mark.parametrize("drawn", ["different", "repeated", "untrained"])
def test_how_negatives_are_drawn(tmp_path, drawn):
    raw = raw_log(n_items=14)
    build(raw, PrepareSettings(3, 5, 0, test_negatives=drawn), tmp_path / "p", "tiny")
    dataset = load_dataset(tmp_path / "p", "tiny", hold_out_validation=True)
    trained = {tuple(pair) for pair in dataset.train.tolist()}
    held_out = {
        name: dict(zip(part.users.tolist(), part.items[:, 0].tolist(), strict=True))
        for name, part in (("test", dataset.test), ("validation", dataset.validation))
    }
    found = {"repeats": False, "other part": False}
    for name, other in (("test", "validation"), ("validation", "test")):
        part = getattr(dataset, name)
        for user, (positive, *negatives) in zip(
            part.users.tolist(), part.items.tolist(), strict=True
        ):
            assert not trained & {(user, item) for item in negatives}
            assert positive not in negatives
            found["repeats"] |= len(set(negatives)) < len(negatives)
            found["other part"] |= held_out[other][user] in negatives
    assert found == {"repeats": drawn == "repeated", "other part": drawn == "untrained"}


def test_nothing_left_after_the_filter_says_so_and_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"tiny: no user and item with 50 .*lower min_interactions"):
        build(raw_log(), PrepareSettings(50, 10, 0), tmp_path / "p", "tiny")
    assert not list(tmp_path.iterdir())


def test_users_without_a_line_have_unknown_attributes(tmp_path, caplog):
    raw = raw_log()
    build(
        RawData(raw.interactions, raw.users.iloc[2:]),
        PrepareSettings(3, 10, 0),
        tmp_path / "p",
        "t",
    )
    attribute = load_attribute(tmp_path / "p", "gender")
    assert attribute.labels[:2].tolist() == [-1, -1]
    assert attribute.counts() == {"F": 3, "M": 7, "unknown": 2}
    assert "2 users are not in the users' file" in caplog.text


def test_prepared_users_have_classes_by_the_rule_of_label_files(tmp_path):
    raw = raw_log()
    spelt = ["0", "0.0", "-1", "nan", "", "NA", "01", " 1", "1.0", "-2.5", "NA", "0"]
    users = raw.users.assign(team=spelt[: len(raw.users)])
    build(RawData(raw.interactions, users), PrepareSettings(3, 10, 0), tmp_path / "p", "t")
    team = load_attribute(tmp_path / "p", "team")
    np.save(tmp_path / "labels.npy", np.array(spelt))
    of_file = load_labels(tmp_path / "labels.npy", "team", len(spelt))
    assert team.classes == of_file.classes == ("0", "1", "NA")
    assert team.labels.tolist() == of_file.labels.tolist()
    assert team.labels.tolist() == [0, 0, -1, -1, -1, 2, 1, 1, 1, -1, 2, 0]


def test_one_class_only_is_refused(tmp_path):
    raw = raw_log()
    build(
        RawData(raw.interactions, raw.users.assign(gender="F")),
        PrepareSettings(3, 10, 0),
        tmp_path / "p",
        "t",
    )
    with pytest.raises(UserError, match="has the classes F: at least two"):
        load_attribute(tmp_path / "p", "gender")
    with pytest.raises(UserError, match=r'attribute "shoe_size" is not in .* it has: gender'):
        load_attribute(tmp_path / "p", "shoe_size")
