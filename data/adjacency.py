"""The interaction graph that LightGCN propagates over.

The symmetric normalised adjacency D^-1/2 A D^-1/2 of the bipartite graph of training pairs
(He et al., SIGIR 2020, eq. 8), users first, items behind them. It is cached in the prepared
folder as `s_pre_adj_mat.npz`, the artefact's name and scipy's format, with the checksum of the
pairs it was made from beside the matrix.
"""

import hashlib
import logging
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from utils.runs.files import replace_file

log = logging.getLogger(__name__)


def normalised_adjacency(pairs: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    """(n_users + n_items)², float32; a pair that occurs twice is one edge.

    Args:
        pairs: (n, 2) int64 training interactions, columns user and item.
        n_users, n_items: sizes of the index spaces; a node without edges has an empty row.
    """
    n = n_users + n_items
    user, item = pairs[:, 0], pairs[:, 1] + n_users
    rows, columns = np.concatenate([user, item]), np.concatenate([item, user])
    adjacency = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    adjacency.data[:] = 1  # the constructor adds up repeated entries
    degrees = np.diff(adjacency.indptr)
    scale = 1 / np.sqrt(np.maximum(degrees, 1))
    edge_rows = np.repeat(np.arange(n), degrees)
    adjacency.data *= scale[edge_rows] * scale[adjacency.indices]
    return adjacency.astype(np.float32)


def cached_adjacency(
    path: Path | None, pairs: np.ndarray, n_users: int, n_items: int
) -> sp.csr_array:
    """The same, from the file at `path` if that belongs to these pairs; else built and written.

    Without a path it is only built.
    """
    if path is None:
        return normalised_adjacency(pairs, n_users, n_items)
    checksum = hashlib.sha256(pairs.tobytes()).hexdigest()
    shape = (n_users + n_items,) * 2
    try:
        # opened here, since np.load leaves a file that is no zip open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
            parts = dict(saved)
        if str(parts.get("checksum")) == checksum and tuple(parts["shape"]) == shape:
            graph = sp.csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
            graph.check_format(full_check=True)
            return graph
        log.info("%s belongs to other data; building it anew", path)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file can raise anything at all
        log.warning("%s is damaged; building it anew", path)
    adjacency = normalised_adjacency(pairs, n_users, n_items)
    with replace_file(path) as file:
        np.savez(
            file,
            format=np.array("csr"),
            shape=np.array(shape),
            data=adjacency.data,
            indices=adjacency.indices,
            indptr=adjacency.indptr,
            checksum=np.array(checksum),
        )
    return adjacency


def to_torch(adjacency: sp.csr_array) -> Tensor:
    """A torch CSR tensor: the layout whose product with a dense matrix is multi-threaded."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(adjacency.indptr.astype(np.int32)),
            torch.from_numpy(adjacency.indices.astype(np.int32)),
            torch.from_numpy(adjacency.data),
            size=adjacency.shape,
            check_invariants=True,
        )
