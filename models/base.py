"""What a recommender must offer to be trained, evaluated, unlearned and attacked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Maps users (n, 1) and items (n, m) to their logits (n, m), without gradients."""


@dataclass(frozen=True)
class EmbeddingScorer:
    """Maps a user embedding (n_users, d) to scores (n_users, k) of items fixed beforehand, with
    gradients. Who can do with some users' scores at a time takes them so: all of them are made
    from far larger tensors.

    Attributes:
        shared: the user embedding -> what every user's scores are made from.
        of_users: that, and some users -> their scores.
        blocks: all users, as many at a time as keep the memory in bounds.
    """

    shared: Callable[[Tensor], tuple[Tensor, ...]]
    of_users: Callable[[Sequence[Tensor], slice], Tensor]
    blocks: Sequence[slice]

    def __call__(self, embedding: Tensor) -> Tensor:
        shared = self.shared(embedding)
        return torch.cat([self.of_users(shared, users) for users in self.blocks])


class Recommender(nn.Module, ABC):
    """A collaborative-filtering model with a user embedding.

    Calling it gives training logits: ``model(users, items)``, both (batch,), -> (batch,).

    Attributes:
        title: the papers' name, for tables.
        default_embedding_size: d unless the config says otherwise.
        training_path: which of several ways to compute a training step is taken, for a run's
            summary; None where there is one.
    """

    title: str
    default_embedding_size: int
    training_path: str | None = None

    def prepare_training(self, lookups: int, memory_mb: int) -> None:
        """Make what speeds up training steps; called once, where the model will be trained.

        Args:
            lookups: users and items of a batch, repeated ones counted.
            memory_mb: the most MiB that it may hold for that.
        """

    @abstractmethod
    def user_tables(self) -> dict[str, nn.Parameter]:
        """Parameters with a row a user, by name, each (n_users, d); the first one is the user
        embedding that the papers attack and unlearn. Changing them in place changes the
        recommendations.
        """

    @abstractmethod
    def served(self) -> dict[str, Tensor]:
        """The users' vectors that scores are made of, by name, each (n_users, d), without
        gradients: what a system that ranks with this model must keep.
        """

    def keep_served(self) -> None:
        """Let the user tables be what the model serves, from now on and in its saved weights. The
        recommendations stay; training ends. Nothing to do where they are that already.
        """

    @property
    def user_embedding(self) -> nn.Parameter:
        """(n_users, d): the first of the user tables."""
        return next(iter(self.user_tables().values()))

    @abstractmethod
    def scorer(self) -> Scorer:
        """Scoring as the model is now; what belongs to no single pair is computed here, once."""

    @abstractmethod
    def embedding_scorer(self, items: Tensor) -> EmbeddingScorer:
        """Scores as a function of the user embedding, all else fixed.

        Args:
            items: (n_users, k), the items whose scores are wanted, a row a user.
        """
