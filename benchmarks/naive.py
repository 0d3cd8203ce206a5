"""The same as the project's, written as plainly as possible and with no care for speed.

The mathematics is as the papers print it. Training and evaluation are as plain PyTorch scripts have
them: negatives drawn in a loop, a Dataset whose samples a DataLoader collates one by one, and a
forward pass, a topk and a look-up in a list for every user. Nothing is slower than it need be in
that style: membership is asked of a set, one topk serves all cutoffs, and a step reads back no more
than its loss.

How such scripts hold their samples makes a difference, so there are two kinds: in tensors, as
PyTorch's own TensorDataset does, or in lists of numbers (like github.com/guoyang9/NCF), which are
collated five times as fast.

The tests compare with these; the benchmarks time against them.
"""

import random
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from models.lightgcn import LightGCN


def dense_laplacian(labels: Tensor) -> Tensor:
    """(N, N) Laplacian of the graph that joins users of different classes."""
    adjacency = (labels[:, None] != labels[None, :]).double()
    return torch.diag(adjacency.sum(1)) - adjacency


def u2u(theta: Tensor, labels: Tensor) -> Tensor:
    """2 Tr(θᵀ L θ), eq. 9, with the Laplacian formed."""
    laplacian = dense_laplacian(labels).to(theta.dtype)
    return 2 * torch.trace(theta.T @ laplacian @ theta)


def mmd(theta: Tensor, labels: Tensor, bandwidth: Tensor | None = None) -> Tensor:
    """Mean over pairs of classes of the biased MMD with the artefact's five kernels, by autograd.

    All kernel matrices whole; the bandwidth, by default over all users, held constant.
    """
    n = len(theta)
    squared = (theta[:, None, :] - theta[None, :, :]).square().sum(-1)
    if bandwidth is None:
        bandwidth = squared.detach().sum() / (n * (n - 1))
    widths = [bandwidth * factor for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
    kernel = torch.stack([torch.exp(-squared / width) for width in widths]).sum(0)
    members = [labels == c for c in range(int(labels.max()) + 1)]
    pairs = list(combinations(members, 2))
    total = theta.new_zeros(())
    for a, b in pairs:
        total = total + (
            kernel[a][:, a].mean() + kernel[b][:, b].mean() - 2 * kernel[a][:, b].mean()
        )
    return total / len(pairs)


def propagate(pairs: Tensor, users: Tensor, items: Tensor, layers: int) -> Tensor:
    """LightGCN's mean of layers with the dense adjacency; users (n, d) above items (m, d)."""
    n, m = len(users), len(items)
    adjacency = torch.zeros(n + m, n + m, dtype=users.dtype)
    adjacency[pairs[:, 0], n + pairs[:, 1]] = 1
    adjacency = adjacency + adjacency.T
    scale = adjacency.sum(1).clamp(min=1).rsqrt()
    adjacency = scale[:, None] * adjacency * scale
    layer = torch.cat([users, items])
    outputs = [layer]
    for _ in range(layers):
        layer = adjacency @ layer
        outputs.append(layer)
    return torch.stack(outputs).mean(0)


def hit_and_ndcg(scores: list[float], k: int) -> tuple[float, float]:
    """HR@k and NDCG@k of one user (positive first), averaged over every order of the ties."""
    above = sum(score > scores[0] for score in scores[1:])
    tied = sum(score == scores[0] for score in scores[1:])
    ranks = range(above, above + tied + 1)
    hits = [float(rank < k) for rank in ranks]
    gains = [
        float(1 / torch.log2(torch.tensor(rank + 2.0))) * hit
        for rank, hit in zip(ranks, hits, strict=True)
    ]
    return sum(hits) / len(hits), sum(gains) / len(gains)


class Lists(Dataset):
    """Rows of numbers, one at a time."""

    def __init__(self, *columns: Tensor):
        self.rows = list(zip(*(column.tolist() for column in columns), strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return self.rows[index]


SAMPLES: dict[str, Callable[..., Dataset]] = {"tensors": TensorDataset, "lists": Lists}


def batches(
    pairs: list[tuple[int, int]], n_items: int, num_ng: int, size: int, samples: str = "tensors"
) -> DataLoader:
    """An epoch of users, items and labels: drawn in a loop, loaded sample by sample."""
    positives = set(pairs)
    users, items = map(list, zip(*pairs, strict=True))
    for user, _ in pairs:
        for _ in range(num_ng):
            item = random.randrange(n_items)
            while (user, item) in positives:
                item = random.randrange(n_items)
            users.append(user)
            items.append(item)
    labels = [1.0] * len(pairs) + [0.0] * (num_ng * len(pairs))
    columns = (torch.tensor(column) for column in (users, items, labels))
    return DataLoader(SAMPLES[samples](*columns), batch_size=size, shuffle=True)


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor, Tensor], Tensor],
    users: Tensor,
    items: Tensor,
    cutoffs: Sequence[int],
    samples: str = "tensors",
) -> dict[str, float]:
    """Mean HR@k and NDCG@k, a user at a time; tied scores are in whatever order topk leaves them.

    Args:
        model: maps users and items (m,) to scores (m,).
        users: (n,) int64, on the model's device.
        items: (n, m) int64, the positive in column 0.
        cutoffs: the k's, at most m.
        samples: how they are held.
    """
    m = items.shape[1]
    dataset = SAMPLES[samples](users.cpu().repeat_interleave(m), items.cpu().flatten())
    metrics: dict[str, list[float]] = {
        f"{name}@{k}": [] for k in cutoffs for name in ("HR", "NDCG")
    }
    for one_user, candidates in DataLoader(dataset, batch_size=m):
        one_user, candidates = one_user.to(users.device), candidates.to(users.device)
        best = torch.topk(model(one_user, candidates), max(cutoffs)).indices
        recommended = torch.take(candidates, best).cpu().numpy().tolist()
        positive = candidates[0].item()
        for k in cutoffs:
            hit = positive in recommended[:k]
            metrics[f"HR@{k}"].append(float(hit))
            gain = 1 / np.log2(recommended.index(positive) + 2) if hit else 0.0
            metrics[f"NDCG@{k}"].append(gain)
    return {name: float(np.mean(values)) for name, values in metrics.items()}


def lightgcn(model: LightGCN, graph: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """LightGCN's logits of users and items (n,): a COO product a layer, gradient by autograd."""
    layers = [torch.cat([model.user_table, model.item_table])]
    for _ in range(model.layers):
        layers.append(torch.sparse.mm(graph, layers[-1]))
    nodes = torch.stack(layers).mean(0)
    return (nodes[users] * nodes[len(model.user_table) + items]).sum(-1)
