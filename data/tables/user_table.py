"""A table with a row a user, and the checks that it must pass."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.errors import UserError

FLOATS = (np.float16, np.float32, np.float64)
FLOAT32_MAX = float(np.finfo(np.float32).max)

ID_NAMES = (
    *("userid", "user", "uid", "id", "userids", "users", "useridx", "customerid", "memberid"),
    *("accountid", "ids", "index", "token"),
)
"""What a column or array of user ids may be called, in any case and without regard to blanks, -
and _; the first one that is there.
"""

PAD = "[PAD]"
"""RecBole's name of row 0, which is nobody."""

TOLD_APART = 0.01
"""Rounding, as a share of a dimension's spread, beyond which float32 tells too little."""

SQUARED_WELL = 1e15
"""The squares of 10^8 such values still add up in float32, and those of their inverses are no 0."""


@dataclass(frozen=True, eq=False)
class UserTable:
    """Vectors of users.

    Attributes:
        name: the array's, tensor's or column's.
        vectors: (n_users, d), float16, 32 or 64.
        ids: (n_users,) text; None where the file has none, and rows count.
    """

    name: str
    vectors: np.ndarray
    ids: np.ndarray | None = None

    @property
    def people(self) -> np.ndarray:
        """(n_users,) bool: all rows but RecBole's [PAD]."""
        if self.ids is None:
            return np.ones(len(self.vectors), dtype=bool)
        return self.ids != PAD

    def edited(self, vectors: np.ndarray) -> "UserTable":
        """The same users with other vectors."""
        return replace(self, vectors=vectors)


def is_table(array: np.ndarray) -> bool:
    """Whether an array can be users' vectors."""
    return array.ndim == 2 and array.dtype in FLOATS and array.size > 0


def id_column(names: Iterable[str]) -> str | None:
    """The name among these that is of user ids, or None."""
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(list(names))}
    return next((plain[name] for name in ID_NAMES if name in plain), None)


def as_ids(values: Iterable[Any]) -> np.ndarray:
    """Ids as text: a whole number without a point, anything else as spelt.

    Args:
        values: (n,) numbers, text or bytes.
    """
    plain = values.tolist() if isinstance(values, (np.ndarray, pd.Series)) else values
    return np.array([_id(value) for value in plain], dtype=object)


def _id(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")  # different ones stay so
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= 2**53:
            raise UserError(
                f"the user id {value:.0f} is a float, which can't tell it from the next"
            )
        return str(int(value))
    return str(value)


def numbers_rows(ids: np.ndarray) -> bool:
    """Whether ids are 0, 1, ..., as pandas counts rows."""
    return all(one == str(row) for row, one in enumerate(ids))


def check_table(path: Path, table: UserTable) -> UserTable:
    """The table itself, if an attacker can work with it.

    Raises:
        UserError: a value that is not finite in float32, or an id that is missing or there twice.
    """
    check_values(path, table.vectors)
    if table.ids is not None:
        check_ids(path, table.ids)
    return table


def check_ids(path: Path, ids: np.ndarray) -> None:
    """Refuse ids that don't tell the users apart.

    Args:
        path: where they are.
        ids: (n_users,) text.

    Raises:
        UserError: one is missing, or there twice.
    """
    if (missing := np.flatnonzero(ids == "")).size:
        raise UserError(f"{path}: row {missing[0]} has no user id")
    if (twice := pd.Series(ids).duplicated()).any():
        row = int(twice.to_numpy().argmax())
        raise UserError(f"{path}: the user id {ids[row]} of row {row} is there twice")


def check_values(path: Path, vectors: np.ndarray, first: int = 0) -> None:
    """Refuse what no attacker can work with.

    Args:
        path: where the vectors are.
        vectors: (n, d), n at least 1.
        first: the number of their first row there.

    Raises:
        UserError: a value that is not finite in float32.
    """
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise UserError(
            f"{path}: row {first + row} has a value that is not finite; mend such rows, or leave "
            "them out"
        )
    row, value = _largest(vectors)
    if abs(value) > FLOAT32_MAX:
        raise UserError(
            f"{path}: row {first + row} has the value {value:g}, beyond float32, in which the "
            "attackers compute; divide all by a constant"
        )


def check_squares(path: Path, embedding: np.ndarray) -> None:
    """Refuse values whose squares, of which unlearning's losses are made, leave float32.

    Raises:
        UserError: names the row of the largest value. An embedding of zeros is let through.
    """
    row, value = _largest(embedding)
    if value and not 1 / SQUARED_WELL <= abs(value) <= SQUARED_WELL:
        mend = "divide" if abs(value) > 1 else "multiply"
        raise UserError(
            f"{path}: the largest value, {value:g} in row {row}, is beyond what float32 can square "
            f"and add up; {mend} all by a constant"
        )


def check_float32(path: Path, table: np.ndarray) -> None:
    """Refuse what float32, in which the attackers compute, can't tell apart.

    Raises:
        UserError: a dimension whose spread is within float32's rounding.
    """
    lost = np.abs(table.astype(np.float32) - table.astype(np.float64)).max(0)
    spread = table.std(0, dtype=np.float64)
    if (coarse := np.flatnonzero((spread > 0) & (lost > TOLD_APART * spread))).size:
        raise UserError(
            f"{path}: users differ in dimension {coarse[0]} by {spread[coarse[0]]:.2g}, which "
            "float32 can't tell there; subtract its mean, or multiply all by a constant"
        )


def _largest(embedding: np.ndarray) -> tuple[int, float]:
    """The value that is farthest from zero, after its row."""
    row, column = np.unravel_index(np.abs(embedding).argmax(), embedding.shape)
    return int(row), float(embedding[row, column])
