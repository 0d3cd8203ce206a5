"""Raw formats: one reader each, all giving the same tables.

`RawData.interactions` has the columns user, item (raw ids as strings) and timestamp (int64), in
the file's order, which decides between equal timestamps later on. `RawData.users` is indexed by
the raw user id and has one string column an attribute ("" = unknown).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.errors import UserError

# ML-1M's own age brackets (its README), used wherever an age is given in years.
AGE_BRACKETS = (
    (18, "under 18"),
    (25, "18-24"),
    (35, "25-34"),
    (45, "35-44"),
    (50, "45-49"),
    (56, "50-55"),
)


@dataclass(frozen=True)
class RawData:
    """What a reader returns; the module's docstring describes the two tables."""

    interactions: pd.DataFrame
    users: pd.DataFrame


def age_bracket(age: str) -> str:
    """ML-1M's bracket of an age in years; "" for an unknown age.

    >>> age_bracket("24"), age_bracket("56"), age_bracket("")
    ('18-24', '56+', '')
    """
    if not age.isdigit():
        return ""
    return next((name for above, name in AGE_BRACKETS if int(age) < above), "56+")


def read_ml100k(folder: Path) -> RawData:
    """MovieLens-100K: `u.data` (user, item, rating, timestamp; tabs) and `u.user` (id, age,
    gender, occupation, zip code; bars). Every rating is a positive.

    Raises:
        UserError: a line with another number of fields or an id or time that is no number.
    """
    interactions = read_table(folder / "u.data", "\t", ["user", "item", "rating", "timestamp"])
    users = read_table(folder / "u.user", "|", ["user", "age", "gender", "occupation", "zip"])
    for column in ("user", "item", "timestamp"):
        check_whole_numbers(folder / "u.data", interactions, column)
    check_whole_numbers(folder / "u.user", users, "user")
    interactions = interactions[["user", "item", "timestamp"]]
    interactions = interactions.astype({"timestamp": "int64"})
    users["age"] = users["age"].map(age_bracket)
    users = users.set_index("user")[["gender", "age", "occupation"]]
    return RawData(interactions, unique_users(folder / "u.user", users))


def read_table(path: Path, separator: str, columns: list[str]) -> pd.DataFrame:
    """A headerless table of strings with exactly these columns, whichever they are."""
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=str,
            encoding="latin-1",
            keep_default_na=False,
            quoting=3,  # quotes are ordinary characters
        )
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty; get the dataset's archive again") from None
    except pd.errors.ParserError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: {reason}; get the dataset's archive again") from None
    short = table.isna().any(axis=1) if table.shape[1] == len(columns) else None
    if short is None or short.any():
        line = 1 if short is None else int(np.argmax(short)) + 1
        raise UserError(
            f"{path}, line {line}: expected {len(columns)} fields ({', '.join(columns)}) "
            f"separated by {separator!r}; get the dataset's archive again"
        )
    return table.set_axis(columns, axis=1)


def check_whole_numbers(path: Path, table: pd.DataFrame, column: str) -> None:
    """Refuse a column with anything but digits, naming file, line and value."""
    wrong = ~table[column].str.fullmatch(r"\d+").to_numpy(bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}, line {row + 1}: {column} must be a whole number of at least 0, "
            f"got {table[column].iloc[row]!r}"
        )


def unique_users(path: Path, users: pd.DataFrame) -> pd.DataFrame:
    """Refuse a user who is described twice."""
    if users.index.has_duplicates:
        again = users.index[users.index.duplicated()][0]
        raise UserError(f"{path}: user {again} is described more than once")
    return users


@dataclass(frozen=True)
class RawFormat:
    """A raw format: the files it consists of and the function that reads their folder."""

    files: tuple[str, ...]
    read: Callable[[Path], RawData]


FORMATS: dict[str, RawFormat] = {
    "ml-100k": RawFormat(("u.data", "u.user"), read_ml100k),
}
