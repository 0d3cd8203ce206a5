"""What can be told of users without any embedding: tables of features, attacked as places are.

    activity    how many interactions a user has
    popularity  how popular the items of the history are: its share in each tenth of the catalogue
    history     the history itself: its widest directions by truncated SVD
    random      nothing: random vectors, as many dimensions as the user embedding

What a place tells beyond these is its own leak; what it tells below them, imputation would tell
anyway (Jayaraman and Evans, CCS 2022).
"""

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

DIRECTIONS = 64
"""Of a wide table, the widest ones that attackers see."""

TENTHS = 10


def history_baselines(
    train: np.ndarray, n_users: int, n_items: int, seed: int
) -> dict[str, np.ndarray]:
    """Features (n_users, d) by name, of what the recommender was trained on.

    Args:
        train: (n, 2) int64, columns user and item.
        n_users, n_items: sizes of the index spaces.
        seed: of the SVD.
    """
    users, items = train.T
    seen = csr_array((np.ones(len(train), np.float32), (users, items)), shape=(n_users, n_items))
    activity = np.bincount(users, minlength=n_users)
    order = np.argsort(np.argsort(np.bincount(items, minlength=n_items), kind="stable"))
    tenth = (order * TENTHS // n_items)[items]
    shares = np.zeros((n_users, TENTHS))
    np.add.at(shares, (users, tenth), 1)
    return {
        "activity": np.log1p(activity)[:, None],
        "popularity": shares / np.maximum(activity, 1)[:, None],
        "history": widest(seen, seed),
    }


def random_vectors(n_users: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(n_users, d) of a standard normal."""
    return rng.normal(size=(n_users, d))


def widest(matrix: np.ndarray | csr_array, seed: int) -> np.ndarray:
    """(n, k) float32, k = min(64, n - 1, m - 1): rows of (n, m) in the coordinates of its widest
    directions.

    Args:
        matrix: a row a user.
        seed: of the randomised SVD (Halko, Martinsson and Tropp, SIAM Review 2011).
    """
    directions = min(DIRECTIONS, min(matrix.shape) - 1)
    left, sizes, _ = randomized_svd(matrix, directions, random_state=seed)
    return (left * sizes).astype(np.float32)


def list_vectors(lists: np.ndarray, seed: int) -> np.ndarray:
    """(n_users, d): recommended items (n_users, k) as zeros and ones, in the coordinates of their
    widest directions.
    """
    n, k = lists.shape
    rows = np.repeat(np.arange(n), k)
    shape = (n, int(lists.max()) + 1)
    return widest(csr_array((np.ones(n * k, np.float32), (rows, lists.ravel())), shape=shape), seed)
