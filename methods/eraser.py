"""A post-training method in two steps: fit on users' tables and labels, then apply to tables.

    eraser = METHODS["d2d"].fit(tables, labels, options, rng, scorer, threads)
    edited = eraser.apply(tables)

A method sees vectors and labels only, which makes it usable on any recommender's tables. What a
transductive method has learnt is where these very users go: it can't be applied to others.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

UserTables = Mapping[str, Tensor]
"""Tables with a row a user, by name, each (n_users, d)."""

Labels = Mapping[str, Tensor]
"""Attributes by name, each (n_users,) int64: classes 0 .. C-1, -1 where unknown."""


class Eraser(ABC):
    """What a fitted method does to users' tables.

    Attributes:
        record: what a run's summary says of the fit.
        history: dicts of a step and its losses, for metrics.jsonl.
    """

    record: dict[str, Any]
    history: list[dict[str, float]]

    @abstractmethod
    def apply(self, tables: UserTables) -> dict[str, Tensor]:
        """The edited tables, of the same names and shapes; the given ones stay as they are."""


@dataclass(frozen=True)
class TransductiveEraser(Eraser):
    """Knows the edited rows of the users that it was fitted on, and of no others.

    Attributes:
        fitted_on: the tables of the fit.
        edited: what becomes of them.
        record, history: as in every eraser.
    """

    fitted_on: UserTables
    edited: UserTables
    record: dict[str, Any]
    history: list[dict[str, float]]

    def apply(self, tables: UserTables) -> dict[str, Tensor]:
        """As for every eraser.

        Raises:
            UserError: they are not the tables of the fit.
        """
        for name, table in tables.items():
            known = self.fitted_on.get(name)
            if known is None or not torch.equal(known, table):
                raise UserError(
                    f'user table "{name}" is not the one that the method was fitted on; it edits '
                    "the very users that it has seen: fit it on this table"
                )
        return {name: self.edited[name].clone() for name in tables}


Vectors = TypeVar("Vectors", np.ndarray, Tensor)


def share_moved(before: Vectors, after: Vectors) -> float:
    """||x' - x||_F / ||x||_F; 0 where nothing moved, infinite where zeros did."""
    norm = torch.linalg.norm if isinstance(before, Tensor) else np.linalg.norm
    change, length = float(norm(after - before)), float(norm(before))
    if not change:
        return 0.0
    return change / length if length else float("inf")


def side_by_side(tables: UserTables) -> np.ndarray:
    """(n, Σ d) float64: every user's vectors of all tables as one."""
    return torch.cat([table.detach() for table in tables.values()], 1).double().cpu().numpy()


def apart(x: np.ndarray, tables: UserTables) -> dict[str, Tensor]:
    """(n, Σ d) cut into tables like the given ones, of their dtypes, on their devices."""
    widths = [table.shape[1] for table in tables.values()]
    cut = np.split(x, np.cumsum(widths)[:-1], axis=1)
    return {
        name: torch.from_numpy(np.ascontiguousarray(part)).to(table)
        for part, (name, table) in zip(cut, tables.items(), strict=True)
    }
