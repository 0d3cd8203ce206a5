"""U2U with the divergence of an attacker's softmax vectors in place of that of labels.

Of other attribute divergences than [S_i ≠ S_j] the paper has a brief discussion and no experiment
(Li et al., ACM MM 2023, 3.5.2): one-hot vectors under cross-entropy or cosine similarity, or
instead "the predicted softmax vector from attacking models", which may be "adaptively updated".
With v_i user i's vector (C,), Definition 1 (eq. 4: pairs of different classes) becomes

    l(θ) = Σ_i Σ_j W_ij ||θ_i - θ_j||²,      W_ij = [S_i ≠ S_j] (1 - cos(v_i, v_j)).

The cosine, since it is the published graph where v is one-hot (cross-entropy is infinite between
two such). The attacker, which the paper leaves open, is linear discriminant analysis of all users
of known label: its posterior is a softmax of a linear map and has a closed form, so it can be made
anew at every step.

With a = [1, u], b = [1, -u] and u = v / ||v||, W_ij is a_i · b_j between classes. User i of class c
needs Σ_{j not in c} b_j [θ_j, 1]ᵀ alone: O(N K C) time and no N x N matrix. In float64 throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.losses.kl import ridge
from methods.losses.mmd import Classes
from methods.losses.objective import Objective
from utils.threads import one_thread


def predicted(theta: Tensor, labels: Tensor) -> Tensor:
    """What the attacker predicts for the users theta (n, K) of labels (n,) that it was fitted on,
    (n, C) float64: the softmax of m_cᵀ P θ_i - ½ m_cᵀ P m_c + ln n_c / n, with m the classes' means
    and P the inverse of the covariance within classes, `methods.losses.kl.ridge` on its diagonal.
    """
    with one_thread():
        x = theta.double()
        x = x - x.mean(0)
        members = torch.nn.functional.one_hot(labels).double()  # (n, C)
        counts = members.sum(0)
        means = members.T @ x / counts[:, None]
        within = x - means[labels]
        covariance = within.T @ within / len(x)
        covariance.diagonal().add_(ridge(x))
        # doesn't raise for numbers that are not finite: who steps says so in words
        directions = means @ torch.linalg.inv_ex(covariance).inverse  # (C, K)
        offsets = (counts / len(x)).log() - (directions * means).sum(1) / 2
        return torch.softmax(x @ directions.T + offsets, 1)


@dataclass(frozen=True)
class Graph:
    """W for users' vectors.

    Attributes:
        classes: of the users.
        units: (n, C) u, sorted by class.
    """

    classes: Classes
    units: Tensor

    @classmethod
    def of(cls, vectors: Tensor, classes: Classes) -> "Graph":
        """That of vectors (n, C)."""
        return cls(classes, torch.nn.functional.normalize(vectors.double())[classes.order])

    def product(self, theta: Tensor) -> Tensor:
        """(n, K) float64: L θ, with L the Laplacian of W."""
        classes = self.classes
        x = theta.double()[classes.order]
        ones = torch.ones_like(x[:, :1])
        right = torch.cat([ones, -self.units], 1).split(classes.counts)
        left = torch.cat([ones, self.units], 1).split(classes.counts)
        beside_one = torch.cat([x, ones], 1).split(classes.counts)
        inside = torch.stack([b.T @ own for b, own in zip(right, beside_one, strict=True)])
        outside = inside.sum(0) - inside  # (C, C + 1, K + 1)
        pulled = torch.cat([a @ sums for a, sums in zip(left, outside, strict=True)])
        product = torch.empty_like(x)
        product[classes.order] = pulled[:, -1:] * x - pulled[:, :-1]
        return product


def weighted(graph: Callable[[Tensor], Graph]) -> Objective:
    """This l with the graph that there is at θ (n, K), held constant in the gradient."""

    def value(theta: Tensor) -> Tensor:
        with one_thread():
            x = theta.double()
            x = x - x.mean(0)  # l doesn't see a shift; smaller numbers round less
            return 2 * (x * graph(theta).product(x)).sum()

    def gradient(theta: Tensor) -> Tensor:
        with one_thread():
            x = theta.double()
            return graph(theta).product(x - x.mean(0)).mul_(4).to(theta.dtype)

    return Objective(value, gradient)
