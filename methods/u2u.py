"""U2U-R, user-to-user (Li et al., ACM MM 2023, eq. 8 to 10).

    l_U(θ) = Σ_i Σ_j ||θ_i - θ_j||² [S_i ≠ S_j] = 2 Tr(θᵀ L θ)

where L is the Laplacian of the graph that joins users of different classes. L is N x N but
never needed: user i of class c has N - n_c neighbours, everybody outside the class, so

    (L θ)_i = (N - n_c) θ_i - (Σ_j θ_j - Σ_{j in c} θ_j),

O(NK) time and memory for any number of classes.
"""

import torch
from torch import Tensor

from methods.unlearning import Objective


def distinguishability(labels: Tensor) -> Objective:
    """l_U for these labels ((n,) int64, 0 .. C-1) as a function of θ (n, K)."""
    counts = torch.bincount(labels)
    degrees = (len(labels) - counts)[labels][:, None]

    def loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta - theta.mean(0)  # l_U doesn't see a shift; smaller numbers round less
        product = degrees * theta - _sum_outside(theta, labels, len(counts))
        return 2 * (theta * product).sum(dtype=torch.float64), 4 * product

    return loss


def minimiser(theta_star: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """The θ that minimises eq. 10, l_U(θ) + alpha ||θ - θ*||², in closed form.

    Setting the gradient to zero, (2 L + alpha) θ = alpha θ*. Summing over all users, and over
    each class, gives the sums T = T* and C_c = (alpha C*_c + 2 n_c T*) / (2N + alpha), hence
    θ_i = (alpha θ*_i + 2 (T - C_c)) / (2 (N - n_c) + alpha).
    """
    n = len(labels)
    counts = torch.bincount(labels)
    shift = theta_star.mean(0)
    centred = theta_star - shift  # so that T* = 0
    own = torch.zeros(len(counts), theta_star.shape[1], dtype=theta_star.dtype)
    own = own.to(theta_star.device).index_add_(0, labels, centred)
    own *= alpha / (2 * n + alpha)
    theta = alpha * centred - 2 * own[labels]
    return theta / (2 * (n - counts[labels]) + alpha)[:, None] + shift


def _sum_outside(theta: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(n, K): for each user, the sum of all θ_j of other classes."""
    own = torch.zeros(classes, theta.shape[1], dtype=theta.dtype, device=theta.device)
    own.index_add_(0, labels, theta)
    return (own.sum(0) - own)[labels]
