"""The papers' five methods, and what stands beside them, by their names in the configs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import calibrated, d2d, u2u
from methods.adv import AdversaryPenalty
from methods.eraser import Eraser, Labels, TransductiveEraser, UserTables
from methods.losses.objective import Objective
from methods.retrain import MMDPenalty
from methods.unlearning import Optimizer, unlearn
from models.training.step import Penalty
from utils.config import ExperimentConfig, Group
from utils.seeds import numpy_generator
from utils.threads import Threads

__all__ = ["METHODS", "Method"]

PenaltyFactory = Callable[[ExperimentConfig, Tensor, int, torch.Generator], Penalty]
"""Config, labels, embedding size, generator -> what is added to the training loss."""


Fit = Callable[[ExperimentConfig, UserTables, Labels, Callable[[], Objective], Threads], Eraser]
"""Config, one table, one attribute, what makes the regulariser, threads -> what edits the table."""


def _eq1(distinguishability: Callable[[Tensor], Objective]) -> Fit:
    """The fit of a method that minimises eq. 1 with this l_u."""

    def fit(
        config: ExperimentConfig,
        tables: UserTables,
        labels: Labels,
        regularizer: Callable[[], Objective],
        threads: Threads,
    ) -> Eraser:
        ((name, theta_star),), (known,) = tables.items(), labels.values()
        optimizer = Optimizer(
            config.unlearn_optimizer,
            config.unlearn_steps,
            config.unlearn_lr,
            config.unlearn_tolerance,
        )
        alpha = config.au_trade_off
        done = unlearn(
            theta_star, known, distinguishability, regularizer(), alpha, optimizer, threads
        )
        edited = {name: done.embedding}
        return TransductiveEraser(dict(tables), edited, done.summary(), done.history)

    return fit


def _calibrated(
    config: ExperimentConfig,
    tables: UserTables,
    labels: Labels,
    regularizer: Callable[[], Objective],
    threads: Threads,
) -> Eraser:
    rng = numpy_generator(config.seed, "calibrated")
    return calibrated.fit(tables, labels, config.calibrated_rho, config.calibrated_rounds, rng)


def _retrain(
    config: ExperimentConfig, labels: Tensor, embedding_size: int, generator: torch.Generator
) -> Penalty:
    return MMDPenalty(labels, config.retrain_trade_off, config.retrain_interval)


def _adv(
    config: ExperimentConfig, labels: Tensor, embedding_size: int, generator: torch.Generator
) -> Penalty:
    return AdversaryPenalty(labels, embedding_size, config.adv_width, config.adv_scale, generator)


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: the papers' name, for tables.
        groups: config keys that its result depends on.
        fit: of a method that edits the finished user embedding.
        penalty: of an in-training method.
    """

    title: str
    groups: frozenset[Group]
    fit: Fit | None = None
    penalty: PenaltyFactory | None = None


_TRAINING = frozenset({Group.DATA, Group.TRAINING})
_POST_TRAINING = _TRAINING | {Group.ATTRIBUTE, Group.POST_TRAINING}

METHODS: dict[str, Method] = {
    "original": Method("Original", _TRAINING),
    "u2u": Method("U2U-R", _POST_TRAINING, _eq1(u2u.distinguishability)),
    "d2d": Method("D2D-R", _POST_TRAINING, _eq1(d2d.distinguishability)),
    "retrain": Method("Retrain", _TRAINING | {Group.ATTRIBUTE, Group.RETRAIN}, penalty=_retrain),
    "adv": Method("Adv-InT", _TRAINING | {Group.ATTRIBUTE, Group.ADV}, penalty=_adv),
    "calibrated": Method(
        "Calibrated", _TRAINING | {Group.ATTRIBUTE, Group.CALIBRATED}, _calibrated
    ),
}
