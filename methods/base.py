"""What a method is: its name in tables, its options, and what it does to a user embedding.

A method acts on the finished embedding (`fit`), or in training (`penalty`); it is given its own
options, and all that is random comes from a generator that it is given.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from methods.eraser import Eraser, Labels, UserTables
from methods.passes import Streamed
from models.base import EmbeddingScorer
from models.training.step import Penalty
from utils.config import Group, RunConfig
from utils.ranks import Ranks
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads

TopScorer = Callable[[int], EmbeddingScorer]
"""How many -> scores of each user's so many best items, as a function of the user embedding."""

PenaltyFactory = Callable[[Tensor, int, Any, torch.Generator], Penalty]
"""Labels (n_users,), embedding size, options, generator -> what is added to the training loss."""


class Fit(Protocol):
    """Learns what to do to users' tables, for one attribute; several are edited side by side.

    Args:
        tables, labels: see `methods.eraser`.
        options: the method's.
        rng: all that is random comes from it.
        scorer: None where there is no recommender, only a table.
        threads: of the work.
        progress: where a long fit keeps its state, and finds it again.
    """

    def __call__(
        self,
        tables: UserTables,
        labels: Labels,
        options: Any,
        rng: np.random.Generator,
        scorer: TopScorer | None,
        threads: Threads,
        progress: Progress = FORGETFUL,
    ) -> Eraser: ...


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: the papers' name, for tables.
        options: a frozen dataclass of config keys with the prefix of the method; None for none.
        fit: of a method that edits the finished user embedding.
        penalty: of an in-training method.
        streamed: of a method that can go through users in blocks, since sums over them are all that
            it needs.
        by_ranks: of a method whose `fit` several processes can share, that fit: called with the
            same arguments in each rank, it gives the same in each, equal to `fit` up to rounding.
    """

    title: str
    options: type | None = None
    fit: Fit | None = None
    penalty: PenaltyFactory | None = None
    streamed: Streamed | None = None
    by_ranks: Callable[[Ranks], Fit] | None = None

    @property
    def groups(self) -> frozenset[Group | type]:
        """The config keys that its result depends on."""
        groups: set[Group | type] = {Group.DATA, Group.TRAINING}
        if self.fit or self.penalty:
            groups.add(Group.ATTRIBUTE)
        if self.fit:
            groups.add(Group.EDITING)
        if self.options:
            groups.add(self.options)
        return frozenset(groups)

    @property
    def shared(self) -> bool:
        """Whether several processes can share its work with all users in memory."""
        return not self.fit or self.by_ranks is not None

    def options_of(self, config: RunConfig) -> Any:
        """Its options, with the values that a `methods.ExperimentConfig` has for them."""
        if self.options is None:
            return None
        names = [field.name for field in dataclasses.fields(self.options)]
        return self.options(**{name: getattr(config, name) for name in names})
