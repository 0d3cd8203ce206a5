"""Raw tables -> prepared folder: k-core filter, contiguous indices, split, test negatives.

The folder has the layout of the authors' artefact, so that their programs can read what we
prepare (and ours what they prepared):

    train_interactions.csv        user,item; no header; all but the test interactions
    test_neg_interactions         a line a user: (user,positive) TAB negative TAB negative ...
    pos_dict.npy, user_gender.npy dicts for the authors' programs; ours read the genders only of
                                  a folder that has no meta.json, hence isn't ours
and, ours alone:
    validation_neg_interactions   the same for the validation interaction, which also stands in
                                  train_interactions.csv
    users.csv, items.csv          index, raw id and the users' attributes
    meta.json                     settings, counts, checksums of the raw files and of those here
                                  that we read
"""

import contextlib
import logging
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.layout import META, TEST, TRAIN, USERS, VALIDATION, is_ours, is_whole
from data.sampling import sample_negatives
from data.sources.fetch import ARCHIVES, Source, find_source, raw_source
from data.sources.readers import PrepareSettings, RawData, latest, oldest_first
from utils.errors import UserError
from utils.runs.files import (
    file_checksum,
    named,
    read_json_object,
    set_aside,
    set_aside_before,
    write_json,
)
from utils.runs.locks import locked
from utils.seeds import numpy_generator

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
HELD_OUT = 2  # interactions of a user: one for the test, one for the validation
FILES = [TRAIN[0], TEST[0], VALIDATION[0], USERS[0]]  # whose checksums are in meta.json
RAW_CHECKSUMS = ".raw_checksums.json"  # beside the prepared folder


@dataclass(frozen=True)
class Split:
    """Row numbers of each user's test and validation interaction, both (n_users,), and a mask of
    the rows that are not test.
    """

    test: np.ndarray
    validation: np.ndarray
    train: np.ndarray

    @classmethod
    def of(cls, test: np.ndarray, validation: np.ndarray, n_rows: int) -> "Split":
        """The split of `n_rows` interactions that holds these out."""
        train = np.ones(n_rows, dtype=bool)
        train[test] = False
        return cls(test, validation, train)


def k_core(user: np.ndarray, item: np.ndarray, minimum: int) -> np.ndarray:
    """Remove users and items with fewer than `minimum` interactions until none is left.

    Args:
        user, item: (n,) indices; no pair twice.
        minimum: of interactions.

    Returns:
        (n,) bool: the interactions that stay.
    """
    keep = np.ones(len(user), dtype=bool)
    while True:
        rows = np.flatnonzero(keep)
        enough = np.ones(len(rows), dtype=bool)
        for index in (user[rows], item[rows]):
            enough &= (np.bincount(index) >= minimum)[index]
        if enough.all():
            return keep
        keep[rows[~enough]] = False


def contiguous(raw_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices from 0 in the order of the raw ids, as numbers where all are, else as text.

    Args:
        raw_ids: (n,) integers or text.

    Returns:
        (n,) int64 index of every entry, and the raw ids in index order.
    """
    codes, values = pd.factorize(raw_ids)
    if values.dtype == object and all(value.isdecimal() for value in values):
        ascending = sorted(range(len(values)), key=lambda at: (int(values[at]), values[at]))
        order = np.array(ascending, dtype=np.int64)
    else:
        order = np.argsort(values)
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    return rank[codes], values[order]


def leave_one_out(user: np.ndarray, timestamp: np.ndarray, time_ties: str = "last") -> Split:
    """Each user's most recent interaction is the test, the one before it the validation.

    Many users rate in bursts, so that the file's order, the only fact there is, decides.

    Args:
        user: (n,) contiguous indices; every user has at least three rows.
        timestamp, time_ties: as in `oldest_first`.
    """
    order = oldest_first(user, timestamp, time_ties)
    last = np.flatnonzero(np.diff(user[order], append=-1) != 0)
    return Split.of(order[last], order[last - 1], len(user))


def leave_any_out(user: np.ndarray, rng: np.random.Generator) -> Split:
    """One interaction of each user, whichever, is the test, and one of the others the validation.

    Args:
        user: (n,) contiguous indices; every user has at least three rows.
        rng: draws uniformly, the users in the order of their indices.
    """
    order, count = np.argsort(user, kind="stable"), np.bincount(user)
    first = np.cumsum(count) - count
    test, validation = rng.integers(count), rng.integers(count - 1)
    validation += validation >= test  # passes over the test
    return Split.of(order[first + test], order[first + validation], len(user))


def build(
    raw: RawData,
    settings: PrepareSettings,
    folder: Path,
    name: str,
    checksums: Mapping[str, str] | None = None,
) -> None:
    """Filter, index, split and write the prepared folder: whole or not at all.

    An interaction that occurs several times counts once, at its latest time.

    Args:
        raw: what a reader returned.
        settings: recorded in meta.json.
        folder: where to; one that is there already is kept under another name.
        name: the dataset's.
        checksums: SHA-256 of each raw file, recorded in meta.json.

    Raises:
        UserError: nothing is left after the filter, users with too little to split, or negatives
            can't be drawn.
    """
    user, user_ids = contiguous(raw.interactions["user"].to_numpy())
    item, item_ids = contiguous(raw.interactions["item"].to_numpy())
    timestamp = raw.interactions["timestamp"].to_numpy()
    rows = latest(user * len(item_ids) + item, timestamp, settings.time_ties)
    if repeated := len(user) - len(rows):
        log.warning("%d repeated interactions count once, at their latest time", repeated)
    rows = rows[k_core(user[rows], item[rows], settings.min_interactions)]
    if not len(rows) and settings.min_interactions == 1:
        raise UserError(f"{name}: there are no interactions; get the dataset again")
    if not len(rows):
        raise UserError(
            f"{name}: no user and item with {settings.min_interactions} interactions each is "
            "left after the filter; lower min_interactions"
        )
    user, kept_users = contiguous(user[rows])
    user_ids, item = user_ids[kept_users], item[rows]
    if settings.catalogue == "filtered":
        item, kept_items = contiguous(item)
        item_ids = item_ids[kept_items]
    n_items = len(item_ids)
    if few := int((np.bincount(user) < HELD_OUT + 1).sum()):
        raise UserError(
            f"{name}: {few} of {len(user_ids)} users have fewer than {HELD_OUT + 1} interactions "
            "after the filter, and test, validation and training need one each; raise "
            f"min_interactions to {HELD_OUT + 1} or more"
        )
    if settings.held_out == "random":
        rng = numpy_generator(settings.split_seed, "split", "held_out")
        split = leave_any_out(user, rng)
    else:
        split = leave_one_out(user, timestamp[rows], settings.time_ties)
    negatives = {}
    for part, other in (("test", split.validation), ("validation", split.test)):
        touched = np.ones(len(user), dtype=bool)
        touched[other] = settings.test_negatives != "untrained"
        negatives[part] = sample_negatives(
            user[touched],
            item[touched],
            n_items,
            settings.test_num_ng,
            numpy_generator(settings.split_seed, "split", part),
            repeated=settings.test_negatives == "repeated",
        )
    raw_names = pd.Index([str(raw_id) for raw_id in user_ids])
    if undescribed := int((~raw_names.isin(raw.users.index)).sum()):
        log.warning("%d users are not in the users' file: attributes unknown", undescribed)
    attributes = raw.users.reindex(raw_names).fillna("")
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)  # a killed process may have left one
    meta = {
        "format": FORMAT_VERSION,
        "dataset": name,
        "settings": asdict(settings),
        "users": len(user_ids),
        "items": n_items,
        "interactions": len(user),
        "raw": dict(checksums or {}),
    }
    try:
        with named(folder):
            scratch.mkdir(parents=True)
            _write(scratch, user, item, split, negatives, attributes, item_ids)
            meta["files"] = {file: file_checksum(scratch / file) for file in FILES}
            write_json(scratch / META, meta)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if folder.exists():
        log.warning("The former %s was kept as %s", folder, set_aside(folder).name)
    scratch.rename(folder)


def _write(
    folder: Path,
    user: np.ndarray,
    item: np.ndarray,
    split: Split,
    negatives: Mapping[str, np.ndarray],
    attributes: pd.DataFrame,
    item_ids: np.ndarray,
) -> None:
    """All files but meta.json; the arguments are `build`'s variables of the same names."""
    train = pd.DataFrame({"user": user[split.train], "item": item[split.train]})
    train.to_csv(folder / "train_interactions.csv", header=False, index=False)
    for part, rows in (("test", split.test), ("validation", split.validation)):
        _write_candidates(
            folder / f"{part}_neg_interactions", user[rows], item[rows], negatives[part]
        )
    positives = train.groupby("user")["item"].agg(list).to_dict()
    _write_dict(folder / "pos_dict.npy", positives)
    if "gender" in attributes:
        genders = dict(enumerate(attributes["gender"]))
        _write_dict(folder / "user_gender.npy", genders)
    users = attributes.rename_axis("raw_id").reset_index().rename_axis("index")
    users.to_csv(folder / "users.csv")
    items = pd.DataFrame({"raw_id": item_ids}).rename_axis("index")
    items.to_csv(folder / "items.csv")


def locked_dataset(dataset_path: Path, name: str) -> AbstractContextManager[None]:
    """Keep other processes from preparing or reading dataset `name` while the context lasts.

    Runs that have nothing else in common share a dataset, so they always wait for one another.
    """
    if name in ARCHIVES:  # else the folder is the user's to make
        (dataset_path / name).mkdir(parents=True, exist_ok=True)
    return locked(dataset_path / name / "preprocess", busy="wait")


def prepared_folder(dataset_path: Path, name: str, settings: PrepareSettings) -> Path:
    """The prepared folder of dataset `name`, made now if it isn't there with these settings, or
    taken back where it was kept under another name.

    A prepared folder without our meta.json is somebody else's (the authors', say) and is used
    as it is.
    """
    folder = dataset_path / name / "preprocess"
    if folder.is_dir() and not is_ours(folder):
        return folder
    source = find_source(dataset_path, name)
    if folder.is_dir():
        if not (reason := _unfit(folder, settings, source)):
            return folder
        log.info("%s", reason)
        for kept in set_aside_before(folder):
            if not _unfit(kept, settings, source) and is_whole(kept):
                log.info("%s, prepared with these settings, is taken back", kept)
                log.warning("The former %s was kept as %s", folder, set_aside(folder).name)
                return kept.rename(folder)
    source = source or raw_source(dataset_path, name)
    log.info("Preparing %s from %s", name, " and ".join(map(str, source.paths)))
    checksums = {path.name: file_checksum(path) for path in source.paths}
    build(source.format.read(source.paths, settings), settings, folder, name, checksums)
    return folder


def _unfit(folder: Path, settings: PrepareSettings, source: Source | None) -> str | None:
    """Why a prepared folder of ours can't be used; None if it can."""
    meta = read_json_object(folder / META) if is_ours(folder) else None
    if meta is None or not isinstance(meta.get("raw"), dict):
        return f"{folder / META} is damaged"
    if meta.get("format") != FORMAT_VERSION or not _made_with(settings, meta):
        return f"{folder} was prepared with other settings ({meta.get('settings')})"
    found = _raw_checksums(source, folder.parent) if source else {}
    for path, checksum in found.items():
        if meta["raw"].get(path.name) != checksum:
            return f"{path} has changed since {folder} was prepared"
    return None


def _made_with(settings: PrepareSettings, meta: Mapping[str, Any]) -> bool:
    """Whether a folder was prepared with these settings; keys that are newer than its meta.json
    were at their defaults.
    """
    known = meta.get("settings")
    defaults = {f.name: f.default for f in fields(settings) if f.default is not MISSING}
    return isinstance(known, dict) and defaults | known == asdict(settings)


def _raw_checksums(source: Source, home: Path) -> dict[Path, str]:
    """SHA-256 of each raw file. A file of gigabytes is not read again while its size and times are
    those of the last look, which are kept in `home` where that can be written.
    """
    kept = home / RAW_CHECKSUMS
    known = (read_json_object(kept) if kept.exists() else None) or {}
    looked = {}
    for path in source.paths:
        stat = path.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        match known.get(path.name):
            case {"state": before, "sha256": str(checksum)} if before == state:
                pass
            case _:
                checksum = file_checksum(path)
        looked[path.name] = {"state": state, "sha256": checksum}
    if looked != known:
        with contextlib.suppress(OSError):
            write_json(kept, looked)
    return {path: looked[path.name]["sha256"] for path in source.paths}


def _write_candidates(
    path: Path, users: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> None:
    with path.open("w") as file:
        for user, positive, row in zip(
            users.tolist(), positives.tolist(), negatives.tolist(), strict=True
        ):
            file.write("\t".join([f"({user},{positive})", *map(str, row)]) + "\n")


def _write_dict(path: Path, mapping: dict) -> None:
    """A dict as the authors' programs expect it: a 0-d object array, hence pickled."""
    np.save(path, np.array(mapping, dtype=object), allow_pickle=True)
