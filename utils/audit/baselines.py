"""What can be told of users without any embedding: tables of features, attacked as places are.

    activity    how many interactions a user has
    popularity  how popular the items of the history are: its share in each tenth of the catalogue
    history     the history itself: its widest directions by truncated SVD
    left out    top lists without a recommender: the same most popular items for everyone, but for
                those that a user has. What is left out of a list tells of the history, whatever the
                vectors tell
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

LISTS = "lists"
"""The place of the users' lists of recommended items."""

LISTED = 20
"""Items of a user's list that is kept."""


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
        "left out": list_vectors(popular_lists(seen, LISTED), seed),
    }


def popular_lists(seen: csr_array, top: int) -> np.ndarray:
    """(n_users, top): the most popular items that a user doesn't have, of equals the lower number
    first. Who has nearly all is shown known ones at the end.

    Args:
        seen: (n_users, n_items), 1 where a user has an item.
        top: at most n_items are shown.
    """
    ranked = np.argsort(-seen.sum(0), kind="stable")
    lists = np.empty((seen.shape[0], min(top, len(ranked))), np.int32)
    for user, shown in enumerate(lists):
        items = seen.indices[seen.indptr[user] : seen.indptr[user + 1]]
        head = ranked[: len(items) + len(shown)]
        known = np.isin(head, items)
        shown[:] = np.concatenate([head[~known], head[known]])[: len(shown)]
    return lists


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
