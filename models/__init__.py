"""Recommenders, by their names in the configs."""

import torch

from models.base import EmbeddingScorer, Recommender
from models.ncf import NCF

__all__ = ["MODELS", "EmbeddingScorer", "Recommender", "build_model", "top_items"]

MODELS: dict[str, type[NCF]] = {"ncf": NCF}


def build_model(
    name: str,
    n_users: int,
    n_items: int,
    embedding_size: int | None,
    generator: torch.Generator,
) -> Recommender:
    """A freshly initialised recommender on the CPU; `embedding_size` None is its own default."""
    model = MODELS[name]
    size = embedding_size or model.default_embedding_size
    return model(n_users, n_items, size, generator)


def top_items(
    model: Recommender, n_users: int, n_items: int, top: int, rows: int = 256
) -> torch.Tensor:
    """(n_users, top) int64: each user's highest-scored items of all, best first."""
    device = model.user_embedding.device
    items = torch.arange(n_items, device=device)
    return torch.cat(
        [
            model.score(users[:, None], items.expand(len(users), -1)).topk(top).indices
            for users in torch.arange(n_users, device=device).split(rows)
        ]
    )
