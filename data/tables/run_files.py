"""What a run keeps of its users beside the weights: written by main.py, read by attack.py.

Arrays and numbers only: nothing in a file can run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.tables.formats import read_arrays
from data.tables.user_table import UserTable, check_table, is_table
from utils.errors import UserError, first_line
from utils.runs.files import replace_file


def save_places(path: Path, places: Mapping[str, np.ndarray]) -> None:
    """Write users' vectors of several places, each (n_users, d), as one .npz."""
    with replace_file(path) as file:
        np.savez(file, allow_pickle=False, **dict(places))


def save_users(path: Path, ids: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
    """Write a CSV with a line a user, in the order of the embedding's rows: the dataset's own id,
    then a number a column.
    """
    table = pd.DataFrame({"user": ids, **columns})
    with replace_file(path) as file:
        table.to_csv(file, index=False, float_format="%.6g")


def load_users(path: Path, names: Sequence[str], n_users: int) -> dict[str, np.ndarray] | None:
    """Columns of numbers (n_users,) of such a file; None where there is none.

    Raises:
        UserError: it is not such a file, has no such column, or other users.
    """
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, usecols=list(names), dtype=np.float64)
        if len(table) != n_users:
            raise ValueError(f"{len(table)} lines for {n_users} users")
    except ValueError as error:
        raise UserError(f"{path} is damaged: {first_line(error)}; move it away") from None
    return {name: table[name].to_numpy() for name in names}


def load_lists(path: Path, n_users: int, n_items: int) -> np.ndarray:
    """Users' lists of item numbers, (n_users, k).

    Raises:
        UserError: it is not such a file.
    """
    lists = read_arrays(path)["user_embedding"]
    if (
        lists.ndim != 2
        or len(lists) != n_users
        or lists.dtype.kind not in "iu"
        or not ((lists >= 0) & (lists < n_items)).all()
    ):
        raise UserError(
            f"{path} must hold numbers of {n_items} items for {n_users} users, and holds "
            f"{lists.dtype} {lists.shape}; move it away"
        )
    return lists


def load_embedding(path: Path, name: str = "user_embedding") -> np.ndarray:
    """A run's user embedding, or of its .npz of places the array called `name`: (n_users, d).

    Raises:
        UserError: no such file, no such array, or a value that is not finite in float32.
    """
    arrays = read_arrays(path)
    if name not in arrays:
        raise UserError(f"{path} has no place {name}; it has: {', '.join(arrays)}")
    return _checked(path, name, arrays[name])


def load_places(path: Path, n_users: int) -> dict[str, np.ndarray]:
    """A run's vectors of every place, (n_users, d) each.

    Raises:
        UserError: as of `load_embedding`, or of other users.
    """
    arrays = read_arrays(path)
    if any(len(array) != n_users for array in arrays.values()):
        raise UserError(f"{path} does not hold {n_users} users; run main.py again")
    return {name: _checked(path, name, array) for name, array in arrays.items()}


def _checked(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if not is_table(array):
        raise UserError(
            f"{path} must hold a float array (n_users, d), got {array.dtype} {array.shape}"
        )
    return check_table(path, UserTable(name, array)).vectors
