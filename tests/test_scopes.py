"""What is edited: the attacked table, all user tables, or what is served."""

import json

import numpy as np
import pytest
import torch

import attack
import main
from models import MODELS
from tests.test_training import N_ITEMS, N_USERS, model_of

TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
EDITING = [*TINY, "method=calibrated", "calibrated_rounds=3"]


def places(folder):
    with np.load(folder / "weights/user_vectors.npz") as saved:
        return dict(saved)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_keeps_what_it_serves_recommends_the_same(name):
    model = model_of(name)
    users, items = torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS).expand(N_USERS, -1)
    before, served = model.scorer()(users, items), model.served()
    model.keep_served()
    torch.testing.assert_close(model.scorer()(users, items), before)
    assert set(model.user_tables()) == set(served)
    for which, table in model.user_tables().items():
        torch.testing.assert_close(table.detach(), served[which])
    scorer = model.embedding_scorer(items[:, :5])
    torch.testing.assert_close(scorer(model.user_embedding), before[:, :5])


def test_weights_that_are_served_vectors_are_not_taken_for_layer_0():
    model, other = model_of("lgn"), model_of("lgn")
    plain = set(model.state_dict())
    model.keep_served()
    assert set(model.state_dict()) == plain | {"kept"}
    with pytest.raises(RuntimeError, match="kept"):
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("model", "scope", "edited", "untouched"),
    [
        ("ncf", "embedding", ["gmf"], ["mlp"]),
        ("ncf", "tables", ["gmf", "mlp"], []),
        ("ncf", "served", ["gmf", "mlp"], []),
        ("lgn", "embedding", ["layer0", "propagated"], []),
        ("lgn", "tables", ["layer0", "propagated"], []),
        ("lgn", "served", ["propagated"], []),
    ],
)
def test_scopes_edit_what_they_say(workspace, plain_audit, model, scope, edited, untouched):
    assert main.main([*EDITING, f"model={model}", f"scope={scope}"]) == 0
    results = workspace / "exp_results" / model / "ml-100k"
    part = "." if scope == "embedding" else f"scope-{scope}"
    after = places(results / "calibrated" / part / "seed-0")
    before = places(results / "original/seed-0")
    assert set(after) == {*edited, *untouched, "scores"}
    for name in edited:
        moved = np.linalg.norm(after[name] - before[name]) / np.linalg.norm(before[name])
        assert 0.01 < moved < 1.5, name
    for name in untouched:
        np.testing.assert_array_equal(after[name], before[name])
    embedding = np.load(results / "calibrated" / part / "seed-0/weights/user_embedding.npy")
    np.testing.assert_array_equal(embedding, after[edited[0]])
    command = ["attack=audit", "attackers=logistic", "audit_permutations=19", "threads=1"]
    assert attack.main([*command, f"model={model}", "method=calibrated", f"scope={scope}"]) == 0
    audit = json.loads(
        (results / "calibrated" / part / "seed-0/audit-logistic-permutations-19.json").read_text()
    )
    assert list(audit["places"]) == [*after, "lists"]
    of_scope = ["gmf", "mlp"] if model == "ncf" else ["layer0"]
    named = {"embedding": of_scope[:1], "tables": of_scope, "served": edited}[scope]
    summary = json.loads((results / "calibrated" / part / "seed-0/summary.json").read_text())
    assert audit["remarks"] == summary["remarks"]
    assert audit["treatment"].startswith(f"Calibrated edited {', '.join(named)}.")
    assert ("As trained: mlp." in audit["treatment"]) == bool(untouched)
    assert ("Made from what was edited: propagated" in audit["treatment"]) == (
        model == "lgn" and scope != "served"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["u2u", "d2d", "leace", "barycentre"])
def test_every_method_that_edits_takes_all_tables(workspace, method):
    assert main.main([*TINY, f"method={method}", "scope=tables", "unlearn_steps=3"]) == 0
    assert main.main([*TINY, f"method={method}", "unlearn_steps=3"]) == 0
    both = places(workspace / f"exp_results/ncf/ml-100k/{method}/scope-tables/seed-0")
    one = places(workspace / f"exp_results/ncf/ml-100k/{method}/seed-0")
    assert (both["mlp"] != one["mlp"]).any()


@pytest.mark.parametrize("method", ["u2u", "d2d"])
def test_what_lightgcn_serves_can_be_held_back_by_ranking(workspace, method):
    keys = [f"method={method}", "scope=served", "regularizer=ranking", "unlearn_steps=3"]
    assert main.main([*TINY, "model=lgn", *keys, "ranking_top=5"]) == 0


def test_what_makes_no_sense_is_one_line(workspace, capsys):
    wrong = [*TINY, "method=d2d", "scope=tables", "regularizer=ranking"]
    assert main.main(wrong) == 2
    assert 'regularizer "ranking" looks at one user table' in capsys.readouterr().err
    np.save("x.npy", np.zeros((9, 2)))
    files = ["user_embedding=x.npy", "labels=x.npy", "method=leace", "scope=served"]
    assert main.main([*TINY, *files]) == 2
    assert 'scope "served" is of a recommender' in capsys.readouterr().err
    np.save("x.npy", np.random.default_rng(0).normal(size=(9, 2)))
    np.save("y.npy", np.array([0] * 7 + [1] * 2))
    assert main.main([*TINY, "user_embedding=x.npy", "labels=y.npy", "method=calibrated"]) == 2
    assert "method calibrated needs 5" in capsys.readouterr().err
