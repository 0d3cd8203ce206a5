"""Whether a user is in two shards.

Ids of all shards would take more memory than their vectors' blocks do. So they are compared by
their hashes: all of up to SAMPLE users, of more those whose hash divides by a number that leaves
about as many. Which these are follows from the id alone; so both places of a user are among them,
or neither, and of k users who are in two shards of n none is seen with the probability
(1 - SAMPLE / n)^k. A shard that is there twice is seen.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data.tables.user_table import PAD
from utils.errors import UserError
from utils.ranks import Ranks

SAMPLE = 1_000_000
"""Users who are compared, about; each takes 24 bytes of every process."""

SHOWN = 10
"""Hashes that are there twice whose ids the ranks tell one another."""


class Seen:
    """Ids of this rank's shards that are compared with all others."""

    def __init__(self, total: int):
        """Of so many users of all ranks."""
        self.every = np.uint64(-(-total // SAMPLE) or 1)
        self.ids: list[np.ndarray] = []
        self.hashes: list[np.ndarray] = []
        self.paths: list[Path] = []

    def add(self, path: Path, ids: np.ndarray) -> None:
        """A shard's, (n_users,) text; RecBole's [PAD] is nobody."""
        hashes = pd.util.hash_array(ids, categorize=False)
        kept = (hashes % self.every == 0) & (ids != PAD)
        self.ids.append(ids[kept])
        self.hashes.append(hashes[kept])
        self.paths.append(path)

    def check(self, ranks: Ranks) -> None:
        """Refuse an id that is in two shards, of this rank or another.

        Raises:
            UserError: says which, and where; or as `Ranks.together`.
        """
        own = np.concatenate([np.empty(0, np.uint64), *self.hashes])
        halves = np.column_stack([own >> np.uint64(32), own & np.uint64(2**32 - 1)])
        # a sum in float64, which holds 53 bits, is all that ranks tell one another
        high, low = ranks.gathered(halves.astype(np.float64)).astype(np.uint64).T
        whole = np.sort(high << np.uint64(32) | low)
        several = np.unique(whole[1:][whole[1:] == whole[:-1]])[:SHOWN]
        places = [json.loads(one) for one in ranks.union(self._places(several))]
        first: dict[str, str] = {}

        def compare() -> None:
            for one, path in places:
                if (other := first.setdefault(one, path)) != path:
                    raise UserError(f"the user id {one} is in {other} and in {path}")

        ranks.agree(compare)

    def _places(self, hashes: np.ndarray) -> Iterator[str]:
        """The ids with these hashes, each with its shard."""
        for path, ids, own in zip(self.paths, self.ids, self.hashes, strict=True):
            for one in ids[np.isin(own, hashes)]:
                yield json.dumps([one, str(path)])
