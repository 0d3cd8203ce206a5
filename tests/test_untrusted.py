"""Malicious files through the real commands: each would create a file, and none does.

The checkpoint's is in test_interruption, names that leave their folder in test_bad_inputs, the
restricted reader's own in test_data_layout.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import attack
import main

TINY = ["epochs=1", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
ORIGINAL = Path("exp_results/ncf/ml-100k/original/seed-0")
PREPARED = Path("data/datasets/ml-100k/preprocess")


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def victim(workspace):
    """The file that must never be there; fails at the end if it is."""
    path = workspace / "victim"
    yield path
    assert not path.exists()


def harmful(victim: Path, load) -> None:
    """The sample is a real one: whoever loads it as usual is harmed."""
    loaded = load()
    if isinstance(loaded, np.ndarray):
        loaded = loaded.item() if loaded.shape == () else loaded[0]
    while isinstance(loaded, dict):
        loaded = next(reversed(loaded.values()))
    loaded.close()
    assert victim.exists()
    victim.unlink()


@pytest.mark.parametrize("form", ["zip", "pickle", "legacy"])
def test_weights(victim, capsys, form):
    assert main.main(TINY) == 0
    path = ORIGINAL / "weights/final_model.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(victim)))
        harmful(victim, lambda: pickle.loads(path.read_bytes()))
    else:
        torch.save(Evil(victim), path, _use_new_zipfile_serialization=form == "zip")
        harmful(victim, lambda: torch.load(path, weights_only=False))
    assert main.main([*TINY, "method=u2u"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "final_model.pth does not hold this model's weights" in error
    assert "nothing in it was run" in error


def test_the_embedding_of_a_run_and_of_a_file(victim, capsys):
    assert main.main(TINY) == 0
    path = ORIGINAL / "weights/user_embedding.npy"
    np.save(path, np.array([Evil(victim)], dtype=object), allow_pickle=True)
    harmful(victim, lambda: np.load(path, allow_pickle=True))
    assert attack.main([]) == 2
    assert "is not a NumPy array file" in capsys.readouterr().err
    Path("l.csv").write_text("gender\nF\nM\n")
    arguments = [f"user_embedding={path}", "labels=l.csv"]
    assert attack.main(arguments) == 2
    assert main.main([*arguments, "method=d2d"]) == 2
    np.savez("x.npz", user_embedding=np.array([Evil(victim)], dtype=object))
    assert attack.main(["user_embedding=x.npz", "labels=l.csv"]) == 2


def test_labels(victim, capsys):
    np.save("x.npy", np.eye(2, dtype=np.float32))
    np.save("l.npy", np.array([Evil(victim), 1], dtype=object), allow_pickle=True)
    harmful(victim, lambda: np.load("l.npy", allow_pickle=True))
    assert attack.main(["user_embedding=x.npy", "labels=l.npy"]) == 2
    assert main.main(["user_embedding=x.npy", "labels=l.npy", "method=u2u"]) == 2
    assert capsys.readouterr().err.count("l.npy is not a NumPy array file") == 2


def test_the_authors_genders(victim, capsys):
    assert main.main(TINY) == 0
    (PREPARED / "meta.json").unlink()  # as if it were theirs
    evil = np.array({0: "F", 1: Evil(victim)}, dtype=object)
    np.save(PREPARED / "user_gender.npy", evil, allow_pickle=True)
    harmful(victim, lambda: np.load(PREPARED / "user_gender.npy", allow_pickle=True))
    assert main.main([*TINY, "method=d2d"]) == 2
    assert "nothing in it was run" in capsys.readouterr().err.splitlines()[-1]


def test_the_graph(victim, capsys):
    path = PREPARED / "s_pre_adj_mat.held_out.npz"
    assert main.main([*TINY, "model=lgn"]) == 0
    whole = path.read_bytes()
    np.savez(path, data=np.array([Evil(victim)], dtype=object))
    harmful(victim, lambda: np.load(path, allow_pickle=True)["data"])
    assert main.main([*TINY, "model=lgn", "seed=1"]) == 0
    assert "is damaged; building it anew" in capsys.readouterr().out
    assert np.array_equal(np.load(path)["data"], np.load(_written(whole))["data"])


def _written(content: bytes) -> Path:
    Path("whole.npz").write_bytes(content)
    return Path("whole.npz")


def test_a_graph_whose_indices_lead_outside_is_built_anew(workspace, capsys):
    path = PREPARED / "s_pre_adj_mat.held_out.npz"
    assert main.main([*TINY, "model=lgn"]) == 0
    whole = path.read_bytes()
    with np.load(path) as saved:
        parts = dict(saved)
    np.savez(path, **parts | {"indices": parts["indices"] + 10**6})
    assert main.main([*TINY, "model=lgn", "seed=1"]) == 0
    assert "is damaged; building it anew" in capsys.readouterr().out
    assert np.array_equal(np.load(path)["indices"], np.load(_written(whole))["indices"])


@pytest.mark.parametrize("leads", ["../victim", "ml-100k/../../../../victim", "/{}/victim"])
def test_an_archive_writes_nothing_but_the_known_files(workspace, victim, leads):
    home = workspace / "data/datasets/ml-100k"
    with zipfile.ZipFile(home / "ml-100k.zip", "w") as archive:
        archive.writestr(leads.format(workspace), "gotcha")
        for name in ("u.data", "u.user"):
            archive.write(home / "raw" / name, f"ml-100k/{name}")
            (home / "raw" / name).unlink()
    before = set(workspace.parent.rglob("victim"))  # other tests' are there
    assert main.main(TINY) == 0
    assert {path.name for path in (home / "raw").iterdir()} == {"u.data", "u.user", "origin.json"}
    assert set(workspace.parent.rglob("victim")) == before


def test_an_archive_whose_known_files_lead_outside(workspace, victim, capsys):
    home = workspace / "data/datasets/ml-100k"
    with zipfile.ZipFile(home / "ml-100k.zip", "w") as archive:
        for name in ("u.data", "u.user"):
            archive.write(home / "raw" / name, f"../{name}")
            (home / "raw" / name).unlink()
    assert main.main(TINY) == 2
    assert "There is no item named 'ml-100k/u.data'" in capsys.readouterr().err
    assert not list(workspace.rglob("u.data"))
