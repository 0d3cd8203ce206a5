"""Where a user has vectors: every table of a model, what it serves, its scores, its lists."""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data.tables import array_names, load_array, load_embedding
from utils.audit.baselines import widest
from utils.errors import UserError
from utils.runs.folder import embedding_path, lists_path, places_path


def places_of_run(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """All places of a finished run, (n_users, d) each; of an older one the user embedding alone.

    Args:
        folder: the run's.
        seed: of the SVD that makes vectors of lists.
    """
    vectors = places_path(folder)
    if not vectors.exists():
        return {"user_embedding": load_embedding(embedding_path(folder))}
    places = {name: load_embedding(vectors, name) for name in array_names(vectors)}
    if (path := lists_path(folder)).exists():
        places["lists"] = list_vectors(load_array(path), seed)
    return places


def places_of_file(path: Path) -> dict[str, np.ndarray]:
    """The embedding of a .npy file, or every array of a .npz file by its name.

    Raises:
        UserError: arrays with different numbers of users.
    """
    if path.suffix != ".npz" or len(array_names(path)) == 1:
        return {"user_embedding": load_embedding(path)}
    places = {name: load_embedding(path, name) for name in array_names(path)}
    rows = {name: len(x) for name, x in places.items()}
    if len(set(rows.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: arrays of different numbers of users ({said})")
    return places


def list_vectors(lists: np.ndarray, seed: int) -> np.ndarray:
    """(n_users, d): recommended items (n_users, k) as zeros and ones, in the coordinates of their
    widest directions.
    """
    n, k = lists.shape
    rows = np.repeat(np.arange(n), k)
    shape = (n, int(lists.max()) + 1)
    return widest(csr_array((np.ones(n * k, np.float32), (rows, lists.ravel())), shape=shape), seed)
