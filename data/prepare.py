"""Raw tables -> prepared folder: k-core filter, contiguous indices, split, test negatives.

The folder has the layout of the authors' artefact, so that their programs can read what we
prepare (and ours what they prepared):

    train_interactions.csv        user,item; no header; all but the test interactions
    test_neg_interactions         a line a user: (user,positive) TAB negative TAB negative ...
    pos_dict.npy, user_gender.npy dicts for the authors' programs; never read by ours
and, ours alone:
    validation_neg_interactions   the same for the second most recent interaction, which also
                                  stands in train_interactions.csv
    users.csv, items.csv          index, raw id and the users' attributes
    meta.json                     settings and counts; written last: the folder is whole
"""

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.fetch import raw_folder
from data.readers import FORMATS, RawData
from utils.errors import UserError
from utils.files import free_name, write_json
from utils.seeds import numpy_generator

log = logging.getLogger(__name__)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PrepareSettings:
    """What the prepared folder depends on besides the raw files."""

    min_interactions: int
    test_num_ng: int
    split_seed: int


@dataclass(frozen=True)
class Split:
    """Row numbers of each user's last (test) and last but one (validation) interaction,
    both (n_users,), and a mask of the rows that are not test.
    """

    test: np.ndarray
    validation: np.ndarray
    train: np.ndarray


def k_core(interactions: pd.DataFrame, minimum: int) -> pd.DataFrame:
    """Remove users and items with fewer than `minimum` interactions until none is left."""
    while True:
        users = interactions["user"].map(interactions["user"].value_counts())
        items = interactions["item"].map(interactions["item"].value_counts())
        keep = (users >= minimum) & (items >= minimum)
        if keep.all():
            return interactions
        interactions = interactions[keep]


def contiguous(raw_ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Indices from 0 in the order of the raw ids, as numbers where all are, else as text.

    Returns:
        (n,) int64 index of every entry, and the raw ids in index order.
    """
    values = raw_ids.unique()
    numeric = all(value.isdigit() for value in values)
    ordered = np.array(sorted(values, key=int if numeric else str), dtype=object)
    return pd.Index(ordered).get_indexer(raw_ids).astype(np.int64), ordered


def leave_one_out(user: np.ndarray, timestamp: np.ndarray) -> Split:
    """Each user's most recent interaction is the test, the one before it the validation.

    Between equal timestamps the later line of the file is the more recent one: many users rate
    in bursts, and the file's order is the only fact there is.

    Args:
        user, timestamp: (n,), in the file's order; every user has at least three rows.
    """
    order = np.lexsort((timestamp, user))  # stable: equal keys stay in the file's order
    last = np.flatnonzero(np.diff(user[order], append=-1) != 0)
    test, validation = order[last], order[last - 1]
    train = np.ones(len(user), dtype=bool)
    train[test] = False
    return Split(test, validation, train)


def sample_negatives(
    user: np.ndarray,
    item: np.ndarray,
    n_items: int,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """For every user, `count` different items that the user never touched, uniformly.

    Args:
        user, item: (n,) all interactions, whatever part of the split they are in.

    Returns:
        (n_users, count) int64.

    Raises:
        UserError: a user has touched so many items that fewer than `count` are left.
    """
    order = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[order], np.arange(user.max() + 2))
    touched_by = np.split(item[order], bounds[1:-1])
    negatives = np.empty((len(touched_by), count), dtype=np.int64)
    for index, touched in enumerate(tqdm(touched_by, desc="drawing negatives", leave=False)):
        free = np.ones(n_items, dtype=bool)
        free[touched] = False
        untouched = np.flatnonzero(free)
        if len(untouched) < count:
            raise UserError(
                f"user {index} (index) has touched {n_items - len(untouched)} of {n_items} "
                f"items: {count} negatives can't be drawn; lower test_num_ng to at most "
                f"{len(untouched)}"
            )
        negatives[index] = rng.choice(untouched, count, replace=False)
    return negatives


def build(raw: RawData, settings: PrepareSettings, folder: Path, name: str) -> None:
    """Filter, index, split and write the prepared folder: whole or not at all.

    An interaction that occurs several times counts once, at its latest time.

    Raises:
        UserError: nothing is left after the filter, or negatives can't be drawn.
    """
    latest_last = raw.interactions.sort_values("timestamp", kind="stable")
    interactions = latest_last.drop_duplicates(["user", "item"], keep="last").sort_index()
    if repeated := len(raw.interactions) - len(interactions):
        log.warning("%d repeated interactions count once, at their latest time", repeated)
    interactions = k_core(interactions, settings.min_interactions)
    if interactions.empty:
        raise UserError(
            f"{name}: no user and item with {settings.min_interactions} interactions each is "
            "left after the filter; lower min_interactions"
        )
    user, user_ids = contiguous(interactions["user"])
    item, item_ids = contiguous(interactions["item"])
    n_items = len(item_ids)
    split = leave_one_out(user, interactions["timestamp"].to_numpy())
    negatives = {
        part: sample_negatives(
            user,
            item,
            n_items,
            settings.test_num_ng,
            numpy_generator(settings.split_seed, "split", part),
        )
        for part in ("test", "validation")
    }
    attributes = raw.users.reindex(user_ids).fillna("")
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    train = pd.DataFrame({"user": user[split.train], "item": item[split.train]})
    train.to_csv(scratch / "train_interactions.csv", header=False, index=False)
    for part, rows in (("test", split.test), ("validation", split.validation)):
        _write_candidates(
            scratch / f"{part}_neg_interactions", user[rows], item[rows], negatives[part]
        )
    positives = train.groupby("user")["item"].agg(list).to_dict()
    _write_dict(scratch / "pos_dict.npy", positives)
    if "gender" in attributes:
        genders = dict(enumerate(attributes["gender"]))
        _write_dict(scratch / "user_gender.npy", genders)
    users = attributes.rename_axis("raw_id").reset_index().rename_axis("index")
    users.to_csv(scratch / "users.csv")
    items = pd.DataFrame({"raw_id": item_ids}).rename_axis("index")
    items.to_csv(scratch / "items.csv")
    meta = {
        "format": FORMAT_VERSION,
        "dataset": name,
        "settings": asdict(settings),
        "users": len(user_ids),
        "items": n_items,
        "interactions": len(user),
    }
    write_json(scratch / "meta.json", meta)
    if folder.exists():
        kept = free_name(folder)
        folder.rename(kept)
        log.warning("The former %s was kept as %s", folder, kept.name)
    scratch.rename(folder)


def prepared_folder(dataset_path: Path, name: str, settings: PrepareSettings) -> Path:
    """The prepared folder of dataset `name`, made now if it isn't there with these settings.

    A prepared folder without our meta.json is somebody else's (the authors', say) and is used
    as it is.
    """
    folder = dataset_path / name / "preprocess"
    meta_path = folder / "meta.json"
    if folder.is_dir() and not meta_path.exists():
        return folder
    if meta_path.exists():
        meta = json.loads(meta_path.read_text())
        if (meta["format"], meta["settings"]) == (FORMAT_VERSION, asdict(settings)):
            return folder
        log.info("%s was prepared with other settings (%s)", folder, meta["settings"])
    source = raw_folder(dataset_path, name)
    log.info("Preparing %s from %s", name, source)
    build(FORMATS[name].read(source), settings, folder, name)
    return folder


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
