"""Files of users' vectors as other libraries write them, and whether these read them back.

    pip install torch safetensors pandas pyarrow polars gensim implicit
    python tests/formats/write.py write tests/formats/
    python tests/formats/write.py read FOLDER

`write` made the files beside this one (torch 2.13.0, safetensors 0.8.0, pandas 3.1.1, pyarrow
26.0.1, polars 2.1.0, gensim 4.4.0, implicit 0.7.3, numpy 2.4.6). `read` reads files of the same
names with the same libraries, after this project has edited them, and fails unless users and
dimensions are those that were written, in their order, every vector twice as long.
"""

import sys
from pathlib import Path

import implicit
import numpy as np
import pandas as pd
import polars
import scipy.sparse as sp
import torch
from gensim.models import KeyedVectors
from safetensors import safe_open
from safetensors.torch import save_file

IDS = np.array([101, 7, 55, 3, 250, 18, 42, 9, 77, 64, 31, 12])
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def write(folder: Path) -> None:
    """Every file."""
    tensor = torch.from_numpy(X)
    state = {
        "user_embedding": torch.nn.Embedding(12, 3),
        "item_embedding": torch.nn.Embedding(5, 3),
    }
    with torch.no_grad():
        state["user_embedding"].weight.copy_(tensor)
    torch.save(torch.nn.ModuleDict(state).state_dict(), folder / "state_dict.pt")
    of_trainer = {"user.weight": tensor.bfloat16(), "bias": torch.zeros(3)}
    torch.save({"epoch": 3, "state_dict": of_trainer}, folder / "checkpoint.ckpt")
    tensors = {"user_factors": tensor, "item_factors": torch.ones(5, 3)}
    tensors["user_id"] = torch.from_numpy(IDS)
    save_file(tensors, folder / "factors.safetensors", metadata={"made": "by safetensors"})
    frame = pd.DataFrame({"user_id": IDS, "embedding": list(X), "country": list("abcdefghijkl")})
    frame.to_parquet(folder / "pandas.parquet", index=False)
    index = pd.Index(IDS, name="user_id")
    pd.DataFrame(X, index, ["f0", "f1", "f2"]).to_parquet(folder / "wide.parquet")
    pd.DataFrame(X, index).to_csv(folder / "pandas.csv")
    lists = polars.Series(X.tolist(), dtype=polars.Array(polars.Float32, 3))
    polars.DataFrame({"user_id": IDS, "embedding": lists}).write_parquet(folder / "polars.parquet")
    columns = {f"d{k}": X[:, k] for k in range(3)}
    polars.DataFrame({"user_id": IDS, **columns}).write_csv(folder / "polars.tsv", separator="\t")
    vectors = KeyedVectors(3)
    vectors.add_vectors([f"user_{one}" for one in IDS], X)
    vectors.save_word2vec_format(str(folder / "gensim.txt"))
    als = implicit.als.AlternatingLeastSquares(factors=3, iterations=2, random_state=0)
    als.fit(sp.csr_matrix(X > 0, dtype=np.float32), show_progress=False)
    als.save(str(folder / "implicit.npz"))
    np.savez(folder / "numpy.npz", user_embedding=X, ids=IDS)


def read(folder: Path) -> None:
    """Every file, edited."""
    here, twice = Path(__file__).parent, 2 * X
    state, first = (torch.load(one / "state_dict.pt") for one in (folder, here))
    same(state["user_embedding.weight"].numpy(), twice)
    same(state["item_embedding.weight"].numpy(), first["item_embedding.weight"].numpy())
    checkpoint = torch.load(folder / "checkpoint.ckpt")
    assert checkpoint["epoch"] == 3
    of_user, half = checkpoint["state_dict"]["user.weight"], torch.from_numpy(X).bfloat16()
    assert torch.equal(of_user, 2 * half)
    with safe_open(folder / "factors.safetensors", "np") as file:
        same(file.get_tensor("user_factors"), twice)
        same(file.get_tensor("user_id"), IDS)
        assert file.metadata() == {"made": "by safetensors"}
    frame = pd.read_parquet(folder / "pandas.parquet")
    same(np.stack(frame["embedding"]), twice)
    same(frame["user_id"], IDS)
    assert "".join(frame["country"]) == "abcdefghijkl"
    for wide in (
        pd.read_parquet(folder / "wide.parquet"),
        pd.read_csv(folder / "pandas.csv", index_col=0),
    ):
        same(wide.to_numpy().astype(np.float32), twice)
        same(wide.index, IDS)
        assert wide.index.name == "user_id"
    lists = polars.read_parquet(folder / "polars.parquet")
    assert lists.schema["embedding"] == polars.Array(polars.Float32, 3)
    same(lists["embedding"].to_numpy(), twice)
    columns = polars.read_csv(folder / "polars.tsv", separator="\t")
    same(columns.select("d0", "d1", "d2").to_numpy().astype(np.float32), twice)
    vectors = KeyedVectors.load_word2vec_format(str(folder / "gensim.txt"))
    same(np.stack([vectors[f"user_{one}"] for one in IDS]), twice)
    als, before = (
        implicit.als.AlternatingLeastSquares().load(str(one / "implicit.npz"))
        for one in (folder, here)
    )
    same(als.user_factors, 2 * before.user_factors)
    same(als.item_factors, before.item_factors)
    with np.load(folder / "numpy.npz") as arrays:
        same(arrays["user_embedding"], twice)
        same(arrays["ids"], IDS)


def same(found: object, wanted: object) -> None:
    """Fail unless both are equal to the bit."""
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
