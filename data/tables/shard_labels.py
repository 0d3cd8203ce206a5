"""The labels of users in shards: a file or a folder of them, by id where both have ids, else in
order.

Joined by id, a user takes two bytes of the process whose shard it is in, as long as the work lasts;
beside these there are the ids and labels of one file of a folder at a time, or of the one file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import PLUS, UNKNOWN, Attribute, names_in
from data.tables.labels import (
    LabelColumn,
    by_row,
    check_columns,
    check_most,
    check_some,
    index_of,
    labelled,
    lines_of,
    nothing_joined,
    read_labels,
    say_classes,
    say_joined,
    values_at,
    warn_by_row,
)
from data.tables.shard_formats import check_none_left, label_paths
from data.tables.shard_ids import Seen
from data.tables.shards import ArrayFile, Shard
from data.tables.user_table import PAD
from utils.errors import UserError
from utils.ranks import Ranks

Rows = Callable[[int, int], np.ndarray]
"""First row, and the one behind the last -> labels as they are in the file; negative = unknown."""

CODE = np.int16
"""Of a class that is held: there are at most MOST_CLASSES."""


@dataclass(frozen=True)
class Shards:
    """The shards of all ranks.

    Attributes:
        source: the folder or file.
        paths: of all shards, by name.
        users: (S,) int64, users of each.
        files: this rank's shards, by their number.
        have_ids: whether they say who their users are.
    """

    source: Path
    paths: Sequence[Path]
    users: np.ndarray
    files: Mapping[int, Shard]
    have_ids: bool

    @property
    def total(self) -> int:
        """Users."""
        return int(self.users.sum())


def labels_of(
    ranks: Ranks, shards: Shards, source: Path, attribute: str
) -> tuple[dict[int, Rows], Sequence[str]]:
    """Labels of this rank's shards, by their number, and the classes' names if the files have some.

    Args:
        ranks: who shares the work.
        shards: of the vectors.
        source: a file as of `load_labels`, or a folder with a file a shard: .npy of whole numbers,
            or .parquet.
        attribute: the column's name; nothing to an array of whole numbers.

    Raises:
        UserError: no such folder or file, other users than the shards', an id twice, or what is no
            label.
    """
    names = ranks.agree(lambda: names_in(attribute))
    if source.is_dir():
        own = ranks.agree(lambda: label_paths(source, shards.paths))
        ranks.agree(lambda: check_none_left(source, own, shards.source))
        ranks.agree(lambda: check_columns(own[0], names))
        if own[0].suffix.lower() == ".parquet":
            return _in_parts(ranks, shards, source, own, names)
        rows = ranks.agree(lambda: _numbers_in_parts(shards, own))
        _check_ids(ranks, shards, source)
        return rows, []
    ranks.agree(lambda: check_columns(source, names))
    if ranks.agree(lambda: _is_numbers(source)):
        file = ranks.agree(lambda: ArrayFile.open(source))
        ranks.agree(lambda: check_length(file, shards.total, str(shards.source)))
        _check_ids(ranks, shards, source)
        return _of_all(shards, file.rows), []
    columns = ranks.agree(lambda: {one: read_labels(source, one) for one in names})
    if shards.have_ids and columns[names[0]].ids is not None:
        return _by_id(ranks, shards, source, columns)
    whole = ranks.agree(lambda: _in_order(shards, source, columns))
    _check_ids(ranks, shards, source, said=True)
    return _of_all(shards, lambda start, stop: whole.labels[start:stop]), whole.classes


def check_length(labels: ArrayFile, users: int, of: str) -> None:
    """Refuse labels that are not one a user."""
    if labels.shape != (users,):
        raise UserError(
            f"{labels.path} has the shape {labels.shape}, {of} has {users} users: one label a user "
            "is needed, in the same order"
        )


def _is_numbers(source: Path) -> bool:
    """Whether a file of labels is an array of whole numbers, which is read in blocks."""
    return source.suffix.lower() == ".npy" and ArrayFile.open(source).dtype.kind in "iu"


def _numbers_in_parts(shards: Shards, own: Sequence[Path]) -> dict[int, Rows]:
    """Labels from a .npy file a shard."""
    files = {shard: ArrayFile.open(own[shard]) for shard in shards.files}
    for shard, file in files.items():
        if file.dtype.kind not in "iu":
            raise UserError(f"{file.path} must hold whole numbers, got {file.dtype}")
        check_length(file, int(shards.users[shard]), str(shards.paths[shard]))
    return {shard: file.rows for shard, file in files.items()}


def _of_all(shards: Shards, rows: Rows) -> dict[int, Rows]:
    """Labels of each shard from those of all users."""
    firsts = np.cumsum(shards.users) - shards.users

    def behind(first: int) -> Rows:
        return lambda start, stop: rows(first + start, first + stop)

    return {shard: behind(int(firsts[shard])) for shard in shards.files}


def _in_order(shards: Shards, source: Path, columns: Mapping[str, LabelColumn]) -> Attribute:
    """As `load_labels` of a file without ids, or for shards without."""
    return Attribute.joint(
        [
            labelled(source, name, by_row(source, column, shards.total, shards.have_ids))
            for name, column in columns.items()
        ]
    )


def _check_ids(ranks: Ranks, shards: Shards, source: Path, said: bool = False) -> None:
    """Refuse shards that have an id twice, though labels are taken in order; warns of that.

    Args:
        ranks, shards: as of `labels_of`.
        source: of the labels.
        said: whether it has been warned of.
    """
    if not shards.have_ids:
        return
    if not said:
        warn_by_row(source)

    seen = Seen(shards.total)

    def part() -> Iterator[int]:
        for file in shards.files.values():
            ids = file.ids()
            seen.add(file.path, ids)
            yield len(ids)

    ranks.together(part(), "ids", shards.total)
    seen.check(ranks)


def _by_id(
    ranks: Ranks, shards: Shards, source: Path, columns: Mapping[str, LabelColumn]
) -> tuple[dict[int, Rows], Sequence[str]]:
    """From one file, which every rank holds."""
    ranks.agree(lambda: check_some(source, next(iter(columns.values()))))
    whole = ranks.agree(
        lambda: Attribute.joint(
            [_attribute(source, name, column.values) for name, column in columns.items()]
        )
    )
    ranks.agree(lambda: check_most(source, whole.name, whole.classes))
    ids = next(iter(columns.values())).ids
    assert ids is not None
    index = ranks.agree(lambda: index_of(source, ids))
    codes = np.append(whole.labels, UNKNOWN).astype(CODE)  # the last one is that of line -1
    held: dict[int, np.ndarray] = {}
    users, nobody, like = np.zeros(len(index)), np.zeros(1), ""

    def part() -> Iterator[int]:
        nonlocal like
        for shard, file in shards.files.items():
            own = file.ids()
            lines = lines_of(index, own)
            held[shard] = codes[lines]
            users[lines[lines >= 0]] += 1
            nobody[0] += (own == PAD).sum()
            like = own[-1] if len(own) else like
            yield len(own)

    ranks.together(part(), "labels", shards.total)
    of_line = ranks.sum(users)

    def check() -> None:
        if not of_line.any():
            raise UserError(nothing_joined(source, index[0], like))
        if (twice := np.flatnonzero(of_line > 1)).size:
            raise UserError(f"{shards.source}: the user id {index[twice[0]]} is in two shards")

    ranks.agree(check)
    matched, pads = int(of_line.sum()), int(ranks.sum(nobody)[0])
    say_joined(source, shards.total, pads, matched, len(index))
    return _held(ranks, shards, source, whole.name, whole.classes, held), whole.classes


def _in_parts(
    ranks: Ranks, shards: Shards, source: Path, own: Sequence[Path], attributes: Sequence[str]
) -> tuple[dict[int, Rows], Sequence[str]]:
    """From a parquet file a shard, with the labels of its users."""
    attribute = PLUS.join(attributes)
    found: dict[int, Attribute] = {}
    sums = np.zeros(4)  # users who are to be joined, of them nobody, matched ones; lines
    seen = Seen(shards.total)

    def part() -> Iterator[int]:
        for shard, file in shards.files.items():
            path, n = own[shard], int(shards.users[shard])
            columns = {one: read_labels(path, one) for one in attributes}
            of_lines = next(iter(columns.values())).ids
            ids = file.ids() if shards.have_ids else None
            if ids is not None:
                seen.add(file.path, ids)
            if ids is not None and of_lines is not None:
                lines, counts = _joined(file.path, ids, path, of_lines)
                sums[:] += counts
                values = {name: values_at(column, lines) for name, column in columns.items()}
            else:
                told = len(found) > 0
                values = {
                    name: by_row(path, column, n, shards.have_ids, told or number > 0)
                    for number, (name, column) in enumerate(columns.items())
                }
            of_part = Attribute.combined([_attribute(path, *one) for one in values.items()])
            found[shard] = replace(of_part, labels=of_part.labels.astype(CODE))
            yield n

    ranks.together(part(), "labels", shards.total)
    seen.check(ranks)
    names = ranks.union(name for one in found.values() for name in one.classes)
    ranks.agree(lambda: check_most(source, attribute, names))
    users, nobody, matched, lines = ranks.sum(sums).astype(int).tolist()
    if users:
        say_joined(source, users, nobody, matched, lines)
    place = {name: number for number, name in enumerate(names)}
    held = {}
    for shard, one in found.items():
        codes = np.array([*(place[name] for name in one.classes), UNKNOWN], CODE)
        held[shard] = codes[one.labels]
    return _held(ranks, shards, source, attribute, names, held), names


def _joined(
    shard: Path, ids: np.ndarray, path: Path, of_lines: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """The line of each of a shard's users, or -1, and what is to be added up of the join.

    Args:
        shard, ids: the vectors, and whose they are.
        path, of_lines: their labels, and whose these are.

    Raises:
        UserError: an id that is there twice, or users and labels without an id in common.
    """
    index = index_of(path, of_lines)
    lines = lines_of(index, ids)
    matched = int((lines >= 0).sum())
    if len(ids) and len(index) and not matched:
        raise UserError(
            f"{nothing_joined(path, index[0], ids[-1])}; a part of the labels is to have the users "
            f"of {shard}, or all labels are to be in one file"
        )
    if not len(index):
        return np.full(len(ids), -1), [len(ids), 0, 0, 0]
    counts = [len(ids), int((ids == PAD).sum()), matched, len(index)]
    return lines, counts


def _attribute(path: Path, name: str, values: pd.Series) -> Attribute:
    """The attribute of some users, who may be of one class."""
    attribute = Attribute.from_values(name, values)
    check_most(path, name, attribute.classes)
    return attribute


def _held(
    ranks: Ranks,
    shards: Shards,
    source: Path,
    attribute: str,
    names: Sequence[str],
    held: Mapping[int, np.ndarray],
) -> dict[int, Rows]:
    """Labels that are in memory, by shard; says how many users are of which class."""
    counts = np.zeros(len(names) + 1)
    for labels in held.values():
        counts += np.bincount(labels + 1, minlength=len(counts))
    _, *known = ranks.sum(counts).astype(int).tolist()
    counted = dict(zip(names, known, strict=True))
    say_classes(source, attribute, names, counted, shards.total)

    def rows(labels: np.ndarray) -> Rows:
        return lambda start, stop: labels[start:stop]

    return {shard: rows(labels) for shard, labels in held.items()}
