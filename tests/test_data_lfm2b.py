"""LFM-2b in both of its forms, read in chunks much smaller than the file."""

import bz2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.prepare import k_core
from data.sources import lfm2b
from data.sources.formats import FORMATS, default_min_interactions
from data.sources.readers import PrepareSettings, RawData, latest
from utils.errors import UserError

USERS = """user_id\tcountry\tage\tgender\tcreation_time
1\tDE\t24\tf\t2010-01-01 00:00:00
2\tUS\t-1\tm\t2010-01-01 00:00:00
3\t\t40\tn\t2010-01-01 00:00:00
4\tSE\t\t\t2010-01-01 00:00:00
"""
EVENTS = """user_id\ttrack_id\talbum_id\ttimestamp
1\t7\t1\t2020-01-01 00:00:09
1\t8\t1\t2020-01-01 00:00:05
2\t7\t1\t2020-01-01 00:00:01
1\t8\t1\t2020-01-01 00:00:03
1\t7\t1\t2020-01-01 00:00:09
2\t8\t1\t2020-01-01 00:00:02
3\t9\t1\t2020-01-01 00:00:02
"""
COUNTS = "user_id\ttrack_id\tcount\n2\t8\t5\n1\t7\t1\n1\t8\t90\n2\t7\t2\n"


def read(
    folder: Path,
    minimum: int = 1,
    users: str = USERS,
    settings: PrepareSettings | None = None,
    **logs: str,
) -> RawData:
    folder.mkdir(exist_ok=True)
    (folder / "users.tsv").write_text(users)
    for name, text in logs.items():
        (folder / f"listening-{name}.tsv").write_text(text)
    paths = FORMATS["lfm-2b"].find(folder, "lfm-2b")
    assert paths
    return FORMATS["lfm-2b"].read(paths, settings or PrepareSettings(minimum, 99, 0))


@pytest.fixture(params=[2, 1000])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lfm2b, "CHUNK_LINES", request.param)
    monkeypatch.setattr(lfm2b, "MERGE_PAIRS", request.param)


@pytest.mark.usefixtures("small_chunks")
def test_events_count_once_at_the_latest_play_in_the_files_order(tmp_path):
    raw = read(tmp_path, events=EVENTS, counts=COUNTS)  # events are preferred
    assert raw.interactions[["user", "item"]].to_numpy().tolist() == [
        [1, 8],
        [2, 7],
        [1, 7],
        [2, 8],
        [3, 9],
    ]
    assert (raw.interactions["timestamp"] - 1577836800).tolist() == [5, 1, 9, 2, 2]


@pytest.mark.usefixtures("small_chunks")
def test_of_equal_plays_the_first_is_the_latest_on_request(tmp_path):
    raw = read(tmp_path, events=EVENTS, settings=PrepareSettings(1, 99, 0, time_ties="first"))
    expected = [[1, 7], [1, 8], [2, 7], [2, 8], [3, 9]]  # (1, 7) at its earlier line
    assert raw.interactions[["user", "item"]].to_numpy().tolist() == expected
    assert (raw.interactions["timestamp"] - 1577836800).tolist() == [9, 5, 1, 2, 2]


@pytest.mark.thorough
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1),
    st.sampled_from(["last", "first"]),
)
@settings(max_examples=30, deadline=None)
def test_chunks_change_nothing(tmp_path_factory, log, time_ties):
    text = "user_id\ttrack_id\talbum_id\ttimestamp\n"
    text += "".join(f"{user}\t{item}\t1\t{time}\n" for user, item, time in log)
    wanted = PrepareSettings(1, 99, 0, time_ties=time_ties)
    folder = tmp_path_factory.mktemp("lfm")
    whole = read(folder, events=text, settings=wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lfm2b, "CHUNK_LINES", 2)
        patch.setattr(lfm2b, "MERGE_PAIRS", 2)
        assert read(folder, events=text, settings=wanted).interactions.equals(whole.interactions)
    user, item, time = np.array(log).T
    rows = latest(user * 3 + item, time, time_ties)
    assert whole.interactions.to_numpy().tolist() == [list(log[row]) for row in rows]


@pytest.mark.usefixtures("small_chunks")
def test_counts_have_no_times_so_the_order_stays(tmp_path):
    raw = read(tmp_path, counts=COUNTS)
    assert raw.interactions.to_numpy().tolist() == [[2, 8, 0], [1, 7, 0], [1, 8, 0], [2, 7, 0]]


def test_only_m_and_f_are_known_genders(tmp_path):
    raw = read(tmp_path, counts=COUNTS)
    assert raw.users["gender"].to_dict() == {"1": "F", "2": "M", "3": "", "4": ""}
    assert raw.users["age"].to_dict() == {"1": "18-24", "2": "", "3": "35-44", "4": ""}
    assert raw.users["country"].to_dict() == {"1": "DE", "2": "US", "3": "", "4": "SE"}


def test_compressed_files_read_the_same_and_truncated_ones_are_named(tmp_path):
    plain = read(tmp_path / "plain", events=EVENTS)
    folder = tmp_path / "packed"
    folder.mkdir()
    packed = bz2.compress(EVENTS.encode())
    (folder / "listening-events.tsv.bz2").write_bytes(packed)
    (folder / "users.tsv.bz2").write_bytes(bz2.compress(USERS.encode()))
    paths = FORMATS["lfm-2b"].find(folder, "x")
    assert paths
    raw = FORMATS["lfm-2b"].read(paths, PrepareSettings(1, 99, 0))
    assert raw.interactions.equals(plain.interactions)
    assert raw.users.equals(plain.users)
    (folder / "listening-events.tsv.bz2").write_bytes(packed[:-20])
    with pytest.raises(UserError, match=r"listening-events.tsv.bz2 can't be read"):
        FORMATS["lfm-2b"].read(paths, PrepareSettings(1, 99, 0))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=80))
@settings(max_examples=30, deadline=None)
def test_what_the_first_pass_drops_is_never_in_the_core(tmp_path_factory, log):
    text = "".join(f"{user}\t{item}\t1\n" for user, item in log)
    text = "user_id\ttrack_id\tcount\n" + text
    raw = read(tmp_path_factory.mktemp("lfm"), minimum=3, counts=text)
    everything = np.array(sorted(set(log)))
    core = everything[k_core(*everything.T, 3)]
    read_in = raw.interactions[["user", "item"]].to_numpy(np.int64)
    kept = read_in[k_core(*read_in.T, 3)] if len(read_in) else read_in
    assert sorted(kept.tolist()) == core.tolist()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", r"counts.tsv can't be read"),
        ("user_id\titem_id\tcount\n1\t2\t3\n", r'no column "track_id"; it has: user_id, item_id'),
        ("user_id\ttrack_id\tcount\n1\t2\t3\n4\tx\t1\n", r"line 3: track_id must be a whole .*'x'"),
        ("user_id\ttrack_id\tcount\n1\t2\t3\n4\n", r"line 3: expected 3 fields"),
        ("user_id\ttrack_id\tcount\n1\t2\t3\n1\t-2\t3\n", r"line 3: track_id must be from 0"),
        (f"user_id\ttrack_id\tcount\n1\t{2**40}\t3\n", r"line 2: track_id must be from 0 to"),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_a_wrong_line_is_named(tmp_path, log, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, counts=log)


@pytest.mark.usefixtures("small_chunks")
def test_a_wrong_time_is_named(tmp_path):
    with pytest.raises(UserError, match=r"events.tsv, line 6: timestamp must be .*'yesterday'"):
        read(
            tmp_path,
            events=EVENTS.replace("7\t1\t2020-01-01 00:00:09\n2\t8", "7\t1\tyesterday\n2\t8"),
        )


def test_users_without_a_gender_column_or_described_twice_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'users.tsv has no column "gender"; it has: user_id'):
        read(tmp_path, users=USERS.replace("gender", "sex"), counts=COUNTS)
    with pytest.raises(UserError, match=r"user 1 is described more than once"):
        read(tmp_path, users=USERS.replace("\n2\t", "\n1\t"), counts=COUNTS)


def test_the_published_threshold_goes_with_the_name():
    names = ("lfm-2b", "synthetic-lfm-2b", "ml-1m", "mine")
    assert [default_min_interactions(name) for name in names] == [120, 5, 5, 5]
