"""Maximum mean discrepancy between the classes of users, with its gradient by hand.

For classes a, b with n_a, n_b users and a kernel k (Gretton et al., JMLR 2012, biased V-statistic)

    MMD(a, b) = mean k(a, a) + mean k(b, b) - 2 mean k(a, b),

and for more than two classes the mean over all pairs of classes. It is one weighted sum
Σ_ij W_ij k(x_i, x_j) over all ordered pairs of users, where W depends on their classes alone.

The kernel is the artefact's: k = Σ_m exp(-d² / b_m), b_m = b·{1/4, 1/2, 1, 2, 4}, with b the mean
squared distance over all ordered pairs of different users, held constant in the gradient. With
e = exp(-d² / 4b) the five exponentials are e, e², e⁴, e⁸, e¹⁶: one serves all.

The N x N matrices are never held whole: they are made tile by tile (each pair of tiles once, the
kernel being symmetric), so memory is that of a few tiles, and the gradient needs no autograd graph.

Several ranks share the pairs of tiles and add up what they make of them, in float64.

Of very many users a stratified sample stands for all: a pair of it counts as often as there are
pairs of its kind among all users, the constant diagonal stays that of all, and so does b. Over the
draws value and gradient have the mean that they have with all users.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice

import numpy as np
import torch
from torch import Tensor

from utils.ranks import ALONE, Ranks
from utils.threads import one_thread

TILE = {"cpu": 384, "cuda": 4096}
"""Users a tile. Two tiles of float32, 1.2 MB, about fill a core's level-2 cache; a GPU wants few
kernels with much to do (64 MB a tile, not measured).
"""


KERNELS = 5
"""Exponentials of the kernel: what it is at distance 0."""

MEDIAN_USERS = 1000
"""The most users whose pairwise distances a median is taken of."""


@dataclass(frozen=True)
class Classes:
    """Users by class, worked out once for all θ, since it makes the CPU wait for a GPU.

    Attributes:
        order: (m,) the users, sorted by class: all n, or a sample of them.
        counts: those of each class.
        sizes: users of each class in all.
    """

    order: Tensor
    counts: list[int]
    sizes: list[int]

    @classmethod
    def of(cls, labels: Tensor) -> "Classes":
        """Those of labels (n,) int64, 0 .. C-1."""
        counts = torch.bincount(labels).tolist()
        return cls(torch.argsort(labels, stable=True), counts, counts)

    def sample(self, users: int, rng: np.random.Generator) -> "Classes":
        """About so many of these users, without replacement: of every class its share, but at least
        2 (1 where there is no other).
        """
        everyone, start = len(self.order), 0
        drawn, counts = [], []
        for size in self.sizes:
            count = min(size, max(2, round(users * size / everyone)))
            drawn.append(start + np.sort(rng.choice(size, count, replace=False, shuffle=False)))
            counts.append(count)
            start += size
        places = torch.from_numpy(np.concatenate(drawn)).to(self.order.device)
        return Classes(self.order[places], counts, self.sizes)

    def share(self, a: int, b: int) -> float:
        """Share of the pairs of different users of classes a and b that are there."""
        if self.counts == self.sizes:
            return 1.0
        m, n = self.counts, self.sizes
        if a != b:
            return m[a] * m[b] / (n[a] * n[b])
        return m[a] * (m[a] - 1) / (n[a] * (n[a] - 1)) if n[a] > 1 else 1.0

    def weight(self, a: int, b: int) -> float:
        """W of a user of class a and another one of class b, the mean over all pairs of classes."""
        classes, n = len(self.sizes), self.sizes
        pairs = classes * (classes - 1) / 2
        if a == b:
            return (classes - 1) / pairs / n[a] ** 2 / self.share(a, a)
        return -1 / pairs / (n[a] * n[b]) / self.share(a, b)

    def diagonal_left_out(self) -> float:
        """Σ_i W_ii k(x_i, x_i) over all users, less what the sample's diagonal with its `weight`
        adds up to.
        """
        of_class = 2 / len(self.sizes)  # (C - 1) / pairs of classes
        return sum(
            of_class * KERNELS / n * (1 - (n - 1) / (m - 1))
            for n, m in zip(self.sizes, self.counts, strict=True)
            if m < n
        )


Width = Callable[[Tensor], Tensor]
"""The kernel's b of users (n, d), who always come in the same order."""


def mean_squared_distance(x: Tensor) -> Tensor:
    """Mean of ||x_i - x_j||² over all ordered pairs i != j, from sums alone; x is (n, d)."""
    squares = (x - x.mean(0)).square()
    with one_thread():
        return 2 * squares.sum() / (len(x) - 1)


def median_squared_distance(n: int, rng: np.random.Generator) -> Width:
    """Gives the median of ||x_i - x_j||² over the pairs of at most MEDIAN_USERS of n users, drawn
    once; their mean where the median is 0.
    """
    some = torch.from_numpy(np.sort(rng.choice(n, min(n, MEDIAN_USERS), replace=False)))

    def width(x: Tensor) -> Tensor:
        median = torch.pdist(x[some.to(x.device)]).median().square()
        return torch.where(median > 0, median, mean_squared_distance(x))

    return width


def mmd(
    theta: Tensor,
    labels: Tensor | Classes,
    tile: int | None = None,
    width: Width = mean_squared_distance,
    ranks: Ranks = ALONE,
) -> Tensor:
    """MMD between the classes of `labels`, a float64 scalar.

    Args:
        theta: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, each with at least one user, C >= 2; or the Classes,
            of a sample too.
        tile: users a tile; changes speed and memory, not the result (beyond rounding).
        width: gives b.
        ranks: who share the work, called alike in each.
    """
    layout = _Layout.of(theta, labels, tile, width)
    value = torch.zeros((), dtype=torch.float64, device=theta.device)
    for rows, columns, (a, b), e in layout.kernel_tiles(ranks):
        twice = 1 if rows == columns else 2
        weight = layout.classes.weight(a, b)
        power = e
        for _ in range(KERNELS):
            value += twice * weight * power.sum(dtype=torch.float64)
            power.square_()
    return ranks.whole(value) + layout.classes.diagonal_left_out()


def mmd_chance(
    theta: Tensor,
    labels: Tensor | Classes,
    width: Width = mean_squared_distance,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Mean of `mmd` over all permutations of the labels, a float64 scalar.

    With k̄ the mean kernel of two different users, mean k(a, a) has the mean
    KERNELS / n_a + (1 - 1 / n_a) k̄ and mean k(a, b) has k̄: (1 / n_a + 1 / n_b) (KERNELS - k̄) a
    pair of classes. It is not 0, since users are compared with themselves too.
    """
    layout = _Layout.of(theta, labels, None, width)
    classes = layout.classes
    total = torch.zeros((), dtype=torch.float64, device=theta.device)
    for rows, columns, (a, b), power in layout.kernel_tiles(ranks):
        twice = 1 if rows == columns else 2
        for _ in range(KERNELS):
            pairs = power.sum(dtype=torch.float64) - (len(power) if rows == columns else 0)
            total += twice / classes.share(a, b) * pairs
            power.square_()
    n = sum(classes.sizes)
    mean = ranks.whole(total) / (n * (n - 1))
    return 2 / len(classes.sizes) * sum(1 / size for size in classes.sizes) * (KERNELS - mean)


def mmd_gradient(
    theta: Tensor,
    labels: Tensor | Classes,
    tile: int | None = None,
    width: Width = mean_squared_distance,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Gradient of `mmd` in theta, (n, d), with the kernels' widths held constant; 0 for users who
    are not of the sample.

    d/dx_i Σ W k = 2 Σ_j W_ij k'(d²_ij) 2 (x_i - x_j), where k' = -Σ p e^p / 4b over
    p = 1, 2, 4, 8, 16.
    """
    layout = _Layout.of(theta, labels, tile, width)
    x = layout.x
    with_ones = torch.cat([x, torch.ones_like(x[:, :1])], 1).T
    # column i: Σ_j S_ij [x_j; 1] with S = W Σ p e^p. Columns, since products this way round have
    # the same bytes whatever the number of threads; the other way round MKL may split their sums
    sums = x.new_zeros(with_ones.shape)
    for rows, columns, (a, b), e in layout.kernel_tiles(ranks):
        weight = layout.classes.weight(a, b)
        slope = e.clone()
        for p in (2, 4, 8, 16):
            slope.add_(e.square_(), alpha=p)
        sums[:, rows].addmm_(weight * with_ones[:, columns], slope.T)
        if rows != columns:
            sums[:, columns].addmm_(weight * with_ones[:, rows], slope)
    sums = ranks.whole(sums)
    gradient = torch.zeros_like(theta)
    gradient[layout.classes.order] = (sums[:-1] - sums[-1:] * x.T).T * (4 / layout.scale)
    return gradient


@dataclass(frozen=True)
class _Layout:
    """Users sorted by class, so that W is one number a tile.

    Attributes:
        x: (m, d) the users of `classes`, shifted so that all users' mean is zero.
        classes: who they are.
        scale: 4b; 1 where all users are one point and every kernel is constant.
        tile: users a tile.
    """

    x: Tensor
    classes: Classes
    scale: Tensor
    tile: int

    @classmethod
    def of(
        cls, theta: Tensor, labels: Tensor | Classes, tile: int | None, width: Width
    ) -> "_Layout":
        classes = labels if isinstance(labels, Classes) else Classes.of(labels)
        # MMD doesn't see a shift; smaller numbers round less
        x = theta[classes.order] - theta.mean(0)
        scale = 4 * width(x if len(x) == len(theta) else theta)
        scale = torch.where(scale > 0, scale, 1)
        return cls(x, classes, scale, tile or TILE[theta.device.type])

    def kernel_tiles(self, ranks: Ranks) -> Iterator[tuple[slice, slice, tuple[int, int], Tensor]]:
        """Rows, columns, their classes and e = exp(-d² / 4b) of the rank's pairs of tiles; e may be
        overwritten.
        """
        # -d² / 4b as one product: [x, ||x||², 1] . [2x, -1, -||x||²] / 4b
        norms = self.x.square().sum(1, keepdim=True)
        ones = torch.ones_like(norms)
        left = torch.cat([self.x, norms, ones], 1)
        right = torch.cat([2 * self.x, -ones, -norms], 1) / self.scale
        pairs = combinations_with_replacement(self._tiles(), 2)
        for (rows, a), (columns, b) in islice(pairs, ranks.rank, None, ranks.size):
            e = left[rows] @ right[columns].T
            if rows == columns:
                e.fill_diagonal_(0)
            yield rows, columns, (a, b), e.exp_()

    def _tiles(self) -> list[tuple[slice, int]]:
        """Runs of at most `tile` users of one class, and their class."""
        tiles = []
        start = 0
        for label, count in enumerate(self.classes.counts):
            for first in range(start, start + count, self.tile):
                tiles.append((slice(first, min(first + self.tile, start + count)), label))
            start += count
        return tiles
