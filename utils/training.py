"""The one training loop: sampled negatives, binary cross-entropy, Adam, choice of epoch."""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.errors import UserError
from utils.files import replace_file, write_json_lines
from utils.metrics import Candidates, evaluate
from utils.runs import RunFolder
from utils.seeds import torch_generator

log = logging.getLogger(__name__)

CRITERION = "HR@10"
"""The validation metric that chooses the epoch, as in the artefact; ties go to the earlier."""


class Sampler(Protocol):
    """Draws an epoch's training data; see data.sampling."""

    def examples(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items and labels (1 or 0)."""

    def comparisons(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Users, positives and negatives."""


class Recommender(Protocol):
    """What the loop needs of a model; see models.base."""

    @property
    def user_embedding(self) -> nn.Parameter: ...

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]: ...

    def __call__(self, users: Tensor, items: Tensor) -> Tensor: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...


class Penalty(Protocol):
    """What an in-training method adds to the recommendation loss; an nn.Module."""

    def __call__(self, user_embedding: Tensor, users: Tensor, batch: int) -> Tensor | None:
        """The term for a batch of users (n,), the `batch`-th of its epoch; None for none."""


def bce(model: Recommender, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean binary cross-entropy of the logits of users and items with labels, each (n,)."""
    users, items, labels = batch
    return nn.functional.binary_cross_entropy_with_logits(model(users, items), labels)


def bpr(model: Recommender, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean of -log sigmoid(s(user, positive) - s(user, negative)) (Rendle et al., UAI 2009)."""
    users, positives, negatives = batch
    both = model(users.repeat(2), torch.cat([positives, negatives]))
    positive, negative = both.chunk(2)
    return -nn.functional.logsigmoid(positive - negative).mean()


LOSSES: dict[str, Callable[[Recommender, tuple[Tensor, Tensor, Tensor]], Tensor]] = {
    "bce": bce,
    "bpr": bpr,
}


@dataclass(frozen=True)
class TrainingSettings:
    """Keys of the experiment config that the loop needs."""

    lr: float
    batch_size: int
    epochs: int
    loss: str
    selection: str
    seed: int


@dataclass(frozen=True)
class Trained:
    """What training leaves behind; the model itself holds the chosen epoch's weights.

    Attributes:
        epoch: the chosen epoch, from 1.
        history: a dict an epoch: epoch, loss, seconds, validation and test metrics.
        seconds: training time over all epochs, evaluation excluded.
    """

    epoch: int
    history: list[dict[str, Any]]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What a run's summary records; `best_on_test` is what looking at test would have given."""
        return {
            "chosen_epoch": self.epoch,
            "epochs": len(self.history),
            "validation": self.history[self.epoch - 1].get("validation"),
            "best_on_test": max(self.history, key=lambda record: record["test"][CRITERION]),
            "seconds": self.seconds,
        }


def train(
    model: Recommender,
    sampler: Sampler,
    validation: Candidates | None,
    test: Candidates,
    settings: TrainingSettings,
    folder: RunFolder,
    penalty: nn.Module | None = None,
) -> Trained:
    """Train `model` in place and leave the chosen epoch's weights in it.

    After every epoch everything needed to go on is written to the run folder; called again with
    the same arguments, an interrupted training resumes after its last finished epoch and ends
    with the same weights as an uninterrupted one (each epoch draws from a generator of its
    own). Test metrics are recorded every epoch and used for nothing, unless
    `settings.selection` is "test".

    Args:
        model: what to train.
        sampler: draws an epoch's data, on the model's device.
        validation, test: candidates to rank, on the model's device.
        settings: see there.
        folder: gets metrics.jsonl and the checkpoint, and is resumed from.
        penalty: a `Penalty` whose parameters are trained with the model's.

    Raises:
        UserError: the loss of an epoch is not finite.
    """
    device = model.user_embedding.device
    trained = nn.ModuleList([cast(nn.Module, model), penalty or nn.Module()])
    optimizer = torch.optim.Adam(trained.parameters(), lr=settings.lr, fused=True)
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"epoch": 0, "value": -math.inf, "state": {}}
    if saved := _load_checkpoint(folder, device):
        trained.load_state_dict(saved["trained"])
        optimizer.load_state_dict(saved["optimizer"])
        history, best = json.loads(saved["history"]), saved["best"]
        log.info("Resuming after epoch %d of %d", len(history), settings.epochs)
    draw = sampler.examples if settings.loss == "bce" else sampler.comparisons
    bar = tqdm(unit="batch", dynamic_ncols=True)
    with bar:
        for epoch in range(len(history) + 1, settings.epochs + 1):
            bar.set_description(f"epoch {epoch}/{settings.epochs}")
            start = time.perf_counter()
            data = draw(torch_generator(settings.seed, "train", "epoch", epoch, device=device))
            steps = math.ceil(len(data[0]) / settings.batch_size)
            bar.total, bar.n = settings.epochs * steps, (epoch - 1) * steps
            loss = _train_epoch(model, penalty, optimizer, data, settings, bar)
            seconds = time.perf_counter() - start
            if not math.isfinite(loss):
                raise UserError(
                    f"epoch {epoch}: the mean training loss is {loss}; lower lr "
                    f"(now {settings.lr:g}). Epoch {epoch - 1} is kept in {folder.checkpoint}"
                )
            record: dict[str, Any] = {"epoch": epoch, "loss": loss, "seconds": seconds}
            score = model.scorer()
            if validation is not None:
                record["validation"] = evaluate(score, validation)
            record["test"] = evaluate(score, test)
            history.append(record)
            value = epoch if settings.selection == "last" else record[settings.selection][CRITERION]
            if value > best["value"]:
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best = {"epoch": epoch, "value": value, "state": state}
            bar.set_postfix_str(_short(record))
            log.debug("epoch %d/%d  %s", epoch, settings.epochs, _short(record))
            _save_checkpoint(folder, trained, optimizer, history, best)
            write_json_lines(folder.path / "metrics.jsonl", history)
    model.load_state_dict(best["state"])
    return Trained(best["epoch"], history, sum(record["seconds"] for record in history))


def _train_epoch(
    model: Recommender,
    penalty: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor, Tensor],
    settings: TrainingSettings,
    bar: tqdm,
) -> float:
    """One pass; returns the mean recommendation loss over batches, the penalty left out."""
    recommendation_loss = LOSSES[settings.loss]
    total = torch.zeros((), device=data[0].device)
    batches = list(zip(*(part.split(settings.batch_size) for part in data), strict=True))
    for number, batch in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        loss = recommendation_loss(model, batch)
        total += loss.detach()
        if penalty is not None:
            extra = penalty(model.user_embedding, batch[0], number)
            loss = loss if extra is None else loss + extra
        loss.backward()
        optimizer.step()
        bar.update()
    return total.item() / len(batches)


def _short(record: dict[str, Any]) -> str:
    part = "validation" if "validation" in record else "test"
    metrics = record[part]
    return (
        f"loss {record['loss']:.4f}, {part} HR@10 {metrics['HR@10']:.4f} "
        f"NDCG@10 {metrics['NDCG@10']:.4f}, {record['seconds']:.1f} s"
    )


def _save_checkpoint(
    folder: RunFolder,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    best: dict[str, Any],
) -> None:
    content = {
        "trained": trained.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": json.dumps(history),
        "best": best,
    }
    with replace_file(folder.checkpoint) as file:
        torch.save(content, file)


def _load_checkpoint(folder: RunFolder, device: torch.device) -> dict[str, Any] | None:
    if not folder.checkpoint.exists():
        return None
    return torch.load(folder.checkpoint, map_location=device, weights_only=True)
