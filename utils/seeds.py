"""One seed in the config; every stage derives its own generator from it by name.

Deriving by name means that adding a stage, or running a stage alone, moves no other stage's
random numbers, and that an interrupted training goes on without a saved generator state.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stage called `names`, e.g. ``derive(0, "train", "epoch", 3)``."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed32(seed: int, *names: str | int) -> int:
    """The same in 31 bits, for scikit-learn and XGBoost."""
    return derive(seed, *names) % 2**31


def torch_generator(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator on `device` for the stage called `names`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stage called `names`."""
    return np.random.default_rng(derive(seed, *names))


def uniform(start: int, stop: int, seed: int, *names: str | int) -> np.ndarray:
    """(stop - start,) draws from [0, 1) for the things of these numbers, in the stage called
    `names`: each follows from its number alone, whoever else is drawn for with it.
    """
    bits = np.random.Philox(key=derive(seed, *names))
    bits.advance(start // 4)  # by counts, each of four draws
    skip = start % 4
    return np.random.Generator(bits).random(skip + stop - start)[skip:]


def scattered(numbers: np.ndarray, size: int, seed: int, *names: str | int) -> np.ndarray:
    """(n,) int64 draws from 0 .. size - 1 for the things of these numbers (n,), in any order and
    however far apart, in the stage called `names`. Each follows from its number alone: a counter,
    mixed by SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
    """
    key = np.uint64(derive(seed, *names))
    with np.errstate(over="ignore"):  # modulo 2^64
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(size)).astype(np.int64)
