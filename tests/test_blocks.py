"""Scores in blocks: the same whatever the block, and no tensor beyond it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.losses.regularizers import ranking
from models import MODELS, blocks, top_items
from tests.test_training import N_ITEMS, N_USERS, model_of
from utils.seeds import torch_generator

TOP = 5


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation inside makes; views are none."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and not function.is_view:
                self.numbers = max(self.numbers, tensor.numel())
        return made


def results(model):
    """What is made from every user's scores of many items."""
    users, items = torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS).expand(N_USERS, -1)
    best = torch.stack([torch.randperm(N_ITEMS, generator=torch_generator(u))[:TOP] for u in users])
    objective = ranking(model.embedding_scorer(best), margin=1.0)
    theta = model.user_embedding.detach() + 0.1
    return {
        "scores": model.scorer()(users, items),
        "top items": top_items(model, N_USERS, N_ITEMS, TOP),
        "ranking": objective.value(theta),
        "its gradient": objective.gradient(theta),
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("block", [1, 64, 300, 1000])
def test_the_block_changes_no_result(monkeypatch, name, block):
    expected = results(model_of(name))
    monkeypatch.setattr(blocks, "BLOCK", block)
    for what, tensor in results(model_of(name)).items():
        torch.testing.assert_close(tensor, expected[what], msg=lambda text, what=what: what + text)


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_is_larger_than_a_block_or_than_the_tables_and_the_result(monkeypatch, name):
    model = model_of(name, size=16)
    largest = max(table.numel() for table in model.parameters())
    with Largest() as unbounded:
        results(model)
    assert unbounded.numbers > 2 * largest  # or the test would show nothing
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    with Largest() as bounded:
        results(model)
    assert bounded.numbers <= max(largest + N_USERS * 64, N_USERS * N_ITEMS, 1000)


def test_rows_of_a_block_are_a_power_of_two():
    assert [blocks.block_rows(width) for width in (1, 3, 2**20, 2**24, 2**30)] == [
        2**24,
        2**22,
        16,
        1,
        1,
    ]
    slices = blocks.block_slices(70, 2**19)
    assert [(s.start, s.stop) for s in slices] == [(0, 32), (32, 64), (64, 96)]
