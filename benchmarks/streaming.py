"""Time stream=on against the number of users: `python -m benchmarks.streaming`.

Random shards of 64 dimensions, float32, are written to a temporary folder (a gigabyte of vectors,
labels and what comes out takes 2.2), one size after the other; then main.py edits them in a process
of its own, on one thread. Seconds are those that it says, from its first look at the shards to the
last one written, without Python's start; memory is the most that it held, torch and all (of
several --processes the first one's). Up to --in-memory users the same is done by NumPy with all
users in memory, from the shards read to one file written; up to --polished users calibrated is
measured with its polish too. Ten million users take 5.3 GB:

    python -m benchmarks.streaming --page --users 10000 100000 1000000 10000000

--page writes exp_results/tables/benchmarks-streaming.md and the figure streaming.png, with what the
numbers come to at 10^9 users of 128 dimensions on 8 machines: arithmetic, from constants that are
measured too.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from methods.barycentre import to_barycentre
from methods.calibrated import CalibratedOptions, calibrate
from methods.calibrated_passes import SAMPLE
from methods.gaussian import Moments
from methods.histogram import BINS
from methods.leace import least_squares
from methods.partition import MOST
from utils.figures import save
from utils.messages import table
from utils.runtime import (
    ROOT,
    available_cores,
    environment,
    forget_peak_memory,
    peak_memory_mb,
)

DIMENSIONS, CLASSES = 64, 2
SHARD = 1_000_000
"""Users of the largest shard."""
POLISHED = "calibrated, polished"
METHODS: dict[str, list[str]] = {
    "leace": ["method=leace"],
    "barycentre": ["method=barycentre"],
    "calibrated": ["method=calibrated", "calibrated_rounds=0"],
    POLISHED: ["method=calibrated"],
}
"""With their keys."""
HEADER = [
    "users", "method", "processes", "rows/s", "seconds", "peak MiB", "in memory, s", "MiB", "ratio",
]  # fmt: skip

FILE = 2**30
"""Bytes that the disk is measured with."""
MACHINES, LARGE, WIDE = 8, 10**9, 128
NETWORK = 1.25e9
"""Bytes a second: 10 Gbit/s, assumed."""
LABEL = 8
"""Bytes of one, int64."""


@dataclass(frozen=True)
class Passes:
    """What a method does to every row of d dimensions.

    Attributes:
        reads: of all rows; one write more.
        products: of 2 d² operations: with a (d, d) matrix, or into one.
    """

    reads: int
    products: int


PASSES = {"barycentre": Passes(2, 2), "calibrated": Passes(5, 9)}
"""Barycentre's products: moments, map. Calibrated's: moments; radii; radii, moments; radii, map,
moments; radii, map.
"""


def write_shards(folder: Path, users: int) -> None:
    """Vectors in folder/vectors, and labels of two classes in folder/labels, 3 % unknown."""
    rng = np.random.default_rng(0)
    for name in ("vectors", "labels"):
        (folder / name).mkdir()
    bounds = np.linspace(0, users, max(4, -(-users // SHARD)) + 1).astype(int)
    for number, n in enumerate(np.diff(bounds)):
        labels = rng.choice([-1, 0, 1], n, p=[0.03, 0.27, 0.7])
        vectors = rng.standard_normal((n, DIMENSIONS), np.float32)
        vectors[:, 0] += labels
        np.save(folder / "vectors" / f"{number:05d}.npy", vectors)
        np.save(folder / "labels" / f"{number:05d}.npy", labels)


def measure(folder: Path, method: str, processes: int) -> tuple[float, float]:
    """Seconds, and peak resident MiB, of editing the folder's shards; what came out goes."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    keys = ["user_embedding=vectors/", "labels=labels/", "stream=on", "output=edited/"]
    config = ROOT / "configs" / "exp_config.json"
    command = [*start, str(ROOT / "main.py"), "--config", str(config), *keys, *METHODS[method]]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # its own word: what the system counts for a child begins with what its parent had
    found = re.search(r"written in ([\d.]+) s.*peak memory (\d+) MiB", done.stdout, re.DOTALL)
    if done.returncode or not found:
        raise SystemExit(done.stdout + done.stderr)
    shutil.rmtree(folder / "edited")
    return float(found[1]), float(found[2])


def in_memory(folder: Path, method: str) -> tuple[float, float]:
    """The same by NumPy, all users at once."""
    forget_peak_memory()
    start = time.perf_counter()
    with threadpool_limits(1):
        vectors = _loaded(folder / "vectors")
        labels = _loaded(folder / "labels")
        known = labels >= 0
        if method in ("calibrated", POLISHED):
            options = CalibratedOptions()
            rounds, rng = options.calibrated_rounds * (method == POLISHED), np.random.default_rng(0)
            own = vectors[known], labels[known]
            done = calibrate(*own, options.turn, rounds, rng, options.calibrated_views)
            vectors[known] = done.table
        elif method == "barycentre":
            x = vectors.astype(np.float64)
            vectors[:] = to_barycentre(Moments.of(x, labels, CLASSES))(x, labels)
        else:
            x = vectors.astype(np.float64)
            vectors[:] = least_squares(x[known], labels[known])(x)
        np.save(folder / "edited.npy", vectors)
    seconds = time.perf_counter() - start
    (folder / "edited.npy").unlink()
    return seconds, peak_memory_mb() or 0.0


def _loaded(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(folder.iterdir())])


def exponent(users: list[int], seconds: list[float]) -> float:
    """Of the power law that fits best."""
    return float(np.polyfit(np.log(users), np.log(seconds), 1)[0])


@dataclass(frozen=True)
class Constants:
    """Of this machine, one thread.

    Attributes:
        read, write: bytes a second of a large file, none of it in the system's cache.
        products: operations a second of (16,384, 128) with (128, 128), float64.
    """

    read: float
    write: float
    products: float


def constants(folder: Path) -> Constants:
    """Measure them."""
    path, numbers = folder / "large", np.random.default_rng(0).bytes(FILE)
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(numbers)
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(2**22):
            pass
    read = time.perf_counter() - start
    path.unlink()
    x, m = np.ones((16_384, WIDE)), np.ones((WIDE, WIDE))
    best = np.inf
    with threadpool_limits(1):
        for _ in range(20):
            start = time.perf_counter()
            x @ m
            best = min(best, time.perf_counter() - start)
    return Constants(FILE / read, FILE / written, 2 * x.size * WIDE / best)


def summed(method: str) -> int:
    """Bytes of all arrays that are summed over the machines, but for those of the beats."""
    moments = CLASSES * (1 + WIDE + WIDE**2)
    if method == "barycentre":
        return 8 * moments
    some, histograms = MOST * (WIDE + 2), 3 * CLASSES * (BINS + 1)
    return 8 * (3 * moments + some + histograms)


def arithmetic(measured: dict[str, tuple[int, float]], here: Constants) -> list[str]:
    """The page's last section.

    Args:
        measured: by method, the most users and their seconds.
        here: what the machine can do.
    """
    rows = LARGE // MACHINES
    vectors = rows * WIDE * 4
    header = ["a machine", *(name for name in PASSES if name in measured)]
    lines: dict[str, list[str]] = {}

    def put(name: str, value: str) -> None:
        lines.setdefault(name, []).append(value)

    for method in header[1:]:
        does, (users, seconds) = PASSES[method], measured[method]
        read = does.reads * vectors + (does.reads + 1) * rows * LABEL
        operations = does.products * 2 * WIDE**2 * rows
        sent = 2 * (MACHINES - 1) / MACHINES * summed(method)
        disk = read / here.read + vectors / here.write
        products = operations / here.products
        numbers = rows * WIDE / (users * DIMENSIONS)
        scaled = products + numbers * seconds - products * DIMENSIONS / WIDE
        put("passes that read, the last one writes", f"{does.reads}")
        put("read, GB (with labels, int64)", f"{read / 1e9:.0f}")
        put("written, GB", f"{vectors / 1e9:.0f}")
        put("sent over the network, MB (ring)", f"{sent / 1e6:.1f}")
        put("operations in matrix products, 10^12", f"{operations / 1e12:.1f}")
        put("seconds of the disk", f"{disk:,.0f}")
        put("seconds of the network, 10 Gbit/s assumed", f"{sent / NETWORK:.2f}")
        put("seconds of the products, one thread", f"{products:,.0f}")
        put("seconds of all work, one process", f"{scaled:,.0f}")
        bound = "disk" if disk > scaled else "arithmetic"
        put("bound with one process a machine", f"{bound}, {max(disk, scaled) / 3600:.1f} h")
        put("processes a machine from which the disk is the bound", f"{max(1, scaled / disk):.1f}")
    return [
        f"## 10^9 x {WIDE} on {MACHINES} machines, by arithmetic",
        "",
        "**Not measured**: computed from what this machine, with one thread, was measured to do: "
        f"read {here.read / 1e6:,.0f} MB/s and write {here.write / 1e6:,.0f} MB/s (a file of "
        f"{FILE / 2**30:.0f} GiB, written through and out of the system's cache), "
        f"{here.products / 1e9:.1f} GFLOP/s in float64 products of 16,384 rows with "
        f"({WIDE}, {WIDE}); and from the largest size above, whose seconds beside those of its "
        "products are taken to grow with the numbers in the table. Of its files what fits was in "
        "the system's cache, so that its seconds are work more than waiting. float32 vectors, two "
        "classes; each machine has a disk like this one's, and an eighth of the shards.",
        "",
        *markdown(header, [[name, *values] for name, values in lines.items()]),
        "",
        "The network carries sums alone, whatever the number of users; nearly all that calibrated "
        f"sends are the {MOST:,} users whom Tyler's shape is fitted on (and, with the polish, its "
        f"sample of {SAMPLE:,}). Beside them the ranks sum some numbers every second, to know that "
        "all are there.",
    ]


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table's lines."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def page(
    rows: list[list[str]], seconds: dict[str, dict[int, float]], load: float, here: Constants
) -> str:
    """What --page writes.

    Args:
        rows: of the table.
        seconds: by method and users.
        load: of the machine, before it began.
        here: what the machine can do.
    """
    users = [f"{n}" for n in dict.fromkeys(n for found in seconds.values() for n in found)]
    machine = environment(torch.device("cpu"))
    processes = sorted({int(row[HEADER.index("processes")]) for row in rows})
    keys = f"--users {' '.join(users)} --processes {' '.join(map(str, processes))}"
    if POLISHED in seconds:
        keys += f" --polished {max(seconds[POLISHED])}"
    lines = [
        "# Streaming",
        "",
        f"`python -m benchmarks.streaming --page {keys}` on {available_cores()} cores "
        f"({machine['device_name']}) with a load of {load:.1f} before it began; processes of one "
        f"thread, {DIMENSIONS} dimensions, float32, synthetic (Gaussian, the classes' means "
        "apart). Memory is the most resident of the first process, torch included. In memory: "
        "NumPy, one thread, in the same run; ratio: its seconds to those of one process's stream. "
        "calibrated is without its polish, or `polished` as by default.",
        "",
        *markdown(HEADER, rows),
        "",
    ]
    for method, found in seconds.items():
        large = {n: s for n, s in found.items() if s}
        if len(large) > 1:
            fitted = exponent(list(large), list(large.values()))
            lines.append(
                f"- {method}: seconds grow with the users to the power of {fitted:.2f} (least "
                f"squares of the logarithms, {min(large):,} to {max(large):,})"
            )
    largest = {method: max(found.items()) for method, found in seconds.items() if found}
    if POLISHED in largest:
        n, took = largest[POLISHED]
        hours = took / n * LARGE / MACHINES * WIDE / DIMENSIONS / 3600
        lines.append(
            f"- {POLISHED}: {took / n * 1e6:.0f} µs a user of {n:,}, what the first process alone "
            f"learns of the sample included, which no more users add to; at that rate {LARGE:.0e} "
            f"x {WIDE} on {MACHINES} machines would take one process a machine {hours:.0f} h at "
            "most, by arithmetic"
        )
    drawn = "![Seconds against users](../figures/streaming.png)"
    return "\n".join([*lines, "", drawn, "", *arithmetic(largest, here)]) + "\n"


def figure(seconds: dict[str, dict[int, float]], path: Path) -> None:
    """Seconds against users, by method."""
    drawn = Figure(figsize=(5, 3.4), layout="constrained")
    axes = drawn.subplots()
    for method, found in seconds.items():
        axes.loglog(list(found), list(found.values()), marker="o", label=method)
    axes.set(xlabel="users", ylabel=f"seconds, {DIMENSIONS} dimensions")
    axes.legend(frameon=False)
    save(drawn, path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["barycentre", "calibrated", POLISHED]
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--in-memory", type=int, default=10**6, help="the most users for NumPy")
    parser.add_argument("--polished", type=int, default=10**6, help="the most for the polish")
    parser.add_argument("--page", action="store_true", help="write the page")
    parser.add_argument("--out", type=Path, default=Path("exp_results"))
    arguments = parser.parse_args()
    if arguments.page and 1 not in arguments.processes:
        parser.error("--page needs --processes 1 among others")
    load, rows = os.getloadavg()[0], []
    spawn = multiprocessing.get_context("spawn")
    seconds: dict[str, dict[int, float]] = {method: {} for method in arguments.methods}
    for users in arguments.users:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_shards(folder, users)
            for method, processes in product(arguments.methods, arguments.processes):
                if method == POLISHED and users > arguments.polished:
                    continue
                took, memory = measure(folder, method, processes)
                speed = f"{users / took:,.0f}" if took else "-"
                row = [f"{users:,}", method, f"{processes}", speed, f"{took:.2f}", f"{memory:.0f}"]
                row += [""] * 3
                if processes == 1:
                    seconds[method][users] = took
                    if users <= arguments.in_memory:
                        with ProcessPoolExecutor(1, spawn) as pool:
                            whole, most = pool.submit(in_memory, folder, method).result()
                        row[6:] = (
                            f"{whole:.2f}",
                            f"{most:.0f}",
                            f"{whole / took:.2f}" if took else "-",
                        )
                rows.append(row)
                print(" | ".join(row), flush=True)
    print(table(HEADER, rows))
    if arguments.page:
        with tempfile.TemporaryDirectory() as name:
            here = constants(Path(name))
        path = arguments.out / "tables" / "benchmarks-streaming.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure(seconds, arguments.out / "figures" / "streaming.png")
        path.write_text(page(rows, seconds, load, here))


if __name__ == "__main__":
    main()
