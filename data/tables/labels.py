"""Users' labels from a file of any system, joined to a table's users by id, or by row."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Attribute, names_in
from data.tables.formats import delimiter, read_arrays, reading
from data.tables.user_table import PAD, as_ids, id_column, numbers_rows
from utils.errors import UserError, first_line

log = logging.getLogger(__name__)

FEW = 20
"""A class of fewer users is warned of: hardly anything can be said of it."""

ENDINGS = (".csv", ".tsv", ".txt", ".user", ".parquet", ".npy", ".npz")
"""Of the names of files of labels."""

SAYS_UNKNOWN = (
    "unknown",
    "unspecified",
    "undisclosed",
    "missing",
    "n/a",
    "na",
    "none",
    "null",
    "?",
)
"""Names of classes that may mean none."""

MOST_CLASSES = 1000
"""More classes than this are no attribute, but a column of something else."""


@dataclass(frozen=True)
class LabelColumn:
    """A label a row of a file.

    Attributes:
        values: (m,) text, as spelt; "" = unknown.
        ids: (m,) text; None where the file has none.
    """

    values: pd.Series
    ids: np.ndarray | None = None


def load_labels(path: Path, name: str, n_users: int, ids: np.ndarray | None = None) -> Attribute:
    """The labels of a table's users, in the order of its rows: joined by id where both files have
    ids, taken row by row otherwise.

    What is a class, and what unknown, is one rule for every file: `data.dataset.class_name`.

    Args:
        path: a .npy array (n_users,) of whole numbers (floats, NaN among them, too) or text, a .npz
            with such an array called `name` or "labels" and one of ids, or a parquet or text file
            (comma, semicolon, tab or bar between) with a column called `name`.
        name: the attribute, or several, joint ("gender+age").
        n_users: rows of the table.
        ids: the table's, (n_users,) text; None where it has none.

    Raises:
        UserError: no such file or column, rows or ids that don't fit, or classes that are too few
            or too many.
    """
    names = names_in(name)
    check_columns(path, names)
    return Attribute.joint([_load_one(path, one, n_users, ids) for one in names])


def warn_of_label(path: Path, vectors: np.ndarray, attribute: Attribute) -> None:
    """Warn of a dimension that is one number a class, as the label's own column would be.

    Args:
        path: where the vectors are.
        vectors: (n, d).
        attribute: of the n users.
    """
    for one in attribute.parts or (attribute,):
        same = np.full(vectors.shape[1], fill_value=max(one.counts().values()) > 1)
        first = vectors[(one.labels == 0).argmax()]
        differs = np.zeros_like(same)
        for c in range(len(one.classes)):
            users = vectors[one.labels == c]
            same &= (users == users[0]).all(0)
            differs |= users[0] != first
        same &= differs
        if same.any():
            log.warning(
                "%s: dimension %d (from 0) is one number a class of %s, as the label itself is; if "
                "it is the label's column, leave it out",
                path,
                same.argmax(),
                one.name,
            )


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Refuse several attributes from an array, which has one."""
    if len(names) > 1 and path.suffix.lower() == ".npy":
        raise UserError(
            f"{path} holds one attribute, not {' and '.join(names)}; name one, or give a file with "
            "columns"
        )


def check_some(path: Path, column: LabelColumn) -> None:
    """Refuse a file without a line."""
    if not len(column.values):
        raise UserError(f"{path} has no labels; it needs a row a user")


def _load_one(path: Path, name: str, n_users: int, ids: np.ndarray | None) -> Attribute:
    column = read_labels(path, name)
    check_some(path, column)
    values = by_id(path, column, ids) if ids is not None and column.ids is not None else None
    if values is None:
        values = by_row(path, column, n_users, ids is not None)
    return labelled(path, name, values)


def labelled(path: Path, name: str, values: pd.Series) -> Attribute:
    """The attribute of users whose labels are these, as spelt.

    Raises:
        UserError: classes that are too few or too many.
    """
    attribute = Attribute.from_values(name, values)
    check_least(path, name, attribute.classes)
    check_most(path, name, attribute.classes)
    say_classes(path, name, attribute.classes, attribute.counts(), len(values))
    return attribute


def check_least(path: Path, name: str, classes: Sequence[str]) -> None:
    """Refuse an attribute that tells nobody apart."""
    if len(classes) < 2:
        raise UserError(
            f'{path}: "{name}" has the classes {", ".join(map(str, classes))}: at least two are '
            "needed"
        )


def check_most(path: Path, name: str, classes: Sequence[str]) -> None:
    """Refuse a column that is of something else than classes."""
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f'{path}: "{name}" has {len(classes)} classes, more than {MOST_CLASSES}: group them, '
            "or name another column with attribute=COLUMN"
        )


def by_id(path: Path, column: LabelColumn, ids: np.ndarray) -> pd.Series:
    """Each user's label, by id; of users that have none "". RecBole's [PAD] is nobody.

    Raises:
        UserError: an id that is there twice, or no id in common.
    """
    assert column.ids is not None
    index = index_of(path, column.ids)
    found = lines_of(index, ids)
    nobody, matched = int((ids == PAD).sum()), int((found >= 0).sum())
    if not matched:
        raise UserError(nothing_joined(path, index[0], ids[-1]))
    say_joined(path, len(ids), nobody, matched, len(index))
    return values_at(column, found)


def index_of(path: Path, ids: np.ndarray) -> pd.Index:
    """The ids of a file of labels, to be looked up.

    Raises:
        UserError: one is missing, or there twice.
    """
    if (missing := np.flatnonzero(ids == "")).size:
        raise UserError(f"{path}: row {missing[0]} of the labels has no user id")
    index = pd.Index(ids)
    if index.has_duplicates:
        raise UserError(f"{path}: the user id {index[index.duplicated()][0]} is there twice")
    return index


def lines_of(index: pd.Index, ids: np.ndarray) -> np.ndarray:
    """(n,) positions of users' ids in an index; -1 where it has none. RecBole's [PAD] is nobody."""
    found = index.get_indexer(pd.Index(ids))
    found[ids == PAD] = -1
    return found


def values_at(column: LabelColumn, lines: np.ndarray) -> pd.Series:
    """Labels at these positions, of a column that may be empty; "" at -1."""
    values = np.append(column.values.to_numpy(dtype=object), "")[lines]  # -1 is the last
    return pd.Series(values, dtype=object)


def nothing_joined(path: Path, line: str, user: str) -> str:
    """What is said of labels and an embedding that have no id in common."""
    return (
        f"{path} has no label of any of the embedding's users: ids there are like "
        f'"{line}", in the embedding like "{user}"'
    )


def say_joined(path: Path, users: int, nobody: int, matched: int, lines: int) -> None:
    """Say, or warn, how many users and labels found one another.

    Args:
        path: of the labels.
        users, nobody: rows of the embedding, and those of [PAD] among them.
        matched: users who have a line.
        lines: of the labels.
    """
    log.log(
        logging.INFO if matched == users - nobody else logging.WARNING,
        "%s: joined by id; %d of %d users have a line, %d lines are of nobody%s",
        path,
        matched,
        users - nobody,
        lines - matched,
        f"; {PAD} is left alone" if nobody else "",
    )


def by_row(
    path: Path, column: LabelColumn, n_users: int, table_has_ids: bool, told: bool = False
) -> pd.Series:
    """Each user's label, by row; ids that number the rows are followed. Says so, unless the user
    has been `told`, of the labels of another part.

    Raises:
        UserError: another number of rows.
    """
    if len(column.values) != n_users:
        raise UserError(
            f"{path} holds {len(column.values)} labels, the embedding has {n_users} rows: one "
            "label a row, in the same order, or ids in both files (RecBole's row 0 is nobody: an "
            "empty label)"
        )
    if column.ids is None:
        if table_has_ids and not told:
            warn_by_row(path)
        return column.values
    order = _row_numbers(column.ids, 0)
    if order is None:
        counted = _row_numbers(column.ids, 1)
        if counted is not None and (np.diff(counted) < 0).any():
            raise UserError(
                f"{path}: its ids are 1 to {n_users} in another order, and the embedding has none "
                "to join them with; sort it, or add the ids to the embedding"
            )
        log.log(
            logging.DEBUG if told else logging.WARNING,
            "%s has ids, the embedding has none: labels are taken row by row, so that the first "
            'row is user "%s"',
            path,
            column.ids[0],
        )
        return column.values
    level = logging.DEBUG if told else logging.INFO
    log.log(level, "%s: its ids number the embedding's rows, from 0", path)
    values = np.empty(n_users, dtype=object)
    values[order] = column.values
    return pd.Series(values, dtype=object)


def warn_by_row(path: Path) -> None:
    """Of labels without ids, for an embedding with."""
    log.warning(
        "%s has no column of ids that is known as one, the embedding has: labels are taken row by "
        "row",
        path,
    )


def _row_numbers(ids: np.ndarray, first: int) -> np.ndarray | None:
    """The ids less `first`, if these are 0 .. n - 1 in any order."""
    numbers = pd.to_numeric(pd.Series(ids), errors="coerce").to_numpy() - first
    return numbers.astype(int) if np.array_equal(np.sort(numbers), np.arange(len(ids))) else None


def say_classes(
    path: Path, name: str, classes: Sequence[str], counts: Mapping[str, int], users: int
) -> None:
    """How many users are of unknown class; warns of small classes, and of names that differ by case
    or blanks alone.

    Args:
        path, name: of the file and the attribute.
        classes: their names.
        counts: users by class.
        users: all of them.
    """
    if unknown := users - sum(counts[one] for one in classes):
        log.info("%s: %s is unknown of %d of %d users", path, name, unknown, users)
    for one in classes:
        if one.casefold().strip() in SAYS_UNKNOWN:
            log.warning(
                '%s: "%s" is taken for a class of %s; leave such labels empty if they are unknown',
                path,
                one,
                name,
            )
    small = [name for name in classes if counts[name] < FEW]
    if small:
        said = ", ".join(f'"{name}" {counts[name]}' for name in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        log.warning("%s: classes of fewer than %d users: %s%s", path, FEW, said, more)
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            log.warning(
                '%s: the classes "%s" and "%s" differ by case or blanks alone, and are two',
                path,
                other,
                name,
            )


def read_labels(path: Path, name: str) -> LabelColumn:
    """The labels in a file, as spelt, with the ids if it has some; raises as `load_labels`."""
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise UserError(f"{path}: labels come in files whose names end in {', '.join(ENDINGS)}")
    if suffix == ".npy":
        return LabelColumn(_as_text(path, read_arrays(path)["user_embedding"]))
    if suffix == ".npz":
        arrays = read_arrays(path)
        which = next((one for one in (name, "labels") if one in arrays), None)
        if which is None:
            raise UserError(f'{path} has no array "{name}"; it has: {", ".join(arrays)}')
        found = id_column(one for one in arrays if one != which)
        ids = as_ids(arrays[found]) if found else None
        if ids is not None and len(ids) != len(arrays[which]):
            raise UserError(f"{path}: {len(ids)} {found} for {len(arrays[which])} {which}")
        return LabelColumn(_as_text(path, arrays[which]), ids)
    frame = _parquet(path, name) if suffix == ".parquet" else _text(path)
    if list(frame).count(name) != 1:
        times = "no column" if name not in frame else "more than one column"
        raise UserError(
            f'{path} has {times} "{name}"; it has: {", ".join(frame)}. Name one with '
            "attribute=COLUMN"
        )
    found = id_column(one for one in frame if one != name)
    if found is None:  # pandas' index, unless it only counts rows
        found = next((one for one in ("", "__index_level_0__") if one in frame), None)
        found = None if found is not None and numbers_rows(frame[found].to_numpy()) else found
    return LabelColumn(frame[name], None if found is None else as_ids(frame[found]))


def _as_text(path: Path, array: np.ndarray) -> pd.Series:
    """An array's labels, as text."""
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


def _parquet(path: Path, name: str) -> pd.DataFrame:
    """A parquet file's columns of labels and ids as text."""
    with reading(path, "parquet"):
        from pyarrow import parquet, types

        schema = parquet.read_schema(path)
        names = schema.names
        index = [one for one in names if one == "__index_level_0__"]
        found = id_column(one for one in names if one != name) or next(iter(index), None)
        if names.count(name) != 1:
            return pd.DataFrame(columns=names)
        if types.is_nested(schema.field(name).type):
            raise UserError(f'{path}: "{name}" holds {schema.field(name).type}, not a label a row')
        table = parquet.read_table(path, columns=[name, *([found] if found else [])])
        return pd.DataFrame({one: as_ids(table[one].to_pylist()) for one in table.column_names})


def _text(path: Path) -> pd.DataFrame:
    """A text file's columns as spelt. A blank line is an unknown label where there is one column,
    and nothing where there are more; at the end of the file it is nothing in either.
    """
    try:
        mark, single, blank = delimiter(path)
        frame = pd.read_csv(
            path,
            sep=mark,
            skiprows=blank,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=not single,
            encoding="utf-8-sig",
        ).fillna("")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the labels' file") from None
    except PermissionError:
        raise
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty; it needs a column named like the attribute") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a CSV file ({first_line(error)})") from None
    # RecBole's columns say their types
    frame.columns = pd.Index([name.strip().removesuffix(":token") for name in frame.iloc[0]])
    frame = frame[1:].reset_index(drop=True)
    filled = np.flatnonzero(frame.iloc[:, 0] != "") if single else np.arange(len(frame))
    return frame[: filled[-1] + 1 if len(filled) else 0]


def _is_text(array: np.ndarray) -> bool:
    """Whether the code points of a text array are characters: a file may hold any number there."""
    if not array.dtype.itemsize:
        return True
    points = np.ascontiguousarray(array).view(np.uint32)
    return bool(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all())
