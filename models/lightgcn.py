"""LightGCN (He et al., SIGIR 2020): linear propagation over the interaction graph.

With E⁰ = [P; Q] the user and item tables one above the other and Ã the normalised adjacency,

    E = 1/(L+1) Σ_l Ã^l E⁰,   l = 0 .. L,      score(u, i) = e_u . e_i .

The layer-0 user table P is the user embedding that is attacked and unlearned.

A training step needs some rows of E only: those of the batch's users and items. There are two
ways to them, equal up to rounding, so that the bytes of a trained table depend on which is taken:

    layers  all of E by L sparse products, then look-ups; the gradient by L more
    rows    M = 1/(L+1) Σ_l Ã^l is made once, dense; a batch takes its rows M_b, and
            E_b = M_b E⁰,  dE⁰ = M_bᵀ dE_b

The second does some |b| n multiplications a dimension instead of 2 L nnz(Ã), at the speed of dense
products.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.base import EmbeddingScorer, Recommender, Scorer
from models.blocks import block_slices, in_blocks

log = logging.getLogger(__name__)

DENSE_GAIN = 4
"""How many times as many multiplications a second a dense product does as a sparse one, the gather
of its rows included. On two CPU cores 3.3 to 7.0, at batches of 256 to 2048 on both MovieLens'.
"""

BLOCK = 256
"""Columns of the propagation matrix that are made at once."""


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


def propagation_matrix(graph: Tensor, layers: int) -> Tensor:
    """M = 1/(L+1) Σ_l Ã^l, (n, n) dense, symmetric up to rounding; shows its progress.

    Args:
        graph: (n, n) normalised adjacency, CSR.
        layers: L.
    """
    n = len(graph)
    matrix = torch.empty(n, n, dtype=graph.dtype, device=graph.device)
    for start in tqdm(range(0, n, BLOCK), desc="propagation matrix", leave=False):
        # Ã is symmetric: columns of M are its rows
        rows = matrix[start : start + BLOCK]
        columns = torch.zeros(n, len(rows), dtype=graph.dtype, device=graph.device)
        columns[start : start + len(rows)].fill_diagonal_(1)
        rows.copy_(propagate(graph, columns, layers).T)
    return matrix


class _PropagateRows(torch.autograd.Function):
    """Rows M_b of the propagation matrix and the two tables -> E_b, (m, d)."""

    @staticmethod
    def forward(ctx, rows: Tensor, user_table: Tensor, item_table: Tensor) -> Tensor:
        ctx.parts = rows.split([len(user_table), len(item_table)], dim=1)
        user_rows, item_rows = ctx.parts
        with torch.autocast(rows.device.type, enabled=False):  # as above
            # transposed: so the sums are split between threads by row, whatever their number
            return torch.addmm(user_table.T @ user_rows.T, item_table.T, item_rows.T).T.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        user_rows, item_rows = ctx.parts
        return None, user_rows.T @ gradient, item_rows.T @ gradient


class LightGCN(Recommender):
    """LightGCN with `embedding_size` dimensions and `layers` layers, no dropout.

    Initialisation as in the artefact: both tables N(0, 0.1²).
    """

    title = "LightGCN"
    default_embedding_size = 64
    layers = 3
    graph: Tensor
    matrix: Tensor | None
    kept: Tensor | None

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
        self.register_buffer("matrix", None, persistent=False)
        self.register_buffer("kept", None)  # None is not saved either
        self.training_path = "layers"

    def user_tables(self) -> dict[str, nn.Parameter]:
        return {"propagated" if self.kept is not None else "layer0": self.user_table}

    @torch.no_grad()
    def keep_served(self) -> None:
        """The propagated vectors of users and items take the tables' place; layer 0 is gone. The
        saved weights say so by a name of their own.
        """
        tables = self.user_table, self.item_table
        for table, nodes in zip(tables, self._nodes(*tables), strict=True):
            table.copy_(nodes)
        self.register_buffer("kept", torch.ones((), dtype=torch.bool))

    @torch.no_grad()
    def served(self) -> dict[str, Tensor]:
        return {"propagated": self._nodes(self.user_table, self.item_table)[0].clone()}

    def prepare_training(self, lookups: int, memory_mb: int) -> None:
        n, nnz = len(self.graph), len(self.graph.values())
        size_mb = n * n * self.graph.element_size() / 2**20
        dense, sparse = min(lookups, n) * n, self.layers * nnz
        if size_mb > memory_mb:
            why = f"the propagation matrix has {size_mb:.0f} MiB, propagation_mb is {memory_mb}"
        elif dense > DENSE_GAIN * sparse:
            why = f"a batch has {lookups} of {n} nodes"
        else:
            log.info("  propagation by rows of a matrix of %.0f MiB", size_mb)
            self.matrix = propagation_matrix(self.graph, self.layers)
            self.training_path = "rows"
            return
        log.info("  propagation of all nodes, layer by layer: %s", why)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if self.matrix is not None:
            return self._logits_by_rows(self.matrix, users, items)
        user_nodes, item_nodes = self._nodes(self.user_table, self.item_table)
        # embedding(), not indexing: its backward on the CPU is a sorted sum, the same every time
        lookup = nn.functional.embedding
        return (lookup(users, user_nodes) * lookup(items, item_nodes)).sum(-1)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        user_nodes, item_nodes = self._nodes(self.user_table.detach(), self.item_table.detach())

        def scores(users: Tensor, items: Tensor) -> Tensor:
            return (user_nodes[users] * item_nodes[items]).sum(-1)

        return in_blocks(scores, user_nodes.shape[1])

    def embedding_scorer(self, items: Tensor) -> EmbeddingScorer:
        item_table = self.item_table.detach().clone()

        def of_users(shared: Sequence[Tensor], users: slice) -> Tensor:
            user_nodes, item_nodes = shared
            # embedding(): as above; several threads add up the gradient of indexing in any order
            of_items = nn.functional.embedding(items[users], item_nodes)  # (n, k, d)
            return torch.einsum("nd,nkd->nk", user_nodes[users], of_items)

        blocks = block_slices(len(items), items.shape[1] * item_table.shape[1])
        return EmbeddingScorer(lambda table: self._nodes(table, item_table), of_users, blocks)

    def _logits_by_rows(self, matrix: Tensor, users: Tensor, items: Tensor) -> Tensor:
        nodes = torch.cat([users, items + len(self.user_table)])
        if nodes.is_cuda:  # a recorded step can't have as many rows as the batch has different ones
            rows, places = matrix.index_select(0, nodes), None
        else:
            different, places = torch.unique(nodes, return_inverse=True)
            rows = matrix.index_select(0, different)
        vectors = _PropagateRows.apply(rows, self.user_table, self.item_table)
        if places is not None:
            vectors = nn.functional.embedding(places, vectors)
        of_users, of_items = vectors.chunk(2)
        return (of_users * of_items).sum(-1)

    def _nodes(self, user_table: Tensor, item_table: Tensor) -> tuple[Tensor, Tensor]:
        """Propagated user and item embeddings, (n_users, d) and (n_items, d)."""
        if self.kept is not None:
            return user_table, item_table
        nodes = _Propagate.apply(self.graph, torch.cat([user_table, item_table]), self.layers)
        return nodes[: len(user_table)], nodes[len(user_table) :]
