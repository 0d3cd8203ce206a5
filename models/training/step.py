"""What one epoch of training does: the losses, the optimizer, the step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import Recommender
from models.training.graphs import Batch, PlainSteps, ReplayedSteps, Work, recorder_for
from models.training.precision import Logits, at_precision, products
from utils.threads import UNCHANGED, Threads


class Penalty(nn.Module, ABC):
    """What an in-training method adds to the recommendation loss; trained with the model."""

    @abstractmethod
    def applies(self, batch: int) -> bool:
        """Whether the `batch`-th batch of an epoch, from 0, has the term."""

    @abstractmethod
    def forward(self, user_embedding: Tensor, users: Tensor) -> Tensor:
        """The term for a batch of users (n,)."""


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

    Args:
        model: trained in place, on the device that it is on.
        penalty: of an in-training method.
        settings: see there.
        threads: of the steps, on a CPU.

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
        size = settings.batch_size
        lookups = size * (2 if settings.loss == "bpr" else 1)
        recorder = recorder_for(device, lookups) if settings.cuda_graphs == "on" else None
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
        loss = total = self._loss(self._logits, batch)
        if with_penalty and self._penalty:
            total = loss + self._penalty(self._user_embedding, batch[0])
        total.backward()
        # Adam refuses to be recorded unless it is told so, and warns where it is told in vain
        (group,) = self.optimizer.param_groups
        group["capturable"] = self._on_gpu and torch.cuda.is_current_stream_capturing()
        self.optimizer.step()
        group["capturable"] = False
        return loss.detach(), total.detach()


def _never(batch: int) -> bool:
    return False
