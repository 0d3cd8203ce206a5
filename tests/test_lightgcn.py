"""The graph and the propagation against dense oracles."""

import logging

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from benchmarks import naive, problems
from benchmarks.problems import interactions
from data.adjacency import cached_adjacency, normalised_adjacency, to_torch
from data.sampling import NegativeSampler
from methods.adv import AdversaryPenalty
from methods.retrain import MMDPenalty
from models import lightgcn
from models.lightgcn import LightGCN, _Propagate, _PropagateRows, propagate, propagation_matrix
from models.training.step import LOSSES, Trainer, TrainingSettings
from tests.test_steps import PENALTIES
from utils.seeds import torch_generator

N_USERS, N_ITEMS = 12, 9


def some_pairs(seed=0, count=40):
    rng = np.random.default_rng(seed)
    cells = rng.choice(N_USERS * (N_ITEMS - 1), count, replace=False)  # the last item has no edge
    return np.stack([cells // (N_ITEMS - 1), cells % (N_ITEMS - 1)], axis=1)


def test_adjacency_by_hand():
    # user 0 - items 0, 1; user 1 - item 0
    dense = normalised_adjacency(np.array([[0, 0], [0, 1], [1, 0]]), 2, 2).toarray()
    half, root = 0.5, 2**-0.5
    expected = [[0, 0, half, root], [0, 0, root, 0], [half, root, 0, 0], [root, 0, 0, 0]]
    np.testing.assert_allclose(dense, expected, rtol=1e-6)


def test_a_repeated_pair_is_one_edge():
    pairs = some_pairs()
    twice = normalised_adjacency(np.concatenate([pairs, pairs[:7]]), N_USERS, N_ITEMS)
    once = normalised_adjacency(pairs, N_USERS, N_ITEMS)
    np.testing.assert_array_equal(twice.toarray(), once.toarray())


def tables(dtype=torch.float64):
    generator = torch_generator(0)
    return [torch.randn(n, 5, generator=generator, dtype=dtype) for n in (N_USERS, N_ITEMS)]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_and_its_gradient_equal_the_dense_ones(layers):
    pairs = some_pairs()
    graph = to_torch(normalised_adjacency(pairs, N_USERS, N_ITEMS).astype(np.float64))
    users, items = tables()
    table = torch.cat([users, items]).requires_grad_()
    weights = torch.randn(table.shape, generator=torch_generator(1), dtype=torch.float64)
    dense = naive.propagate(torch.from_numpy(pairs), table[:N_USERS], table[N_USERS:], layers)
    ours = _Propagate.apply(graph, table, layers)
    # the adjacency's values went through float32
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-6)
    (expected,) = torch.autograd.grad((dense * weights).sum(), table)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), table)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(propagate(graph, table.detach(), layers), ours.detach())


def test_gradcheck():
    graph = to_torch(normalised_adjacency(some_pairs(), N_USERS, N_ITEMS).astype(np.float64))
    table = torch.cat(tables()).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: _Propagate.apply(graph, t, 3), table)


def test_the_embedding_under_attack_is_layer_0_and_scores_go_through_the_graph():
    graph = to_torch(normalised_adjacency(some_pairs(), N_USERS, N_ITEMS))
    model = LightGCN(N_USERS, N_ITEMS, 5, torch_generator(0), graph)
    assert model.user_embedding is model.user_table
    assert "graph" not in model.state_dict()
    users, items = torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS).expand(N_USERS, -1)
    before = model.scorer()(users, items)
    with torch.no_grad():
        model.user_embedding[0] += 1
    after = model.scorer()(users, items)
    assert (after[1:] != before[1:]).any()  # neighbours of user 0's items move too


def a_batch(count, seed=0):
    """Users, items and labels; some come twice."""
    generator = torch_generator(seed)
    users = torch.randint(N_USERS, (count,), generator=generator)
    items = torch.randint(N_ITEMS, (count,), generator=generator)
    return users, items, torch.rand(count, generator=generator).round().double()


def pair_of_models(dtype=torch.float64):
    """The same model twice, trained by layers and by rows."""
    graph = to_torch(normalised_adjacency(some_pairs(), N_USERS, N_ITEMS).astype(np.float64))
    models = []
    for memory_mb in (0, 1):
        model = LightGCN(N_USERS, N_ITEMS, 5, torch_generator(0), graph).to(dtype)
        model.prepare_training(6, memory_mb)
        models.append(model)
    assert [model.training_path for model in models] == ["layers", "rows"]
    return models


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_propagation_matrix_is_that_of_the_dense_propagation(monkeypatch, layers):
    monkeypatch.setattr(lightgcn, "BLOCK", 4)  # 21 nodes: the last block is smaller
    pairs = some_pairs()
    graph = to_torch(normalised_adjacency(pairs, N_USERS, N_ITEMS).astype(np.float64))
    matrix = propagation_matrix(graph, layers)
    users, items = tables()
    dense = naive.propagate(torch.from_numpy(pairs), users, items, layers)
    torch.testing.assert_close(matrix @ torch.cat([users, items]), dense, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(matrix, matrix.T)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_rows_and_by_layers_agree_to_rounding(loss):
    batch = a_batch(30) if loss == "bce" else (*a_batch(30)[:2], a_batch(30, seed=1)[1])
    gradients = []
    for model in pair_of_models():
        LOSSES[loss](model, batch).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12 * gradients[0][0].abs().max())


def test_gradcheck_of_the_rows():
    rows = torch.rand(7, N_USERS + N_ITEMS, generator=torch_generator(0), dtype=torch.float64)
    arguments = [table.requires_grad_() for table in tables()]
    assert torch.autograd.gradcheck(lambda *t: _PropagateRows.apply(rows, *t), arguments)


@pytest.mark.thorough
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_fifty_steps_by_rows_and_by_layers_have_the_same_losses(monkeypatch, loss, penalty):
    """On ML-100K's size in float32: nothing but rounding comes between them."""
    pairs = interactions("ml-100k")
    data = NegativeSampler(pairs, 943, 1349, 4)
    draw = data.examples if loss == "bce" else data.comparisons
    part = tuple(column[: 50 * 256] for column in draw(torch_generator(0)))
    labels = torch.arange(943) % 2
    losses = []
    for memory_mb in (0, 64):
        model = problems.model_of("lgn", "ml-100k", pairs)
        model.prepare_training({"bce": 2, "bpr": 3}[loss] * 256, memory_mb)
        made = {
            "none": lambda: None,
            "retrain": lambda: MMDPenalty(labels, 1.0, 5),
            "adv": lambda: AdversaryPenalty(labels, 64, 16, 0.5, torch_generator(0)),
        }[penalty]()
        settings = TrainingSettings(0.001, 256, 1, loss, "last", 0)
        losses.append(torch.tensor(Trainer(model, made, settings).epoch(part, lambda: None)))
    assert losses[0].shape == (2, 50)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("lookups", "memory_mb", "path", "said"),
    [
        (512, 64, "rows", "rows of a matrix of 20 MiB"),
        (512, 19, "layers", "the propagation matrix has 20 MiB, propagation_mb is 19"),
        (512, 0, "layers", "propagation_mb is 0"),
        (2048, 64, "layers", "a batch has 2048 of 2292 nodes"),
    ],
)
def test_the_path_follows_batch_and_memory_and_is_said(caplog, lookups, memory_mb, path, said):
    model = problems.model_of("lgn", "ml-100k", interactions("ml-100k"))
    with caplog.at_level(logging.INFO):
        model.prepare_training(lookups, memory_mb)
    assert model.training_path == path
    assert said in caplog.text
    assert "matrix" not in model.state_dict()


def test_initialisation():
    empty = to_torch(normalised_adjacency(some_pairs(), 400, 500))
    model = LightGCN(400, 500, 64, torch_generator(0), empty)
    assert model.user_table.std().item() == pytest.approx(0.1, rel=0.03)
    assert model.item_table.std().item() == pytest.approx(0.1, rel=0.03)


def test_the_cache_is_used_where_it_belongs_and_rebuilt_where_not(tmp_path):
    path = tmp_path / "s_pre_adj_mat.npz"
    pairs = some_pairs()
    built = cached_adjacency(path, pairs, N_USERS, N_ITEMS)
    expected = normalised_adjacency(pairs, N_USERS, N_ITEMS).toarray()
    np.testing.assert_array_equal(built.toarray(), expected)
    # the authors' programs read it with scipy
    np.testing.assert_array_equal(sp.load_npz(path).toarray(), expected)
    written = path.stat().st_mtime_ns
    again = cached_adjacency(path, pairs, N_USERS, N_ITEMS)
    np.testing.assert_array_equal(again.toarray(), expected)
    assert path.stat().st_mtime_ns == written
    for damage in (b"", b"PK\x03\x04 not a zip", path.read_bytes()[:200]):
        path.write_bytes(damage)
        rebuilt = cached_adjacency(path, pairs, N_USERS, N_ITEMS)
        np.testing.assert_array_equal(rebuilt.toarray(), expected)
    other = cached_adjacency(path, some_pairs(seed=1), N_USERS, N_ITEMS)
    fresh = normalised_adjacency(some_pairs(seed=1), N_USERS, N_ITEMS)
    np.testing.assert_array_equal(other.toarray(), fresh.toarray())
