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
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from utils.threads import one_thread

TILE = {"cpu": 384, "cuda": 4096}
"""Users a tile. Two tiles of float32, 1.2 MB, about fill a core's level-2 cache; a GPU wants few
kernels with much to do (64 MB a tile, not measured).
"""


@dataclass(frozen=True)
class Classes:
    """Users by class, worked out once for all θ, since it makes the CPU wait for a GPU.

    Attributes:
        order: (n,) the users, sorted by class.
        counts: users of each class.
    """

    order: Tensor
    counts: list[int]

    @classmethod
    def of(cls, labels: Tensor) -> "Classes":
        """Those of labels (n,) int64, 0 .. C-1."""
        return cls(torch.argsort(labels, stable=True), torch.bincount(labels).tolist())


def mean_squared_distance(x: Tensor) -> Tensor:
    """Mean of ||x_i - x_j||² over all ordered pairs i != j, from sums alone; x is (n, d)."""
    squares = (x - x.mean(0)).square()
    with one_thread():
        return 2 * squares.sum() / (len(x) - 1)


def mmd(theta: Tensor, labels: Tensor | Classes, tile: int | None = None) -> Tensor:
    """MMD between the classes of `labels`, a float64 scalar.

    Args:
        theta: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, each with at least one user, C >= 2; or the Classes.
        tile: users a tile; changes speed and memory, not the result (beyond rounding).
    """
    layout = _Layout.of(theta, labels, tile)
    value = torch.zeros((), dtype=torch.float64, device=theta.device)
    for rows, columns, weight, e in layout.kernel_tiles():
        twice = 1 if rows == columns else 2
        power = e
        for _ in range(5):
            value += twice * weight * power.sum(dtype=torch.float64)
            power.square_()
    return value


def mmd_gradient(theta: Tensor, labels: Tensor | Classes, tile: int | None = None) -> Tensor:
    """Gradient of `mmd` in theta, (n, d), with the kernels' widths held constant.

    d/dx_i Σ W k = 2 Σ_j W_ij k'(d²_ij) 2 (x_i - x_j), where k' = -Σ p e^p / 4b over
    p = 1, 2, 4, 8, 16.
    """
    layout = _Layout.of(theta, labels, tile)
    x = layout.x
    with_ones = torch.cat([x, torch.ones_like(x[:, :1])], 1).T
    # column i: Σ_j S_ij [x_j; 1] with S = W Σ p e^p. Columns, since products this way round have
    # the same bytes whatever the number of threads; the other way round MKL may split their sums
    sums = x.new_zeros(with_ones.shape)
    for rows, columns, weight, e in layout.kernel_tiles():
        slope = e.clone()
        for p in (2, 4, 8, 16):
            slope.add_(e.square_(), alpha=p)
        sums[:, rows].addmm_(weight * with_ones[:, columns], slope.T)
        if rows != columns:
            sums[:, columns].addmm_(weight * with_ones[:, rows], slope)
    gradient = torch.empty_like(x)
    gradient[layout.order] = (sums[:-1] - sums[-1:] * x.T).T * (4 / layout.scale)
    return gradient


@dataclass(frozen=True)
class _Layout:
    """Users sorted by class, so that W is one number a tile.

    Attributes:
        x: (n, d) the sorted embedding, shifted to mean zero.
        order: (n,) the users' places before sorting.
        scale: 4b; 1 where all users are one point and every kernel is constant.
        counts: users of each class.
        tile: users a tile.
    """

    x: Tensor
    order: Tensor
    scale: Tensor
    counts: list[int]
    tile: int

    @classmethod
    def of(cls, theta: Tensor, labels: Tensor | Classes, tile: int | None) -> "_Layout":
        classes = labels if isinstance(labels, Classes) else Classes.of(labels)
        # MMD doesn't see a shift; smaller numbers round less
        x = theta[classes.order] - theta.mean(0)
        scale = 4 * mean_squared_distance(x)
        scale = torch.where(scale > 0, scale, 1)
        return cls(x, classes.order, scale, classes.counts, tile or TILE[theta.device.type])

    def kernel_tiles(self) -> Iterator[tuple[slice, slice, float, Tensor]]:
        """Rows, columns, W and e = exp(-d² / 4b) of every pair of tiles; e may be overwritten."""
        # -d² / 4b as one product: [x, ||x||², 1] . [2x, -1, -||x||²] / 4b
        norms = self.x.square().sum(1, keepdim=True)
        ones = torch.ones_like(norms)
        left = torch.cat([self.x, norms, ones], 1)
        right = torch.cat([2 * self.x, -ones, -norms], 1) / self.scale
        for (rows, a), (columns, b) in combinations_with_replacement(self._tiles(), 2):
            e = left[rows] @ right[columns].T
            if rows == columns:
                e.fill_diagonal_(0)
            yield rows, columns, self._weight(a, b), e.exp_()

    def _tiles(self) -> list[tuple[slice, int]]:
        """Runs of at most `tile` users of one class, and their class."""
        tiles = []
        start = 0
        for label, count in enumerate(self.counts):
            for first in range(start, start + count, self.tile):
                tiles.append((slice(first, min(first + self.tile, start + count)), label))
            start += count
        return tiles

    def _weight(self, a: int, b: int) -> float:
        """W of a user of class a and one of class b, the mean over all pairs of classes."""
        classes = len(self.counts)
        pairs = classes * (classes - 1) / 2
        if a == b:
            return (classes - 1) / pairs / self.counts[a] ** 2
        return -1 / pairs / (self.counts[a] * self.counts[b])
