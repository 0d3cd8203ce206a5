"""Prepared folder -> in-memory dataset: training pairs, candidates to rank, user attributes."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from utils.errors import UserError
from utils.metrics import Candidates

UNKNOWN = -1


@dataclass(frozen=True)
class Attribute:
    """A user attribute.

    Attributes:
        name: "gender", "age", ...
        classes: class names, sorted; a label is a position in it.
        labels: (n_users,) int64; -1 where the value is unknown.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray

    @classmethod
    def from_values(cls, name: str, values: pd.Series) -> "Attribute":
        """Number the classes in the order of their names; "" is unknown."""
        classes = tuple(sorted(set(values) - {""}))
        numbers = {value: number for number, value in enumerate(classes)}
        labels = np.array([numbers.get(value, UNKNOWN) for value in values], dtype=np.int64)
        return cls(name, classes, labels)

    @property
    def checksum(self) -> str:
        """SHA-256 of classes and labels."""
        return hashlib.sha256(repr(self.classes).encode() + self.labels.tobytes()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Users of each class, and of unknown class if there are any."""
        numbers = {c: int((self.labels == n).sum()) for n, c in enumerate(self.classes)}
        unknown = int((self.labels == UNKNOWN).sum())
        return numbers | ({"unknown": unknown} if unknown else {})


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: as in the config.
        n_users, n_items: sizes of the index spaces.
        train: (n, 2) int64, columns user and item.
        validation: the second most recent interactions, or None where nothing is held out.
        test: the most recent interactions.
        checksum: SHA-256 of the files that this was read from.
        graph_path: where the interaction graph of `train` is cached.
    """

    name: str
    n_users: int
    n_items: int
    train: Tensor
    validation: Candidates | None
    test: Candidates
    checksum: str
    graph_path: Path

    def to(self, device: torch.device) -> "Dataset":
        """The same dataset on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation and self.validation.to(device),
            test=self.test.to(device),
        )

    def sizes(self) -> dict[str, int]:
        """Users, items and interactions, as summaries record them."""
        return {
            "users": self.n_users,
            "items": self.n_items,
            "train": len(self.train),
            "validation": len(self.validation.users) if self.validation else 0,
            "test": len(self.test.users),
        }


def load_dataset(folder: Path, name: str, hold_out_validation: bool) -> Dataset:
    """Read a prepared folder.

    Args:
        folder: written by `data.prepare` or by the authors' programs.
        hold_out_validation: take the validation interactions out of the training pairs; without
            it they stay in, as in the artefact, and `Dataset.validation` is None.

    Raises:
        UserError: a file is missing or damaged.
    """
    train_path = _existing(folder / "train_interactions.csv")
    test_path = _existing(folder / "test_neg_interactions")
    digest = hashlib.sha256(train_path.read_bytes() + test_path.read_bytes())
    try:
        train = pd.read_csv(train_path, header=None, dtype=np.int64).to_numpy()[:, :2]
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(
            f"{train_path}: expected lines of two numbers, user,item ({error}); delete the "
            f"folder {folder} to have it prepared anew"
        ) from None
    test = _read_candidates(test_path)
    validation = None
    if hold_out_validation:
        # also one of the training file's lines; taken out of the pairs below
        validation_path = _existing(folder / "validation_neg_interactions")
        digest.update(validation_path.read_bytes())
        validation = _read_candidates(validation_path)
    n_items = int(max(train[:, 1].max(), test.items.max())) + 1
    if validation is not None:
        held_out = validation.users * n_items + validation.items[:, 0]
        train = train[~np.isin(train[:, 0] * n_items + train[:, 1], held_out.numpy())]
    return Dataset(
        name=name,
        n_users=int(max(train[:, 0].max(), test.users.max())) + 1,
        n_items=n_items,
        train=torch.from_numpy(np.ascontiguousarray(train)),
        validation=validation,
        test=test,
        checksum=digest.hexdigest(),
        graph_path=folder
        / ("s_pre_adj_mat.npz" if validation is None else "s_pre_adj_mat.held_out.npz"),
    )


def load_attribute(folder: Path, name: str) -> Attribute:
    """Read one user attribute of a prepared folder.

    Raises:
        UserError: an attribute that the users don't have, or with fewer than two classes.
    """
    path = _existing(folder / "users.csv")
    users = pd.read_csv(path, index_col="index", dtype=str, keep_default_na=False)
    known = [column for column in users if column != "raw_id"]
    if name not in known:
        raise UserError(f'attribute "{name}" is not in {path}; it has: {", ".join(known)}')
    attribute = Attribute.from_values(name, users[name])
    if len(attribute.classes) < 2:
        raise UserError(
            f'attribute "{name}" in {path} has the classes {list(attribute.classes)}: '
            "at least two are needed, or there is nothing to tell apart"
        )
    return attribute


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"{path} is missing; delete the folder {path.parent} to have it prepared anew"
        )
    return path


def _read_candidates(path: Path) -> Candidates:
    """Parse lines of "(user,positive) TAB negative TAB ..."; the positive becomes column 0."""
    rows = []
    width = 0
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        pair, *negatives = line.split("\t")
        try:
            user, positive = pair.strip("()").split(",")
            row = [int(user), int(positive), *map(int, negatives)]
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected (user,item) and item numbers separated by "
                f"tabs, got {line[:40]!r}"
            ) from None
        width = width or len(row)
        if len(row) != width:
            raise UserError(
                f"{path}, line {number}: {len(row) - 2} negatives where line 1 has {width - 2}"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty")
    table = torch.tensor(rows, dtype=torch.int64)
    return Candidates(table[:, 0].contiguous(), table[:, 1:].contiguous())
