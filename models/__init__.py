"""Recommenders, by their names in the configs."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.base import EmbeddingScorer, Recommender, Scorer
from models.blocks import block_rows
from models.lightgcn import LightGCN
from models.ncf import NCF

__all__ = ["MODELS", "EmbeddingScorer", "Recommender", "Scorer", "build_model", "top_items"]

MODELS: dict[str, type[Recommender]] = {"ncf": NCF, "lgn": LightGCN}


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


def top_items(model: Recommender, n_users: int, n_items: int, top: int) -> Tensor:
    """(n_users, top) int64: each user's highest-scored items of all, best first."""
    device = model.user_embedding.device
    items = torch.arange(n_items, device=device)
    score = model.scorer()
    return torch.cat(
        [
            score(users[:, None], items.expand(len(users), -1)).topk(top).indices
            for users in torch.arange(n_users, device=device).split(block_rows(n_items))
        ]
    )
