"""What holds the user embedding back: l_r of eq. 1 (Li et al., ACM MM 2023)."""

import torch
from torch import Tensor

from methods.losses.objective import Objective
from models import EmbeddingScorer


def frobenius(theta_star: Tensor) -> Objective:
    """||θ - θ*||_F² (eq. 7); θ* is the original user embedding (n, K)."""
    return Objective(
        lambda theta: (theta - theta_star).square().sum(dtype=torch.float64),
        lambda theta: (theta - theta_star).mul_(2),
    )


def ranking(scorer: EmbeddingScorer, margin: float) -> Objective:
    """Σ_u Σ_r max(0, margin - (s_ur - s_u,r+1)): each user's top items keep their order.

    What the artefact runs in place of eq. 7: a hinge in function space, the idea of the
    follow-up paper (arXiv 2403.06737).

    Args:
        scorer: gives the scores (n, top) of each user's top items under the original embedding,
            best first.
        margin: how far neighbours in that order should stay apart, in logits.
    """

    def value(theta: Tensor) -> Tensor:
        scores = scorer(theta)
        return torch.relu(margin - (scores[:, :-1] - scores[:, 1:])).sum()

    def gradient(theta: Tensor) -> Tensor:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            return torch.autograd.grad(value(theta), theta)[0]

    return Objective(value, gradient)
