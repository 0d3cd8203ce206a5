"""The one training loop: sampled negatives, binary cross-entropy, Adam, choice of epoch."""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

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


class EpochSampler(Protocol):
    """Where the examples of an epoch come from."""

    @property
    def examples(self) -> int: ...

    def epoch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True)
class TrainingSettings:
    """Keys of the experiment config that the loop needs."""

    lr: float
    batch_size: int
    epochs: int
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
    model: nn.Module,
    score: Callable[[Tensor, Tensor], Tensor],
    sampler: EpochSampler,
    validation: Candidates | None,
    test: Candidates,
    settings: TrainingSettings,
    folder: RunFolder,
) -> Trained:
    """Train `model` in place and leave the chosen epoch's weights in it.

    After every epoch everything needed to go on is written to the run folder; called again with
    the same arguments, an interrupted training resumes after its last finished epoch and ends
    with the same weights as an uninterrupted one (each epoch draws from a generator of its
    own). Test metrics are recorded every epoch and used for nothing, unless
    `settings.selection` is "test".

    Args:
        model: its call gives logits (batch,) for users and items (batch,).
        score: logits for evaluation, users (n, 1), items (n, m) -> (n, m).
        sampler: gives the examples of an epoch, on the model's device.
        validation, test: candidates to rank, on the model's device.
        settings: see there.
        folder: gets metrics.jsonl and the checkpoint, and is resumed from.

    Raises:
        UserError: the loss of an epoch is not finite.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"epoch": 0, "value": -math.inf, "state": {}}
    saved = _load_checkpoint(folder, device)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        history, best = json.loads(saved["history"]), saved["best"]
        log.info("Resuming after epoch %d of %d", len(history), settings.epochs)
    steps = math.ceil(sampler.examples / settings.batch_size)
    bar = tqdm(
        total=settings.epochs * steps,
        initial=len(history) * steps,
        unit="batch",
        dynamic_ncols=True,
    )
    with bar:
        for epoch in range(len(history) + 1, settings.epochs + 1):
            bar.set_description(f"epoch {epoch}/{settings.epochs}")
            start = time.perf_counter()
            generator = torch_generator(settings.seed, "train", "epoch", epoch, device=device)
            loss = _train_epoch(model, optimizer, sampler.epoch(generator), settings, bar)
            seconds = time.perf_counter() - start
            if not math.isfinite(loss):
                raise UserError(
                    f"epoch {epoch}: the mean training loss is {loss}; lower lr "
                    f"(now {settings.lr:g}). Epoch {epoch - 1} is kept in {folder.checkpoint}"
                )
            record: dict[str, Any] = {"epoch": epoch, "loss": loss, "seconds": seconds}
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
            _save_checkpoint(folder, model, optimizer, history, best)
            write_json_lines(folder.path / "metrics.jsonl", history)
    model.load_state_dict(best["state"])
    return Trained(best["epoch"], history, sum(record["seconds"] for record in history))


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor, Tensor],
    settings: TrainingSettings,
    bar: tqdm,
) -> float:
    """One pass; returns the mean loss over batches."""
    total = torch.zeros((), device=examples[2].device)
    batches = zip(*(part.split(settings.batch_size) for part in examples), strict=True)
    count = 0
    for users, items, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.binary_cross_entropy_with_logits(model(users, items), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        count += 1
        bar.update()
    return total.item() / count


def _short(record: dict[str, Any]) -> str:
    part = "validation" if "validation" in record else "test"
    metrics = record[part]
    return (
        f"loss {record['loss']:.4f}, {part} HR@10 {metrics['HR@10']:.4f} "
        f"NDCG@10 {metrics['NDCG@10']:.4f}, {record['seconds']:.1f} s"
    )


def _save_checkpoint(
    folder: RunFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    best: dict[str, Any],
) -> None:
    content = {
        "model": model.state_dict(),
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
