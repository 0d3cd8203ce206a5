"""Users in blocks, for a method that goes over them in passes and knows them by sums: `Streamed`.

Sums go over the users of all ranks, so that every rank learns the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import UNKNOWN
from data.tables.labels import MOST_CLASSES
from data.tables.shard_labels import Rows
from data.tables.shards import Shard
from data.tables.user_table import check_values
from methods.gaussian import Moments, outer
from methods.stamps import Stamps
from utils.ranks import Ranks

Edit = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""A block's vectors (n, d) float64, labels (n,) int64, -1 unknown, and its first user's number
among those of all shards -> vectors, edited.
"""

Visit = Callable[[np.ndarray, np.ndarray, int], None]
"""A block's vectors (n, d) float64, classes (n,) int64, -1 unknown, and its first user's number
among those of all shards -> whatever is to be added up.
"""


Arrays = Mapping[str, np.ndarray]

Once = Callable[[str, Callable[[], Arrays]], Arrays]
"""A pass's name, and what does it -> what it has learnt, now or before the work was interrupted."""


def forgetful(name: str, work: Callable[[], Arrays]) -> Arrays:
    """Does every pass now."""
    return work()


@dataclass(frozen=True)
class Users:
    """The users of all shards, as a rank sees them.

    Attributes:
        ranks: who shares the work.
        paths: of the shards of all ranks, by name.
        shapes: (S, 2) int64, their users and dimensions.
        files: this rank's shards, by their number.
        labels: their labels, by the same numbers.
        counts: (C,) users by class, each at least one.
        numbers: (C,) the classes' numbers in the labels' files.
        names: the classes' names.
        stamps: of the files of all ranks, from before they were read.
    """

    ranks: Ranks
    paths: Sequence[Path]
    shapes: np.ndarray
    files: Mapping[int, Shard]
    labels: Mapping[int, Rows]
    counts: np.ndarray
    numbers: np.ndarray
    names: Sequence[str]
    stamps: Stamps

    @property
    def total(self) -> int:
        """Users, known or not."""
        return int(self.shapes[:, 0].sum())

    @property
    def shares(self) -> np.ndarray:
        """(C,) of the users of known class."""
        return self.counts / self.counts.sum()

    @property
    def dimensions(self) -> int:
        return int(self.shapes[:, 1].max())  # a shard of nobody may not say

    def first(self, shard: int) -> int:
        """The number of a shard's first user."""
        return int(self.shapes[:shard, 0].sum())

    def blocks(self, shard: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors (n, d) float64 and classes (n,) int64, 0 .. C-1 or -1, of one of this rank's
        shards.
        """
        row = 0
        for x in self.files[shard].blocks():
            yield x.astype(np.float64), self.classes(shard, row, row + len(x))
            row += len(x)

    def classes(self, shard: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) int64 classes, 0 .. C-1 or -1, of some of a shard's users."""
        known = np.full(MOST_CLASSES + 1, UNKNOWN)  # the last one is that of every negative number
        known[self.numbers] = np.arange(len(self.numbers))
        return known[np.maximum(self.labels[shard](start, stop).astype(int), -1)]

    def go(self, title: str, visit: Visit, check: bool = False) -> None:
        """A pass: every rank visits its blocks; the sums are for the caller to share.

        Args:
            title: of the progress bar.
            visit: is given one block after the other.
            check: whether this is the first pass, which looks at the values.

        Raises:
            UserError: a value that is not finite in float32.
        """

        def part() -> Iterator[int]:
            for shard, file in self.files.items():
                self.ranks.at(str(file.path))
                row = 0
                for x, classes in self.blocks(shard):
                    if check:
                        check_values(file.path, x, row)
                    visit(x, classes, self.first(shard) + row)
                    row += len(x)
                    yield len(x)

        self.ranks.together(part(), title, self.total)


@dataclass(frozen=True)
class Streamed:
    """How a method goes through users in blocks.

    Attributes:
        learn: users, the method's options, the run's seed and what keeps its passes -> what it
            knows of them, a dataclass of arrays, which the output folder keeps.
        kept: that dataclass.
        edit: what is done to a user, by what is known.
        in_memory_only: options of the method that it doesn't heed so.
    """

    learn: Callable[[Users, Any, int, Once], Any]
    kept: type
    edit: Callable[[Any], Edit]
    in_memory_only: tuple[str, ...] = ()


def moments(users: Users, options: None = None, seed: int = 0, once: Once = forgetful) -> Moments:
    """All that a closed form needs, from one pass; draws nothing."""
    seen = Moments.none(len(users.numbers), users.dimensions)

    def visit(x: np.ndarray, classes: np.ndarray, first: int) -> None:
        nonlocal seen
        seen = seen.merged(moments_near(x, classes, len(seen.counts)))

    users.go("pass 1 of 2, moments", visit, check=True)
    return of_all(seen, users.ranks)


def moments_near(x: np.ndarray, classes: np.ndarray, count: int) -> Moments:
    """`Moments.of` users that may lie far from the origin: sums of small numbers lose nothing."""
    centre = x.mean(0)
    return Moments.of(x - centre, classes, count).moved(centre)


def of_all(own: Moments, ranks: Ranks) -> Moments:
    """The moments of all ranks' users, as `Moments.merged` of as many at once."""
    counts = ranks.sum(own.counts).astype(np.int64)
    means = ranks.sum(own.counts[:, None] * own.means) / np.maximum(counts, 1)[:, None]
    between = own.counts[:, None, None] * outer(own.means - means)
    return Moments(counts, means, ranks.sum(own.scatters + between))
