"""The files of a prepared folder, ours or the authors' own, as arrays.

Ours (`data.prepare`) has a meta.json. The authors' has the same training and test files, under
the names of their programs or those of the 2025 paper, and the labels in a pickled dict.
"""

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data.sources.pickles import load_dict
from data.sources.readers import check_columns, read_named
from utils.errors import UserError
from utils.metrics import Candidates
from utils.runs.files import read_json_object

META = "meta.json"
TRAIN = ("train_interactions.csv", "train_ratings.csv", "train_ratings", "train_interactions")
TEST = (
    "test_neg_interactions",
    "test_negative_ratings",
    "test_neg_interactions.csv",
    "test_negative_ratings.csv",
)
VALIDATION = ("validation_neg_interactions",)
USERS = ("users.csv",)
GENDERS = ("user_gender.npy",)


def is_ours(folder: Path) -> bool:
    """Whether `data.prepare` wrote this folder."""
    return (folder / META).exists()


def existing(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that is there.

    Raises:
        UserError: none is.
    """
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        also = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise UserError(f"{folder / names[0]}{also} is missing; {_anew(folder)}")
    return paths[0]


def read_whole(path: Path) -> bytes:
    """A prepared file's bytes: those that `data.prepare` wrote, where meta.json has a checksum of
    them (not in older folders, nor in the authors').

    Raises:
        UserError: they are others.
    """
    content = path.read_bytes()
    known = _checksums(path.parent).get(path.name)
    if known not in (None, hashlib.sha256(content).hexdigest()):
        raise UserError(
            f"{path} is damaged: it is not what was prepared ({META} has another checksum); "
            f"{_anew(path.parent)}"
        )
    return content


def is_whole(folder: Path) -> bool:
    """Whether meta.json has the checksums of the folder's files, and they are these."""
    known = _checksums(folder)
    try:
        return bool(known) and all(read_whole(folder / name) for name in known)
    except (UserError, FileNotFoundError):
        return False


def read_pairs(path: Path) -> np.ndarray:
    """(n, 2) int64: the first two columns, user and item, of a headerless file with tabs or
    commas; a third one holds ratings and is passed over.

    Raises:
        UserError: the first line that is something else.
    """
    with path.open("rb") as file:
        separator = "\t" if b"\t" in file.readline() else ","
    try:
        table = pd.read_csv(path, sep=separator, header=None, usecols=[0, 1], dtype=np.int64)
        pairs = table.to_numpy()
        if (pairs < 0).any():
            raise ValueError("negative numbers")
    except ValueError as error:
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            fields = line.split(separator)[:2]
            if line.strip() and (len(fields) < 2 or not all(f.strip().isdecimal() for f in fields)):
                raise UserError(
                    f"{path}, line {number}: expected two numbers, user{separator}item, got "
                    f"{line[:40]!r}"
                ) from None
        raise UserError(f"{path}: {str(error).splitlines()[-1]}") from None
    return pairs


def read_candidates(path: Path) -> Candidates:
    """Parse lines of "(user,positive) TAB negative TAB ..."; the positive becomes column 0.

    Raises:
        UserError: the first line that is something else.
    """
    rows = []
    width = 0
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        pair, *negatives = line.rstrip("\t").split("\t")
        try:
            user, positive = pair.strip("()").split(",")
            row = [int(user), int(positive), *map(int, negatives)]
        except ValueError:
            row = [-1]
        if min(row) < 0:
            raise UserError(
                f"{path}, line {number}: expected (user,item) and item numbers separated by "
                f"tabs, got {line[:40]!r}"
            )
        width = width or len(row)
        if len(row) != width:
            raise UserError(
                f"{path}, line {number}: {len(row) - 2} negatives where line 1 has {width - 2}"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty")
    if width == 2:
        raise UserError(f"{path}, line 1: no negatives follow the positive")
    table = torch.tensor(rows, dtype=torch.int64)
    return Candidates(table[:, 0].contiguous(), table[:, 1:].contiguous())


def read_users(folder: Path) -> pd.DataFrame:
    """Our users.csv: a text column an attribute, as spelt, in the order of the indices.

    Raises:
        UserError: it is missing or damaged.
    """
    return _users(folder).drop(columns=["index", "raw_id"])


def read_user_ids(folder: Path) -> list[str]:
    """The source's names of our users, in the order of the indices; raises as `read_users`."""
    return _users(folder)["raw_id"].tolist()


def _users(folder: Path) -> pd.DataFrame:
    path, mend = existing(folder, USERS), _anew(folder)
    read_whole(path)
    try:
        users = read_named(path, ",", csv.QUOTE_MINIMAL)
    except UserError as error:
        raise UserError(f"{error}; {mend}") from None
    check_columns(path, ["index", "raw_id"], users, mend)
    count = _stated(folder, "users") or len(users)
    if users["index"].tolist() != [str(user) for user in range(count)]:
        raise UserError(f"{path} is damaged: its lines are not users 0 to {count - 1}; {mend}")
    return users


def stated_items(folder: Path) -> int:
    """How many items our meta.json says there are; 0 where it isn't there or doesn't."""
    return _stated(folder, "items")


def _stated(folder: Path, what: str) -> int:
    count = _meta(folder).get(what)
    return count if isinstance(count, int) else 0


def _checksums(folder: Path) -> dict[str, Any]:
    known = _meta(folder).get("files")
    return known if isinstance(known, dict) else {}


def _meta(folder: Path) -> dict[str, Any]:
    return (read_json_object(folder / META) if is_ours(folder) else None) or {}


def _anew(folder: Path) -> str:
    return f"delete or rename the folder {folder} to have it prepared anew"


def read_genders(folder: Path) -> pd.DataFrame:
    """The authors' user_gender.npy as the same table, with the one column gender.

    A class is the text of its value; users without an entry, or with None or NaN, are unknown.

    Raises:
        UserError: no such dict, or users numbered in another way than in the interactions.
    """
    path = existing(folder, GENDERS)
    users = read_pairs(existing(folder, TRAIN))[:, 0]
    tested = read_candidates(existing(folder, TEST)).users
    n_users = int(max(users.max(), tested.max())) + 1
    values = [""] * n_users
    entries = load_dict(path)
    for user, value in entries.items():
        if not (isinstance(user, int | np.integer) and 0 <= user <= n_users):
            raise UserError(f"{path}: users are numbered 0 to {n_users - 1}, got {user!r}")
        if user == n_users:  # one too many: either an idle user, or numbers from 1
            if 0 not in entries:
                raise UserError(f"{path}: users are numbered from 1, the interactions from 0")
            continue
        if not isinstance(value, str | int | float | np.generic | None):
            raise UserError(f"{path}: user {user} has a {type(value).__name__} for a gender")
        if value is not None and value == value:  # NaN isn't
            values[int(user)] = str(value)
    return pd.DataFrame({"gender": values})
