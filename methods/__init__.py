"""The papers' five methods, by their names in the configs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import d2d, u2u
from methods.adv import AdversaryPenalty
from methods.retrain import MMDPenalty
from methods.unlearning import PostTraining
from models.training.step import Penalty
from utils.config import ExperimentConfig, Group

__all__ = ["METHODS", "Method"]

PenaltyFactory = Callable[[ExperimentConfig, Tensor, int, torch.Generator], Penalty]
"""Config, labels, embedding size, generator -> what is added to the training loss."""


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
        post_training: of a method that edits the finished user embedding.
        penalty: of an in-training method.
    """

    title: str
    groups: frozenset[Group]
    post_training: PostTraining | None = None
    penalty: PenaltyFactory | None = None


_TRAINING = frozenset({Group.DATA, Group.TRAINING})
_POST_TRAINING = _TRAINING | {Group.ATTRIBUTE, Group.POST_TRAINING}

METHODS: dict[str, Method] = {
    "original": Method("Original", _TRAINING),
    "u2u": Method("U2U-R", _POST_TRAINING, PostTraining(u2u.distinguishability)),
    "d2d": Method("D2D-R", _POST_TRAINING, PostTraining(d2d.distinguishability)),
    "retrain": Method("Retrain", _TRAINING | {Group.ATTRIBUTE, Group.RETRAIN}, penalty=_retrain),
    "adv": Method("Adv-InT", _TRAINING | {Group.ATTRIBUTE, Group.ADV}, penalty=_adv),
}
