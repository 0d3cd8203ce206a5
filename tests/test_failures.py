"""Full disks, read-only folders, two runs at once, failing sweeps, divergence, over-unlearning."""

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import attack
import main
from methods import ExperimentConfig
from methods.losses.objective import Objective
from methods.unlearning import Optimizer, unlearn
from models.training import step as trainer
from tests.forked import command
from utils import runtime
from utils.config import Group
from utils.errors import UserError, in_one_line
from utils.messages import attack_remarks, remarks
from utils.runs import files
from utils.runs.folder import RunFolder
from utils.runs.locks import locked

PROJECT = Path(__file__).resolve().parents[1]
TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
ORIGINAL = Path("exp_results/ncf/ml-100k/original/seed-0")
ATTACK = ["attackers=svm", "shadow_ratio=0.5", "draws=2", "threads=1"]


def refused(capsys, command, *arguments) -> str:
    """Run a command that must end with exit code 2 and one line; returns the line."""
    capsys.readouterr()
    assert command(list(arguments)) == 2
    # progress bars end in a carriage return or stand before the line
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    return line


def failing(code: int, after: int):
    """os.fsync on a disk that fails for good after so many files."""
    left = iter(range(after))

    def fsync(file):
        if next(left, None) is None:
            raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.thorough
@pytest.mark.parametrize("after", [0, 1, 2, 4, 5, 6, 7, 8])
def test_a_full_disk_is_named_and_the_same_command_goes_on(workspace, monkeypatch, capsys, after):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", failing(errno.ENOSPC, after))
        line = refused(capsys, main.main, *TINY)
    assert "No space left on device; free some space" in line
    assert not list(workspace.rglob("*.tmp"))
    assert not (workspace / "data/datasets/ml-100k/.preprocess.new").exists()
    assert main.main(TINY) == 0
    embedding = (ORIGINAL / "weights/user_embedding.npy").read_bytes()
    Path("exp_results").rename("before")
    assert main.main(TINY) == 0
    assert (ORIGINAL / "weights/user_embedding.npy").read_bytes() == embedding


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("weights/.final_model.pth.tmp", "final_model.pth: No space left"),
        ("weights/.user_embedding.npy.tmp", "user_embedding.npy: No space left"),
        (".summary.json.tmp", "summary.json: No space left"),
        ("train_log.log", "train_log.log: No space left"),
    ],
)
def test_a_device_that_is_really_full(workspace, capsys, name, says):
    (ORIGINAL / name).parent.mkdir(parents=True)
    (ORIGINAL / name).symlink_to("/dev/full")
    assert says in refused(capsys, main.main, *TINY)
    assert not (ORIGINAL / "summary.json").exists()
    (ORIGINAL / name).unlink(missing_ok=True)
    assert main.main(TINY) == 0


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO])
def test_a_folder_that_can_not_be_written(workspace, monkeypatch, capsys, code):
    def mkdir(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    line = refused(capsys, main.main, *TINY)
    assert os.strerror(code) in line
    assert ("make it writable" in line) == (code != errno.EIO)


def forbid(monkeypatch, path: Path) -> None:
    """Make a file unreadable, for root too."""

    def forbidden(function, answer):
        def asked(place, *arguments, **named):
            if isinstance(place, str | Path) and Path(place).absolute() == path.absolute():
                return answer(*arguments)
            return function(place, *arguments, **named)

        return asked

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(builtins, "open", forbidden(open, refuse))
    monkeypatch.setattr(io, "open", builtins.open)  # what Path.open calls
    monkeypatch.setattr(os, "access", forbidden(os.access, lambda mode: mode == os.F_OK))


@pytest.mark.parametrize(
    "name",
    [
        "data/datasets/ml-100k/raw/u.data",
        "data/datasets/ml-100k/preprocess/users.csv",
        "data/datasets/ml-100k/preprocess/train_interactions.csv",
        f"{ORIGINAL}/summary.json",
        f"{ORIGINAL}/weights/final_model.pth",
        f"{ORIGINAL}/weights/user_embedding.npy",
        "x.npy",
        "l.npy",
        "l.csv",
    ],
)
def test_a_file_that_can_not_be_read(workspace, monkeypatch, capsys, name):
    d2d = [*TINY, "method=d2d", "unlearn_steps=1"]
    if "raw" not in name:
        assert main.main(d2d) == 0
    np.save("x.npy", np.eye(2, dtype=np.float32))
    np.save("l.npy", np.arange(2))
    Path("l.csv").write_text("gender\nF\nM\n")
    labels = name if name.startswith("l.") else "l.csv"
    forbid(monkeypatch, Path(name))
    if len(name) < 6:
        line = refused(capsys, main.main, "method=d2d", "user_embedding=x.npy", f"labels={labels}")
    elif "embedding" in name:
        line = refused(capsys, attack.main, *ATTACK)
    else:
        line = refused(capsys, main.main, *d2d, "seed=1" if "csv" in name else "au_trade_off=1")
    assert line == f"error: {name}: Permission denied; make it readable to you"


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("exp_results", main.main),
        ("exp_results/ncf/ml-100k", main.main),
        (str(ORIGINAL), main.main),
        (f"{ORIGINAL}/weights", main.main),
        (f"{ORIGINAL}/attack.json/x", attack.main),
        (f"{ORIGINAL}/train_log-attack.log/x", attack.main),
        ("elsewhere/file", main.main),
    ],
)
def test_a_file_where_a_folder_should_be_and_the_other_way_round(workspace, capsys, place, command):
    if command is attack.main:
        assert main.main(TINY) == 0
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).touch()
    extra = ["results_path=elsewhere/file"] if "elsewhere" in place else []
    line = refused(capsys, command, *(ATTACK if command is attack.main else TINY), *extra)
    assert "something else has that name; move it away" in line
    assert place.removesuffix("/x") in line


def test_reading_a_read_only_data_set_needs_no_lock(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with locked(tmp_path / "preprocess", "end"):
            pass
    with locked(tmp_path / "nowhere" / "preprocess", "end"):
        assert not list(tmp_path.iterdir())
    with locked(tmp_path / "preprocess", "end"), pytest.raises(UserError, match="is in use by"):
        locked(tmp_path / "preprocess", "end").__enter__()


def test_who_holds_a_lock_is_read_beside_the_byte_that_windows_locks(tmp_path, monkeypatch):
    real = os.read

    def windows(file: int, n: int) -> bytes:
        assert os.lseek(file, 0, os.SEEK_CUR) > 0
        return real(file, n)

    (tmp_path / ".run.lock").write_text(" 4194304000")  # of a longer number
    with locked(tmp_path / "run", "end"), monkeypatch.context() as patch:
        patch.setattr(os, "read", windows)
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()};"):
            locked(tmp_path / "run", "end").__enter__()


def test_memory_that_is_not_there_is_one_line_and_a_bug_is_not():
    line = in_one_line(MemoryError())
    assert all(key in line for key in ("num_ng", "batch_size", "embedding_size"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.float32)
    assert in_one_line(caught.value).startswith("not enough memory")
    assert in_one_line(RuntimeError("a bug")) is None
    assert in_one_line(UserError("two\nlines")) == "two lines"


HOLD = "import sys; from pathlib import Path; from utils.runs.locks import locked\n"
HOLD += "with locked(Path(sys.argv[1]), 'wait'): print('have', flush=True); sys.stdin.read()"


def holder(path: Path) -> subprocess.Popen:
    """A process that has the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path.resolve()],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "have\n"
    return process


@pytest.mark.thorough
def test_a_second_run_in_the_same_folder_waits_or_ends(workspace, fork, capsys):
    assert main.main([*TINY, "seed=1"]) == 0  # prepares the data, makes the folder above
    with holder(ORIGINAL) as first:
        line = refused(capsys, main.main, *TINY, "busy=end")
        assert f"seed-0 is in use by process {first.pid}; let that one end first" in line
        assert "in use" in refused(capsys, attack.main, *ATTACK, "busy=end")
        assert not ORIGINAL.exists()
        assert main.main([*TINY, "seed=2", "busy=end"]) == 0  # another run does not collide
        second = fork(command, "main.py", *TINY)
        said = second.wait_for("waiting")
        assert f"seed-0 is in use by process {first.pid}; waiting for it to end" in said
        first.kill()  # leaves no stale lock
        assert second.end()[0] == 0
    assert (ORIGINAL / "summary.json").exists()


@pytest.mark.thorough
def test_ctrl_c_ends_the_waiting_for_a_lock(workspace, fork):
    ORIGINAL.parent.mkdir(parents=True)
    with holder(ORIGINAL) as first:
        second = fork(command, "main.py", *TINY)
        second.wait_for("waiting")
        os.kill(second.process.pid, signal.SIGINT)
        code, _, error = second.end()
        first.kill()
    assert code == 130
    assert error.splitlines()[-1].startswith("Interrupted. ")
    assert "Traceback" not in error


@pytest.mark.thorough
def test_two_at_once_from_nothing_train_once(workspace, fork):
    both = [fork(command, "main.py", *TINY) for _ in range(2)]
    shown = [one.end() for one in both]
    assert [code for code, _, _ in shown] == [0, 0], shown
    assert sorted("is done already" in out for _, out, _ in shown) == [False, True]
    assert sum("Preparing ml-100k" in out for _, out, _ in shown) == 1


def test_a_sweep_goes_on_after_a_failure_and_names_it_at_the_end(workspace, capsys):
    arguments = ['dataset=["ml-100k", "nowhere"]', "seed=[0, 1]"]
    assert main.main([*TINY, *arguments]) == 2
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == [
        "dataset=nowhere seed=0",
        "dataset=nowhere seed=1",
    ]
    assert all('there are no files of a dataset "nowhere"' in line for line in errors)
    assert shown.out.count("going on with the others") == 2
    table = shown.out.split("seconds\n")[-1]
    assert len(table.splitlines()) == 2  # both seeds of the data set that is there
    assert not Path("exp_results/ncf/nowhere").exists()
    assert main.main([*TINY, *arguments]) == 2  # and nothing is redone
    assert capsys.readouterr().out.count("is done already") == 2


def test_an_unexpected_failure_in_a_sweep_is_no_success(workspace, monkeypatch, capsys):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("main.unlearn_recommender", broken)
    assert main.main([*TINY, 'method=["d2d", "original"]']) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: method=d2d: unexpected: ZeroDivisionError: a bug"
    assert (ORIGINAL / "summary.json").exists()
    with pytest.raises(ZeroDivisionError):  # alone, it is seen where it happened
        main.main([*TINY, "method=d2d"])


def test_a_sweep_of_attacks_goes_on(workspace, capsys):
    assert main.main(TINY) == 0
    line = refused(capsys, attack.main, *ATTACK, 'method=["d2d", "original"]')
    assert line.startswith("error: method=d2d: ")
    assert "holds no finished run; first: python main.py" in line
    assert (ORIGINAL / "attack.json").exists()


def test_what_makes_no_sense_together_is_refused_before_anything_runs(workspace, capsys):
    np.save("mine.npy", np.ones((4, 2), dtype=np.float32))
    before = sorted(workspace.rglob("*"))
    line = refused(
        capsys,
        main.main,
        'method=["d2d", "original"]',
        "user_embedding=mine.npy",
        "labels=labels.csv",
    )
    assert "a method that edits a finished embedding" in line
    assert sorted(workspace.rglob("*")) == before


def test_a_diverging_epoch_is_located_and_the_one_before_is_kept(workspace, monkeypatch, capsys):
    calls = iter(range(1, 1000))
    real = trainer.LOSSES["bce"]

    def diverging(model, batch):
        return real(model, batch) * (float("inf") if next(calls) == 10 else 1)

    with monkeypatch.context() as patch:
        patch.setitem(trainer.LOSSES, "bce", diverging)
        line = refused(capsys, main.main, *TINY, "epochs=3")
    # 80 users x 22 training pairs, as many negatives, 512 a batch: 7 batches an epoch
    assert "epoch 2, batch 3 of 7: the training loss is inf; lower lr (now 0.01)" in line
    (checkpoint,) = ORIGINAL.glob("checkpoint-*.pth")
    assert line.endswith(f"Last good state: epoch 1 is kept in {checkpoint}")
    assert "epoch 2, batch 3" in (ORIGINAL / "train_log.log").read_text()
    assert main.main([*TINY, "epochs=3"]) == 0
    assert "Resuming after epoch 1 of 3" in capsys.readouterr().out


def test_weights_that_are_not_finite_after_a_finite_loss(workspace, monkeypatch, capsys):
    class Broken(torch.optim.Adam):
        def step(self, *arguments):
            super().step(*arguments)
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim, "Adam", Broken)
    line = refused(capsys, main.main, *TINY, "batch_size=100000")
    assert "epoch 1, batch 1 of 1: weights not finite after a loss of 0.69" in line
    assert line.endswith("Last good state: none yet")


@pytest.mark.parametrize("bad_step", [1, 7, 20, 21, 60])
def test_unlearning_names_the_very_step(bad_step):
    calls = iter(range(1, 61))

    def gradient(theta):
        bad = next(calls) == bad_step
        return torch.full_like(theta, float("nan") if bad else 1.0)

    hidden = Objective(lambda theta: theta.sum(), gradient)
    none = Objective(lambda theta: 0 * theta.sum(), torch.zeros_like)
    arguments = (torch.ones(4, 2), torch.tensor([0, 1, 0, 1]), lambda _: hidden, none, 1)
    with pytest.raises(UserError, match=f"step {bad_step} of 60: the loss is no") as caught:
        unlearn(*arguments, Optimizer("adam", 60, 0.01))
    assert "lower unlearn_lr (now 0.01)" in str(caught.value)


def test_over_unlearning_is_said_in_words(workspace, capsys):
    assert main.main([*TINY, "epochs=12", "batch_size=128", "embedding_size=8"]) == 0
    strong = ["unlearn_lr=0.5", "unlearn_steps=150", "method=d2d"]
    assert main.main([*TINY, "epochs=12", "batch_size=128", "embedding_size=8", *strong]) == 0
    folder = Path("exp_results/ncf/ml-100k/d2d/seed-0")
    summary = json.loads((folder / "summary.json").read_text())
    remark, _ = summary["remarks"]  # the other: what is served was not edited
    hit, gain = (
        100 * (1 - summary["test"][metric] / summary["original"][metric])
        for metric in ("HR@10", "NDCG@10")
    )
    fell = f"HR@10 fell by {hit:.1f} % and NDCG@10 fell by {gain:.1f} %, more than 10 %;"
    assert remark.startswith(f"over-unlearned: {fell}")
    assert f"warning: {remark}" in capsys.readouterr().out
    assert remark in (folder / "train_log.log").read_text()


def ranked(before, after):
    """A summary of (HR@10, NDCG@10) before and after unlearning."""
    metrics = ("HR@10", "NDCG@10")
    original, test = (dict(zip(metrics, pair, strict=True)) for pair in (before, after))
    return {"original": original, "test": test}


def test_a_loss_of_ten_percent_is_tolerated():
    for after, said in (((0.6, 0.4), 0), ((0.46, 0.28), 0), ((0.44, 0.3), 1), ((0.44, 0.2), 1)):
        assert len(remarks(ranked((0.5, 0.3), after))) == said
    (remark,) = remarks(ranked((0.5, 0.3), (0.48, 0.2)))
    assert remark.startswith("over-unlearned: NDCG@10 fell by 33.3 %, more than 10 %;")
    assert remarks(ranked((0.0, 0.0), (0.0, 0.0))) == []
    assert remarks({"test": {"HR@10": 0.0}}) == []


def test_classes_that_end_within_rounding_are_said_in_words():
    def of(spread, rounding):
        return remarks({"spread": spread, "rounding": rounding})

    assert of(1e-3, 1e-7) == []
    (remark,) = of(1e-3, 1e-3)
    assert "lie 1.0e-03 of their size apart, within the rounding of the saved" in remark
    both = remarks(ranked((0.5, 0.3), (0.1, 0.1)) | {"spread": 0.0, "rounding": 1e-7})
    assert len(both) == 2


def test_more_leakage_than_in_the_original_is_said_in_words(workspace, capsys):
    assert main.main([*TINY, 'method=["original", "u2u"]', "unlearn_steps=2"]) == 0
    arguments = [*ATTACK, 'method=["original", "u2u"]']
    assert attack.main(arguments) == 0
    path = ORIGINAL / "attack.json"
    found = json.loads(path.read_text())
    found["gender/shadow"]["attackers"]["svm"]["leakage"] = -0.4
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert attack.main([*ATTACK, "method=u2u"]) == 0
    assert "warning: svm finds more than in the original: leakage" in capsys.readouterr().out
    result = json.loads(Path("exp_results/ncf/ml-100k/u2u/seed-0/attack.json").read_text())
    few, more = result["gender/shadow"]["remarks"]
    assert few.startswith(
        "26 users of a class are few: an AUC of 0.5 comes out 0.16 to either side"
    )
    assert more.startswith("svm finds more than in the original")
    # what was saved before a key came has its default
    for name in ("original", "u2u"):
        path = Path(f"exp_results/ncf/ml-100k/{name}/seed-0/attack.json")
        found = json.loads(path.read_text())
        del found["gender/shadow"]["settings"]["balance"]
        path.write_text(json.dumps(found))
    assert attack.main([*ATTACK, "method=u2u", "attackers=svm"]) == 0
    result = json.loads(Path("exp_results/ncf/ml-100k/u2u/seed-0/attack.json").read_text())
    assert result["gender/shadow"]["remarks"] == [few, more]
    assert attack.main([*ATTACK, "method=u2u", "draws=3"]) == 0  # another attack: no comparison
    result = json.loads(Path("exp_results/ncf/ml-100k/u2u/seed-0/attack.json").read_text())
    assert result["gender/shadow"]["remarks"] == [few]


def attacked(balanced=546, own=0.5, **leakage):
    """What an attack says of attackers that find so much."""
    attackers = {
        name: {"leakage": abs(value), "auc": {"mean": 0.5 + value}, "own_auc": own}
        for name, value in leakage.items()
    }
    users = {"balanced": balanced, "smallest": balanced // 2, "train": balanced // 10}
    return {"attackers": attackers, "users": users}


def test_attackers_are_compared_by_name():
    now, before = attacked(mlp=0.2, xgb=0.1, svm=0.4), attacked(mlp=0.1, xgb=0.1)
    (remark,) = attack_remarks(now, before, unlearned=False)
    assert remark == (
        "mlp finds more than in the original: leakage 0.2000, there 0.1000 (standard error of the "
        "difference at most 0.0328)"
    )
    assert attack_remarks(attacked(mlp=0.2), None, unlearned=False) == []


def test_more_leakage_within_two_standard_errors_is_not_a_finding():
    for users, remarks_of_it in ((546, 0), (5460, 1)):
        now, before = attacked(users, mlp=0.16), attacked(users, mlp=0.1)
        assert len(attack_remarks(now, before, unlearned=True)) == remarks_of_it


def test_unlearning_that_failed_is_said_on_either_side_of_a_half():
    found = attacked(mlp=-0.25, xgb=0.3, svm=0.2)
    flipped, plain = attack_remarks(found, None, unlearned=True)
    assert flipped == (
        "not unlearned: mlp has AUC 0.250, i.e. 0.750 flipped, farther from 0.5 than 0.2"
    )
    assert plain.startswith("not unlearned: xgb has AUC 0.800, farther")
    assert attack_remarks(found, None, unlearned=False) == []


def test_an_attacker_that_learnt_its_users_by_heart_is_no_proof():
    (remark,) = attack_remarks(attacked(own=0.99, mlp=0.04), None, unlearned=True)
    assert remark.startswith(
        "mlp finds next to nothing (AUC 0.540), but has learnt by heart the 54 users that it was "
        "trained on (AUC 0.990)"
    )
    assert attack_remarks(attacked(own=0.99, mlp=0.1), None, unlearned=True) == []
    assert attack_remarks(attacked(own=0.8, mlp=0.0), None, unlearned=True) == []


def test_a_package_under_another_name_does_not_cost_the_run(monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGES", ("numpy", "no-such-distribution"))
    packages = runtime.environment(torch.device("cpu"))["packages"]
    assert packages == {"numpy": np.__version__, "no-such-distribution": "unknown"}


def test_summaries_record_what_a_repetition_needs(workspace):
    assert main.main([*TINY, "seed=3"]) == 0
    folder = ORIGINAL.with_name("seed-3")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["seed"] == 3
    environment = summary["environment"]
    assert environment["threads"] == 1
    assert {"torch", "numpy"} <= environment["packages"].keys()
    assert {"device", "commit", "python"} <= environment.keys()
    assert summary["checksums"]["config"] == files.file_checksum(folder / "config.json")
    assert summary["checksums"]["data"] != summary["checksums"]["config"]
    again = RunFolder.of(
        ExperimentConfig(**summary["config"]),
        [Group.DATA, Group.TRAINING],
        {"data": summary["checksums"]["data"]},
    )
    assert again.key == summary["key"]
    assert attack.main([*ATTACK, "seed=3"]) == 0
    found = json.loads((folder / "attack.json").read_text())["gender/shadow"]
    assert found["settings"]["attack_seed"] == 0
    assert {"threads", "packages", "commit"} <= found["environment"].keys()
    assert found["checksums"].keys() == {"user_embedding", "labels"}
    assert found["checksums"]["user_embedding"] == summary["checksums"]["user_embedding"]
