"""Which table of a file is meant, and the same file with that table edited."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from data.tables.formats import NPY, format_of
from data.tables.user_table import UserTable, check_table, check_values, is_table
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
    tables = _tables_of(path)
    shapes = {one: table.vectors.shape for one, table in tables.items()}
    meant = _of_users(path, shapes, name)
    if name is None and (others := {one: shapes[one] for one in shapes if one not in meant}):
        log.info("%s: left out, not of users by its name: %s", path, _listed(others))
    return [check_table(path, tables[one]) for one in meant]


def load_table(path: Path, name: str | None = None) -> UserTable:
    """The one table that is meant: of several the one called `name`, or "user_embedding".

    Raises:
        UserError: as of `load_tables`; or several, and none of that name.
    """
    tables = {table.name: table for table in load_tables(path, name)}
    return tables[_one(path, {one: table.vectors.shape for one, table in tables.items()})]


def load_items(path: Path, d: int) -> np.ndarray:
    """The one table (m, d) of items' vectors: of several the one with "item" in its name.

    Raises:
        UserError: no such file, none or several such tables, other dimensions than d, or a value
            that is not finite.
    """
    tables = {name: table.vectors for name, table in _tables_of(path).items()}
    of_items = [name for name in tables if "item" in name.lower()] or list(tables)
    if len(of_items) != 1:
        shapes = {name: tables[name].shape for name in of_items}
        said = f"has {_listed(shapes)}" if shapes else "has none"
        raise UserError(
            f"{path} must hold one float array (n_items, d), by its name of items if there are "
            f"others, and {said}"
        )
    (items,) = (tables[name] for name in of_items)
    if items.shape[1] != d:
        raise UserError(
            f"{path} has vectors of {items.shape[1]} dimensions, and the users' have {d}; scores "
            "are their inner products"
        )
    check_values(path, items)
    return items


def _tables_of(path: Path) -> dict[str, UserTable]:
    """All that can be vectors in a file, by name."""
    form = format_of(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file of it")
    return {table.name: table for table in form.read(path) if is_table(table.vectors)}


def table_meant(path: Path, shapes: Mapping[str, tuple[int, ...]], name: str | None) -> str:
    """The name of the one table that `load_table` takes of a file with these.

    Args:
        path: the file.
        shapes: of its tables, by name.
        name: the one that is asked for.

    Raises:
        UserError: there is none, none of that name, or several.
    """
    return _one(path, {one: shapes[one] for one in _of_users(path, shapes, name)})


def _of_users(path: Path, shapes: Mapping[str, tuple[int, ...]], name: str | None) -> list[str]:
    """The names of the tables that `load_tables` takes; raises as it."""
    if not shapes:
        raise UserError(f"{path} must hold a float array (n_users, d), and has none")
    names = list(shapes)
    if name is not None:
        if name not in shapes:
            raise UserError(f'{path} has no table "{name}"; it has: {_listed(shapes)}')
        names = [name]
    elif of_users := [one for one in names if "user" in one.lower()]:
        names = of_users
    if len({shapes[one][0] for one in names}) > 1:
        raise UserError(
            f"{path} has tables of different numbers of users; name one with table=NAME: "
            f"{_listed({one: shapes[one] for one in names})}"
        )
    return names


def _one(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of several tables the one called OWN_NAME."""
    if len(shapes) == 1:
        return next(iter(shapes))
    if OWN_NAME not in shapes:
        raise UserError(f"{path} has several tables; name one with table=NAME: {_listed(shapes)}")
    return OWN_NAME


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


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
