"""Ranking metrics of the leave-one-out protocol: HR@k and NDCG@k over 1 + 99 candidates.

Tie rule: candidates with equal scores stand in random order, and the metric is the expectation
over these orders. It favours no model (placing the positive first would give a constant scorer
HR = 1, placing it last HR = 0), needs no random numbers, and doesn't depend on the candidates'
order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CUTOFFS = (5, 10, 15, 20)


@dataclass(frozen=True)
class Candidates:
    """What a recommender is asked to rank: one row a user, the positive in column 0.

    Attributes:
        users: (n,) int64.
        items: (n, 1 + test_num_ng) int64.
    """

    users: Tensor
    items: Tensor

    def to(self, device: torch.device | str) -> "Candidates":
        """The same candidates on `device`."""
        return Candidates(self.users.to(device), self.items.to(device))


def hit_and_ndcg(scores: Tensor, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Tensor]:
    """HR@k and NDCG@k of every row.

    With g candidates scored above the positive and t equal to it, its rank (from 0) is uniform
    on g .. g + t; a rank r < k counts 1 for HR@k and 1 / log2(r + 2) for NDCG@k (the ideal DCG
    of a single positive is 1).

    Args:
        scores: (n, m), the positive's score in column 0.
        cutoffs: the k's.

    Returns:
        {"HR@k": (n,) float64, "NDCG@k": (n,) float64} for each k.

    Raises:
        ValueError: a score is not a number.
    """
    if torch.isnan(scores).any():
        raise ValueError("the recommender gave a score that is not a number")
    positive, others = scores[:, :1], scores[:, 1:]
    above = (others > positive).sum(1)
    tied = (others == positive).sum(1)
    ranks = torch.arange(scores.shape[1], device=scores.device)
    gain = 1 / torch.log2(ranks.double() + 2)
    # summed_gain[r] = gain of ranks 0 .. r-1, so that a run of ranks is one difference
    summed_gain = torch.cat([gain.new_zeros(1), gain.cumsum(0)])
    metrics = {}
    for k in cutoffs:
        first, past = above.clamp(max=k), (above + tied + 1).clamp(max=k)
        metrics[f"HR@{k}"] = (past - first).double() / (tied + 1)
        metrics[f"NDCG@{k}"] = (summed_gain[past] - summed_gain[first]) / (tied + 1)
    return metrics


@torch.no_grad()
def evaluate_users(
    score: Callable[[Tensor, Tensor], Tensor],
    candidates: Candidates,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, Tensor]:
    """HR@k and NDCG@k of every user, (n,) float64 each.

    Args:
        score: maps users (n, 1) and items (n, m) to scores (n, m), in memory that it bounds itself.
        candidates: what to rank.
        cutoffs: the k's.
    """
    return hit_and_ndcg(score(candidates.users[:, None], candidates.items), cutoffs)


def evaluate(
    score: Callable[[Tensor, Tensor], Tensor],
    candidates: Candidates,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, float]:
    """Their means over users; arguments as in `evaluate_users`."""
    return means(evaluate_users(score, candidates, cutoffs))


def means(of_users: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean over users of each metric."""
    return {name: values.mean().item() for name, values in of_users.items()}
