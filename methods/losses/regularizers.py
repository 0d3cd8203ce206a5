"""What holds the user embedding back: l_r of eq. 1 (Li et al., ACM MM 2023)."""

from collections.abc import Sequence

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
            best first; it is asked for a block of users after another.
        margin: how far neighbours in that order should stay apart, in logits.
    """

    def hinge(shared: Sequence[Tensor], users: slice) -> Tensor:
        scores = scorer.of_users(shared, users)
        return torch.relu(margin - (scores[:, :-1] - scores[:, 1:])).sum()

    def value(theta: Tensor) -> Tensor:
        shared = scorer.shared(theta)
        return torch.stack([hinge(shared, users) for users in scorer.blocks]).sum()

    def gradient(theta: Tensor) -> Tensor:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            shared = scorer.shared(theta)
            # backward once a block as far as what the blocks share, then once from there: the
            # graph of one block is gone before the next is made
            held = [part.detach().requires_grad_() for part in shared]
            for users in scorer.blocks:
                hinge(held, users).backward()
            made = [number for number, part in enumerate(shared) if part.requires_grad]
            ends, starts = [shared[n] for n in made], [held[n].grad for n in made]
            return torch.autograd.grad(ends, theta, starts)[0]

    return Objective(value, gradient)
