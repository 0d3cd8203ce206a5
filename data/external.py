"""Labels for your own embeddings: one a row of a user embedding from any recommender."""

from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Attribute
from utils.embeddings import load_array
from utils.errors import UserError


def load_labels(path: Path, name: str, n_users: int) -> Attribute:
    """The users' labels, in the order of the embedding's rows.

    Args:
        path: a .npy array (n_users,) of whole numbers or text, or a CSV file with a column
            called `name`, or with a single column.
        name: the attribute.
        n_users: rows of the embedding.

    Returns:
        The attribute. A class is a number's or text's spelling; "", NaN and negative numbers
        are unknown.

    Raises:
        UserError: no such file or column, another number of rows, or fewer than two classes.
    """
    if path.suffix == ".npy":
        array = load_array(path)
        if array.ndim != 1:
            raise UserError(f"{path} must hold one label a row, got shape {array.shape}")
        if array.dtype.kind not in "iuU":
            raise UserError(f"{path} must hold whole numbers or text, got {array.dtype}")
        if array.dtype.kind == "U" and not _is_text(array):
            raise UserError(f"{path} must hold text, got what is no Unicode")
        values = pd.Series(array)
        if array.dtype.kind in "iu":
            values = values.map(lambda number: str(number) if number >= 0 else "")
    else:
        try:
            table = pd.read_csv(path, dtype=str)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; name the labels' file") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is not a CSV file ({error})") from None
        if name not in table and table.shape[1] != 1:
            raise UserError(
                f'{path} has no column "{name}"; it has: {", ".join(table)}. Name one with '
                "attribute=COLUMN"
            )
        values = (table[name] if name in table else table.iloc[:, 0]).fillna("")
    if len(values) != n_users:
        raise UserError(
            f"{path} holds {len(values)} labels, the embedding has {n_users} rows: one label "
            "a row, in the same order"
        )
    attribute = Attribute.from_values(name, values.astype(str))
    if len(attribute.classes) < 2:
        raise UserError(
            f"{path} has the classes {list(attribute.classes)}: at least two are needed"
        )
    return attribute


def _is_text(array: np.ndarray) -> bool:
    """Whether the code points of a text array are characters: a file may hold any number there."""
    if not array.dtype.itemsize:
        return True
    points = np.ascontiguousarray(array).view(np.uint32)
    return bool(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all())
