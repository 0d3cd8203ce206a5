"""What the readers of raw formats share: their result, and text tables with one-line errors.

Tables are parsed by pandas' C parser at full speed; only when it refuses a file are the lines
gone through one by one, to say which of them is wrong and why.
"""

import bz2
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NoReturn

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

PARSER_ERRORS = (ValueError, OverflowError, EOFError, OSError)  # pandas' own are ValueErrors
DTYPES = {int: "int64", float: "float64", str: "str"}


@dataclass(frozen=True)
class PrepareSettings:
    """What the prepared folder depends on besides the raw files."""

    min_interactions: int
    test_num_ng: int
    split_seed: int
    user_column: str = "user"
    item_column: str = "item"
    time_column: str | None = "timestamp"
    held_out: str = "latest"
    time_ties: str = "last"
    catalogue: str = "filtered"
    test_negatives: str = "different"


@dataclass(frozen=True)
class RawData:
    """What a reader returns.

    Attributes:
        interactions: columns user, item (raw ids: integers or text) and timestamp (a number), in
            the file's order, which decides between equal timestamps (see `oldest_first`).
        users: indexed by the raw user id as text; a text column an attribute, "" = unknown.
    """

    interactions: pd.DataFrame
    users: pd.DataFrame


def age_bracket(age: str) -> str:
    """ML-1M's bracket of an age in years; what isn't a number stays as it is.

    >>> age_bracket("24"), age_bracket("56.0"), age_bracket("-1"), age_bracket("teens")
    ('18-24', '56+', '', 'teens')
    """
    try:
        years = float(age)
    except ValueError:
        return age
    if not years >= 0:  # negative or NaN: how data sets write "unknown"
        return ""
    return next((name for above, name in AGE_BRACKETS if years < above), "56+")


def read_table(path: Path, separator: str, columns: Mapping[str, type]) -> pd.DataFrame:
    """A headerless table with exactly these columns.

    Args:
        path: Latin-1 text.
        separator: one character or two.
        columns: name -> int (a whole number of at least 0), float or str.

    Raises:
        UserError: an empty file, or the first line with other fields than these.
    """
    content = path.read_bytes()
    if len(separator) > 1:  # the C parser takes one character
        content = content.replace(separator.encode(), b"\x1f")
    try:
        table = pd.read_csv(
            BytesIO(content),
            sep="\x1f" if len(separator) > 1 else separator,
            header=None,
            dtype=dict(enumerate(DTYPES[kind] for kind in columns.values())),
            encoding="latin-1",
            keep_default_na=False,
            quoting=3,  # quotes are ordinary characters
        )
    except PARSER_ERRORS as error:
        explain(path, separator, columns, str(error))
    if table.shape[1] != len(columns) or table.iloc[:, -1].isna().any():
        explain(path, separator, columns, "lines of different lengths")
    table = table.set_axis(list(columns), axis=1)
    if (table.select_dtypes("int64") < 0).any(axis=None):
        explain(path, separator, columns, "negative numbers")
    return table


def explain(
    path: Path,
    separator: str,
    columns: Mapping[str, type],
    reason: str,
    first_line: int = 1,
    encoding: str = "latin-1",
) -> NoReturn:
    """Find the first line that isn't what `columns` says and raise the UserError that names it.

    Args:
        path: the text file that the parser refused, plain or .bz2.
        separator, columns: as in `read_table`.
        reason: the parser's own, for what no line explains.
        first_line: where to start looking, from 1.
        encoding: of the file.
    """
    opener = bz2.open if path.suffix == ".bz2" else open
    number = 0
    try:
        with opener(path, "rt", encoding=encoding) as lines:
            for number, line in enumerate(lines, start=1):
                if number >= first_line and line.strip():
                    _check_line(f"{path}, line {number}", line.rstrip("\n"), separator, columns)
    except PermissionError:
        raise
    except (EOFError, OSError) as error:
        raise UserError(f"{path} is damaged after line {number} ({error}); get it again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, after line {number}: not {encoding} text") from None
    if number == 0:
        raise UserError(f"{path} is empty; get the dataset again")
    raise UserError(f"{path}: {reason.strip().splitlines()[-1]}; get the dataset again")


def _check_line(place: str, line: str, separator: str, columns: Mapping[str, type]) -> None:
    fields = line.rstrip("\r").split(separator)
    if len(fields) != len(columns):
        raise UserError(
            f"{place}: expected {len(columns)} fields ({', '.join(columns)}) separated by "
            f"{separator!r}, got {line[:60]!r}"
        )
    for (name, kind), field in zip(columns.items(), fields, strict=True):
        if kind is int and not re.fullmatch(r"\d{1,18}", field.strip()):
            raise UserError(f"{place}: {name} must be a whole number of at least 0, got {field!r}")
        if kind is float and not is_number(field):
            raise UserError(f"{place}: {name} must be a number, got {field!r}")


def is_number(text: str) -> bool:
    """Whether `text` is a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def read_named(path: Path, separator: str, quoting: int) -> pd.DataFrame:
    """A UTF-8 table with a header; every value as text, "" where there is none.

    Raises:
        UserError: an empty file, a column twice, or the first line with too many fields.
    """
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            header=None,  # else pandas renames the second of two equal columns
            dtype="str",
            encoding="utf-8-sig",
            keep_default_na=False,
            quoting=quoting,
            skip_blank_lines=False,  # so that row numbers are line numbers
        )
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty") from None
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {str(error).strip().splitlines()[-1]}") from None
    names = list(table.iloc[0])
    check_once(path, names)
    table = table.iloc[1:].set_axis(names, axis=1)
    blank = table.isna() | (table == "")
    return table[~blank.all(axis=1)].fillna("")


def check_once(path: Path, names: list[str]) -> None:
    """Refuse a header in which a column's name stands twice."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f'{path}, line 1: the column "{min(twice)}" stands there twice; keep one')


def check_columns(path: Path, wanted: Iterable[str], existing: Iterable[str], mend: str) -> None:
    """Refuse a table without a wanted column, naming those that it has."""
    existing = list(existing)
    if missing := [name for name in wanted if name not in existing]:
        raise UserError(
            f'{path} has no column "{missing[0]}"; it has: {", ".join(existing)}; {mend}'
        )


def check_given(path: Path, values: pd.Series) -> pd.Series:
    """Refuse an empty id; the index holds line numbers less one."""
    if (empty := (values == "").to_numpy()).any():
        line = values.index[empty.argmax()] + 1
        raise UserError(f"{path}, line {line}: {values.name} is empty; every line needs one")
    return values


def seconds(path: Path, values: pd.Series) -> np.ndarray:
    """Times as numbers that sort: numbers as they are, dates (ISO 8601) as seconds since 1970.

    Args:
        path: for the message.
        values: (n,) text; the index holds line numbers less one.

    Returns:
        (n,) int64, or float64 where a time has a fraction.

    Raises:
        UserError: a value that is neither, is not of the same kind as most, or lies before 1970.
    """
    expected = "a number of at least 0 or a date like 2020-01-31 12:00:00"
    for dtype in ("int64", "float64"):
        try:
            times = values.to_numpy(object).astype(dtype)
            break
        except (ValueError, OverflowError):
            continue
    else:
        dates = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True)
        known = dates.dt.tz_localize(None).to_numpy("datetime64[s]")
        times = np.where(np.isnat(known), -1, known.astype(np.int64))
    wrong = ~(np.isfinite(times) & (times >= 0))
    if wrong.any():
        numbers = values.map(is_number).to_numpy()
        if not numbers.all() and numbers.mean() > 0.5:  # one word makes no number a date
            wrong, expected = ~numbers, "a number, as most are"
        row = int(wrong.argmax())
        raise UserError(
            f"{path}, line {values.index[row] + 1}: {values.name} must be {expected}, "
            f"got {values.iloc[row]!r}"
        )
    return times


def oldest_first(group: np.ndarray, timestamp: np.ndarray, time_ties: str = "last") -> np.ndarray:
    """Row numbers, group after group, each from its oldest row to its most recent.

    Args:
        group, timestamp: (n,) numbers, in the file's order.
        time_ties: which line of the file is the more recent between a group's equal times, the
            "last" or the "first".
    """
    # stable: equal keys stay in the order in which they are given
    if time_ties == "first":
        return len(group) - 1 - np.lexsort((timestamp[::-1], group[::-1]))
    return np.lexsort((timestamp, group))


def latest(pair: np.ndarray, timestamp: np.ndarray, time_ties: str = "last") -> np.ndarray:
    """Row numbers, ascending, of every pair's most recent occurrence.

    Args:
        pair: (n,) a number of at least 0 a (user, item) pair.
        timestamp, time_ties: as in `oldest_first`.
    """
    order = oldest_first(pair, timestamp, time_ties)
    return np.sort(order[np.flatnonzero(np.diff(pair[order], append=-1))])


def described_once(path: Path, users: pd.DataFrame) -> pd.DataFrame:
    """The same table; refuses a user who is described twice."""
    if users.index.has_duplicates:
        again = users.index[users.index.duplicated()][0]
        raise UserError(f"{path}: user {again} is described more than once; keep one line")
    return users
