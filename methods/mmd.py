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

from itertools import combinations_with_replacement

import torch
from torch import Tensor

TILE = 512


def mean_squared_distance(x: Tensor) -> Tensor:
    """Mean of ||x_i - x_j||² over all ordered pairs i != j, from sums alone; x is (n, d)."""
    n = len(x)
    centred = x - x.mean(0)
    return 2 * centred.square().sum() / (n - 1)


def mmd(theta: Tensor, labels: Tensor, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """MMD between the classes of `labels` and its gradient.

    Args:
        theta: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, each with at least one user; C >= 2.
        tile: users a tile; changes speed and memory, not the result (beyond rounding).

    Returns:
        The value (a float64 scalar) and the gradient (n, d) in theta's dtype.
    """
    order = torch.argsort(labels, stable=True)
    x = theta[order] - theta.mean(0)  # MMD doesn't see a shift; smaller numbers round less
    scale = 4 * mean_squared_distance(x)
    if scale == 0:  # all users are one point, so all kernels are constant
        return torch.zeros((), dtype=torch.float64, device=theta.device), torch.zeros_like(theta)
    counts = torch.bincount(labels).tolist()
    tiles = _tiles(counts, tile)
    # -d²/4b as one product: [x, ||x||², 1] . [2x, -1, -||x||²] / 4b
    norms = x.square().sum(1, keepdim=True)
    ones = torch.ones_like(norms)
    left = torch.cat([x, norms, ones], 1)
    right = torch.cat([2 * x, -ones, -norms], 1) / scale
    value = torch.zeros((), dtype=torch.float64, device=theta.device)
    gradient = torch.zeros_like(x)
    for (rows, a), (columns, b) in combinations_with_replacement(tiles, 2):
        weight = _weight(a, b, counts)
        e = (left[rows] @ right[columns].T).clamp_(max=0)
        if rows == columns:
            e.fill_diagonal_(0)
        e.exp_()
        kernel, slope = _kernel_and_slope(e)
        value += weight * (1 if rows == columns else 2) * kernel.sum(dtype=torch.float64)
        # d/dx_i Σ W k = 2 Σ_j W_ij k'(d²_ij) 2 (x_i - x_j), with k' = -slope / 4b
        slope *= -4 * weight / scale
        gradient[rows] += slope.sum(1, keepdim=True) * x[rows] - slope @ x[columns]
        if rows != columns:
            gradient[columns] += slope.sum(0)[:, None] * x[columns] - slope.T @ x[rows]
    unsorted = torch.empty_like(gradient)
    unsorted[order] = gradient
    return value, unsorted


def _kernel_and_slope(e: Tensor) -> tuple[Tensor, Tensor]:
    """Σ e^p and Σ p e^p over p = 1, 2, 4, 8, 16; overwrites `e`."""
    kernel, slope, power = e.clone(), e.clone(), e
    for p in (2, 4, 8, 16):
        power.square_()
        kernel += power
        slope.add_(power, alpha=p)
    return kernel, slope


def _tiles(counts: list[int], tile: int) -> list[tuple[slice, int]]:
    """Cut users sorted by class into runs of at most `tile` users of one class."""
    tiles = []
    start = 0
    for label, count in enumerate(counts):
        for first in range(start, start + count, tile):
            tiles.append((slice(first, min(first + tile, start + count)), label))
        start += count
    return tiles


def _weight(a: int, b: int, counts: list[int]) -> float:
    """W of a user of class a and one of class b: the mean over the C(C-1)/2 pairs of classes."""
    classes = len(counts)
    pairs = classes * (classes - 1) / 2
    if a == b:
        return (classes - 1) / pairs / counts[a] ** 2
    return -1 / pairs / (counts[a] * counts[b])
