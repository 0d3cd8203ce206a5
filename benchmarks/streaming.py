"""Time stream=on against the number of users: `python -m benchmarks.streaming`.

Random shards of 64 dimensions, float32, are written to a temporary folder (a gigabyte of vectors,
labels and what comes out takes 2.2), one size after the other; then main.py edits them in a process
of its own. Seconds are those that it says, from its first look at the shards to the last one
written, without Python's start; memory is the most that it held, torch and all (with --processes
the first of them). Ten million users take 5.3 GB: --users 10000000.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from utils.messages import table
from utils.runtime import ROOT

DIMENSIONS = 64
SHARD = 1_000_000
"""Users of the largest shard."""


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
    """Seconds, and peak resident MiB, of editing the folder's shards."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    keys = ["user_embedding=vectors/", "labels=labels/", f"method={method}", "stream=on"]
    config = ROOT / "configs" / "exp_config.json"
    command = [*start, ROOT / "main.py", "--config", config, *keys, f"output={method}/"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    # its own word: what the system counts for a child begins with what its parent had
    found = re.search(r"written in ([\d.]+) s.*peak memory (\d+) MiB", done.stdout, re.DOTALL)
    if done.returncode or not found:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[1]), float(found[2])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--methods", nargs="+", default=["leace", "barycentre"])
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for users in arguments.users:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_shards(folder, users)
            for method in arguments.methods:
                seconds, memory = measure(folder, method, arguments.processes)
                speed = f"{users / seconds:,.0f}" if seconds else "-"
                rows.append([f"{users:,}", method, speed, f"{seconds:.1f}", f"{memory:.0f}"])
                print(" | ".join(rows[-1]), flush=True)
    print(table(["users", "method", "rows/s", "seconds", "peak MiB"], rows))


if __name__ == "__main__":
    main()
