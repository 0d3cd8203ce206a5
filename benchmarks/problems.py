"""Random data of the published sizes, so that timing needs no dataset."""

import numpy as np
import torch
from torch import Tensor

from data.adjacency import normalised_adjacency, to_torch
from models import Recommender, build_model
from utils.metrics import Candidates
from utils.seeds import torch_generator

SIZES = {  # users, items, training interactions, share of the larger class
    "ml-100k": (943, 1349, 97_401, 0.71),
    "ml-1m": (6040, 3416, 987_531, 0.72),
    "lfm-2b": (19_972, 99_639, 2_789_559, 0.78),
}


def interactions(size: str) -> Tensor:
    """(n, 2) random training pairs of a dataset's size, items long-tailed, no pair twice."""
    users, items, count, _ = SIZES[size]
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1)
    drawn = np.zeros(0, np.int64)
    while len(drawn) < count:
        user = rng.integers(0, users, count)
        item = rng.choice(items, count, p=popularity / popularity.sum())
        spread = np.where(rng.random(count) < 0.5, item, rng.integers(0, items, count))
        drawn = np.unique(np.concatenate([drawn, user * items + spread]))
    keys = rng.choice(drawn, count, replace=False)
    return torch.from_numpy(np.stack([keys // items, keys % items], 1))


def users(n: int, k: int, majority: float) -> tuple[Tensor, Tensor]:
    """A random embedding (n, k) in which the classes stand apart, and the labels."""
    generator = torch_generator(0, "benchmark")
    labels = (torch.rand(n, generator=generator) < majority).long()
    theta = 0.1 * torch.randn(n, k, generator=generator)
    return theta + 0.05 * labels[:, None], labels


def model_of(name: str, size: str, pairs: Tensor) -> Recommender:
    """A fresh recommender of a dataset's size."""
    n_users, n_items, *_ = SIZES[size]

    def graph() -> Tensor:
        return to_torch(normalised_adjacency(pairs.numpy(), n_users, n_items))

    return build_model(name, n_users, n_items, None, torch_generator(0), graph)


def candidates_of(size: str) -> Candidates:
    """100 random items a user."""
    n_users, n_items, *_ = SIZES[size]
    items = torch.randint(n_items, (n_users, 100), generator=torch_generator(0))
    return Candidates(torch.arange(n_users), items)
