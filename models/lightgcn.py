"""LightGCN (He et al., SIGIR 2020): linear propagation over the interaction graph.

With E⁰ = [P; Q] the user and item tables one above the other and Ã the normalised adjacency,

    E = 1/(L+1) Σ_l Ã^l E⁰,   l = 0 .. L,      score(u, i) = e_u . e_i .

The layer-0 user table P is the user embedding that is attacked and unlearned.
"""

import torch
from torch import Tensor, nn

from models.base import EmbeddingScorer, Recommender, Scorer


class _Propagate(torch.autograd.Function):
    """E⁰ -> E. Ã is symmetric, so the gradient goes through the same map."""

    @staticmethod
    def forward(ctx, graph: Tensor, table: Tensor, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        with torch.autocast(table.device.type, enabled=False):  # the graph is float32
            return propagate(graph, table, layers)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, propagate(ctx.graph, gradient, ctx.layers), None


def propagate(graph: Tensor, table: Tensor, layers: int) -> Tensor:
    """1/(L+1) Σ_l Ã^l X by Horner's scheme, X + Ã (X + Ã (X + ...)): L products, no sum of layers.

    Args:
        graph: (n, n) normalised adjacency, CSR.
        table: (n, d).
        layers: L.
    """
    total = table
    for _ in range(layers):
        total = torch.addmm(table, graph, total)
    return total / (layers + 1)


class LightGCN(Recommender):
    """LightGCN with `embedding_size` dimensions and `layers` layers, no dropout.

    Initialisation as in the artefact: both tables N(0, 0.1²).
    """

    default_embedding_size = 64
    layers = 3
    graph: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_size: int,
        generator: torch.Generator,
        graph: Tensor,
    ):
        super().__init__()
        self.user_table = nn.Parameter(torch.empty(n_users, embedding_size))
        self.item_table = nn.Parameter(torch.empty(n_items, embedding_size))
        for table in (self.user_table, self.item_table):
            nn.init.normal_(table, std=0.1, generator=generator)
        # not saved with the weights: it belongs to the data
        self.register_buffer("graph", graph, persistent=False)

    @property
    def user_embedding(self) -> nn.Parameter:
        return self.user_table

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        user_nodes, item_nodes = self._nodes(self.user_table, self.item_table)
        # embedding(), not indexing: its backward on the CPU is a sorted sum, the same every time
        lookup = nn.functional.embedding
        return (lookup(users, user_nodes) * lookup(items, item_nodes)).sum(-1)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        user_nodes, item_nodes = self._nodes(self.user_table, self.item_table)
        return lambda users, items: (user_nodes[users] * item_nodes[items]).sum(-1)

    def embedding_scorer(self, items: Tensor) -> EmbeddingScorer:
        item_table = self.item_table.detach().clone()

        def scores(embedding: Tensor) -> Tensor:
            user_nodes, item_nodes = self._nodes(embedding, item_table)
            return torch.einsum("nd,nkd->nk", user_nodes, item_nodes[items])

        return scores

    def _nodes(self, user_table: Tensor, item_table: Tensor) -> tuple[Tensor, Tensor]:
        """Propagated user and item embeddings, (n_users, d) and (n_items, d)."""
        nodes = _Propagate.apply(self.graph, torch.cat([user_table, item_table]), self.layers)
        return nodes[: len(user_table)], nodes[len(user_table) :]
