"""Retrain, in training: the D2D loss added to the recommendation loss (MM23, section 4.1.4).

    L = BCE + retrain_trade_off * MMD(user embedding)

The MMD is that of all users; as in the artefact it is added on every 50th batch only.
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from methods.base import Method
from methods.losses.mmd import Classes, mmd, mmd_gradient
from models.training.step import Penalty
from utils.ranks import ALONE, Ranks
from utils.schema import CHECKED, Count, Weight, key


@dataclass(frozen=True, config=CHECKED)
class RetrainOptions:
    """What retrain can be told."""

    retrain_trade_off: Weight = key(1.0)
    """Weight of the MMD term in the training loss of retrain."""
    retrain_interval: Count = key(50)
    """Batches from one MMD term of retrain to the next."""


class _MMD(torch.autograd.Function):
    """`mmd` as a node of an autograd graph."""

    @staticmethod
    def forward(ctx, theta: Tensor, classes: Classes, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.classes, ctx.ranks = classes, ranks
        return mmd(theta, classes, ranks=ranks).to(theta.dtype)

    @staticmethod
    def backward(ctx, scale: Tensor):
        (theta,) = ctx.saved_tensors
        return scale * mmd_gradient(theta, ctx.classes, ranks=ctx.ranks), None, None


class MMDPenalty(Penalty):
    """retrain_trade_off * MMD between the classes, on every `interval`-th batch.

    Args:
        labels: (n_users,) int64, classes 0 .. C-1; users of unknown label (-1) are left out.
        weight: retrain_trade_off.
        interval: batches from one MMD term to the next; the first batch of an epoch has one.
    """

    def __init__(self, labels: Tensor, weight: float, interval: int):
        super().__init__()
        self.known = torch.nonzero(labels >= 0).squeeze(1)
        self.classes = Classes.of(labels[self.known])
        self.weight, self.interval = weight, interval

    def applies(self, batch: int) -> bool:
        return batch % self.interval == 0

    def forward(self, user_embedding: Tensor, users: Tensor, ranks: Ranks = ALONE) -> Tensor:
        # of all users, whatever the batch: the whole term in every rank, by its share of the weight
        return (
            self.weight / ranks.size * _MMD.apply(user_embedding[self.known], self.classes, ranks)
        )


def penalty(
    labels: Tensor, embedding_size: int, options: RetrainOptions, generator: torch.Generator
) -> Penalty:
    """As of every in-training method (see methods.base)."""
    return MMDPenalty(labels, options.retrain_trade_off, options.retrain_interval)


METHOD = Method("Retrain", RetrainOptions, penalty=penalty)
