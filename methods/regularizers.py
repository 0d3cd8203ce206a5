"""What holds the user embedding back: l_r of eq. 1 (Li et al., ACM MM 2023)."""

import torch
from torch import Tensor

from methods.unlearning import Objective
from models import EmbeddingScorer


def frobenius(theta_star: Tensor) -> Objective:
    """||θ - θ*||_F² (eq. 7); θ* is the original user embedding (n, K)."""

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        move = theta - theta_star
        return move.square().sum(dtype=torch.float64), 2 * move

    return loss


def ranking(scorer: EmbeddingScorer, margin: float) -> Objective:
    """Σ_u Σ_r max(0, margin - (s_ur - s_u,r+1)): each user's top items keep their order.

    What the artefact runs in place of eq. 7: a hinge in function space, the idea of the
    follow-up paper (arXiv 2403.06737).

    Args:
        scorer: gives the scores (n, top) of each user's top items under the original embedding,
            best first.
        margin: how far neighbours in that order should stay apart, in logits.
    """

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            scores = scorer(theta)
            value = torch.relu(margin - (scores[:, :-1] - scores[:, 1:])).sum()
            (gradient,) = torch.autograd.grad(value, theta)
        return value.detach(), gradient

    return loss
