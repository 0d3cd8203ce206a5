"""Users whose label the method was not shown: who they are, what becomes of them, their audit."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import attack
import main
from data.dataset import Attribute
from data.tables.run_files import load_embedding

TINY = ["epochs=1", "batch_size=512", "embedding_size=4", "num_ng=1", "threads=1"]
FEW = ["attack=audit", "attackers=logistic", "audit_permutations=19", "threads=1"]


def attribute(n=100, unknown=10):
    labels = np.arange(n) % 2
    labels[:unknown] = -1
    return Attribute("gender", ("F", "M"), labels)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_of_the_labelled_users_is_seen(share):
    everyone = attribute()
    seen = everyone.seen(share, seed=3)
    known = seen.labels >= 0
    assert known.sum() == round(share * 90)
    np.testing.assert_array_equal(seen.labels[known], everyone.labels[known])
    np.testing.assert_array_equal(seen.labels, everyone.seen(share, seed=3).labels)
    if share < 1:
        assert (seen.labels != everyone.seen(share, seed=4).labels).any()
    else:
        np.testing.assert_array_equal(seen.labels, everyone.labels)


def embedding(method):
    return load_embedding(Path(f"exp_results/ncf/ml-100k/{method}/weights/user_embedding.npy"))


def test_a_method_neither_sees_nor_moves_them_unless_its_map_is_everyones(workspace, capsys):
    for method in ("barycentre", "leace"):
        assert main.main([*TINY, f"method={method}", "labels_seen=0.5"]) == 0
    prepared = pd.read_csv("data/datasets/ml-100k/preprocess/users.csv")
    classes = (prepared["gender"] == "M").to_numpy(int)
    seen = Attribute("gender", ("F", "M"), classes).seen(0.5, seed=0).labels >= 0
    before = embedding("original/seed-0")
    moved = {
        method: (embedding(f"{method}/labels-seen-0.5/seed-0") != before).any(1)
        for method in ("barycentre", "leace")
    }
    np.testing.assert_array_equal(moved["barycentre"], seen)
    assert moved["leace"].all()
    # the fit is that of the seen users alone: their means coincide, the others' don't
    leace = embedding("leace/labels-seen-0.5/seed-0").astype(float)
    gaps = [
        np.linalg.norm(leace[who & (classes == 0)].mean(0) - leace[who & (classes == 1)].mean(0))
        for who in (seen, ~seen)
    ]
    assert gaps[0] < 1e-6 < 1e-3 < gaps[1]


def test_an_audit_of_the_unseen_tests_and_trains_on_them_alone(workspace, plain_audit):
    assert main.main([*TINY, "method=leace", "labels_seen=0.5"]) == 0
    for method in ("leace", "original"):
        chosen = [*FEW, f"method={method}", "labels_seen=0.5", "audit_whom=unseen"]
        assert attack.main(chosen) == 0
    folders = (
        Path("exp_results/ncf/ml-100k/leace/labels-seen-0.5"),
        Path("exp_results/ncf/ml-100k/original"),
    )
    results = [json.loads(next(one.rglob("audit*unseen*.json")).read_text()) for one in folders]
    for result in results:
        users = result["users"]
        assert users["train"] + users["test"] == 40
        assert users["of_class"]["unknown"] == 40
        assert "Audited are users whose label the method was not shown." in result["treatment"]
    assert "It was shown the labels of 50% of the users." in results[0]["treatment"]
    assert results[0]["users"] == results[1]["users"]


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (attack.main, ["audit_whom=unseen", "attack=audit"], "add labels_seen=0.5"),
        (attack.main, ["audit_whom=unseen", "labels_seen=0.5"], "audit_whom is for audits"),
        (attack.main, ["attack=audit", "balance=off"], "an audit takes all users as they are"),
        (attack.main, ["protocol=cv-artefact", "balance=off"], "leave balance out"),
        (attack.main, ['attack_seed="now"'], "attack_seed"),
        (main.main, ["method=leace", "labels_seen=0.01"], "shows nobody of some gender"),
        (main.main, ["method=leace", "labels_seen=0"], "labels_seen"),
        (
            main.main,
            ["method=leace", "labels_seen=0.5", "user_embedding=x.npy", "labels=l.csv"],
            "leave labels out of l.csv instead",
        ),
    ],
)
def test_what_a_user_can_get_wrong(workspace, capsys, command, arguments, says):
    assert command(arguments) == 2
    assert says in capsys.readouterr().err


def test_an_originals_audits_of_different_shares_lie_side_by_side(workspace, plain_audit):
    assert main.main(TINY) == 0
    chosen = [*FEW, "audit_whom=unseen", "labels_seen=[0.5, 0.25]", "record=rows/"]
    assert attack.main(chosen) == 0
    found = sorted(Path("exp_results/ncf/ml-100k/original").rglob("audit*unseen*.json"))
    users = [json.loads(path.read_text())["users"]["test"] for path in found]
    assert sorted(users) == [20, 30]
    settings = pd.read_csv("rows/audits.csv")["settings"]
    assert settings.nunique() == 2
