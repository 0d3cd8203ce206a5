"""Time the adapting number of threads against both fixed ones: `python -m benchmarks.threads`.

On a quiet machine and beside one other busy process: steps a second of training and of unlearning
at ML-100K's size, and of LightGCN at ML-1M's, each in a process of its own, one after the other.
Writes exp_results/tables/benchmarks-threads.md. Only a machine with nothing else to do tells.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.problems import SIZES, interactions, model_of, users
from data.sampling import NegativeSampler
from methods import d2d
from methods.losses.regularizers import frobenius
from methods.unlearning import Problem
from models.training.step import Trainer, TrainingSettings
from utils.messages import table
from utils.runtime import available_cores, environment, keep_freed_memory
from utils.seeds import torch_generator
from utils.threads import Threads

BATCH = 256


def training(name: str, size: str) -> Callable[[], None]:
    """One step of training."""
    pairs = interactions(size)
    model = model_of(name, size, pairs)
    model.prepare_training(2 * BATCH, 1024)
    trainer = Trainer(model, None, TrainingSettings(0.001, BATCH, 1, "bce", "last", 0))
    n_users, n_items, *_ = SIZES[size]
    drawn = NegativeSampler(pairs, n_users, n_items, 4).examples(torch_generator(0))
    batch = tuple(part[:BATCH] for part in drawn)
    return lambda: trainer.epoch(batch, lambda: None)


def unlearning(size: str) -> Callable[[], None]:
    """One gradient of D2D."""
    n, *_, majority = SIZES[size]
    theta, labels = users(n, 32, majority)
    known = torch.ones(n, dtype=torch.bool)
    problem = Problem(d2d.distinguishability(labels), frobenius(theta), 1e-6, known, True)
    return lambda: problem.gradient(theta)


WORKS: dict[str, tuple[Callable[..., Callable[[], None]], tuple[str, ...]]] = {
    "NCF, ml-100k": (training, ("ncf", "ml-100k")),
    "LightGCN, ml-100k": (training, ("lgn", "ml-100k")),
    "LightGCN, ml-1m": (training, ("lgn", "ml-1m")),
    "D2D, ml-100k": (unlearning, ("ml-100k",)),
    "D2D, ml-1m": (unlearning, ("ml-1m",)),
}


def seconds_a_step(work: str, number: int | None, seconds: float) -> float:
    """Mean over so many seconds; `number` of threads, None = adapting."""
    keep_freed_memory()
    torch.set_num_threads(number or available_cores())
    make, arguments = WORKS[work]
    step = make(*arguments)
    step()
    threads = Threads(1 if number else available_cores())
    start, steps = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        with threads.step():
            step()
        steps += 1
    return (time.perf_counter() - start) / steps


def busy() -> None:
    """Another process at work, with one thread."""
    torch.set_num_threads(1)
    step = training("ncf", "ml-100k")
    while True:
        step()


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="a measurement")
    parser.add_argument("--out", type=Path, default=Path("exp_results"))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    cores = available_cores()
    header = ["work", "beside it", "1 thread, ms", f"{cores} threads, ms", "adapting, ms", "ratio"]
    rows = []
    for beside in ("nothing", "a busy process"):
        other = context.Process(target=busy, daemon=True)
        if beside != "nothing":
            other.start()
            time.sleep(10)  # it imports torch
        for work in WORKS:
            times = []
            for number in (1, cores, None):
                with ProcessPoolExecutor(1, context) as pool:
                    job = pool.submit(seconds_a_step, work, number, arguments.seconds)
                    times.append(1000 * job.result())
            ratio = times[2] / min(times[:2])
            rows.append([work, beside, *(f"{one:.3g}" for one in times), f"{ratio:.2f}"])
            print(" | ".join(rows[-1]), flush=True)
        if other.is_alive():
            other.terminate()
    print(table(header, rows))
    machine = environment(torch.device("cpu"))
    said = (
        f"`python -m benchmarks.threads --seconds {arguments.seconds:g}` on {cores} cores "
        f"({machine['device_name']}), torch {machine['packages']['torch']}; means over "
        f"{arguments.seconds:g} s; the ratio is to the better fixed number."
    )
    lines = ["# Threads", "", said, ""]
    lines += ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    path = arguments.out / "tables" / "benchmarks-threads.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
