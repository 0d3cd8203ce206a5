"""Embedding files and label files of any recommender: a row a user.

Arrays only: nothing in a file can run, and nothing that isn't finite gets in.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset import Attribute
from utils.errors import UserError, first_line
from utils.runs.files import file_checksum, replace_file

log = logging.getLogger(__name__)

FLOATS = (np.float16, np.float32, np.float64)
FLOAT32_MAX = float(np.finfo(np.float32).max)

TOLD_APART = 0.01
"""Rounding, as a share of a dimension's spread, beyond which float32 tells too little."""

SQUARED_WELL = 1e15
"""The squares of 10^8 such values still add up in float32, and those of their inverses are no 0."""


def save_embedding(path: Path, embedding: np.ndarray) -> str:
    """Write an embedding as .npy; returns the file's SHA-256."""
    with replace_file(path) as file:
        np.save(file, np.ascontiguousarray(embedding), allow_pickle=False)
    return file_checksum(path)


def save_places(path: Path, places: Mapping[str, np.ndarray]) -> None:
    """Write users' vectors of several places, each (n_users, d), as one .npz."""
    with replace_file(path) as file:
        np.savez(file, allow_pickle=False, **dict(places))


def save_lists(path: Path, lists: np.ndarray) -> None:
    """Write users' lists of item numbers, (n_users, k), as int32 .npy."""
    with replace_file(path) as file:
        np.save(file, lists.astype(np.int32), allow_pickle=False)


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
    lists = load_array(path)
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
    """A user embedding (n_users, d), float16, 32 or 64.

    Args:
        path: .npy, or .npz with one array or several, one of them called `name`.
        name: which.

    Raises:
        UserError: no such file, no such array, or a value that is not finite in float32.
    """
    embedding = load_array(path, name)
    if not _is_table(embedding):
        shape = tuple(embedding.shape)
        raise UserError(
            f"{path} must hold a float array (n_users, d), got {embedding.dtype} {shape}"
        )
    if not np.isfinite(embedding).all():
        row = int(np.flatnonzero(~np.isfinite(embedding).all(1))[0])
        raise UserError(f"{path}: row {row} has a value that is not finite")
    row, value = _largest(embedding)
    if abs(value) > FLOAT32_MAX:
        raise UserError(
            f"{path}: row {row} has the value {value:g}, beyond float32, in which the attackers "
            "compute; divide all by a constant"
        )
    return embedding


def load_places(path: Path) -> dict[str, np.ndarray]:
    """The embedding of a .npy file, or every array of a .npz file by its name.

    Raises:
        UserError: arrays with different numbers of users.
    """
    if path.suffix != ".npz" or len(array_names(path)) == 1:
        return {"user_embedding": load_embedding(path)}
    names = [name for name in array_names(path) if _is_table(load_array(path, name))]
    if left := [name for name in array_names(path) if name not in names]:
        log.info("%s: %s left out, no float array (n_users, d)", path, ", ".join(left))
    if not names:
        raise UserError(f"{path} must hold a float array (n_users, d), and has none")
    places = {name: load_embedding(path, name) for name in names}
    rows = {name: len(x) for name, x in places.items()}
    if len(set(rows.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: arrays of different numbers of users ({said})")
    return places


def _is_table(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.dtype in FLOATS and array.size > 0


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


def load_array(path: Path, name: str = "user_embedding") -> np.ndarray:
    """One array from a .npy or .npz file, of several the one called `name`.

    Raises:
        UserError: no such file, not such a file, or several arrays of other names.
    """
    with _opened(path) as loaded:
        if isinstance(loaded, np.lib.npyio.NpzFile):
            names = loaded.files
            if len(names) != 1 and name not in names:
                raise UserError(f"{path} holds the arrays {', '.join(names)}; call one {name}")
            loaded = loaded[names[0] if len(names) == 1 else name]
        # torch and pandas know this machine's byte order alone
        return loaded.astype(loaded.dtype.newbyteorder("="), copy=False)


def array_names(path: Path) -> list[str]:
    """The names of a .npz file's arrays; raises as `load_array`."""
    with _opened(path) as loaded:
        return loaded.files


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        # opened here, since np.load leaves a file that is no array open
        with path.open("rb") as file:
            yield np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (UserError, PermissionError):
        raise
    except Exception as error:  # a damaged file can raise anything at all
        raise UserError(f"{path} is not a NumPy array file ({first_line(error)})") from None


def load_labels(path: Path, name: str, n_users: int) -> Attribute:
    """The users' labels, in the order of the embedding's rows.

    One rule for every file: empty, NaN or a negative number is unknown; a whole number is one
    class however it is spelt (0, 0.0, "0"); anything else is text as spelt, "NA" and "None" too.

    Args:
        path: a .npy array (n_users,) of whole numbers (floats, NaN among them, too) or text, or a
            CSV file with a column called `name`, or with a single column.
        name: the attribute.
        n_users: rows of the embedding.

    Raises:
        UserError: no such file or column, another number of rows, or fewer than two classes.
    """
    values = _from_array(path) if path.suffix == ".npy" else _from_csv(path, name)
    if len(values) != n_users:
        raise UserError(
            f"{path} holds {len(values)} labels, the embedding has {n_users} rows: one label "
            "a row, in the same order"
        )
    attribute = Attribute.from_values(name, values.map(class_name))
    if len(attribute.classes) < 2:
        raise UserError(
            f"{path} has the classes {list(attribute.classes)}: at least two are needed"
        )
    if unknown := attribute.counts().get("unknown"):
        log.info("%s: %s is unknown of %d of %d users", path, name, unknown, n_users)
    return attribute


def class_name(label: str) -> str:
    """The class that a label stands for; "" where it is unknown.

    >>> [class_name(label) for label in ("0", "0.0", "-1", "nan", "", "NA", "0.5")]
    ['0', '0', '', '', '', 'NA', '0.5']
    """
    number: int | float
    try:
        number = int(label)  # exact, where a float's digits end
    except ValueError:
        try:
            number = float(label)
        except ValueError:
            return label if label.strip() else ""
    if not number >= 0:  # negative or NaN
        return ""
    return str(int(number)) if number % 1 == 0 else label


def _from_array(path: Path) -> pd.Series:
    """The labels in a .npy file, as text."""
    array = load_array(path)
    if array.ndim != 1:
        raise UserError(f"{path} must hold one label a row, got shape {array.shape}")
    if array.dtype.kind not in "iufU":
        raise UserError(f"{path} must hold whole numbers or text, got {array.dtype}")
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.trunc(array))
        if (wrong := ~(whole | np.isnan(array))).any():
            row = int(wrong.argmax())
            raise UserError(f"{path}: row {row} must be a whole number or NaN, got {array[row]}")
    if array.dtype.kind == "U" and not _is_text(array):
        raise UserError(f"{path} must hold text, got what is no Unicode")
    return pd.Series([str(label) for label in array.tolist()], dtype=object)


def _from_csv(path: Path, name: str) -> pd.Series:
    """The labels in a CSV file, as spelt."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the labels' file") from None
    except PermissionError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a CSV file ({error})") from None
    if name not in table and table.shape[1] != 1:
        raise UserError(
            f'{path} has no column "{name}"; it has: {", ".join(table)}. Name one with '
            "attribute=COLUMN"
        )
    return (table[name] if name in table else table.iloc[:, 0]).fillna("")


def _is_text(array: np.ndarray) -> bool:
    """Whether the code points of a text array are characters: a file may hold any number there."""
    if not array.dtype.itemsize:
        return True
    points = np.ascontiguousarray(array).view(np.uint32)
    return bool(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all())
