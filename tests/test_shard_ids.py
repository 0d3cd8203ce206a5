"""stream=on refuses a user who is in two shards: every one of few, of many by a sample of ids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import main
from data.tables import shard_ids
from data.tables.shard_ids import Seen
from data.tables.user_table import PAD
from tests.test_streaming import STREAM, refused, shop
from tests.test_streaming_faults import complaint
from tests.test_streaming_formats import rewrite, spread_labels
from utils.errors import UserError
from utils.ranks import ALONE

__all__ = ["shop"]

PARTS = [Path(f"vectors/part-{number}.parquet") for number in range(3)]


def names(*numbers):
    return np.array([f"user {number}" for number in numbers], dtype=object)


def seen_of(*parts, total=None):
    seen = Seen(total or sum(map(len, parts)))
    for path, ids in zip(PARTS, parts, strict=False):
        seen.add(path, ids)
    return seen


def test_a_user_in_two_shards_is_named_with_both():
    seen = seen_of(names(*range(500)), names(*range(500, 900)), names(901, 77, 902))
    with pytest.raises(UserError) as error:
        seen.check(ALONE)
    assert str(error.value) == f"the user id user 77 is in {PARTS[0]} and in {PARTS[2]}"


def test_users_of_one_shard_each_are_none_and_nobody_may_be_in_all(monkeypatch):
    pad = np.array([PAD], dtype=object)
    parts = [np.append(pad, names(*range(start, start + 300))) for start in (0, 300, 600)]
    seen_of(*parts).check(ALONE)
    seen_of().check(ALONE)
    # nor are those of one hash
    monkeypatch.setattr(
        pd.util, "hash_array", lambda ids, categorize: np.zeros(len(ids), np.uint64)
    )
    seen_of(*parts).check(ALONE)


def test_of_many_users_a_sample_is_compared_and_a_shard_that_is_there_twice_is_seen(monkeypatch):
    monkeypatch.setattr(shard_ids, "SAMPLE", 1000)
    ids = names(*range(20_000))
    seen = seen_of(ids[:10_000], ids[10_000:])
    assert 800 < sum(map(len, seen.ids)) < 1200
    seen.check(ALONE)
    with pytest.raises(UserError, match="is in"):
        seen_of(ids[:10_000], ids[:10_000]).check(ALONE)
    # of 100 users who are there twice none is seen with the probability .95^100
    with pytest.raises(UserError, match="is in"):
        seen_of(ids[:10_000], ids[9_900:]).check(ALONE)


def spoil(labels):
    """Whoever is first in part 0 is so in part 2."""
    rewrite("lists")
    if labels == "parquet":
        spread_labels()
    tables = [parquet.read_table(path) for path in PARTS]
    ids = tables[2]["user_id"].to_pylist()
    ids[0] = tables[0]["user_id"][0].as_py()
    parquet.write_table(tables[2].set_column(1, "user_id", pa.array(ids)), PARTS[2])
    return ids[0]


@pytest.mark.thorough
@pytest.mark.parametrize("labels", ["npy", "parquet"])
def test_it_is_refused_with_a_file_of_labels_a_shard(shop, capsys, ranks, labels):
    twice = spoil(labels)
    expected = f"the user id {twice} is in {PARTS[0]} and in {PARTS[2]}"
    assert refused(capsys, *STREAM, "method=leace", "output=out/") == f"error: {expected}"
    ended = [one.end() for one in ranks(2, *STREAM, "method=leace", "output=out/")]
    assert complaint(ended) == f"error: rank 0: {expected}"
    assert not list(Path("out").glob("*.parquet"))
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 2
