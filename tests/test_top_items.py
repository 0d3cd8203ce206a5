"""How many of a user's best items stay, beside a naive count."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from utils import top_items
from utils.top_items import top_kept


@pytest.mark.parametrize("block", [1, 100, 2**24])
@pytest.mark.parametrize("known", [False, True])
def test_lists_are_those_of_a_naive_sort(monkeypatch, block, known):
    monkeypatch.setattr(top_items, "BLOCK", block)
    rng = np.random.default_rng(0)
    before, items = rng.normal(size=(30, 4)), rng.normal(size=(25, 4))
    after = before + rng.normal(size=before.shape) / 2
    has = rng.random((30, 25)) < 0.3
    total = 0
    for user in range(30):
        offered = [item for item in range(25) if not (known and has[user, item])]
        lists = [
            set(sorted(offered, key=lambda item: -users[user] @ items[item])[:5])
            for users in (before, after)
        ]
        total += len(lists[0] & lists[1])
    given = csr_array(has.astype(float)) if known else None
    assert top_kept(before, after, items, given, top=5) == total / 30
    assert top_kept(before, before, items, given, top=5) == 5
