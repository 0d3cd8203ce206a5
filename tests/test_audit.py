"""The strong battery finds what is planted, its null covers what isn't there, the gate follows."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from scipy.stats import kstest

import attack
import main
from tests.simple import admit
from utils.audit import scores
from utils.audit.attackers import ATTACKERS, battery
from utils.audit.leakage import summarise
from utils.audit.null import Worst, gate, null_of_the_worst, verdict
from utils.audit.protocols import Protocol
from utils.audit.scores import out_of_sample
from utils.messages import verdict_line

CV = Protocol("cv", 0.1, 1, 4, 1, 0)
TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
FAST = ["shadow_ratio=0.5", "draws=1", "threads=1"]


def of(rng, n=400, d=6):
    return rng.normal(size=(n, d)), rng.integers(0, 2, n)


def shifted(embedding, labels):
    embedding[:, 0] += 1.2 * labels


def spread(embedding, labels):
    """Only the spread differs: no linear attacker sees it."""
    embedding *= np.where(labels == 1, 1.6, 1.0)[:, None]


def xor(embedding, labels):
    """The sign of a product, in rotated coordinates: no dimension alone tells anything."""
    same = np.sign(embedding[:, 0] * embedding[:, 1]) > 0
    embedding[:, 0] = np.where(same == (labels == 1), embedding[:, 0], -embedding[:, 0])
    embedding[:, :2] *= 1.5
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(embedding.shape[1],) * 2))[0]
    embedding[:] = embedding @ rotation


@pytest.mark.parametrize("plant", [shifted, spread, xor])
def test_the_battery_finds_a_shift_a_spread_and_an_interaction(plant):
    embedding, labels = of(np.random.default_rng(1))
    plant(embedding, labels)
    quick = ["logistic", "qda", "svm", "boosting"]
    found = summarise(out_of_sample(embedding, labels, quick, CV), labels)["attackers"]
    assert Worst.of(found).leakage > 0.2
    if plant is spread:
        assert found["logistic"]["leakage"] < 0.1 < found["qda"]["leakage"]


def test_a_class_that_is_read_by_flipping_the_sign_is_the_worst():
    found = {
        "a": {"auc": {"mean": 0.6}, "leakage": 0.1},
        "b": {"auc": {"mean": 0.2}, "leakage": 0.3},
    }
    assert Worst.of(found) == Worst("b", 0.2, 0.3)


def test_strong_is_every_attacker_once():
    assert battery(["svm", "strong"])[0] == "svm"
    assert sorted(battery(["svm", "strong"])) == sorted(ATTACKERS)
    assert battery(["mlp", "xgb"]) == ("mlp", "xgb")


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_every_attacker_works_with_few_users_and_more_dimensions_than_users(attacker):
    rng = np.random.default_rng(0)
    embedding, labels = rng.normal(size=(40, 30)), np.arange(40) % 2
    protocol = Protocol("shadow", 0.2, 1, 5, 1, 0)
    (found,) = out_of_sample(embedding, labels, [attacker], protocol)[attacker]
    assert np.isfinite(found.scores).all()
    assert len(found.scores) == 32


def p_values(name, attackers, datasets, permutations):
    """Of the worst of several attackers on labels that belong to no vector."""
    rng = np.random.default_rng(0)
    protocol = Protocol(name, 0.4, 2, 2, 1, 0)
    found = []
    for _ in range(datasets):
        embedding, labels = of(rng, n=50, d=2)
        of_attackers = summarise(out_of_sample(embedding, labels, attackers, protocol), labels)
        null = null_of_the_worst(embedding, labels, attackers, protocol, permutations, jobs=1)
        found.append(verdict(of_attackers["attackers"], null)["p"])
    return np.array(found) - rng.uniform(0, 1 / (permutations + 1), datasets)  # p is discrete


# rounds share users, and cv's folds know of one another: the null must know it too
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["cv", "shadow"])
def test_p_values_are_uniform_where_there_is_nothing_to_find(name, monkeypatch):
    attackers = admit(monkeypatch)
    monkeypatch.setattr(scores, "threadpool_limits", lambda _: nullcontext())
    assert kstest(p_values(name, attackers, 20, 9), "uniform").pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cv", "shadow"])
def test_p_values_are_uniform_over_many_audits(name):
    found = p_values(name, ["logistic", "qda"], 200, 19)
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(found <= 0.05) <= 0.085  # 95 % of binomial(200, 0.05)


@pytest.mark.thorough
def test_the_null_depends_neither_on_the_processes_nor_on_unknown_users():
    embedding, labels = of(np.random.default_rng(0), n=80)
    labels[::7] = -1
    arguments = (embedding, labels, ["logistic"], CV, 4)
    one, two = (null_of_the_worst(*arguments, jobs=jobs) for jobs in (1, 2))
    assert one == two
    embedding[::7] = 1e6  # who has no label is not looked at
    assert null_of_the_worst(*arguments, jobs=1) == one


def test_the_verdict_by_hand():
    attackers = {
        "svm": {"auc": {"mean": 0.3}, "leakage": 0.2},
        "mlp": {"auc": {"mean": 0.6}, "leakage": 0.1},
    }
    null = [0.01 * k for k in range(1, 20)]
    found = verdict(attackers, null)
    assert (found["worst"], found["p"], found["leaks"]) == ("svm", 1 / 20, True)
    assert found["null"]["95"] == pytest.approx(0.19)
    result = {"verdict": found, "place": "propagated", "attackers": attackers}
    line = verdict_line(result)
    assert line == (
        "leaks: propagated, read by svm at AUC 0.300, i.e. 0.700 flipped; the null's 95 % 0.690 "
        "(19 permutations, p = 0.05)"
    )
    assert gate(result, "null-95") == gate(result, "0.15") == "failed"
    assert gate(result, "0.25") == "passed"
    quiet = verdict(attackers, [0.5] * 19)
    assert not quiet["leaks"]
    assert quiet["p"] == 1
    assert verdict_line(result | {"verdict": quiet}).startswith("no leak found: propagated, the")


def test_places_of_a_run_and_the_gates_exit_code(workspace, capsys):
    assert main.main([*TINY, "model=lgn"]) == 0
    folder = workspace / "exp_results/lgn/ml-100k/original/seed-0"
    with np.load(folder / "weights/user_vectors.npz") as places:
        assert set(places) == {"layer0", "propagated", "scores"}
        embedding = np.load(folder / "weights/user_embedding.npy")
        np.testing.assert_array_equal(places["layer0"], embedding)
        assert (places["propagated"] != embedding).any()
    arguments = ["model=lgn", *FAST, "attackers=logistic"]
    assert attack.main([*arguments, "place=propagated", "null=19", "fail_above=null-95"]) in (0, 3)
    said = capsys.readouterr().out
    assert "leaks: propagated" in said or "no leak found: propagated" in said
    found = json.loads((folder / "attack.json").read_text())["gender/shadow/propagated"]
    assert len(found["verdict"]["null"]["values"]) == 19
    assert attack.main([*arguments, "fail_above=0.5"]) == 0
    assert attack.main([*arguments, "fail_above=0"]) == 3
    assert attack.main([*arguments, "place=['propagated','layer0']", "fail_above=0"]) == 2
    capsys.readouterr()
    assert attack.main([*arguments, 'place=["propagated","layer0"]', "fail_above=0"]) == 3
    for wrong, said in (
        ("place=gmf", "has no place gmf; it has: layer0, propagated, scores"),
        ("fail_above=null-95", "needs a null of at least 19 permutations; add null=99"),
        ("null=18", "null 18 could call nothing a leak"),
        ("fail_above=0.6", 'a number at least 0 and at most 0.5 or "null-95" or null, got 0.6'),
    ):
        assert attack.main([*arguments, wrong]) == 2
        assert said in capsys.readouterr().err
    (folder / "weights/user_vectors.npz").unlink()
    assert attack.main([*arguments, "place=propagated"]) == 2
    assert "move it away and run main.py again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize(("classes", "known"), [(2, 1), (3, 2)])
def test_every_attacker_makes_do_with_few_users_of_a_class(name, classes, known):
    embedding, labels = of(np.random.default_rng(0), 60)
    labels = np.arange(60) % classes
    embedding[::2] = embedding[0]  # who are at the same point too
    protocol = Protocol("shadow", known * classes / 60, 2, 2, 1, 0)
    found = out_of_sample(embedding, labels, [name], protocol, quiet=True)[name]
    assert all(len(one.split.train) == known * classes for one in found)
    assert all(np.isfinite(one.scores).all() for one in found)
