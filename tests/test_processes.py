"""Several processes that torchrun starts do what one does, training and d2d; the first one writes.

With stream=on: test_streaming.py.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import main
from tests.conftest import free_port, last_line
from tests.forked import careful, frozen, one_of, patient

SMALL = ["batch_size=1173", "embedding_size=4", "num_ng=1", "threads=1", "lr=0.02"]
"""Of an epoch's 3520 examples the last batch has one, and a rank of two nothing to do in it."""

STRONG = {"original": [], "retrain": ["retrain_interval=2", "retrain_trade_off=30"], "adv": []}


def folder(model, method, place="exp_results"):
    return Path(place) / model / "ml-100k" / method / "seed-0"


def history(*where):
    lines = (folder(*where) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(*where):
    return [record["loss"] for record in history(*where)]


def embedding(*where):
    return np.load(folder(*where) / "weights" / "user_embedding.npy")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "method"),
    [("ncf", "original"), ("lgn", "original"), ("lgn", "retrain"), ("ncf", "adv")],
)
def test_two_ranks_train_as_one_process_does(workspace, ranks, model, method):
    keys = [*SMALL, "epochs=3", f"model={model}", f"method={method}", *STRONG[method]]
    ended = [one.end() for one in ranks(2, *keys, "results_path=two/", "record=tables")]
    assert [code for code, *_ in ended] == [0, 0]
    assert ended[1][1:] == ("", "")
    assert main.main(keys) == 0
    expected = losses(model, method)
    np.testing.assert_allclose(losses(model, method, "two"), expected, rtol=1e-5)
    assert expected[2] < 0.999 * expected[0]
    apart = embedding(model, method, "two") - embedding(model, method)
    assert np.abs(apart).max() < 1e-4 * np.abs(embedding(model, method)).max()
    if method != "original":  # its term counts
        assert main.main([*SMALL, "epochs=3", f"model={model}"]) == 0
        without = np.array(losses(model, "original"))
        assert np.abs(without / expected - 1).max() > 1e-4
    summary = json.loads((folder(model, method, "two") / "summary.json").read_text())
    assert summary["environment"]["processes"] == 2
    assert len(Path("tables/runs.csv").read_text().splitlines()) == 2


def test_d2d_after_training_by_two_ranks(workspace, ranks):
    keys = [*SMALL, "epochs=1", "model=lgn", "method=d2d", "unlearn_steps=30", "unlearn_lr=0.01"]
    first, second = (one.end() for one in ranks(2, *keys, "results_path=two/"))
    assert first[0] == second[0] == 0
    assert "trained first" in first[1] and "unlearned in" in first[1] and second[1:] == ("", "")
    assert main.main(keys) == 0
    same_steps(history("lgn", "d2d", "two"), history("lgn", "d2d"))
    apart = embedding("lgn", "d2d", "two") - embedding("lgn", "d2d")
    assert np.abs(apart).max() < 1e-4 * np.abs(embedding("lgn", "d2d")).max()


def same_steps(found, expected):
    for name in ("step", "distinguishability", "regularizer"):
        values = [[row[name] for row in rows] for rows in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-5)
    assert expected[-1]["distinguishability"] < 0.7 * expected[0]["distinguishability"]


@pytest.fixture
def als(workspace):
    """An embedding and labels in files; returns the labels and what runs d2d on it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 300)
    x = rng.normal(size=(300, 6)) + labels[:, None]
    np.save("als.npy", x.astype(np.float32))
    np.save("labels.npy", labels)
    return labels, ["user_embedding=als.npy", "labels=labels.npy", "method=d2d", "threads=1"]


OF_FILE = Path("external/als/d2d/seed-0")


def steps(place):
    lines = (Path(place) / OF_FILE / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("options", [[], ["pairs_users=100"]])
def test_d2d_of_a_file_by_three_ranks(als, ranks, options):
    labels, keys = als
    keys += [*options, "unlearn_steps=40", "unlearn_lr=0.01"]
    ended = [one.end() for one in ranks(3, *keys, "results_path=three/", "output=out.csv")]
    assert [code for code, *_ in ended] == [0] * 3
    assert ended[1][1:] == ended[2][1:] == ("", "")
    assert main.main(keys) == 0
    same_steps(steps("three"), steps("exp_results"))
    edited = np.loadtxt("out.csv", np.float32, delimiter=",", skiprows=1)
    one = np.load(Path("exp_results") / OF_FILE / "weights" / "user_embedding.npy")
    np.testing.assert_allclose(edited, one, atol=1e-4)
    assert (edited[labels < 0] == np.load("als.npy")[labels < 0]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("options", [[], ["pairs_users=100"]])
def test_d2d_whose_rank_is_killed_goes_on_by_any_number(als, ranks, options):
    _, keys = als
    keys += [*options, "unlearn_steps=400", "unlearn_lr=0.005"]
    first, second = ranks(2, *keys, work=careful)
    folder = Path("exp_results") / OF_FILE
    while not list(folder.glob("checkpoint-*.pth")):
        time.sleep(0.01)
    second.process.kill()
    code, _, error = first.end()
    assert code == 2
    assert "error: rank 0: another rank (1) has gone" in last_line(error)
    assert not (folder / "summary.json").exists()
    ended = [one.end() for one in ranks(3, *keys)]
    assert [code for code, *_ in ended] == [0] * 3
    assert "Resuming after step" in ended[0][1] and "of 400" in ended[0][1]
    assert main.main([*keys, "results_path=whole/"]) == 0
    same_steps(steps("exp_results"), steps("whole"))


def test_d2d_of_ranks_that_see_other_labels_is_refused(als, fork, monkeypatch, tmp_path_factory):
    _, keys = als
    there, port = tmp_path_factory.mktemp("there"), free_port()
    shutil.copytree(".", there, dirs_exist_ok=True)
    np.save(there / "labels.npy", np.load("labels.npy")[::-1])
    started = [fork(one_of, 0, 2, port, *keys)]
    monkeypatch.chdir(there)
    started.append(fork(one_of, 1, 2, port, *keys))
    first, second = (one.end() for one in started)
    assert first[0] == second[0] == 2 and second[1:] == ("", "")
    assert last_line(first[2]).startswith("error: rank 1: the SHA-256 of labels.npy is ")


@pytest.mark.thorough
def test_a_rank_that_is_killed_ends_the_other_and_any_number_goes_on(workspace, ranks):
    keys = [*SMALL, "model=lgn"]
    first, second = ranks(2, *keys, "epochs=1000")
    metrics = folder("lgn", "original") / "metrics.jsonl"
    while not metrics.exists():
        time.sleep(0.01)
    second.process.kill()
    code, _, error = first.end()
    assert code == 2
    assert "error: rank 0: another rank (1) has gone" in last_line(error)
    done = len(losses("lgn", "original"))
    assert 1 <= done < 1000
    # not the same run, but its checkpoint with fewer epochs to go
    (checkpoint,) = metrics.parent.glob("checkpoint-*.pth")
    keys.append(f"epochs={done + 2}")
    assert main.main([*keys, "results_path=whole/"]) == 0
    key = json.loads((folder("lgn", "original", "whole") / "summary.json").read_text())["key"]
    checkpoint.rename(checkpoint.with_name(f"checkpoint-{key[:16]}.pth"))
    ended = [one.end() for one in ranks(3, *keys)]
    assert [code for code, *_ in ended] == [0] * 3
    said = (metrics.parent / "train_log.log").read_text()
    assert f"Resuming after epoch {done} of {done + 2}" in said
    expected = losses("lgn", "original", "whole")
    np.testing.assert_allclose(losses("lgn", "original"), expected, rtol=1e-5)


def test_what_all_ranks_would_find_wrong_the_first_one_says(workspace, ranks):
    first, second = (one.end() for one in ranks(2, *SMALL, "method=adv", "attribute=shoe"))
    assert first[0] == second[0] == 2
    assert last_line(first[2]).startswith("error: rank 0: ") and "shoe" in last_line(first[2])
    assert second[1:] == ("", "")


def test_a_finished_run_is_found_by_all_ranks(workspace, ranks):
    assert main.main([*SMALL, "epochs=1"]) == 0
    before = (folder("ncf", "original") / "summary.json").read_bytes()
    first, second = (one.end() for one in ranks(2, *SMALL, "epochs=1"))
    assert first[0] == second[0] == 0
    assert "is done already" in first[1] and second[1:] == ("", "")
    assert (folder("ncf", "original") / "summary.json").read_bytes() == before


@pytest.mark.thorough
def test_others_wait_for_long_work_of_the_first_rank(workspace, ranks):
    assert [one.end()[0] for one in ranks(2, work=patient)] == [0, 0]


@pytest.mark.thorough
@pytest.mark.parametrize("at_work", [0, 1])
def test_a_silent_rank_stops_the_work_of_the_other(workspace, ranks, at_work):
    both = ranks(2, at_work, work=frozen)
    code, said, complained = both[at_work].end(40)
    assert code == 0, complained
    who = "unknown" if at_work else "1"  # rank 0 has the store, which is as silent
    assert f"rank {at_work}: another rank ({who}) has gone, or is silent for 5 s" in said
    both[1 - at_work].process.kill()
