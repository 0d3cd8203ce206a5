"""What one epoch of training does: the losses, the optimizer, the step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.base import Recommender
from models.training.graphs import Batch, PlainSteps, ReplayedSteps, Work, recorder_for
from models.training.precision import Logits, at_precision, products
from utils.ranks import ALONE, Ranks
from utils.threads import UNCHANGED, Threads


class Penalty(nn.Module, ABC):
    """What an in-training method adds to the recommendation loss; trained with the model."""

    @abstractmethod
    def applies(self, batch: int) -> bool:
        """Whether the `batch`-th batch of an epoch, from 0, has the term."""

    @abstractmethod
    def forward(self, user_embedding: Tensor, users: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """The term for a batch of users (n,); of several ranks, this one's part: the parts of all,
        and their gradients, add up to the term.
        """


def bce(logits: Logits, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of the logits of users and items with labels, each (n,)."""
    users, items, labels = batch
    return nn.functional.binary_cross_entropy_with_logits(logits(users, items), labels)


def bpr(logits: Logits, batch: Batch) -> Tensor:
    """Mean of -log sigmoid(s(user, positive) - s(user, negative)) (Rendle et al., UAI 2009)."""
    users, positives, negatives = batch
    both = logits(users.repeat(2), torch.cat([positives, negatives]))
    positive, negative = both.chunk(2)
    return -nn.functional.logsigmoid(positive - negative).mean()


LOSSES: dict[str, Callable[[Logits, Batch], Tensor]] = {"bce": bce, "bpr": bpr}


@dataclass(frozen=True)
class TrainingSettings:
    """Keys of the experiment config that training needs."""

    lr: float
    batch_size: int
    epochs: int
    loss: str
    selection: str
    seed: int
    precision: str = "float32"
    cuda_graphs: str = "off"


class Trainer:
    """A model in training.

    Several ranks have the same model and the same data. Of each batch a rank does its share; the
    gradients are added up, and all make the same step.

    Args:
        model: trained in place, on the device that it is on.
        penalty: of an in-training method.
        settings: see there.
        threads: of the steps, on a CPU.
        ranks: who train.

    Attributes:
        trained: the model and the penalty (an empty module for none).
        optimizer: Adam over the parameters of both.
    """

    def __init__(
        self,
        model: Recommender,
        penalty: Penalty | None,
        settings: TrainingSettings,
        threads: Threads = UNCHANGED,
        ranks: Ranks = ALONE,
    ):
        device = model.user_embedding.device
        self.trained = nn.ModuleList([model, penalty or nn.Module()])
        self.optimizer = torch.optim.Adam(self.trained.parameters(), lr=settings.lr, fused=True)
        self._on_gpu = device.type == "cuda"
        self._user_embedding = model.user_embedding
        self._penalty = penalty
        self._logits = at_precision(model, settings.precision, device)
        self._loss = LOSSES[settings.loss]
        self._precision = settings.precision
        self._ranks = ranks
        size = settings.batch_size
        lookups = size * (2 if settings.loss == "bpr" else 1)
        # what ranks tell one another can't be recorded
        recorded = settings.cuda_graphs == "on" and ranks.size == 1
        recorder = recorder_for(device, lookups) if recorded else None
        self._steps = (
            ReplayedSteps(self._step, size, recorder)
            if recorder
            else PlainSteps(self._step, size, threads)
        )

    def epoch(self, data: Batch, tick: Work) -> tuple[list[float], list[float]]:
        """One pass; returns each batch's recommendation loss, and that plus the penalty.

        They are read at the end, since reading one makes the CPU wait for the device.

        Args:
            data: the epoch's, on the model's device.
            tick: called after every step.
        """
        penalty = self._penalty
        with products(self._precision):
            losses = self._steps.epoch(data, penalty.applies if penalty else _never, tick)
        recommendation, total = losses.T.tolist()
        return recommendation, total

    def _step(self, batch: Batch, with_penalty: bool) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = total = self._own_part(batch)
        if with_penalty and self._penalty:
            total = loss + self._penalty(self._user_embedding, batch[0], self._ranks)
        total.backward()
        loss, total = self._added_up(loss.detach(), total.detach())
        # Adam refuses to be recorded unless it is told so, and warns where it is told in vain
        (group,) = self.optimizer.param_groups
        group["capturable"] = self._on_gpu and torch.cuda.is_current_stream_capturing()
        self.optimizer.step()
        group["capturable"] = False
        return loss, total

    def _own_part(self, batch: Batch) -> Tensor:
        """This rank's part of a batch's mean loss."""
        if self._ranks.size == 1:
            return self._loss(self._logits, batch)
        examples = len(batch[0])
        own = self._ranks.share(examples)
        weight = (own.stop - own.start) / examples
        # a rank without a share does an example for nothing: its gradients, zeros, are of the same
        # parameters as the others'
        users, items, third = (part[own] if weight else part[:1] for part in batch)
        return weight * self._loss(self._logits, (users, items, third))

    def _added_up(self, loss: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The two losses of all ranks; the gradients become those of all, too."""
        if self._ranks.size == 1:
            return loss, total
        moved = [one for one in self.trained.parameters() if one.grad is not None]
        parts = [*(cast(Tensor, one.grad) for one in moved), loss, total]
        everything = torch.cat([part.reshape(-1) for part in parts])
        self._ranks.add(everything)
        pieces = everything.split([part.numel() for part in parts])
        *gradients, loss, total = map(Tensor.view_as, pieces, parts)
        for one, gradient in zip(moved, gradients, strict=True):
            one.grad = gradient
        return loss, total


def _never(batch: int) -> bool:
    return False
