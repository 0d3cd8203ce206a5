"""A sweep goes on from its committed rows alone, and says how far it is."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import attack
import main
import methods
from methods import ExperimentConfig
from tests.conftest import write_ml100k
from utils.cli import _Pace
from utils.config import AttackConfig, Group, identity
from utils.runs import folder, records
from utils.runs.folder import RunFolder, first_default

QUICK = ["epochs=2", "batch_size=512", "embedding_size=4", "unlearn_steps=5", "threads=1"]
METHODS = 'method=["original","u2u","retrain"]'
BOTH = 'regularizer=["ranking","frobenius"]'
ATTACK = ["attackers=xgb", "draws=2", "shadow_ratio=0.5", "threads=1"]


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Which nobody looks at here; see test_report."""
    for program in (main, attack):
        monkeypatch.setattr(program, "renew_report", lambda record: None)


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def sweep(*arguments):
    return main.main([*QUICK, METHODS, BOTH, "record=tables", *arguments])


FIRST_DEFAULTS = {
    "model": "ncf", "lr": 0.001, "batch_size": 256, "epochs": 25, "dataset": "ml-100k",
    "num_ng": 4, "test_num_ng": 99, "au_trade_off": 1e-6, "retrain_trade_off": 1.0, "seed": 0,
    "attribute": "gender", "selection": "validation", "embedding_size": None, "loss": "bce",
    "precision": "float32", "retrain_interval": 50, "adv_scale": 0.5, "adv_width": 16,
    "min_interactions": None, "user_column": "user", "item_column": "item",
    "time_column": "timestamp", "held_out": "latest", "time_ties": "last", "catalogue": "filtered",
    "test_negatives": "different", "split_seed": 0, "regularizer": "frobenius",
    "unlearn_steps": 500, "unlearn_lr": 0.001, "unlearn_optimizer": "adam",
    "unlearn_tolerance": 0.0, "ranking_top": 20, "ranking_margin": 0.05,
    "unlearn_scale": None, "kernel_width": "mean", "pairs_users": 20_000, "adv_init": "xavier",
    "d2d_divergence": "mmd", "u2u_divergence": "one-hot", "calibrated_band": 0,
    "calibrated_views": "scaled",
}  # fmt: skip


def test_keys_are_made_against_the_first_defaults_for_ever():
    """Who changes a default states the first one, `key(..., first=)`: finished runs are of it."""
    options = {method.options for method in methods.METHODS.values() if method.options}
    config = ExperimentConfig()
    known = identity(config, options | set(Group) - {Group.PLACE, Group.ATTACK})
    first = {key: first_default(config, key) for key in known if key in FIRST_DEFAULTS}
    assert first == FIRST_DEFAULTS


def test_a_changed_default_does_not_pass_old_runs_off_as_its_own(monkeypatch):
    groups = methods.METHODS["original"].groups
    before = RunFolder.of(ExperimentConfig(), groups, {}).key
    monkeypatch.setattr(
        folder, "first_default", lambda *of: 10 if of[1] == "epochs" else first_default(*of)
    )
    assert RunFolder.of(ExperimentConfig(), groups, {}).key != before
    assert RunFolder.of(ExperimentConfig(epochs=10), groups, {}).key == before


def test_what_is_the_same_work_is_done_once_and_leaves_one_row(workspace, capsys):
    assert sweep() == 0
    printed = capsys.readouterr().out
    assert "[1 of 4]" in printed and "[4 of 4" in printed  # two regularisers, of u2u alone
    found = {(row["method"], row["regularizer"]) for row in rows("tables/runs.csv")}
    assert found == {
        ("original", ""), ("retrain", ""), ("u2u", "ranking"), ("u2u", "frobenius")
    }  # fmt: skip
    settings = {row["method"]: json.loads(row["settings"]) for row in rows("tables/runs.csv")}
    training = {"epochs": 2, "batch_size": 512, "embedding_size": 4}
    assert settings == {
        "original": training,
        "retrain": training,
        "u2u": training | {"unlearn_steps": 5},
    }


def test_rows_agree_with_the_summaries(workspace):
    assert sweep() == 0
    for row in rows("tables/runs.csv"):
        place = Path("exp_results/ncf/ml-100k", row["method"])
        if row["regularizer"] == "ranking":
            place /= "ranking"
        summary = json.loads((place / "seed-0/summary.json").read_text())
        assert summary["key"].startswith(row["run"])
        for metric in records.METRICS:
            assert float(row[metric]) == pytest.approx(summary["test"][metric], rel=1e-5)
        assert float(row["seconds"]) == pytest.approx(summary["seconds"], rel=1e-5)
        assert int(row["users"]) == summary["sizes"]["test"]


def test_without_run_folders_the_rows_count(workspace, capsys):
    assert sweep() == 0
    shutil.rmtree("exp_results")
    before = Path("tables/runs.csv").read_bytes()
    capsys.readouterr()
    assert sweep() == 0
    printed = capsys.readouterr().out
    assert printed.count("is done already, by its row in tables/runs.csv") == 4
    assert not list(Path("exp_results").rglob("summary.json"))
    assert Path("tables/runs.csv").read_bytes() == before


def test_another_setting_or_other_data_have_no_row_yet(workspace, capsys):
    assert sweep("method=original") == 0
    shutil.rmtree("exp_results")
    assert sweep("method=original", "lr=0.01") == 0
    assert list(Path("exp_results").rglob("summary.json"))
    rates = {json.loads(row["settings"]).get("lr") for row in rows("tables/runs.csv")}
    assert rates == {None, 0.01}
    shutil.rmtree("exp_results")
    write_ml100k(workspace / "other/ml-100k/raw", seed=1)
    assert sweep("method=original", "dataset_path=other") == 0
    assert list(Path("exp_results").rglob("summary.json"))


def test_a_row_is_written_for_a_run_that_was_made_without_a_record(workspace):
    assert main.main([*QUICK, "method=original"]) == 0
    assert sweep("method=original") == 0
    assert len(rows("tables/runs.csv")) == 1


def test_attacks_leave_rows_that_lead_to_their_runs(workspace, capsys):
    assert sweep() == 0
    assert attack.main([METHODS, BOTH, "record=tables", *ATTACK]) == 0
    run = {row["run"]: row["method"] for row in rows("tables/runs.csv")}
    found = rows("tables/attacks.csv")
    assert len(found) == 4 and all(run[row["run"]] == row["method"] for row in found)
    for row in found:
        saved = json.loads(Path(row["folder"], "attack.json").read_text())["gender/shadow"]
        assert float(row["auc"]) == pytest.approx(
            saved["attackers"]["xgb"]["auc"]["mean"], rel=1e-5
        )
    shutil.rmtree("exp_results/ncf")
    capsys.readouterr()
    assert attack.main([METHODS, BOTH, "record=tables", *ATTACK]) == 0
    assert capsys.readouterr().out.count("was attacked (shadow) already") == 4
    # an attacker without a row, and no run to attack
    assert attack.main([METHODS, BOTH, "record=tables", *ATTACK, "attackers=mlp"]) == 2


def test_a_new_run_in_the_same_place_is_attacked_again(workspace, capsys):
    arguments = ["method=original", "record=tables", *ATTACK]
    assert main.main([*QUICK, "method=original", "record=tables"]) == 0
    assert attack.main(arguments) == 0
    assert main.main([*QUICK, "method=original", "record=tables", "lr=0.01"]) == 0
    capsys.readouterr()
    assert attack.main(arguments) == 0
    assert "already" not in capsys.readouterr().out
    (row,) = rows("tables/attacks.csv")
    newer = json.loads(Path(row["folder"], "summary.json").read_text())["key"]
    assert newer.startswith(row["run"])


@pytest.mark.parametrize(
    "content",
    [b"a,b\n1,2\n", b"\xff\xfe", b"", None],
    ids=["other columns", "no text", "empty", "a short line"],
)
@pytest.mark.parametrize("program", [main, attack], ids=["main.py", "attack.py"])
def test_a_file_that_is_no_record_is_refused_before_anything_runs(
    workspace, capsys, program, content
):
    name = {main: "runs.csv", attack: "attacks.csv"}[program]
    header = {main: records.runs, attack: records.attacks}[program]("tables").columns
    path = Path("tables", name)
    path.parent.mkdir()
    path.write_bytes(content if content is not None else ",".join(header).encode() + b"\n1,2\n")
    before = path.read_bytes()
    assert program.main(["record=tables"]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and said.count("\n") == 1
    assert path.read_bytes() == before and not Path("exp_results").exists()


def test_a_record_is_not_for_embeddings_from_a_file(workspace, capsys):
    given = ["user_embedding=a.npy", "labels=b.csv", "record=tables"]
    for program in (main, attack):
        assert program.main([*given, "method=d2d"]) == 2
        assert "record tables is for runs on a dataset" in capsys.readouterr().err


def test_rows_are_in_order_whatever_order_they_came_in(tmp_path):
    record = records.runs(tmp_path)
    config = ExperimentConfig()
    summary = {
        "test": dict.fromkeys(records.METRICS, 0.5),
        "seconds": 1.0,
        "sizes": {"test": 3},
        "environment": {"device": "cpu", "threads": 1, "commit": None},
        "key": "0" * 64,
    }
    for seed in (10, 2, 1, 2):
        records.add_run(record, replace(config, seed=seed), [Group.TRAINING], summary)
    assert [row["seed"] for row in record.rows()] == ["1", "2", "10"]


def test_an_attack_of_the_other_protocol_or_attacker_does_not_count(tmp_path):
    record, config = records.attacks(tmp_path), AttackConfig()
    scores = {score: {"mean": 0.5, "std": 0.1} for score in records.SCORES}
    result = {
        "users": {"balanced": 20, "test": 10},
        "rounds": 2,
        "environment": {"commit": None},
        "attackers": {"mlp": scores, "xgb": scores},
    }
    records.add_attack(record, config, [], result, "a" * 64)

    def has(run, names=("mlp", "xgb"), **other):
        return records.has_attack(record, replace(config, **other), [], run, names)

    assert has(None)
    assert has("a" * 64)
    assert not has("b" * 64)
    assert not has(None, ["svm"])
    for other in (
        {"protocol": "cv"}, {"place": "gmf"}, {"seed": 1}, {"draws": 3},
        {"attribute": "age"}, {"results_path": "elsewhere"}, {"dataset": "ml-1m"},
    ):  # fmt: skip
        assert not has(None, **other), other
    assert has(None, folds=7)  # of cv


def test_the_time_left_is_what_its_like_took():
    pace = _Pace()
    u2u, retrain = ExperimentConfig(method="u2u"), ExperimentConfig(method="retrain")
    assert pace.left([u2u, retrain]) == ""
    pace.add(u2u, 1.0)
    pace.add(retrain, 3000.0)
    pace.add(retrain, 4200.0)
    assert pace.left([u2u]) == ", under a minute left"
    assert pace.left([retrain, u2u, retrain]) == ", about 2 h 0 min left"
    assert pace.left([ExperimentConfig(method="adv")]) == ", about 30 min left"  # unlike any
