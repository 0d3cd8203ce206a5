"""The one training loop: sampled negatives, epochs, choice of epoch, checkpoints."""

import copy
import json
import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from data.sampling import NegativeSampler
from models.base import Recommender
from models.training.step import Penalty, Trainer, TrainingSettings
from utils.errors import UserError, in_one_line
from utils.metrics import Candidates, evaluate
from utils.ranks import ALONE, SAME_FOLDERS, Ranks
from utils.runs.checkpoint import damaged, load_checkpoint, save_checkpoint
from utils.runs.files import write_json_lines
from utils.runs.folder import RunFolder
from utils.seeds import torch_generator
from utils.threads import UNCHANGED, Threads

log = logging.getLogger(__name__)

CRITERION = "HR@10"
"""The validation metric that chooses the epoch, as in the artefact; ties go to the earlier."""


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
    sampler: NegativeSampler,
    validation: Candidates | None,
    test: Candidates,
    settings: TrainingSettings,
    folder: RunFolder,
    penalty: Penalty | None = None,
    threads: Threads = UNCHANGED,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train `model` in place and leave the chosen epoch's weights in it.

    After every epoch everything needed to go on is written to the run folder; called again with
    the same arguments, an interrupted training resumes after its last finished epoch and ends
    with the same weights as an uninterrupted one (each epoch draws from a generator of its
    own). Test metrics are recorded every epoch and used for nothing, unless
    `settings.selection` is "test".

    Of several ranks, called with the same arguments, the first one evaluates and writes, and tells
    the others what it has found. They all read the checkpoint, which another number of ranks may
    have left.

    Args:
        model: what to train.
        sampler: draws an epoch's data, on the model's device.
        validation, test: candidates to rank, on the model's device.
        settings: see there.
        folder: gets metrics.jsonl and the checkpoint, and is resumed from.
        penalty: of an in-training method.
        threads: of the steps, on a CPU.
        ranks: who train.

    Raises:
        UserError: a loss or a weight is not finite; the epoch before stays in the checkpoint.
    """
    device = model.user_embedding.device
    trainer = Trainer(model, penalty, settings, threads, ranks)
    trained, optimizer = trainer.trained, trainer.optimizer
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {"epoch": 0, "value": -math.inf, "state": {}}
    if saved := ranks.agree(lambda: _resume(folder, trained, optimizer, device)):
        history, best = saved
        log.info("Resuming after epoch %d of %d", len(history), settings.epochs)
    ranks.check_same({f"{folder.checkpoint}: the last finished epoch": len(history)}, SAME_FOLDERS)

    def evaluated() -> dict[str, Any]:
        score = model.scorer()
        found = {} if validation is None else {"validation": evaluate(score, validation)}
        return found | {"test": evaluate(score, test)}

    def check(epoch: int, totals: list[float]) -> None:
        if where := _divergence(totals, trained):
            weight = "" if penalty is None else ", or the weight of the method's own term"
            kept = f"epoch {epoch - 1} is kept in {folder.checkpoint}" if history else "none yet"
            raise UserError(
                f"epoch {epoch}, {where}; lower lr (now {settings.lr:g}){weight}. "
                f"Last good state: {kept}"
            )

    def keep() -> None:
        _save_checkpoint(folder, trained, optimizer, history, best)
        write_json_lines(folder.path / "metrics.jsonl", history)

    draw = sampler.examples if settings.loss == "bce" else sampler.comparisons
    bar = tqdm(desc="training", unit="batch", dynamic_ncols=True)
    with bar:
        for epoch in range(len(history) + 1, settings.epochs + 1):
            bar.set_description_str(f"epoch {epoch}/{settings.epochs}")
            start = time.perf_counter()
            data = draw(torch_generator(settings.seed, "train", "epoch", epoch, device=device))
            steps = math.ceil(len(data[0]) / settings.batch_size)
            bar.total, bar.n = settings.epochs * steps, (epoch - 1) * steps
            losses, totals = trainer.epoch(data, bar.update)
            seconds = time.perf_counter() - start
            ranks.agree(partial(check, epoch, totals))
            loss = math.fsum(losses) / len(losses)
            record: dict[str, Any] = {"epoch": epoch, "loss": loss, "seconds": seconds}
            record |= ranks.told(evaluated)
            history.append(record)
            value = epoch if settings.selection == "last" else record[settings.selection][CRITERION]
            if value > best["value"]:
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best = {"epoch": epoch, "value": value, "state": state}
            bar.set_postfix_str(_short(record))
            log.debug("epoch %d/%d  %s", epoch, settings.epochs, _short(record))
            ranks.alone(keep)
    model.load_state_dict(best["state"])
    return Trained(best["epoch"], history, sum(record["seconds"] for record in history))


def _divergence(losses: list[float], trained: nn.Module) -> str | None:
    """Where an epoch went astray, from its losses and the weights after it; None if nowhere."""
    for number, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            return f"batch {number} of {len(losses)}: the training loss is {loss}"
    if all(parameter.isfinite().all() for parameter in trained.parameters()):
        return None
    last = losses[-1]
    return f"batch {len(losses)} of {len(losses)}: weights not finite after a loss of {last:g}"


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
    save_checkpoint(folder.checkpoint, content)


def _resume(
    folder: RunFolder,
    trained: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """Bring back the checkpoint's state; returns its history and best epoch.

    None, and everything as it was, where there is no checkpoint or a damaged one.

    Raises:
        OSError, MemoryError: the machine can't read it now.
    """
    saved = load_checkpoint(folder.checkpoint, "training", device)
    if saved is None:
        return None
    fresh = copy.deepcopy((trained.state_dict(), optimizer.state_dict()))
    try:
        trained.load_state_dict(saved["trained"])
        optimizer.load_state_dict(saved["optimizer"])
        history, best = json.loads(saved["history"]), saved["best"]
        whole = history[best["epoch"] - 1]["epoch"] == best["epoch"]
        if not whole or best["state"].keys() != trained[0].state_dict().keys():
            raise ValueError("its parts don't belong together")
    except Exception as error:  # of parts that are not what they should be, anything
        if in_one_line(error):  # out of memory: the checkpoint may be whole
            raise
        trained.load_state_dict(fresh[0])
        optimizer.load_state_dict(fresh[1])
        damaged(folder.checkpoint, "training", error)
        return None
    return history, best
