"""Negatives: a fixed few a user to rank a held-out positive among, fresh ones to train on."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.errors import UserError


def sample_negatives(
    user: np.ndarray,
    item: np.ndarray,
    n_items: int,
    count: int,
    rng: np.random.Generator,
    repeated: bool = False,
) -> np.ndarray:
    """For every user, `count` items that the user never touched, uniformly.

    Args:
        user, item: (n,) the interactions that count as touched.
        n_items: size of the index space.
        count: negatives a user.
        rng: draws them.
        repeated: they may be drawn more than once; else they are different.

    Returns:
        (n_users, count) int64.

    Raises:
        UserError: a user has touched so many items that fewer than `count` are left.
    """
    order = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[order], np.arange(user.max() + 2))
    touched_by = np.split(item[order], bounds[1:-1])
    negatives = np.empty((len(touched_by), count), dtype=np.int64)
    for index, touched in enumerate(tqdm(touched_by, desc="drawing negatives", leave=False)):
        free = np.ones(n_items, dtype=bool)
        free[touched] = False
        untouched = np.flatnonzero(free)
        if len(untouched) < count:
            raise UserError(
                f"user {index} (index) has touched {n_items - len(untouched)} of {n_items} "
                f"items: {count} negatives can't be drawn; lower test_num_ng to at most "
                f"{len(untouched)}"
            )
        negatives[index] = rng.choice(untouched, count, replace=repeated)
    return negatives


class Examples(NamedTuple):
    """One epoch of single examples, shuffled: each tensor (n_train * (1 + num_ng),)."""

    users: Tensor
    items: Tensor
    labels: Tensor


class Comparisons(NamedTuple):
    """One epoch of comparisons, shuffled: each tensor (n_train * num_ng,)."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


class NegativeSampler:
    """Draws `num_ng` negatives for every training positive, a whole epoch at a time.

    A negative is any item that the user has no *training* interaction with: the held-out
    interactions are unknown at training time, so they are not spared.

    Args:
        pairs: (n, 2) int64 training interactions, columns user and item.
        n_users, n_items: sizes of the index spaces.
        num_ng: negatives a positive.

    Raises:
        UserError: a user has interacted with every item, so that nothing is left to draw.
    """

    def __init__(self, pairs: Tensor, n_users: int, n_items: int, num_ng: int):
        self.users, self.items = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
        self.n_items = n_items
        self.num_ng = num_ng
        self.keys = torch.unique(self.users * n_items + self.items)  # sorted
        full = torch.bincount(self.keys // n_items, minlength=n_users) >= n_items
        if num_ng > 0 and full.any():
            raise UserError(
                f"user {int(full.nonzero()[0])} (index) has interacted with all {n_items} items: "
                "no negative can be drawn; lower min_interactions or add items to the data"
            )

    def _is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        at = torch.searchsorted(self.keys, keys).clamp_max_(len(self.keys) - 1)
        return self.keys[at] == keys

    def _negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """An item for each of `users` (n,): drawn uniformly, redrawn while it is a positive."""

        def draw(count: int) -> Tensor:
            return torch.randint(self.n_items, (count,), generator=generator, device=users.device)

        negatives = draw(len(users))
        pending = torch.arange(len(users), device=users.device)
        while len(pending):
            clash = self._is_positive(users[pending], negatives[pending])
            pending = pending[clash]
            negatives[pending] = draw(len(pending))
        return negatives

    def examples(self, generator: torch.Generator) -> Examples:
        """Positives and negatives of one epoch; `generator` lives on the pairs' device."""
        device = self.users.device
        users = self.users.repeat_interleave(self.num_ng)
        negatives = self._negatives(users, generator)
        count = len(self.users) + len(users)
        order = torch.randperm(count, generator=generator, device=device)
        labels = torch.zeros(count, device=device)
        labels[: len(self.users)] = 1
        return Examples(
            torch.cat([self.users, users])[order],
            torch.cat([self.items, negatives])[order],
            labels[order],
        )

    def comparisons(self, generator: torch.Generator) -> Comparisons:
        """Each positive beside `num_ng` negatives of its user, in random order."""
        users = self.users.repeat_interleave(self.num_ng)
        positives = self.items.repeat_interleave(self.num_ng)
        negatives = self._negatives(users, generator)
        order = torch.randperm(len(users), generator=generator, device=users.device)
        return Comparisons(users[order], positives[order], negatives[order])
