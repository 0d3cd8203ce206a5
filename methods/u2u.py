"""U2U-R, user-to-user (Li et al., ACM MM 2023, eq. 8 to 10).

    l_U(θ) = Σ_i Σ_j ||θ_i - θ_j||² [S_i ≠ S_j] = 2 Tr(θᵀ L θ)

where L is the Laplacian of the graph that joins users of different classes. L is N x N but
never needed: user i of class c has N - n_c neighbours, everybody outside the class, so

    (L θ)_i = (N - n_c) θ_i - (Σ_j θ_j - Σ_{j in c} θ_j),

O(NK) time and memory for any number of classes.

That is the published attribute divergence, 1 for users of different classes and 0 else. The paper
discusses others, the predicted softmax vectors of an attacker among them (3.5.2);
`methods.losses.softmax` holds their mathematics.
"""

from typing import Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from methods.base import Method
from methods.losses.mmd import Classes
from methods.losses.objective import Objective
from methods.losses.softmax import Graph, predicted, weighted
from methods.unlearning import Eq1Options, eq1
from utils.schema import CHECKED, key


@pydantic.dataclasses.dataclass(frozen=True, config=CHECKED)
class U2UOptions(Eq1Options):
    """What u2u can be told."""

    u2u_divergence: Literal["one-hot", "softmax", "adaptive"] = key("one-hot")
    """u2u: how much it counts that two users' classes differ: the same for all ("one-hot",
    published), or as much as the softmax vectors differ that an attacker predicts from the original
    embedding ("softmax") or, at every step, from the embedding as it is then ("adaptive")."""


def distinguishability(labels: Tensor) -> Objective:
    """l_U for these labels ((n,) int64, 0 .. C-1) as a function of θ (n, K)."""
    degrees = (len(labels) - torch.bincount(labels))[labels][:, None]
    members = torch.nn.functional.one_hot(labels)  # (n, C)

    def product(theta: Tensor) -> Tensor:
        """L θ, for θ of mean zero: then what is outside a class is minus what is inside."""
        of_class = members.to(theta.dtype)
        return (degrees.to(theta.dtype) * theta).addmm_(of_class, of_class.T @ theta)

    def value(theta: Tensor) -> Tensor:
        theta = theta - theta.mean(0)  # l_U doesn't see a shift; smaller numbers round less
        return 2 * (theta * product(theta)).sum(dtype=torch.float64)

    def gradient(theta: Tensor) -> Tensor:
        return product(theta - theta.mean(0)).mul_(4)

    return Objective(value, gradient, lambda star, alpha: minimiser(star, labels, alpha))


def minimiser(theta_star: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """The θ that minimises eq. 10, l_U(θ) + alpha ||θ - θ*||², in closed form.

    Setting the gradient to zero, (2 L + alpha) θ = alpha θ*. Summing over all users, and over
    each class, gives the sums T = T* and C_c = (alpha C*_c + 2 n_c T*) / (2N + alpha), hence
    θ_i = (alpha θ*_i + 2 (T - C_c)) / (2 (N - n_c) + alpha). In float64; the result has θ*'s dtype.
    """
    n = len(labels)
    counts = torch.bincount(labels)
    # a small alpha leaves users of a class apart by less than float32 can add to their mean
    theta = theta_star.double()
    shift = theta.mean(0)
    centred = theta - shift  # so that T* = 0
    members = torch.nn.functional.one_hot(labels).double()
    inside = members.T @ centred * (alpha / (2 * n + alpha))
    theta = alpha * centred - 2 * inside[labels]
    theta = theta / (2 * (n - counts[labels]) + alpha)[:, None] + shift
    return theta.to(theta_star.dtype)


def loss(
    theta_star: Tensor, labels: Tensor, options: U2UOptions, rng: np.random.Generator
) -> Objective:
    """l_U as the options have it, for users whose original is theta_star (n, K)."""
    if options.u2u_divergence == "one-hot":
        return distinguishability(labels)
    classes = Classes.of(labels)
    if options.u2u_divergence == "adaptive":
        return weighted(lambda theta: Graph.of(predicted(theta, labels), classes))
    fixed = Graph.of(predicted(theta_star, labels), classes)
    return weighted(lambda _: fixed)


METHOD = Method("U2U-R", U2UOptions, eq1(loss))
