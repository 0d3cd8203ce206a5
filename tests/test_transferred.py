"""An attacker who was trained on the original's vectors and meets the edited ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import attack
import main
from data.tables.run_files import load_embedding
from utils.audit.attackers import ATTACKERS
from utils.audit.audit import Settings, Subject, audit
from utils.audit.halves import halves
from utils.audit.statistics import class_aucs
from utils.seeds import seed32

TINY = ["epochs=1", "batch_size=512", "embedding_size=4", "num_ng=1", "threads=1"]
FEW = ["attack=audit", "attackers=logistic", "audit_permutations=19", "threads=1"]
SETTINGS = Settings(("logistic", "forest"), 1000, 99, 0)


def subject(places, labels, earlier):
    counts = {"F": int((labels == 0).sum()), "M": int((labels == 1).sum())}
    return Subject({"x": places}, "gender", ("F", "M"), labels, counts, earlier=earlier)


def told(rng, n=300):
    labels = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 5))
    x[:, 0] += 1.5 * labels
    return x, labels


def test_on_vectors_that_nothing_was_done_to_it_is_the_plain_audit():
    x, labels = told(np.random.default_rng(0))
    plain, transferred = (audit(subject(x, labels, one), SETTINGS, 1) for one in (None, {"x": x}))
    assert plain["verdict"] == transferred["verdict"]
    assert plain["places"]["x"]["attackers"] == transferred["places"]["x"]["attackers"]
    assert (plain["trained_on"], transferred["trained_on"]) == ("audited", "original")


def test_it_learns_from_one_half_s_earlier_vectors_and_is_tested_on_the_other_half_s_new_ones():
    rng = np.random.default_rng(1)
    x, labels = told(rng)
    users = np.flatnonzero(labels >= 0)
    split = halves(labels[users], 0)
    edited = x.copy()
    edited[:, 0] *= -1  # who learnt from these would not notice
    edited[split.train] = np.nan  # nobody may look at these
    earlier = x.copy()
    earlier[split.test] = np.nan
    ask = Settings(("logistic",), 1000, 99, 0)
    # A BLAS may load, and not use, the NaN of freed memory beside a block, which sets the flag.
    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr("utils.audit.audit._apart", lambda *_: ask)  # it looks at all of them
        found = audit(subject(edited, labels, {"x": earlier}), ask, 1)["places"]["x"]
        oracle = ATTACKERS["logistic"]("cv", seed32(0, "attacker", "logistic"))
        oracle.fit(x[split.train].astype(np.float32), labels[split.train])
        scores = oracle.predict_proba(edited[split.test].astype(np.float32))
    auc = class_aucs(scores, labels[split.test]).mean()
    assert found["auc"] == pytest.approx(auc) and auc < 0.2
    assert found["leaks"]


def test_the_command_audits_the_model_s_own_vectors_by_what_the_original_s_tell(
    workspace, plain_audit, capsys
):
    chosen = ["method=barycentre", "scope=served"]
    assert main.main([*TINY, *chosen]) == 0
    which = 'audit_trained_on=["audited","original"]'
    assert attack.main([*FEW, *chosen, which, "record=rows/"]) == 0
    folder = Path("exp_results/ncf/ml-100k/barycentre/scope-served/seed-0")
    result = json.loads((next(folder.glob("audit*trained_on*.json"))).read_text())
    assert set(result["places"]) == {"gmf", "mlp"}
    assert "were trained on the original's vectors" in result["treatment"]
    assert result["curve"] == {}
    rows = pd.read_csv("rows/audits.csv").set_index("place")
    of_original = rows["settings"].str.contains("audit_trained_on")
    assert set(rows.index[of_original]) == {"all", "gmf", "mlp"}
    assert set(rows.index[~of_original]) == {"all", "gmf", "mlp", "scores", "lists"}
    before, after = (
        load_embedding(Path(f"exp_results/ncf/ml-100k/{name}/seed-0/weights/user_embedding.npy"))
        for name in ("original", "barycentre/scope-served")
    )
    users = pd.read_csv("data/datasets/ml-100k/preprocess/users.csv")
    labels = (users["gender"] == "M").to_numpy(int)
    split = halves(labels, 0)
    oracle = ATTACKERS["logistic"]("cv", seed32(0, "attacker", "logistic"))
    oracle.fit(before[split.train], labels[split.train])
    auc = class_aucs(oracle.predict_proba(after[split.test]), labels[split.test]).mean()
    assert result["places"]["gmf"]["auc"] == pytest.approx(auc)


def test_without_the_original_that_a_run_started_from_it_says_what_to_do(workspace, capsys):
    assert main.main([*TINY, "method=leace"]) == 0
    original = Path("exp_results/ncf/ml-100k/original/seed-0")
    original.rename(original.with_name("gone"))
    assert attack.main([*FEW, "method=leace", "audit_trained_on=original"]) == 2
    said = capsys.readouterr().err
    assert "the original that the run started from is not there" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=leace"], "audit_trained_on is for audits"),
        (["attack=audit"], "method original starts from no original"),
        (["attack=audit", "method=adv"], "method adv starts from no original"),
        (["attack=audit", "user_embedding=x.npy", "labels=l.csv"], "leave it out beside"),
    ],
)
def test_what_a_user_can_get_wrong(workspace, capsys, arguments, says):
    assert attack.main([*arguments, "audit_trained_on=original"]) == 2
    assert says in capsys.readouterr().err
