"""Embedding files: arrays only, nothing in them can run, nothing that isn't finite gets in."""

from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError, first_line
from utils.files import file_checksum, replace_file

FLOATS = (np.float16, np.float32, np.float64)


def save_embedding(path: Path, embedding: np.ndarray) -> str:
    """Write an embedding as .npy; returns the file's SHA-256."""
    with replace_file(path) as file:
        np.save(file, np.ascontiguousarray(embedding), allow_pickle=False)
    return file_checksum(path)


def load_embedding(path: Path) -> np.ndarray:
    """A user embedding (n_users, d), float16, 32 or 64.

    Args:
        path: .npy, or .npz with one array or one called user_embedding.

    Raises:
        UserError: no such file, no such array, or a value that is not finite.
    """
    embedding = load_array(path)
    if embedding.ndim != 2 or embedding.dtype not in FLOATS or not embedding.size:
        shape = tuple(embedding.shape)
        raise UserError(
            f"{path} must hold a float array (n_users, d), got {embedding.dtype} {shape}"
        )
    if not np.isfinite(embedding).all():
        row = int(np.flatnonzero(~np.isfinite(embedding).all(1))[0])
        raise UserError(f"{path}: row {row} has a value that is not finite")
    return embedding


def load_array(path: Path) -> np.ndarray:
    """One array from a .npy or .npz file.

    Raises:
        UserError: no such file, not such a file, or several arrays of other names.
    """
    try:
        # opened here, since np.load leaves a file that is no array open
        with path.open("rb") as file:
            loaded: Any = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                names = loaded.files
                if len(names) != 1 and "user_embedding" not in names:
                    raise UserError(
                        f"{path} holds the arrays {', '.join(names)}; call one user_embedding"
                    )
                loaded = loaded[names[0] if len(names) == 1 else "user_embedding"]
            # torch and pandas know this machine's byte order alone
            return loaded.astype(loaded.dtype.newbyteorder("="), copy=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything at all
        raise UserError(f"{path} is not a NumPy array file ({first_line(error)})") from None
