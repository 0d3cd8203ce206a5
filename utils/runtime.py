"""The machine a run uses: device, threads, memory, and the record of them."""

import contextlib
import ctypes
import functools
import logging
import os
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "xgboost")


def available_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has: its share, of
    several processes that torchrun has started on it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def set_threads(threads: int | None) -> int:
    """Give torch this many CPU threads (None = every available core); returns the number."""
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of returning them.

    Each training step frees and allocates gradients of some megabytes; returned to the system,
    they are faulted in again page by page, a sixth of a step of NCF on ML-1M.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
    except (OSError, AttributeError, TypeError):  # another C library
        log.debug("no mallopt here")


@functools.cache  # so that a sweep warns once
def resolve_device(name: str) -> torch.device:
    """The device called `name`; the CPU, after one warning, on a machine without CUDA.

    Raises:
        UserError: the machine has not this device; "cuda:0", the default, is forgiven.
    """
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name not in ("cuda", "cuda:0"):  # the published file's default, or meant
            raise UserError(f'device "{name}" does not exist; this machine has no CUDA: device=cpu')
        log.warning('no CUDA device here: "%s" becomes the CPU', name)
        return torch.device("cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UserError(
            f'device "{name}" does not exist; this machine has cuda:0 to cuda:{count - 1}'
        )
    return device


def forget_peak_memory() -> None:
    """Let the peak begin anew at what is resident now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float | None:
    """The most resident memory that this process has held, in MiB: since `forget_peak_memory`, or
    since it began where the system can't forget; None on Windows.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        if peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(peak[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest / (2**20 if sys.platform == "darwin" else 2**10)


def environment(device: torch.device) -> dict[str, Any]:
    """What a summary says about where its numbers come from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


@functools.cache
def _version(package: str) -> str:
    """Of a distribution, which may be installed under another name: xgboost as xgboost-cpu."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def versions() -> str:
    """The project's version, its commit if there is one, torch's and Python's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit = _commit()
    return ", ".join(
        [
            f"{project['name']} {project['version']}",
            *([f"commit {commit}"] if commit else []),
            f"torch {version('torch')}",
            f"Python {platform.python_version()}",
        ]
    )


@functools.cache
def _commit() -> str | None:
    """The project's commit, with "+" where tracked files differ from it; None outside git. Asked
    once: what a process has loaded is what it found when it began.
    """
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(
                ["git", *command],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")
