"""LFM-2b's raw files: tab-separated with a header, plain or .bz2, up to two billion lines.

The log of plays is read twice, a chunk at a time. The first pass counts the lines of each user
and track; as distinct pairs can't outnumber lines, whoever has too few of them can't be in the
k-core and is passed over by the second, which keeps one entry a (user, track) pair. So the
memory needed grows with the distinct pairs that may stay and with the largest id, never with
the lines.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.sources.readers import (
    PARSER_ERRORS,
    PrepareSettings,
    RawData,
    age_bracket,
    check_columns,
    check_given,
    described_once,
    explain,
    latest,
    read_named,
    seconds,
)
from utils.errors import UserError

CHUNK_LINES = 500_000
MERGE_PAIRS = 2_000_000  # pairs that may wait before they are merged with those already known
MAX_ID = 2**28  # LFM-2b's largest is 51 million; the counts take 4 bytes an id
GENDERS = {"m": "M", "f": "F"}
MEND = "LFM-2b's own files have it"


def read_lfm2b(paths: list[Path], settings: PrepareSettings) -> RawData:
    """users.tsv (user_id, country, age, gender, creation_time) and either listening-events.tsv
    (user_id, track_id, album_id, timestamp) or listening-counts.tsv (user_id, track_id, count).

    A track counts once for a user, however often it was played, at the latest play. Counts have
    no times: the file's order then decides what is most recent. Users whose gender is neither m
    nor f ("n", or nothing) stay, their gender unknown; ages become ML-1M's brackets.

    Raises:
        UserError: a missing column, an id that is no number or too large, a time that is none.
    """
    log_path, users_path = paths
    users = read_named(users_path, "\t", quoting=3)
    check_columns(users_path, ("user_id", "gender", "age", "country"), users, MEND)
    users.index = pd.Index(check_given(users_path, users["user_id"]))
    users["gender"] = users["gender"].map(GENDERS).fillna("")
    users["age"] = users["age"].map(age_bracket)
    users = described_once(users_path, users[["gender", "age", "country"]])
    return RawData(_read_log(log_path, settings), users)


def _read_log(path: Path, settings: PrepareSettings) -> pd.DataFrame:
    """The columns user, item, timestamp of `RawData.interactions`, each pair once."""
    minimum = settings.min_interactions
    header = _header(path)
    check_columns(path, ("user_id", "track_id"), header, MEND)
    user_lines, track_lines = np.zeros(0, np.int32), np.zeros(0, np.int32)
    for chunk in _chunks(path, header, ["user_id", "track_id"], "counting plays"):
        user_lines = _count(user_lines, chunk["user_id"].to_numpy())
        track_lines = _count(track_lines, chunk["track_id"].to_numpy())
    times = [name for name in header if name == "timestamp"]
    pair, time = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for chunk in _chunks(path, header, ["user_id", "track_id", *times], "reading plays"):
        user, track = chunk["user_id"].to_numpy(), chunk["track_id"].to_numpy()
        may_stay = (user_lines[user] >= minimum) & (track_lines[track] >= minimum)
        played = np.zeros(may_stay.sum(), np.int64)
        for name in times:
            played = seconds(path, chunk[name][may_stay]).astype(np.int64)
        waiting.append(((user << 32 | track)[may_stay], played))
        if sum(len(part) for part, _ in waiting) > max(MERGE_PAIRS, len(pair)):
            pair, time = _merged([(pair, time), *waiting], settings.time_ties)
            waiting = []
    pair, time = _merged([(pair, time), *waiting], settings.time_ties)
    user, track = (pair >> 32).astype(np.int32), (pair & 0xFFFFFFFF).astype(np.int32)
    return pd.DataFrame({"user": user, "item": track, "timestamp": time})


def _merged(
    parts: list[tuple[np.ndarray, np.ndarray]], time_ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """Each pair once, at its latest time, in the file's order as the parts are."""
    pair, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = latest(pair, time, time_ties)
    return pair[rows], time[rows]


def _count(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`counts` (indexed by id) with these ids counted too; grown where they go beyond it."""
    if (needed := ids.max(initial=-1) + 1) > len(counts):
        grown = np.zeros(max(needed, 2 * len(counts)), counts.dtype)
        grown[: len(counts)] = counts
        counts = grown
    np.add.at(counts, ids, 1)
    return counts


def _header(path: Path) -> list[str]:
    try:
        return list(pd.read_csv(path, sep="\t", nrows=0, encoding="utf-8-sig"))
    except PermissionError:
        raise
    except PARSER_ERRORS as error:
        raise UserError(f"{path} can't be read ({error}); get the dataset again") from None


def _chunks(path: Path, header: list[str], columns: list[str], what: str) -> Iterator[pd.DataFrame]:
    """These columns, ids as int64 and times as text; the index holds line numbers less one."""
    ids = ("user_id", "track_id")
    kinds = {name: int if name in ids else str for name in header}
    line = 2
    bar = tqdm(desc=what, unit=" lines", unit_scale=True, leave=False)
    try:
        with (
            bar,
            pd.read_csv(
                path,
                sep="\t",
                usecols=columns,
                dtype={name: "int64" if name in ids else "str" for name in columns},
                encoding="utf-8-sig",
                keep_default_na=False,
                quoting=3,
                chunksize=CHUNK_LINES,
            ) as chunks,
        ):
            for chunk in chunks:
                for name in ids:
                    wrong = (chunk[name] < 0) | (chunk[name] > MAX_ID)
                    if wrong.any():
                        raise UserError(
                            f"{path}, line {line + int(wrong.argmax())}: {name} must be from 0 to "
                            f"{MAX_ID}, got {chunk[name].iloc[int(wrong.argmax())]}"
                        )
                yield chunk.set_axis(np.arange(line - 1, line - 1 + len(chunk)))
                line += len(chunk)
                bar.update(len(chunk))
    except PARSER_ERRORS as error:
        explain(path, "\t", kinds, str(error), first_line=line, encoding="utf-8-sig")
