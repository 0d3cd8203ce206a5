"""Adv-InT, in training: an adversary behind a gradient-reversal layer.

After Ganhör et al. (SIGIR 2022), as the artefact applies it to both recommenders: a small
perceptron predicts the attribute from the batch's user embeddings and learns to, while the
reversed gradient makes the embeddings unlearn what helps it.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from methods.base import Method
from models.training.step import Penalty
from utils.ranks import ALONE, Ranks
from utils.schema import CHECKED, Count, Weight, key

UNKNOWN = -1


@dataclass(frozen=True, config=CHECKED)
class AdvOptions:
    """What adv can be told."""

    adv_scale: Annotated[Weight, Field(le=1e6)] = key(0.5)
    """Scale of adv's gradient-reversal layer."""
    adv_width: Count = key(16)
    """Hidden units of adv's adversary."""
    adv_init: Literal["xavier", "pytorch"] = key("xavier")
    """How adv's adversary starts: Xavier's uniform weights and biases of zero, or as PyTorch has
    linear layers start, and with it the artefact."""


class _Reverse(torch.autograd.Function):
    """Identity forward, -scale times the gradient backward (Ganin et al., JMLR 2016)."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return -ctx.scale * gradient, None


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """X itself; on the way back the gradient is multiplied by -scale."""
    return _Reverse.apply(x, scale)


def xavier(layer: nn.Linear, generator: torch.Generator) -> None:
    """Glorot and Bengio (AISTATS 2010), biases of zero."""
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)


def pytorch(layer: nn.Linear, generator: torch.Generator) -> None:
    """PyTorch's default: all uniform within 1 / sqrt(inputs)."""
    bound = layer.in_features**-0.5
    for weights in (layer.weight, layer.bias):
        nn.init.uniform_(weights, -bound, bound, generator=generator)


INITS = {"xavier": xavier, "pytorch": pytorch}


class AdversaryPenalty(Penalty):
    """Cross-entropy of the adversary on the users of a batch.

    Args:
        labels: (n_users,) int64, classes 0 .. C-1; users of unknown label (-1) don't count.
        embedding_size: d of the user embedding.
        width: the adversary's hidden units.
        scale: of the reversal layer.
        generator: draws the adversary's initial weights, on the CPU.
        init: how; see AdvOptions.
    """

    def __init__(
        self,
        labels: Tensor,
        embedding_size: int,
        width: int,
        scale: float,
        generator: torch.Generator,
        init: str = AdvOptions.adv_init,
    ):
        super().__init__()
        self.labels, self.scale = labels, scale
        classes = int(labels.max()) + 1
        self.layers = nn.Sequential(
            nn.Linear(embedding_size, width), nn.ReLU(), nn.Linear(width, classes)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                INITS[init](layer, generator)
        self.to(labels.device)

    def applies(self, batch: int) -> bool:
        return True

    def forward(self, user_embedding: Tensor, users: Tensor, ranks: Ranks = ALONE) -> Tensor:
        own = ranks.share(len(users))
        rows = nn.functional.embedding(users[own], user_embedding)
        logits = self.layers(reverse_gradient(rows, self.scale))
        labels = self.labels[users]
        total = nn.functional.cross_entropy(
            logits, labels[own], ignore_index=UNKNOWN, reduction="sum"
        )
        return total / (labels != UNKNOWN).sum().clamp(min=1)


def penalty(
    labels: Tensor, embedding_size: int, options: AdvOptions, generator: torch.Generator
) -> Penalty:
    """As of every in-training method (see methods.base)."""
    return AdversaryPenalty(
        labels,
        embedding_size,
        options.adv_width,
        options.adv_scale,
        generator,
        options.adv_init,
    )


METHOD = Method("Adv-InT", AdvOptions, penalty=penalty)
