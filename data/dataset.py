"""Prepared folder -> in-memory dataset: training pairs, candidates to rank, user attributes."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.layout import (
    TEST,
    TRAIN,
    VALIDATION,
    existing,
    is_ours,
    read_candidates,
    read_genders,
    read_pairs,
    read_user_ids,
    read_users,
    read_whole,
    stated_items,
)
from data.sampling import sample_negatives
from utils.errors import UserError
from utils.metrics import Candidates
from utils.seeds import numpy_generator

log = logging.getLogger(__name__)

UNKNOWN = -1
PLUS = "+"
"""Between the names of several attributes that are taken together, and of their classes."""


def class_name(label: str) -> str:
    """The class that a label stands for; "" where it is unknown.

    One rule for every file: empty, NaN or a negative number is unknown; a whole number is one
    class however it is spelt (0, 0.0, "0"); anything else is text as spelt, "NA" and "None" too.

    >>> [class_name(label) for label in ("0", "0.0", "-1", "nan", "", "NA", "0.5")]
    ['0', '0', '', '', '', 'NA', '0.5']
    """
    number: int | float
    if "_" in label:  # int() would take 1_000
        return label
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


def with_unknown(counts: Mapping[str, int], users: int) -> dict[str, int]:
    """Users by class, and under "unknown" those of none, if there are any; where a class is called
    so, under "".
    """
    unknown = users - sum(counts.values())
    name = "" if "unknown" in counts else "unknown"
    return {**counts} | ({name: unknown} if unknown else {})


@dataclass(frozen=True)
class Attribute:
    """A user attribute.

    Attributes:
        name: "gender", "age", ...
        classes: class names, sorted; a label is a position in it.
        labels: (n_users,) int64; -1 where the value is unknown.
        parts: the attributes that it is the combination of; none where it is one by itself.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    parts: tuple["Attribute", ...] = ()

    @classmethod
    def from_values(cls, name: str, values: pd.Series) -> "Attribute":
        """Number the classes of labels as spelt (see `class_name`) in the order of their names."""
        names = [class_name(value) for value in values]
        classes = tuple(sorted(set(names) - {""}))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers.get(name, UNKNOWN) for name in names], dtype=np.int64)
        return cls(name, classes, labels)

    @classmethod
    def joint(cls, attributes: Sequence["Attribute"]) -> "Attribute":
        """Several as one, whose classes are the combinations that occur; unknown where any is.
        Warns of users of whom not all are known.

        Raises:
            UserError: users of all are of one combination or unknown.
        """
        whole = cls.combined(attributes)
        if whole.parts and len(whole.classes) < 2:
            raise UserError(
                f'of "{whole.name}" all users are of one combination, or of none that is known'
            )
        some = np.any([one.labels >= 0 for one in attributes], axis=0)
        if partly := int((some & (whole.labels < 0)).sum()):
            log.warning(
                "%d users have labels of some of %s alone: none of these is used, and the users "
                "count as of unknown class",
                partly,
                " and ".join(one.name for one in whole.parts),
            )
        return whole

    @classmethod
    def combined(cls, attributes: Sequence["Attribute"]) -> "Attribute":
        """As `joint`, of users who may be of one combination, or none.

        Raises:
            UserError: a class but of the last attribute has a "+" in its name: two combinations
                may then have one name.
        """
        if len(attributes) == 1:
            return attributes[0]
        for one in attributes[:-1]:
            if with_plus := [name for name in one.classes if PLUS in name]:
                raise UserError(
                    f'"{one.name}" has the class "{with_plus[0]}", whose "{PLUS}" could stand '
                    f'between two attributes; rename it, or name "{one.name}" last'
                )
        name = PLUS.join(one.name for one in attributes)
        known = np.all([one.labels >= 0 for one in attributes], axis=0)
        parts = [np.array([*one.classes, ""])[one.labels] for one in attributes]
        names = [PLUS.join(of_user) for of_user in zip(*parts, strict=True)]
        classes = sorted({one for one, is_known in zip(names, known, strict=True) if is_known})
        numbers = {one: number for number, one in enumerate(classes)}
        labels = [
            numbers[one] if is_known else UNKNOWN
            for one, is_known in zip(names, known, strict=True)
        ]
        return cls(name, tuple(classes), np.array(labels, np.int64), tuple(attributes))

    def apart(self) -> dict[str, np.ndarray]:
        """The labels of each part, or of itself, by name; -1 wherever its own are unknown."""
        known = self.labels >= 0
        return {one.name: np.where(known, one.labels, UNKNOWN) for one in self.parts or (self,)}

    def seen(self, share: float, seed: int) -> "Attribute":
        """The same with the labels of this share of the labelled users, drawn; the others' unknown.

        Raises:
            UserError: nobody of some class is left.
        """
        known = np.flatnonzero(self.labels >= 0)
        order = numpy_generator(seed, "labels seen").permutation(known)
        labels = self.labels.copy()
        labels[order[round(share * len(known)) :]] = UNKNOWN
        if len(np.unique(labels[labels >= 0])) < len(self.classes):
            raise UserError(f"labels_seen {share:g} shows nobody of some {self.name}; raise it")
        return replace(self, labels=labels)

    @property
    def checksum(self) -> str:
        """SHA-256 of classes and labels."""
        return hashlib.sha256(repr(self.classes).encode() + self.labels.tobytes()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Users of each class, and of unknown class if there are any."""
        numbers = {c: int((self.labels == n).sum()) for n, c in enumerate(self.classes)}
        return with_unknown(numbers, len(self.labels))


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: as in the config.
        n_users, n_items: sizes of the index spaces.
        train: (n, 2) int64, columns user and item.
        validation: an interaction a user, or None where nothing is held out.
        test: another interaction a user.
        checksum: SHA-256 of the files that this was read from.
        user_ids: the source's names of the users; their numbers where it isn't known.
        graph_path: where the interaction graph of `train` is cached; None in a folder that isn't
            ours to write to.
    """

    name: str
    n_users: int
    n_items: int
    train: Tensor
    validation: Candidates | None
    test: Candidates
    checksum: str
    user_ids: Sequence[str]
    graph_path: Path | None

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


def load_dataset(
    folder: Path, name: str, hold_out_validation: bool, split_seed: int = 0
) -> Dataset:
    """Read a prepared folder, which is never written to.

    Args:
        folder: written by `data.prepare` or by the authors' programs.
        name: as in the config.
        hold_out_validation: take the validation interactions out of the training pairs; without
            it they stay in, as in the artefact, and `Dataset.validation` is None.
        split_seed: for the validation negatives of a folder that has none.

    Raises:
        UserError: a file is missing or damaged.
    """
    checksum = data_checksum(folder, hold_out_validation, split_seed)
    train = read_pairs(existing(folder, TRAIN))
    test = read_candidates(existing(folder, TEST))
    n_users = int(max(train[:, 0].max(), test.users.max())) + 1
    # items that nobody touched stand in none of the files
    n_items = max(int(train[:, 1].max()) + 1, int(test.items.max()) + 1, stated_items(folder))
    validation = None
    if hold_out_validation and _has_validation(folder):
        validation = read_candidates(existing(folder, VALIDATION))
    elif hold_out_validation:
        log.info(
            "%s has no validation interactions and no times: each user's last training line is "
            "taken, and negatives are drawn with split_seed %d",
            folder,
            split_seed,
        )
        validation = draw_validation(train, test, n_items, split_seed)
    if validation is not None:
        # also among the training file's lines
        n_items = max(n_items, int(validation.items.max()) + 1)
        held_out = validation.users * n_items + validation.items[:, 0]
        train = train[~np.isin(train[:, 0] * n_items + train[:, 1], held_out.numpy())]
    graph_name = "s_pre_adj_mat.npz" if validation is None else "s_pre_adj_mat.held_out.npz"
    return Dataset(
        name=name,
        n_users=n_users,
        n_items=n_items,
        train=torch.from_numpy(np.ascontiguousarray(train)),
        validation=validation,
        test=test,
        checksum=checksum,
        user_ids=read_user_ids(folder) if is_ours(folder) else [str(u) for u in range(n_users)],
        graph_path=folder / graph_name if is_ours(folder) else None,
    )


def data_checksum(folder: Path, hold_out_validation: bool, split_seed: int) -> str:
    """The checksum of the dataset that `load_dataset` reads there, without parsing anything.

    Raises:
        UserError: a file is missing, or not what was prepared.
    """
    paths = [existing(folder, TRAIN), existing(folder, TEST)]
    if hold_out_validation and _has_validation(folder):
        paths.append(existing(folder, VALIDATION))
    digest = hashlib.sha256(b"".join(read_whole(path) for path in paths))
    if hold_out_validation and not _has_validation(folder):
        digest.update(f"validation drawn with {split_seed}".encode())
    return digest.hexdigest()


def _has_validation(folder: Path) -> bool:
    return is_ours(folder) or (folder / VALIDATION[0]).exists()


def draw_validation(
    train: np.ndarray, test: Candidates, n_items: int, split_seed: int
) -> Candidates:
    """Each user's last training line, and as many untouched items as the test has negatives.

    Users with a single training line keep it: nothing would be left to learn them from.

    Args:
        train: (n, 2) in the file's order.
        test: its positives count as touched.
        n_items: size of the index space.
        split_seed: of the negatives.
    """
    user, item = np.concatenate([train, np.stack([test.users, test.items[:, 0]], axis=1)]).T
    count = test.items.shape[1] - 1
    rng = numpy_generator(split_seed, "split", "validation")
    negatives = sample_negatives(user, item, n_items, count, rng)
    last = dict(train.tolist())  # the later line replaces the earlier
    several = np.flatnonzero(np.bincount(train[:, 0]) > 1)
    positives = np.array([last[index] for index in several.tolist()])
    items = np.column_stack([positives, negatives[several]])
    return Candidates(torch.from_numpy(several), torch.from_numpy(items))


def names_in(attribute: str) -> list[str]:
    """The attributes that a config names: "gender+age" are two.

    Raises:
        UserError: one is there twice.
    """
    names = attribute.split(PLUS)
    if len(set(names)) < len(names):
        raise UserError(f'attribute "{attribute}" names one twice; name each once')
    return names


def classes_apart(names: Sequence[str], combinations: Sequence[str]) -> dict[str, list[str]]:
    """The classes of each of several attributes, sorted, that occur in their combinations; of one
    alone nothing is apart.
    """
    if len(names) == 1:
        return {}
    # a "+" that is in a class is in the last attribute's
    apart = zip(*(one.split(PLUS, len(names) - 1) for one in combinations), strict=True)
    return {name: sorted(set(of_part)) for name, of_part in zip(names, apart, strict=True)}


def other_classes(folder: Path, name: str) -> dict[str, np.ndarray]:
    """(n_users,) classes as text, "" where unknown, of every attribute of a prepared folder but the
    named one.
    """
    users = _attributes(folder).drop(columns=name.split(PLUS), errors="ignore")
    return {other: users[other].map(class_name).to_numpy(str) for other in users}


def _attributes(folder: Path) -> pd.DataFrame:
    return read_users(folder) if is_ours(folder) else read_genders(folder)


def load_attribute(folder: Path, name: str) -> Attribute:
    """Read one user attribute of a prepared folder, or several joint ("gender+age").

    Raises:
        UserError: an attribute that the users don't have, or with fewer than two classes.
    """
    users = _attributes(folder)
    return Attribute.joint([_attribute(users, one, folder) for one in names_in(name)])


def _attribute(users: pd.DataFrame, name: str, folder: Path) -> Attribute:
    if name not in users:
        raise UserError(f'attribute "{name}" is not in {folder}; it has: {", ".join(users)}')
    attribute = Attribute.from_values(name, users[name])
    if len(attribute.classes) < 2:
        raise UserError(
            f'attribute "{name}" in {folder} has the classes {", ".join(attribute.classes)}: '
            "at least two are needed, or there is nothing to tell apart"
        )
    return attribute
