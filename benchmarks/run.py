"""Time the project against naive references in one run: `python -m benchmarks.run`.

Needs no dataset: interactions and embeddings of the published sizes are drawn at random. Every
measurement has a process of its own, so that its peak memory is its own, and ends with its
median over repeats; a reference that would take too long or too much memory is measured at a
size that it can do, or left out, which the table says. Writes exp_results/tables/benchmarks.md
and, with --growth, exp_results/figures/growth.png (seconds of 500 steps against N).

With --device cuda:0 everything runs there, the references too (in float32, as plain scripts on a
GPU do); a time ends when the device is done, memory is the device's, epochs are trained whole, and
the files are benchmarks-cuda.md and growth-cuda.png. --precision goes into their names too.
"""

import argparse
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import naive
from benchmarks.problems import SIZES, candidates_of, interactions, model_of, users
from data.sampling import NegativeSampler
from methods import d2d, u2u
from methods.losses.objective import Objective
from methods.losses.regularizers import frobenius
from methods.unlearning import REPORT_EVERY, Optimizer, unlearn
from models.lightgcn import LightGCN
from models.training.step import Trainer, TrainingSettings
from utils.config import RunConfig
from utils.figures import save
from utils.messages import table
from utils.metrics import CUTOFFS, evaluate
from utils.runtime import (
    available_cores,
    environment,
    keep_freed_memory,
    peak_memory_mb,
    set_threads,
)
from utils.seeds import torch_generator

BATCH, NUM_NG, STEPS = 256, 4, 500


@dataclass(frozen=True)
class Place:
    """Where everything is timed.

    Attributes:
        device: for instance cuda:0.
        precision: of our training; see the config's key.
    """

    device: torch.device
    precision: str

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was told to."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def memory(self) -> float:
        """The most MiB in use so far, of the device's memory or the process's."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak_memory_mb() or math.nan

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of doing `work`, to its end."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def median_seconds(self, work: Callable[[], Any], repeats: int) -> float:
        """Over repeats, after one warm-up (in which a GPU's steps are recorded)."""
        return statistics.median([self.seconds(work) for _ in range(repeats + 1)][1:])


def epoch_ours(
    place: Place,
    name: str,
    size: str,
    steps: int | None,
    cuda_graphs: str = "on",
    propagation_mb: int = RunConfig.propagation_mb,
) -> float:
    """Seconds of an epoch: drawing it, and all its steps or so many of them scaled to all."""
    pairs = interactions(size)
    model = model_of(name, size, pairs).to(place.device)
    model.prepare_training(2 * BATCH, propagation_mb)
    n_users, n_items, *_ = SIZES[size]
    sampler = NegativeSampler(pairs.to(place.device), n_users, n_items, NUM_NG)
    settings = TrainingSettings(0.001, BATCH, 1, "bce", "last", 0, place.precision, cuda_graphs)
    trainer = Trainer(model, None, settings)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        return sampler.examples(torch_generator(0, device=place.device))

    drawing = place.median_seconds(draw, 2)
    users, items, labels = draw()
    part = slice(steps and steps * BATCH)
    data = users[part], items[part], labels[part]
    training = place.median_seconds(lambda: trainer.epoch(data, lambda: None), 2)
    return drawing + training / math.ceil(len(data[0]) / BATCH) * math.ceil(len(users) / BATCH)


def epoch_naive(place: Place, name: str, size: str, steps: int, samples: str = "tensors") -> float:
    """The same as a plain script trains; LightGCN with a COO product an autograd layer."""
    pairs = interactions(size)
    n_items = SIZES[size][1]
    model = model_of(name, size, pairs).to(place.device)
    logits: Callable[[Tensor, Tensor], Tensor] = model
    if isinstance(model, LightGCN):
        graph = model.graph.to_sparse_coo().coalesce()
        logits = partial(naive.lightgcn, model, graph)
    optimizer = torch.optim.Adam(model.parameters())
    listed = [(user, item) for user, item in pairs.tolist()]
    start = time.perf_counter()
    loader = naive.batches(listed, n_items, NUM_NG, BATCH, samples)
    batches = iter(loader)
    first = next(batches)
    drawing = time.perf_counter() - start

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        users, items, labels = (column.to(place.device) for column in batch)
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits(users, items), labels.float()
        )
        loss.backward()
        optimizer.step()
        loss.item()

    def some() -> None:
        for _ in range(steps):
            step(next(batches))

    step(first)
    return drawing + place.seconds(some) / steps * len(loader)


def evaluation_ours(place: Place, size: str) -> float:
    """Seconds to rank 100 candidates of every user."""
    model = model_of("ncf", size, interactions(size)).to(place.device)
    candidates = candidates_of(size).to(place.device)
    return place.median_seconds(lambda: evaluate(model.scorer(), candidates), 5)


def evaluation_naive(place: Place, size: str, samples: str = "tensors") -> float:
    """The same, user by user."""
    model = model_of("ncf", size, interactions(size)).to(place.device)
    candidates = candidates_of(size).to(place.device)
    arguments = (candidates.users, candidates.items, CUTOFFS, samples)
    return place.median_seconds(lambda: naive.evaluate(model, *arguments), 1)


def unlearn_ours(place: Place, method: str, n: int, k: int, majority: float, steps: int) -> float:
    """Seconds of 500 steps, reports included: all, or worked out from fewer than a report's."""
    theta, labels = (part.to(place.device) for part in users(n, k, majority))
    make: Callable[[Tensor], Objective] = {"u2u": u2u, "d2d": d2d}[method].distinguishability

    def seconds(steps: int) -> float:
        optimizer = Optimizer("adam", steps, 0.001)
        return unlearn(theta, labels, make, frobenius(theta), 1e-6, optimizer).seconds

    seconds(1)
    if steps == STEPS:
        return seconds(STEPS)
    # both have one report, the last step's
    short, long = seconds(1), seconds(1 + steps)
    step = (long - short) / steps
    return STEPS * step + STEPS // REPORT_EVERY * (short - step)


def d2d_to_share(place: Place, n: int, k: int, majority: float, lr: float) -> float:
    """Seconds until the MMD is 2 % of its first value, where 500 published steps end on ML-100K."""
    theta, labels = (part.to(place.device) for part in users(n, k, majority))
    arguments = (theta, labels, d2d.distinguishability, frobenius(theta), 1e-6)
    done = unlearn(*arguments, Optimizer("adam", STEPS, lr, tolerance=0.02))
    first, last = done.history[0], done.history[-1]
    assert last["distinguishability"] <= 0.02 * first["distinguishability"]
    return done.seconds


def unlearn_naive(place: Place, method: str, n: int, k: int, majority: float, steps: int) -> float:
    """Dense Laplacian or whole kernel matrices, gradient by autograd; 500 steps from so many."""
    theta, labels = (part.to(place.device) for part in users(n, k, majority))
    star = theta.clone()
    theta.requires_grad_()
    optimizer = torch.optim.Adam([theta])
    loss_of = {"u2u": naive.u2u, "d2d": naive.mmd}[method]

    def step() -> None:
        optimizer.zero_grad()
        (loss_of(theta, labels) + 1e-6 * (theta - star).square().sum()).backward()
        optimizer.step()

    return place.median_seconds(step, steps) * STEPS


def measured(function: Callable[..., float], place: Place, *arguments: Any) -> tuple[float, float]:
    """Seconds, and MiB beyond those of a process that has only imported everything."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure, function, place, arguments).result()


def _measure(function: Callable[..., float], place: Place, arguments: tuple) -> tuple[float, float]:
    set_threads(None)
    keep_freed_memory()
    before = place.memory()
    seconds = function(place, *arguments)
    return seconds, place.memory() - before


class Work(NamedTuple):
    """What is timed: ours with its arguments, the reference with its (None: out of its reach)."""

    name: str
    ours: Callable[..., float]
    with_ours: tuple
    reference: Callable[..., float] | None = None
    with_reference: tuple = ()


def works(quick: bool, on_gpu: bool = False) -> list[Work]:
    """ML-100K's size, or all; on a GPU epochs are whole, with and without CUDA graphs."""
    ml100k, ml1m, lfm = (943, 32, 0.71), (6040, 32, 0.72), (19_972, 64, 0.78)

    def epoch(title: str, name: str, size: str, steps: int | None, plain_steps: int) -> Work:
        ours, plain = (name, size, None if on_gpu else steps), (name, size, plain_steps)
        return Work(f"{title}, {size}, epoch", epoch_ours, ours, epoch_naive, plain)

    def from_lists(work: Work) -> Work:
        name, arguments = f"{work.name} (reference from lists)", (*work.with_reference, "lists")
        return work._replace(name=name, with_reference=arguments)

    def against_layers(work: Work) -> Work:
        """LightGCN by rows of the propagation matrix against all nodes, layer by layer."""
        name = f"{work.name} (reference by layers)"
        return Work(name, epoch_ours, work.with_ours, epoch_ours, (*work.with_ours, "on", 0))

    def without_graphs(work: Work) -> Work:
        return Work(f"{work.name}, cuda_graphs=off", epoch_ours, (*work.with_ours, "off"))

    def unlearning(method: str, title: str, sizes: tuple, steps: int) -> Work:
        name = f"{method.upper()}, {title}, {STEPS} steps"
        return Work(name, unlearn_ours, (method, *sizes, steps))

    def compared(work: Work, plain_steps: int) -> Work:
        arguments = (*work.with_ours[:-1], plain_steps)
        return work._replace(reference=unlearn_naive, with_reference=arguments)

    size = ("ml-100k",)
    evaluation = Work("evaluation, 943 users x 100", evaluation_ours, size, evaluation_naive, size)
    epochs = [
        epoch("NCF", "ncf", "ml-100k", None, 60),
        epoch("LightGCN", "lgn", "ml-100k", None, 20),
    ]
    chosen = [
        *epochs,
        from_lists(epochs[0]),
        against_layers(epochs[1]),
        evaluation,
        from_lists(evaluation),
        compared(unlearning("u2u", "ml-100k", ml100k, STEPS), 5),
        compared(unlearning("d2d", "ml-100k", ml100k, STEPS), 3),
    ]
    if not quick:
        large = [epoch("NCF", "ncf", "ml-1m", 300, 40), epoch("LightGCN", "lgn", "ml-1m", 30, 5)]
        epochs += large
        chosen += [
            *large,
            against_layers(large[1]),
            compared(unlearning("u2u", "ml-1m", ml1m, STEPS), 2),
            unlearning("u2u", "20,000 users", lfm, STEPS),
            unlearning("d2d", "ml-1m", ml1m, 15),
            unlearning("d2d", "20,000 users", lfm, 3),
            Work("D2D, ml-1m, to 2 % (lr 0.01)", d2d_to_share, (*ml1m, 0.01)),
            Work("D2D, 20,000 users, to 2 % (lr 0.01)", d2d_to_share, (*lfm, 0.01)),
        ]
    return chosen + [without_graphs(work) for work in epochs if on_gpu]


GROWTH = (1000, 2000, 5000, 10_000, 20_000, 50_000)


def growth_figure(place: Place, path: Path) -> None:
    """Seconds of 500 steps of U2U and D2D against N, K = 32."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for method in ("u2u", "d2d"):
        seconds = []
        for n in GROWTH:
            few = max(2, min(REPORT_EVERY - 2, 100_000 // n))  # where a step takes long
            steps = {"u2u": STEPS, "d2d": few}[method]
            seconds.append(measured(unlearn_ours, place, method, n, 32, 0.7, steps)[0])
        print(method, dict(zip(GROWTH, np.round(seconds, 2).tolist(), strict=True)), flush=True)
        axes.loglog(GROWTH, seconds, marker="o", label=method)
    axes.set(xlabel="users N", ylabel=f"seconds of {STEPS} steps")
    axes.legend(frameon=False)
    save(figure, path)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ML-100K's size only")
    parser.add_argument("--growth", action="store_true", help="the growth figure instead")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda:N"')
    parser.add_argument("--precision", default="float32", choices=("float32", "tf32", "bf16"))
    parser.add_argument("--out", type=Path, default=Path("exp_results"))
    arguments = parser.parse_args()
    place = Place(torch.device(arguments.device), arguments.precision)
    if place.on_gpu and not torch.cuda.is_available():
        parser.error(f"{arguments.device} can't be timed: no CUDA device here")
    suffix = "-cuda" * place.on_gpu
    if place.precision != "float32":
        suffix += f"-{place.precision}"
    if arguments.growth:
        growth_figure(place, arguments.out / "figures" / f"growth{suffix}.png")
        return
    header = ["work", "ours, s", "MiB", "reference, s", "MiB", "ratio"]
    rows = []
    for name, ours, with_ours, reference, with_reference in works(arguments.quick, place.on_gpu):
        seconds, memory = measured(ours, place, *with_ours)
        row = [name, f"{seconds:.3g}", f"{memory:.0f}", "", "", ""]
        if reference:
            naive_seconds, naive_memory = measured(reference, place, *with_reference)
            ratio = f"{naive_seconds / seconds:.1f}"
            row[3:] = [f"{naive_seconds:.3g}", f"{naive_memory:.0f}", ratio]
        rows.append(row)
        print(" | ".join(row), flush=True)
    print(table(header, rows))
    path = arguments.out / "tables" / f"benchmarks{suffix}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# Benchmarks", "", _conditions(arguments.quick, place), ""]
    lines += ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    path.write_text("\n".join(lines) + "\n")


def _conditions(quick: bool, place: Place) -> str:
    """The sentence above the table: the command, the machine, what the numbers are."""
    machine = environment(place.device)
    where = f"{available_cores()} cores ({machine['device_name']})"
    options, memory = " --quick" * quick, "memory is beyond that of the imports"
    if place.on_gpu:
        where = f"{machine['device_name']} ({available_cores()} cores)"
        options += f" --device {place.device}"
        memory = "memory is the device's"
    if place.precision != "float32":
        options += f" --precision {place.precision}"
    return (
        f"`python -m benchmarks.run{options}` on {where}, torch {machine['packages']['torch']}; "
        f"training in {place.precision}, references in float32; seconds are medians in one run, "
        f"{memory}."
    )


if __name__ == "__main__":
    main()
