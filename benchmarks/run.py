"""Time the project against naive references in one run: `python -m benchmarks.run`.

Needs no dataset: interactions and embeddings of the published sizes are drawn at random. Every
measurement has a process of its own, so that its peak memory is its own, and ends with its
median over repeats; a reference that would take too long or too much memory is measured at a
size that it can do, or left out, which the table says. Writes exp_results/tables/benchmarks.md
and, with --growth, exp_results/figures/growth.png (seconds of 500 steps against N).
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import naive
from data.adjacency import normalised_adjacency, to_torch
from data.sampling import NegativeSampler
from methods import d2d, u2u
from methods.objective import Objective
from methods.regularizers import frobenius
from methods.unlearning import Optimizer, unlearn
from models import Recommender, build_model
from models.lightgcn import LightGCN
from utils.figures import save
from utils.metrics import CUTOFFS, Candidates, evaluate
from utils.report import table
from utils.runtime import (
    available_cores,
    environment,
    keep_freed_memory,
    peak_memory_mb,
    set_threads,
)
from utils.seeds import torch_generator
from utils.trainer import bce

BATCH, NUM_NG, STEPS = 256, 4, 500
SIZES = {  # users, items, training interactions, share of the larger class
    "ml-100k": (943, 1349, 97_401, 0.71),
    "ml-1m": (6040, 3416, 987_531, 0.72),
    "lfm-2b": (19_972, 99_639, 2_789_559, 0.78),
}
EMBEDDING = {"ncf": 32, "lgn": 64}


def interactions(size: str) -> Tensor:
    """(n, 2) random training pairs of a dataset's size, items long-tailed, no pair twice."""
    users, items, count, _ = SIZES[size]
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1)
    drawn = np.zeros(0, np.int64)
    while len(drawn) < count:
        user = rng.integers(0, users, count)
        item = rng.choice(items, count, p=popularity / popularity.sum())
        spread = np.where(rng.random(count) < 0.5, item, rng.integers(0, items, count))
        drawn = np.unique(np.concatenate([drawn, user * items + spread]))
    keys = rng.choice(drawn, count, replace=False)
    return torch.from_numpy(np.stack([keys // items, keys % items], 1))


def users(n: int, k: int, majority: float) -> tuple[Tensor, Tensor]:
    """A random embedding (n, k) in which the classes stand apart, and the labels."""
    generator = torch_generator(0, "benchmark")
    labels = (torch.rand(n, generator=generator) < majority).long()
    theta = 0.1 * torch.randn(n, k, generator=generator)
    return theta + 0.05 * labels[:, None], labels


def model_of(name: str, size: str, pairs: Tensor) -> Recommender:
    """A fresh recommender of a dataset's size."""
    n_users, n_items, *_ = SIZES[size]

    def graph() -> Tensor:
        return to_torch(normalised_adjacency(pairs.numpy(), n_users, n_items))

    return build_model(name, n_users, n_items, None, torch_generator(0), graph)


def median_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Median over repeats, after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def epoch_ours(name: str, size: str, steps: int) -> float:
    """Seconds of an epoch: drawing it, and so many of its steps scaled to all."""
    pairs = interactions(size)
    n_users, n_items, *_ = SIZES[size]
    model = model_of(name, size, pairs)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    sampler = NegativeSampler(pairs, n_users, n_items, NUM_NG)
    drawing = median_seconds(lambda: sampler.examples(torch_generator(0)), 2)
    data = sampler.examples(torch_generator(0))
    batches = list(zip(*(part.split(BATCH) for part in data), strict=True))

    def some() -> None:
        for batch in batches[:steps]:
            optimizer.zero_grad(set_to_none=True)
            bce(model, batch).backward()
            optimizer.step()

    return drawing + median_seconds(some, 3) / steps * len(batches)


def epoch_naive(name: str, size: str, steps: int) -> float:
    """The same with per-sample loading, unfused Adam and, for LightGCN, a COO product an
    autograd layer.
    """
    pairs = interactions(size)
    n_users, n_items, count, _ = SIZES[size]
    model = model_of(name, size, pairs)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    if isinstance(model, LightGCN):
        coo = model.graph.to_sparse_coo().coalesce()
    total = -(-count * (1 + NUM_NG) // BATCH)
    listed = [(user, item) for user, item in pairs.tolist()]
    start = time.perf_counter()
    batches = naive.batches(listed, n_items, NUM_NG, BATCH)
    first = next(batches)  # draws the epoch
    drawing = time.perf_counter() - start

    def logits(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        if not isinstance(model, LightGCN):
            return model(batch[0], batch[1])
        layers = [torch.cat([model.user_table, model.item_table])]
        for _ in range(model.layers):
            layers.append(torch.sparse.mm(coo, layers[-1]))
        nodes = torch.stack(layers).mean(0)
        return (nodes[batch[0]] * nodes[n_users + batch[1]]).sum(-1)

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(batch), batch[2])
        loss.backward()
        optimizer.step()
        loss.item()

    step(first)
    start = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    return drawing + (time.perf_counter() - start) / steps * total


def candidates_of(size: str) -> Candidates:
    """100 random items a user."""
    n_users, n_items, *_ = SIZES[size]
    items = torch.randint(n_items, (n_users, 100), generator=torch_generator(0))
    return Candidates(torch.arange(n_users), items)


def evaluation_ours(size: str) -> float:
    """Seconds to rank 100 candidates of every user."""
    model, candidates = model_of("ncf", size, interactions(size)), candidates_of(size)
    return median_seconds(lambda: evaluate(model.scorer(), candidates), 5)


@torch.no_grad()
def evaluation_naive(size: str) -> float:
    """The same, user by user."""
    model, candidates = model_of("ncf", size, interactions(size)), candidates_of(size)

    def all_users() -> None:
        for user, items in zip(candidates.users.tolist(), candidates.items, strict=True):
            scores = model(torch.full((100,), user), items).tolist()
            for k in CUTOFFS:
                naive.hit_and_ndcg(scores, k)

    return median_seconds(all_users, 1)


def unlearn_ours(method: str, n: int, k: int, majority: float, steps: int) -> float:
    """Seconds of 500 steps, from so many."""
    theta, labels = users(n, k, majority)
    make: Callable[[Tensor], Objective] = {"u2u": u2u, "d2d": d2d}[method].distinguishability
    arguments = (theta, labels, make, frobenius(theta), 1e-6)
    unlearn(*arguments, Optimizer("adam", 1, 0.001))
    return unlearn(*arguments, Optimizer("adam", steps, 0.001)).seconds / steps * STEPS


def d2d_to_share(n: int, k: int, majority: float, lr: float) -> float:
    """Seconds until the MMD is 2 % of its first value, where 500 published steps end on ML-100K."""
    theta, labels = users(n, k, majority)
    arguments = (theta, labels, d2d.distinguishability, frobenius(theta), 1e-6)
    done = unlearn(*arguments, Optimizer("adam", STEPS, lr, tolerance=0.02))
    first, last = done.history[0], done.history[-1]
    assert last["distinguishability"] <= 0.02 * first["distinguishability"]
    return done.seconds


def unlearn_naive(method: str, n: int, k: int, majority: float, steps: int) -> float:
    """Dense Laplacian or whole kernel matrices, gradient by autograd; 500 steps from so many."""
    theta, labels = users(n, k, majority)
    star = theta.clone()
    theta.requires_grad_()
    optimizer = torch.optim.Adam([theta], foreach=False)
    loss_of = {"u2u": naive.u2u, "d2d": naive.mmd}[method]

    def step() -> None:
        optimizer.zero_grad()
        (loss_of(theta, labels) + 1e-6 * (theta - star).square().sum()).backward()
        optimizer.step()

    return median_seconds(step, steps) * STEPS


def measured(function: Callable[..., float], *arguments: Any) -> tuple[float, float]:
    """Seconds, and MiB beyond those of a process that has only imported everything."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (function, arguments))


def _measure(function: Callable[..., float], arguments: tuple) -> tuple[float, float]:
    set_threads(None)
    keep_freed_memory()
    before = peak_memory_mb()
    seconds = function(*arguments)
    return seconds, peak_memory_mb() - before


Work = tuple[str, Callable[..., float], tuple, Callable[..., float] | None, tuple]


def works(quick: bool) -> list[Work]:
    """Name, ours with its arguments, the reference with its (None: out of its reach)."""
    ml1m, lfm = (6040, 32, 0.72), (19_972, 64, 0.78)
    small: list[Work] = [
        (
            "NCF, ml-100k, epoch",
            epoch_ours,
            ("ncf", "ml-100k", 300),
            epoch_naive,
            ("ncf", "ml-100k", 60),
        ),
        (
            "LightGCN, ml-100k, epoch",
            epoch_ours,
            ("lgn", "ml-100k", 100),
            epoch_naive,
            ("lgn", "ml-100k", 20),
        ),
        (
            "evaluation, 943 users x 100",
            evaluation_ours,
            ("ml-100k",),
            evaluation_naive,
            ("ml-100k",),
        ),
        (
            "U2U, ml-100k, 500 steps",
            unlearn_ours,
            ("u2u", 943, 32, 0.71, 500),
            unlearn_naive,
            ("u2u", 943, 32, 0.71, 5),
        ),
        (
            "D2D, ml-100k, 500 steps",
            unlearn_ours,
            ("d2d", 943, 32, 0.71, 200),
            unlearn_naive,
            ("d2d", 943, 32, 0.71, 3),
        ),
    ]
    large: list[Work] = [
        ("NCF, ml-1m, epoch", epoch_ours, ("ncf", "ml-1m", 300), epoch_naive, ("ncf", "ml-1m", 40)),
        (
            "U2U, ml-1m, 500 steps",
            unlearn_ours,
            ("u2u", *ml1m, 500),
            unlearn_naive,
            ("u2u", *ml1m, 2),
        ),
        ("U2U, 20,000 users, 500 steps", unlearn_ours, ("u2u", *lfm, 500), None, ()),
        ("D2D, ml-1m, 500 steps", unlearn_ours, ("d2d", *ml1m, 30), None, ()),
        ("D2D, 20,000 users, 500 steps", unlearn_ours, ("d2d", *lfm, 5), None, ()),
        ("D2D, ml-1m, to 2 % (lr 0.01)", d2d_to_share, (*ml1m, 0.01), None, ()),
        ("D2D, 20,000 users, to 2 % (lr 0.01)", d2d_to_share, (*lfm, 0.01), None, ()),
    ]
    return small if quick else small + large


def growth_figure(path: Path) -> None:
    """Seconds of 500 steps of U2U and D2D against N, K = 32."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for method, sizes in (
        ("u2u", (1000, 2000, 5000, 10_000, 20_000, 50_000)),
        ("d2d", (1000, 2000, 5000, 10_000, 20_000)),
    ):
        steps = {"u2u": 50, "d2d": 3}[method]
        seconds = [measured(unlearn_ours, method, n, 32, 0.7, steps)[0] for n in sizes]
        print(method, dict(zip(sizes, np.round(seconds, 2).tolist(), strict=True)), flush=True)
        axes.loglog(sizes, seconds, marker="o", label=method)
    axes.set(xlabel="users N", ylabel="seconds of 500 steps")
    axes.legend(frameon=False)
    save(figure, path)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ML-100K's size only")
    parser.add_argument("--growth", action="store_true", help="the growth figure instead")
    parser.add_argument("--out", type=Path, default=Path("exp_results"))
    arguments = parser.parse_args()
    if arguments.growth:
        growth_figure(arguments.out / "figures" / "growth.png")
        return
    header = ["work", "ours, s", "MiB", "reference, s", "MiB", "ratio"]
    rows = []
    for name, ours, with_ours, reference, with_reference in works(arguments.quick):
        seconds, memory = measured(ours, *with_ours)
        row = [name, f"{seconds:.3g}", f"{memory:.0f}", "", "", ""]
        if reference:
            naive_seconds, naive_memory = measured(reference, *with_reference)
            ratio = f"{naive_seconds / seconds:.1f}"
            row[3:] = [f"{naive_seconds:.3g}", f"{naive_memory:.0f}", ratio]
        rows.append(row)
        print(" | ".join(row), flush=True)
    print(table(header, rows))
    machine = environment(torch.device("cpu"))
    lines = [
        "# Benchmarks",
        "",
        f"`python -m benchmarks.run{' --quick' if arguments.quick else ''}` on "
        f"{available_cores()} cores ({machine['device_name']}), "
        f"torch {machine['packages']['torch']}; seconds are medians in one run, memory is beyond "
        "that of the imports.",
        "",
        *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)),
    ]
    path = arguments.out / "tables" / "benchmarks.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
