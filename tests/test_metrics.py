"""HR and NDCG against cases worked out by hand and a naive oracle."""

import math

import pytest
import torch

from benchmarks import naive
from utils.metrics import Candidates, evaluate, hit_and_ndcg


def one(scores, k):
    metrics = hit_and_ndcg(torch.tensor([scores]), [k])
    return metrics[f"HR@{k}"].item(), metrics[f"NDCG@{k}"].item()


def test_by_hand_without_ties():
    assert one([5.0, 1.0, 2.0, 3.0], 1) == (1, 1)
    assert one([2.5, 1.0, 2.0, 3.0], 1) == (0, 0)
    assert one([2.5, 1.0, 2.0, 3.0], 2) == (1, pytest.approx(1 / math.log2(3)))
    assert one([0.0, 1.0, 2.0, 3.0], 4) == (1, pytest.approx(1 / math.log2(5)))


def test_by_hand_with_ties():
    # one above, two equal: ranks 1, 2, 3 (from 0) equally likely
    hit, gain = one([1.0, 2.0, 1.0, 1.0, 0.0], 3)
    assert hit == pytest.approx(2 / 3)
    assert gain == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / 3)


def test_a_constant_scorer_is_right_as_often_as_chance():
    assert one([0.0] * 100, 10)[0] == pytest.approx(0.1)


def test_against_the_naive_oracle_with_many_ties():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (300, 20), generator=generator).double()
    for k in (1, 5, 10, 30):
        metrics = hit_and_ndcg(scores, [k])
        for row, hit, gain in zip(
            scores.tolist(), metrics[f"HR@{k}"].tolist(), metrics[f"NDCG@{k}"].tolist(), strict=True
        ):
            assert (hit, gain) == pytest.approx(naive.hit_and_ndcg(row, k), abs=1e-6)


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        hit_and_ndcg(torch.tensor([[1.0, float("nan")]]), [1])


def test_evaluate_ranks_the_held_out_item():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 70, generator=generator)
    candidates = Candidates(
        torch.arange(50),
        torch.stack([torch.randperm(70, generator=generator)[:21] for _ in range(50)]),
    )

    def score(users, items):
        return table[users, items]

    ranks = [(table[u, row] > table[u, row[0]]).sum() for u, row in enumerate(candidates.items)]
    expected = sum(rank < 10 for rank in ranks) / 50
    assert evaluate(score, candidates)["HR@10"] == pytest.approx(expected.item())
