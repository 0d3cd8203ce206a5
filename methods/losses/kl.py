"""KL divergence between the classes of users as Gaussians, with its gradient by hand.

The paper names KL divergence as a distance of distributions beside MMD (Li et al., ACM MM 2023,
3.3.2) and says neither how to estimate it from users nor what came out. The choice here, no
paper's, is the closed form between Gaussians of the classes' means m and covariances S,

    KL(a, b) = ½ [tr(S_b⁻¹ S_a) + (m_a - m_b)ᵀ S_b⁻¹ (m_a - m_b) - K + ln det S_b - ln det S_a],

averaged over all ordered pairs of classes: KL is not symmetric, the paper asks a distance to be
(3.5.2), and so the determinants cancel. With P = S⁻¹

    l(θ) = Σ_a [tr(P_a M_a) - (C - 1) K] / 2 C (C - 1),
    M_a  = Σ_{b ≠ a} S_b + (m_a - m_b)(m_a - m_b)ᵀ.

S_a is what the class's n_a users have (divided by n_a), plus RIDGE times the mean variance of a
dimension over all users on the diagonal: a class of fewer users than dimensions has an inverse too,
and l sees neither a shift nor the scale of θ. O(N K² + C K³) time. In float64 throughout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.losses.mmd import Classes
from utils.threads import one_thread

RIDGE = 0.01
"""Added to the diagonal of a covariance, as a share of the mean variance of a dimension: what
differs in directions that hold far less than that doesn't count.
"""


def ridge(centred: Tensor) -> Tensor:
    """What is added to the diagonal for users (n, K) whose mean is zero; 1 if all are one point."""
    added = RIDGE * centred.square().mean()
    return torch.where(added > 0, added, 1)


def kl(theta: Tensor, labels: Tensor | Classes) -> Tensor:
    """KL divergence between the classes of `labels`, a float64 scalar.

    Args:
        theta: (n, K) user embedding.
        labels: (n,) int64, classes 0 .. C-1, each with at least one user, C >= 2; or the Classes.
    """
    with one_thread():
        found = _Gaussians.of(theta, labels)
        excess = (found.precisions * found.others).sum() - found.pairs * theta.shape[1]
        return excess / (2 * found.pairs)


def kl_gradient(theta: Tensor, labels: Tensor | Classes) -> Tensor:
    """Gradient of `kl` in theta, (n, K), the ridge's part included.

    With g_a and G_a the derivatives in m_a and S_a, and h that in the ridge, Σ_a tr G_a, user i of
    class a has (g_a + 2 G_a (θ_i - m_a)) / n_a + 2 h RIDGE (θ_i - θ̄) / n K.
    """
    with one_thread():
        found = _Gaussians.of(theta, labels)
        precisions, apart = found.precisions, found.apart
        of_mean = (
            torch.einsum("akl,al->ak", precisions, apart.sum(1))
            + torch.einsum("bkl,abl->ak", precisions, apart)
        ) / found.pairs
        of_covariance = precisions.sum(0) - precisions - precisions @ found.others @ precisions
        of_covariance /= 2 * found.pairs
        of_ridge = of_covariance.diagonal(dim1=1, dim2=2).sum() * RIDGE / theta.numel()
        own = torch.cat(
            [
                (mean_part + 2 * (users - mean) @ covariance_part) / len(users)
                for users, mean, mean_part, covariance_part in zip(
                    found.users, found.means, of_mean, of_covariance, strict=True
                )
            ]
        )
        gradient = torch.empty_like(theta)
        whole = own + 2 * of_ridge * torch.cat(found.users)
        gradient[found.order] = whole.to(theta.dtype)
        return gradient


@dataclass(frozen=True)
class _Gaussians:
    """Classes as Gaussians, of users shifted so that the mean of all is zero.

    Attributes:
        order: (n,) the users sorted by class.
        users: of each class (n_a, K).
        means: (C, K).
        apart: (C, C, K) m_a - m_b.
        precisions: (C, K, K), P.
        others: (C, K, K), M.
        pairs: C (C - 1), the ordered pairs of classes.
    """

    order: Tensor
    users: tuple[Tensor, ...]
    means: Tensor
    apart: Tensor
    precisions: Tensor
    others: Tensor
    pairs: int

    @classmethod
    def of(cls, theta: Tensor, labels: Tensor | Classes) -> "_Gaussians":
        classes = labels if isinstance(labels, Classes) else Classes.of(labels)
        x = theta.double()[classes.order]
        x -= x.mean(0)
        users = x.split(classes.counts)
        means = torch.stack([own.mean(0) for own in users])
        covariances = torch.stack(
            [
                (own - mean).T @ (own - mean) / len(own)
                for own, mean in zip(users, means, strict=True)
            ]
        )
        covariances.diagonal(dim1=1, dim2=2).add_(ridge(x))
        # doesn't raise for numbers that are not finite: who steps says so in words
        precisions = torch.linalg.inv_ex(covariances).inverse
        apart = means[:, None] - means
        others = covariances.sum(0) - covariances + apart.mT @ apart
        pairs = len(users) * (len(users) - 1)
        return cls(classes.order, users, means, apart, precisions, others, pairs)
