"""Users of a table in shards, drawn at random: what an audit of a table past the memory looks at.

Every user of known label gets a random number, in the order of the shards' names and rows, and
those with the smallest are taken (reservoir sampling by random keys: Efraimidis and Spirakis, Inf.
Process. Lett. 2006, with equal weights). So every set of so many is as likely, blocks make no
difference, and no more than a block of labels and the drawn users' vectors is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby

import numpy as np
from tqdm import tqdm

from data.dataset import Attribute
from data.tables.shards import block_bounds
from data.tables.user_table import check_values
from methods.passes import Users
from methods.streaming import look
from utils.audit.halves import FEWEST
from utils.config import AttackConfig
from utils.errors import UserError
from utils.ranks import ALONE
from utils.seeds import numpy_generator


@dataclass(frozen=True)
class ShardSample:
    """The drawn users, in the order of the shards' names and rows.

    Attributes:
        vectors: (m, d), as in the shards.
        attribute: their labels, (m,), all known.
        said: of how many they were drawn.
    """

    vectors: np.ndarray
    attribute: Attribute
    said: str


def sample_of_shards(config: AttackConfig) -> ShardSample:
    """At most `audit_users` users of a folder of shards.

    Raises:
        UserError: shards or labels that don't fit, as of stream=on; a drawn user's value that is
            not finite.
    """
    users = look(replace(config, attribute=config.inferred), ALONE)
    rows, labels = drawn(users, config.audit_users, config.seed_of_attack)
    fewest = np.bincount(labels, minlength=len(users.names))
    rarest = int(fewest.argmin())
    if fewest[rarest] < FEWEST <= users.counts.min():
        raise UserError(
            f'of class "{users.names[rarest]}" {fewest[rarest]} of {users.counts[rarest]} users '
            f"were drawn, and an audit needs {FEWEST}; raise audit_users (now {config.audit_users})"
        )
    vectors = vectors_of(users, rows)
    known = int(users.counts.sum())
    said = f"Audited are {len(rows)} users, drawn at random from the {known} of known label"
    said += f" of {users.total} in {len(users.paths)} shards."
    return ShardSample(vectors, Attribute(config.inferred, tuple(users.names), labels), said)


def vectors_of(users: Users, rows: Sequence[tuple[int, int]]) -> np.ndarray:
    """(m, d) of users by shard and row, in ascending order.

    Raises:
        UserError: a value that is not finite in float32.
    """
    widest = reduce(np.promote_types, {users.files[shard].dtype for shard, _ in rows})
    vectors, done = np.empty((len(rows), users.dimensions), widest), 0
    with tqdm(total=len(rows), desc="reading users", unit="user", leave=False) as bar:
        for shard, of_shard in groupby(rows, key=lambda one: one[0]):
            own = np.array([row for _, row in of_shard])
            there = vectors[done : done + len(own)]
            there[:] = users.files[shard].take(own)
            for row, vector in zip(own, there, strict=True):
                check_values(users.paths[shard], vector[None], int(row))
            done += len(own)
            bar.update(len(own))
    return vectors


def drawn(users: Users, most: int, seed: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Shards and rows of at most so many users of known label, and their classes (m,) int64."""
    rng = numpy_generator(seed, "users of shards")
    keys = np.empty(0)
    found = np.empty((0, 3), np.int64)  # shard, row, class
    with tqdm(total=users.total, desc="drawing users", unit="user", leave=False) as bar:
        for shard in sorted(users.files):
            for start, stop in block_bounds(int(users.shapes[shard, 0]), 1):
                classes = users.classes(shard, start, stop)
                known = np.flatnonzero(classes >= 0)
                own = [np.full(len(known), shard), start + known, classes[known]]
                keys = np.append(keys, rng.random(stop - start)[known])
                found = np.concatenate([found, np.stack(own, 1)])
                if len(keys) > most:
                    kept = np.argpartition(keys, most)[:most]
                    keys, found = keys[kept], found[kept]
                bar.update(stop - start)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    return [(int(shard), int(row)) for shard, row in found[:, :2]], found[:, 2]
