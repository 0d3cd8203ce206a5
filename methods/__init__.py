"""The papers' methods, by their names in the configs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from methods import d2d, u2u
from methods.unlearning import Objective
from utils.config import Group

__all__ = ["METHODS", "Method"]

_TRAINING = frozenset({Group.DATA, Group.TRAINING})
_POST_TRAINING = _TRAINING | {Group.ATTRIBUTE, Group.POST_TRAINING}


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: the papers' name, for tables.
        groups: config keys that its result depends on.
        distinguishability: for a post-training method, gives l_u of eq. 1 for known labels.
    """

    title: str
    groups: frozenset[Group]
    distinguishability: Callable[[Tensor], Objective] | None = None


METHODS: dict[str, Method] = {
    "original": Method("Original", _TRAINING),
    "u2u": Method("U2U-R", _POST_TRAINING, u2u.distinguishability),
    "d2d": Method("D2D-R", _POST_TRAINING, d2d.distinguishability),
}
