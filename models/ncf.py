"""Neural collaborative filtering (He et al., WWW 2017): NeuMF, "NMF" in the papers' tables.

    score(u, i) = w . [ p_u * q_i ; MLP([p'_u ; q'_i]) ] + b

A generalised matrix factorisation (GMF) with K factors beside a perceptron on tables of its own,
4K wide, with layers 8K -> 4K -> 2K -> K. The GMF user table p is the user embedding that the
papers attack and unlearn.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.base import EmbeddingScorer, Recommender, Scorer
from models.blocks import block_slices, in_blocks


class NCF(Recommender):
    """NeuMF with factor size `embedding_size` (K).

    Initialisation as in the artefact: tables N(0, 0.01²), perceptron Xavier uniform, output
    Kaiming uniform (a = 1), biases 0.
    """

    title = "NMF"
    default_embedding_size = 32

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_size: int,
        generator: torch.Generator,
    ):
        super().__init__()
        k = embedding_size
        self.gmf_user = nn.Parameter(torch.empty(n_users, k))
        self.gmf_item = nn.Parameter(torch.empty(n_items, k))
        self.mlp_user = nn.Parameter(torch.empty(n_users, 4 * k))
        self.mlp_item = nn.Parameter(torch.empty(n_items, 4 * k))
        self.layers = nn.ModuleList(nn.Linear(wide, wide // 2) for wide in (8 * k, 4 * k, 2 * k))
        self.output = nn.Linear(2 * k, 1)
        for table in (self.gmf_user, self.gmf_item, self.mlp_user, self.mlp_item):
            nn.init.normal_(table, std=0.01, generator=generator)
        for name, weights in self.layers.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(weights, generator=generator)
            else:
                nn.init.zeros_(weights)
        nn.init.kaiming_uniform_(self.output.weight, a=1, generator=generator)
        nn.init.zeros_(self.output.bias)

    def user_tables(self) -> dict[str, nn.Parameter]:
        return {"gmf": self.gmf_user, "mlp": self.mlp_user}

    def served(self) -> dict[str, Tensor]:
        return {name: table.detach().clone() for name, table in self.user_tables().items()}

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        # embedding(), not indexing: its backward on the CPU is a sorted sum, the same every time
        lookup = nn.functional.embedding
        factors = lookup(users, self.gmf_user) * lookup(items, self.gmf_item)  # (n, K)
        hidden = torch.cat(
            [lookup(users, self.mlp_user), lookup(items, self.mlp_item)], dim=-1
        )  # (n, 8K)
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        return self.output(torch.cat([factors, hidden], dim=-1)).squeeze(-1)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        weighted = self.gmf_user * self.output.weight[0, : self.gmf_user.shape[1]]
        factors, perceptron = self.gmf_item.detach().clone(), self._perceptron_scorer()

        def scores(users: Tensor, items: Tensor) -> Tensor:
            return (weighted[users] * factors[items]).sum(-1) + perceptron(users, items)

        return in_blocks(scores, self.mlp_user.shape[1])

    @torch.no_grad()
    def embedding_scorer(self, items: Tensor) -> EmbeddingScorer:
        # the perceptron has tables of its own, so in p the score is affine: slope . p_u + offset
        weighted = self.output.weight[0, : self.gmf_user.shape[1]] * self.gmf_item
        users = torch.arange(len(items), device=items.device)[:, None]
        offset = in_blocks(self._perceptron_scorer(), self.mlp_user.shape[1])(users, items)

        blocks = block_slices(len(items), items.shape[1] * weighted.shape[1])
        only = weighted[items] if len(blocks) == 1 else None  # (n, k, K); made once where it fits

        def of_users(shared: Sequence[Tensor], users: slice) -> Tensor:
            slope = weighted[items[users]] if only is None else only
            return torch.einsum("nkd,nd->nk", slope, shared[0][users]) + offset[users]

        return EmbeddingScorer(lambda embedding: (embedding,), of_users, blocks)

    def _perceptron_scorer(self) -> Scorer:
        """The perceptron's part of the score, with the output's bias.

        The first layer is linear in [p' ; q'], so its halves are taken once a user and once an
        item instead of once a pair.
        """
        first, *others = cast(Iterable[nn.Linear], self.layers)
        width = self.mlp_user.shape[1]
        user_half = self.mlp_user @ first.weight[:, :width].T  # (n_users, 4K)
        item_half = self.mlp_item @ first.weight[:, width:].T + first.bias
        w = self.output.weight[0, self.gmf_user.shape[1] :]

        @torch.no_grad()
        def scores(users: Tensor, items: Tensor) -> Tensor:
            hidden = torch.relu(user_half[users] + item_half[items])
            for layer in others:
                hidden = torch.relu(layer(hidden))
            return hidden @ w + self.output.bias

        return scores
