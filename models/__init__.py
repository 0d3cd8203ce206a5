"""Recommenders, by their names in the configs."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.base import EmbeddingScorer, Recommender, Scorer
from models.blocks import block_rows
from models.lightgcn import LightGCN
from models.ncf import NCF
from utils.audit.baselines import widest

__all__ = [
    "MODELS",
    "EmbeddingScorer",
    "Recommender",
    "Scorer",
    "build_model",
    "scores_of_users",
    "top_items",
]

MODELS: dict[str, type[Recommender]] = {"ncf": NCF, "lgn": LightGCN}

MOST_SCORES = 2**27
"""Scores of users and items that are held at once: 512 MiB."""


def build_model(
    name: str,
    n_users: int,
    n_items: int,
    embedding_size: int | None,
    generator: torch.Generator,
    graph: Callable[[], Tensor],
) -> Recommender:
    """A freshly initialised recommender on the CPU.

    Args:
        name: one of MODELS.
        n_users, n_items: sizes of the index spaces.
        embedding_size: d, or None for the model's own.
        generator: draws the initial weights, on the CPU.
        graph: gives the normalised adjacency (CSR) to a model that propagates over it.
    """
    size = embedding_size or MODELS[name].default_embedding_size
    if name == "lgn":
        return LightGCN(n_users, n_items, size, generator, graph())
    return NCF(n_users, n_items, size, generator)


def top_items(
    model: Recommender, n_users: int, n_items: int, top: int, without: Tensor | None = None
) -> Tensor:
    """(n_users, top) int64: each user's highest-scored items of all, best first.

    Args:
        without: (n, 2) int64 pairs of user and item that are not recommended, such as those known.
    """
    device = model.user_embedding.device
    items = torch.arange(n_items, device=device)
    score = model.scorer()
    found = []
    for users in torch.arange(n_users, device=device).split(block_rows(n_items)):
        scores = score(users[:, None], items.expand(len(users), -1))
        if without is not None:
            known = without[(without[:, 0] >= users[0]) & (without[:, 0] <= users[-1])]
            scores[known[:, 0] - users[0], known[:, 1]] = -torch.inf
        found.append(scores.topk(top).indices)
    return torch.cat(found)


def scores_of_users(model: Recommender, n_users: int, n_items: int, seed: int) -> np.ndarray:
    """(n_users, d): the users' scores of all items, or of so many as are held at once, in the
    coordinates of their widest directions; an item's mean says nothing of a user.
    """
    device = model.user_embedding.device
    items = torch.arange(n_items, device=device)[:: -(-n_users * n_items // MOST_SCORES)]
    users = torch.arange(n_users, device=device)
    scores = model.scorer()(users[:, None], items.expand(n_users, -1))
    return widest((scores - scores.mean(0)).cpu().numpy(), seed)
