"""D2D-R, distribution-to-distribution (Li et al., ACM MM 2023, eq. 6 and 11).

    l_D(θ) = MMD(S_1, S_2)

with the artefact's five radial kernels, whose width follows θ; `methods.losses.mmd` holds the
mathematics and what is done for more than two classes. Two things are no paper's, both off by
default on the papers' data: other kernel widths, and steps on a sample of very many users.
`methods.losses.kl` holds the other distance that the paper names (3.3.2), KL divergence.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor

from methods.base import Fit, Method
from methods.losses.kl import kl, kl_gradient
from methods.losses.mmd import (
    Classes,
    Width,
    mean_squared_distance,
    median_squared_distance,
    mmd,
    mmd_chance,
    mmd_gradient,
)
from methods.losses.objective import Objective
from methods.unlearning import Eq1Options, eq1
from utils.ranks import ALONE, Ranks
from utils.schema import CHECKED, Count, key
from utils.threads import one_thread

CHANCE_DRAWS = 20
"""Permutations of the labels that KL's mean over all of them is estimated from."""


@pydantic.dataclasses.dataclass(frozen=True, config=CHECKED)
class D2DOptions(Eq1Options):
    """What d2d can be told."""

    d2d_divergence: Literal["mmd", "kl"] = key("mmd")
    """d2d: the distance of the classes' distributions: "mmd" (published), or "kl", the KL
    divergence between Gaussians of the classes' means and covariances."""
    kernel_width: Literal["mean", "median", "standardised"] = key("mean")
    """d2d: what its kernels' width follows: the "mean" squared distance between two users
    (published), the "median" (for embeddings in which a few users lie far out), or the mean after
    every dimension is divided by its standard deviation in the original ("standardised")."""
    pairs_users: Annotated[Count, Field(ge=100)] = key(20_000)
    """d2d: with more known users than this every step takes as many, drawn anew from each class
    in its share; up to it all pairs of users count."""


def distinguishability(
    labels: Tensor, width: Width = mean_squared_distance, ranks: Ranks = ALONE
) -> Objective:
    """l_D for these labels ((n,) int64, 0 .. C-1) as a function of θ (n, K)."""
    classes = Classes.of(labels)
    return _objective(lambda: classes, width, ranks)


def sampled(
    labels: Tensor,
    users: int,
    rng: np.random.Generator,
    width: Width = mean_squared_distance,
    ranks: Ranks = ALONE,
) -> Objective:
    """The same, estimated without bias from so many users, drawn anew for every value and gradient
    (see `methods.losses.mmd`); all ranks draw the same.
    """
    classes = Classes.of(labels)
    return _objective(lambda: classes.sample(users, rng), width, ranks)


def _objective(classes: Callable[[], Classes], width: Width, ranks: Ranks) -> Objective:
    return Objective(
        lambda theta: mmd(theta, classes(), width=width, ranks=ranks),
        lambda theta: mmd_gradient(theta, classes(), width=width, ranks=ranks),
        chance=lambda theta: mmd_chance(theta, classes(), width, ranks),
    )


def gaussian(labels: Tensor, rng: np.random.Generator) -> Objective:
    """KL divergence in the place of MMD; its chance is a mean of CHANCE_DRAWS permutations."""
    classes = Classes.of(labels)

    def shuffled() -> Classes:
        order = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
        return replace(classes, order=order)

    random_groups = [shuffled() for _ in range(CHANCE_DRAWS)]
    return Objective(
        lambda theta: kl(theta, classes),
        lambda theta: kl_gradient(theta, classes),
        chance=lambda theta: torch.stack([kl(theta, groups) for groups in random_groups]).mean(),
    )


def loss(
    theta_star: Tensor,
    labels: Tensor,
    options: D2DOptions,
    rng: np.random.Generator,
    ranks: Ranks = ALONE,
) -> Objective:
    """l_D as the options have it, for users whose original is theta_star (n, K). Of several ranks
    each works out KL by itself.
    """
    if options.d2d_divergence == "kl":
        return gaussian(labels, rng)
    n = len(labels)
    width: Width = mean_squared_distance
    if options.kernel_width == "median":
        width = median_squared_distance(n, rng)
    if n > options.pairs_users:
        objective = sampled(labels, options.pairs_users, rng, width, ranks)
    else:
        objective = distinguishability(labels, width, ranks)
    if options.kernel_width == "standardised":
        with one_thread():
            deviations = theta_star.std(0)
            rounding = torch.finfo(theta_star.dtype).eps * theta_star.abs().amax(0)
        differs = deviations > 4 * rounding  # a constant's deviation is rounding
        objective = objective.of_affine(1 / torch.where(differs, deviations, 1))
    return objective


def by_ranks(ranks: Ranks) -> Fit:
    """The fit by several processes."""
    return eq1(partial(loss, ranks=ranks), ranks)


METHOD = Method("D2D-R", D2DOptions, eq1(loss), by_ranks=by_ranks)
