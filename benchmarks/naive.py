"""The same mathematics as the project's, written as plainly as possible and with no care for speed.

The tests compare with these; the benchmarks time against them.
"""

import random
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor


def dense_laplacian(labels: Tensor) -> Tensor:
    """(N, N) Laplacian of the graph that joins users of different classes."""
    adjacency = (labels[:, None] != labels[None, :]).double()
    return torch.diag(adjacency.sum(1)) - adjacency


def u2u(theta: Tensor, labels: Tensor) -> Tensor:
    """2 Tr(θᵀ L θ), eq. 9, with the Laplacian formed."""
    laplacian = dense_laplacian(labels).to(theta.dtype)
    return 2 * torch.trace(theta.T @ laplacian @ theta)


def mmd(theta: Tensor, labels: Tensor) -> Tensor:
    """Mean over pairs of classes of the biased MMD with the artefact's five kernels, by autograd.

    All kernel matrices whole; the bandwidth over all users, held constant.
    """
    n = len(theta)
    squared = (theta[:, None, :] - theta[None, :, :]).square().sum(-1)
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


def batches(
    pairs: list[tuple[int, int]], n_items: int, num_ng: int, size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """An epoch of users, items and labels, sample by sample in Python."""
    positives = set(pairs)
    examples = [(user, item, 1.0) for user, item in pairs]
    for user, _ in pairs:
        for _ in range(num_ng):
            item = random.randrange(n_items)
            while (user, item) in positives:
                item = random.randrange(n_items)
            examples.append((user, item, 0.0))
    random.shuffle(examples)
    for start in range(0, len(examples), size):
        batch = [tuple(map(torch.tensor, one)) for one in examples[start : start + size]]
        users, items, labels = (torch.stack(column) for column in zip(*batch, strict=True))
        yield users, items, labels
