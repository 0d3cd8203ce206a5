"""What a user types every day: --list, --version, ~, near spellings, records, long sweeps."""

import dataclasses
import json
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import attack
import main
from methods import ExperimentConfig
from utils import cli
from utils.messages import command_for

PROJECT = Path(__file__).resolve().parents[1]
TINY = ["epochs=1", "batch_size=512", "embedding_size=4", "num_ng=1", "threads=1"]
ATTACK = ["attackers=svm", "shadow_ratio=0.5", "draws=2", "threads=1"]


def test_version(capsys):
    assert main.main(["--version"]) == 0
    shown = capsys.readouterr().out
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert shown.startswith(f"attribute-unlearning {version}, ")
    assert "torch " in shown
    assert "Python 3." in shown


def test_list(workspace, capsys):
    assert main.main([*TINY, "seed=[0, 1]", "results_path=there"]) == 0
    assert attack.main([*ATTACK, "results_path=there"]) == 0
    (workspace / "there/ncf/ml-100k/original/seed-1/summary.json").write_text('{"key": ')
    capsys.readouterr()
    for command, where in ((main.main, "there"), (attack.main, "there"), (main.main, "nowhere")):
        assert command(["seed=3", "--list", f"results_path={where}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        if where == "nowhere":
            assert lines == ["nowhere holds no finished run"]
            continue
        assert lines[0].split() == ["run", "HR@10", "NDCG@10", "seconds", "attacked", "by", "AUC"]
        first, second = (line.split() for line in lines[1:])
        assert first[0] == "ncf/ml-100k/original/seed-0"
        assert first[-3:-1] == ["gender/shadow", "svm"]
        assert second == ["ncf/ml-100k/original/seed-1", "damaged"]


def test_home_in_paths(workspace, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(workspace / "home"))
    Path("data/datasets").rename("sets")
    (workspace / "home").mkdir()
    Path("sets").rename("home/sets")
    Path("home/c.json").write_text('{"dataset_path": "~/sets", "results_path": "~/results"}')
    assert main.main(["--config=~/c.json", *TINY, "record=~/tables"]) == 0
    assert attack.main(["--config", "configs/attack_config.json", *ATTACK, "results_path=~/results",
                        "dataset_path=~/sets"]) == 0  # fmt: skip
    assert (workspace / "home/tables/runs.csv").exists()
    assert not list(workspace.glob("~*"))
    assert main.main(["results_path=~nobody-here/x"]) == 2
    assert "nobody's home folder is called ~nobody-here" in capsys.readouterr().err


NEAR = {
    "model=lightgcn": 'did you mean "lgn"?',
    "method=D2D": 'did you mean "d2d"?',
    "selection=tests": 'did you mean "test"?',
    "dataset=ml100k": 'did you mean "ml-100k"?',
    "method=d2d,u2u": """a list is written method='["d2d","u2u"]'""",
    "method=[d2d,u2u]": """a list is written method='["d2d","u2u"]'""",
    "seed=0,1": "a list is written seed='[0,1]'",
    "--method d2d": "did you mean method=d2d for --method?",
    "--method=d2d": "did you mean method=d2d for --method=d2d?",
    "method d2d": "did you mean method=d2d for method?",
    "seed=1 --batch-size 3": "did you mean batch_size=3 for --batch-size?",
}


@pytest.mark.parametrize("row", NEAR)
def test_what_was_meant_is_said(workspace, capsys, row):
    assert main.main(row.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert NEAR[row] in error


def test_options_may_stand_between_keys(workspace, capsys):
    Path("c.json").write_text('{"lr": 3, "seed": 0}')
    assert main.main(["epochs=1", "--config", "c.json", "lr=11"]) == 2
    assert "got 11" in capsys.readouterr().err


def test_commands_that_are_proposed_can_be_pasted():
    values = {"dataset": "123", "results_path": "a b/$x", "dataset_path": "true"}
    command = command_for("main.py", ExperimentConfig, values)
    assert (
        command == """python main.py 'dataset_path="true"' 'dataset="123"' 'results_path=a b/$x'"""
    )


@pytest.mark.parametrize("place", ["file/tables", "file"])
def test_a_record_that_can_not_be_written_is_said_before_the_work(workspace, capsys, place):
    Path("file").touch()
    assert main.main([*TINY, f"record={place}"]) == 2
    assert "file" in capsys.readouterr().err
    assert not Path("exp_results").exists()


def test_a_read_only_record_is_said_before_the_work(workspace, monkeypatch, capsys):
    def refuse(**named):
        raise PermissionError(13, "Permission denied", "scratch")

    monkeypatch.setattr("utils.runs.records.tempfile.TemporaryFile", refuse)
    assert main.main([*TINY, "record=tables"]) == 2
    error = capsys.readouterr().err
    assert "error: tables/runs.csv: Permission denied; make it writable" in error
    assert "record=" in error
    assert not Path("exp_results").exists()


@pytest.mark.parametrize("kind", [["protocol=cv"], ["attack=audit"], []])
def test_the_smallest_class_is_named(workspace, capsys, kind):
    np.save("x.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    Path("l.csv").write_text("gender\n" + "few\n" + "many\n" * 39)
    arguments = ["user_embedding=x.npy", "labels=l.csv", "attackers=svm", "threads=1"]
    assert attack.main([*arguments, *kind]) == 2
    assert '(the smallest is "few")' in capsys.readouterr().err


def test_a_long_sweep_starts_at_once(workspace, monkeypatch):
    started, begin = [], time.monotonic()
    command = dataclasses.replace(
        main.COMMAND,
        run=lambda config: started.append(config.seed) or {"found": True},
        close=lambda *_: None,
    )
    seeds = json.dumps(list(range(3000)))
    assert cli.execute(command, [f"seed={seeds}", "record=tables"]) == 0
    assert started == list(range(3000))
    assert time.monotonic() - begin < 60  # ten minutes when every step compared all
