"""Scores in blocks of pairs, so that their memory follows no number of users, items or dimensions.

A scorer holds many numbers of every pair on its way to one score: of all 20,000 users and 100,000
items of LFM-2B at once that would be terabytes.
"""

import torch
from torch import Tensor

from models.base import Scorer

BLOCK = 2**24
"""Numbers in the largest tensor of a block, of which there are a few at a time: 64 MiB each."""


def block_rows(width: int) -> int:
    """Rows of `width` numbers that a block has; at least one.

    A power of two: BLAS computes the last few rows of a product, fewer than a vector register
    holds, by other code. So these stay the same pairs, and the scores the same bytes, where blocks
    are made larger or smaller (as long as they have a few rows).
    """
    return 1 << max(0, (BLOCK // width).bit_length() - 1)


def block_slices(rows: int, width: int) -> list[slice]:
    """All of so many rows of `width` numbers, a block each."""
    size = block_rows(width)
    return [slice(start, start + size) for start in range(0, rows, size)]


def in_blocks(score: Scorer, width: int) -> Scorer:
    """`score` itself, on one block of pairs after another.

    Args:
        score: to be bounded.
        width: the most numbers of a pair that it holds in one tensor.
    """

    def scores(users: Tensor, items: Tensor) -> Tensor:
        columns = block_slices(items.shape[1], width)
        found: Tensor | None = None
        for rows in block_slices(len(items), width * items.shape[1]):
            for part in columns:
                block = score(users[rows], items[rows, part])
                if found is None:
                    found = block.new_empty(items.shape)
                # not a list of blocks: small tensors that stay between large ones that come and
                # go make the heap grow
                found[rows, part] = block
        return torch.empty(items.shape) if found is None else found

    return scores
