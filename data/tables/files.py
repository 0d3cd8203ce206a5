"""Which table of a file is meant, and the same file with that table edited."""

import logging
from pathlib import Path

import numpy as np
from torch import Tensor

from data.tables.formats import NPY, format_of
from data.tables.user_table import UserTable, check_table, is_table
from utils.errors import UserError

log = logging.getLogger(__name__)

OWN_NAME = "user_embedding"
"""The name by which a table among others is found without being asked for."""


def load_tables(path: Path, name: str | None = None) -> list[UserTable]:
    """Every user table of a file: those with "user" in their names, if some have, else all.

    Args:
        path: of one of the FORMATS.
        name: this one alone.

    Raises:
        UserError: no such file, none of it a table, none of that name, a value that is not finite
            in float32, an id that is there twice, or different numbers of users.
    """
    form = format_of(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file of it")
    tables = [table for table in form.read(path) if is_table(table.vectors)]
    if not tables:
        raise UserError(f"{path} must hold a float array (n_users, d), and has none")
    if name is not None:
        if name not in [table.name for table in tables]:
            raise UserError(f'{path} has no table "{name}"; it has: {_listed(tables)}')
        tables = [table for table in tables if table.name == name]
    elif of_users := [table for table in tables if "user" in table.name.lower()]:
        if len(of_users) < len(tables):
            others = [table for table in tables if table not in of_users]
            log.info("%s: left out, not of users by its name: %s", path, _listed(others))
        tables = of_users
    if len({len(table.vectors) for table in tables}) > 1:
        raise UserError(
            f"{path} has tables of different numbers of users; name one with table=NAME: "
            f"{_listed(tables)}"
        )
    return [check_table(path, table) for table in tables]


def load_table(path: Path, name: str | None = None) -> UserTable:
    """The one table that is meant: of several the one called `name`, or "user_embedding".

    Raises:
        UserError: as of `load_tables`; or several, and none of that name.
    """
    tables = load_tables(path, name)
    if len(tables) > 1 and name is None:
        tables = [table for table in tables if table.name == OWN_NAME] or tables
    if len(tables) > 1:
        raise UserError(f"{path} has several tables; name one with table=NAME: {_listed(tables)}")
    return tables[0]


def _listed(tables: list[UserTable]) -> str:
    return ", ".join(f"{one.name} {one.vectors.shape}" for one in tables)


def save_table(path: Path, table: UserTable, like: Path) -> None:
    """Write a table that was read from `like`, in the format of `path`'s name: in the same format
    with all else that `like` holds, in another with the ids alone.
    """
    form, own = format_of(path), format_of(like)
    if form is own and (copies := _copies(own.read(like), table)):
        log.warning(
            "%s: %s hold the vectors as they were, and are left so; edit them too, or leave "
            "them out",
            path,
            ", ".join(copies),
        )
    if form is NPY and table.ids is not None:
        log.warning("%s: .npy holds no ids; its rows are in the order of %s", path, like)
    form.save(path, table, like if form is own else None)


def with_people(source: Path, table: UserTable, people: Tensor) -> np.ndarray:
    """The table's vectors with the people's, all but [PAD]'s, edited; of the table's dtype.

    Raises:
        UserError: a value that this dtype can't hold.
    """
    edited = table.vectors.copy()
    with np.errstate(over="ignore"):  # said below
        edited[table.people] = people.cpu().numpy()
    if not np.isfinite(edited).all():
        raise UserError(
            f"{source}: an edited value is beyond {edited.dtype}; nothing is saved: divide "
            "all by a constant, or save it as float32"
        )
    return edited


def _copies(tables: list[UserTable], edited: UserTable) -> list[str]:
    """Names of other tables that hold the same users' vectors as before, such as a copy, or all
    nodes' in one.
    """
    (before,) = (table.vectors for table in tables if table.name == edited.name)
    n, d = before.shape
    return [
        table.name
        for table in tables
        if table.name != edited.name
        and table.vectors.shape[1] == d
        and len(table.vectors) >= n
        and np.array_equal(table.vectors[:n], before)
    ]
