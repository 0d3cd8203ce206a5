"""kill -9 and Ctrl-C: the next start finds nothing or something whole, and ends with the same."""

import copy
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import attack
import main
from methods import METHODS, ExperimentConfig
from methods.unlearning import Problem
from models.training.step import Trainer
from tests import killed
from tests.forked import started
from utils.config import Group
from utils.runs import checkpoint as checkpoints
from utils.runs.checkpoint import FORGETFUL
from utils.runs.files import write_json
from utils.runs.folder import RunFolder
from utils.threads import UNCHANGED

PROJECT = Path(__file__).resolve().parents[1]
TINY = ["epochs=4", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
U2U = ["main.py", *TINY, "method=u2u", "unlearn_steps=20"]


@pytest.fixture
def torment(workspace, fork):
    """Kill commands so many times; a dict a start."""

    def tormented(kills: int, seed: int, *commands: list[str]) -> list[dict]:
        code, said, error = fork(killed.torment, workspace, kills, seed, commands).end(300)
        assert code == 0, said + error
        return [json.loads(line) for line in said.splitlines()]

    return tormented


def results(folder: Path) -> dict[str, bytes]:
    """Every file that a run's numbers come from."""
    names = ("user_embedding.npy", "final_model.pth", "config.json")
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.name in names
    }
    for path in folder.rglob("attack.json"):
        attacks = json.loads(path.read_text())
        attackers = {name: found["attackers"] for name, found in attacks.items()}
        found[str(path.relative_to(folder))] = json.dumps(attackers).encode()
    return found


def visible(folder: Path) -> set[str]:
    """Files but for locks and what a kill left half-written, which begin with a dot."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not path.name.startswith(".")}


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_main_killed_over_and_over_ends_with_the_same_bytes(workspace, torment, kills):
    starts = torment(kills, 0, U2U)
    assert sum(start["code"] is None for start in starts) == kills
    whole, tormented = workspace / "whole", workspace / "exp_results"
    assert len(results(whole)) == 6
    assert results(tormented) == results(whole)
    assert visible(tormented) == visible(whole)  # no checkpoint left, nothing kept twice
    folders = (workspace / "data/datasets/ml-100k").iterdir()
    assert {path.name for path in folders} - {".preprocess.new"} == {
        ".raw_checksums.json",
        "raw",
        "preprocess",
        ".preprocess.lock",
    }


@pytest.mark.thorough
def test_attack_killed_five_times_ends_with_the_same_results(workspace, torment):
    attacks = ["attack.py", "attackers=svm", "shadow_ratio=0.5", "draws=3", "threads=1"]
    original = ["main.py", *TINY, "epochs=1"]
    starts = torment(5, 1, original, [*attacks], [*attacks, "protocol=cv"])
    assert sum(start["code"] is None for start in starts) == 5
    whole, tormented = workspace / "whole", workspace / "exp_results"
    assert "ncf/ml-100k/original/seed-0/attack.json" in results(whole)
    assert results(tormented) == results(whole)
    assert visible(tormented) == visible(whole)


def checkpointed(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Path:
    """A run that Ctrl-C ended in its third epoch; returns its checkpoint."""
    left, real = iter(range(2)), Trainer.epoch

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", interrupted)
        assert main.main([*TINY, "method=original"]) == 130
    error = capsys.readouterr().err
    assert (
        "Interrupted. Finished epochs, shards and runs are kept. To go on: python main.py" in error
    )
    assert error.splitlines()[-1].endswith(" ".join([*TINY, "method=original"]))
    folder = workspace / "exp_results/ncf/ml-100k/original/seed-0"
    (checkpoint,) = folder.glob("checkpoint-*.pth")
    assert "Stopped: KeyboardInterrupt" in (folder / "train_log.log").read_text()
    return checkpoint


class Evil:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.thorough
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other", "pickle", "shape"])
def test_a_damaged_checkpoint_is_said_and_training_starts_anew(
    workspace, monkeypatch, capsys, damage
):
    checkpoint = checkpointed(workspace, monkeypatch, capsys)
    content = checkpoint.read_bytes()
    if damage == "truncated":
        checkpoint.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        checkpoint.write_bytes(b"")
    elif damage == "text":
        checkpoint.write_text("<html>404</html>")
    elif damage == "other":
        torch.save({"trained": {}}, checkpoint)
    elif damage == "pickle":
        torch.save({"trained": Evil(workspace / "victim")}, checkpoint)
    else:  # the first tensors fit, the last doesn't: the model is half filled when it is noticed
        saved = torch.load(checkpoint, weights_only=True)
        last = list(saved["trained"])[-1]
        saved["trained"] = {name: tensor + 1 for name, tensor in saved["trained"].items()}
        saved["trained"][last] = torch.zeros(7, 7)
        torch.save(saved, checkpoint)
    assert main.main([*TINY, "method=original"]) == 0
    shown = capsys.readouterr()
    assert "is damaged" in shown.out
    assert "training starts anew" in shown.out
    assert "Traceback" not in shown.err
    assert not (workspace / "victim").exists()
    tormented = results(workspace / "exp_results")
    (workspace / "exp_results").rename(workspace / "before")
    assert main.main([*TINY, "method=original"]) == 0
    assert results(workspace / "exp_results") == tormented


D2D = [*TINY, "epochs=1", "method=d2d", "unlearn_steps=70"]


def half_unlearned(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Path:
    """D2D that Ctrl-C ended at its 51st step of 70; returns its checkpoint."""
    left, real = iter(range(50)), Problem.gradient

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Problem, "gradient", interrupted)
        patch.setattr(checkpoints, "EVERY", 0)
        assert main.main(D2D) == 130
    capsys.readouterr()
    (kept,) = (workspace / "exp_results/ncf/ml-100k/d2d/seed-0").glob("checkpoint-*.pth")
    return kept


@pytest.mark.thorough
@pytest.mark.parametrize("damage", [None, "truncated", "another original"])
def test_an_unlearning_goes_on_to_the_same_bytes(workspace, monkeypatch, capsys, damage):
    kept = half_unlearned(workspace, monkeypatch, capsys)
    said = "Resuming after step 40 of 70"
    if damage == "truncated":
        kept.write_bytes(kept.read_bytes()[:1000])
        said = "unlearning starts anew"
    elif damage:
        saved = torch.load(kept, weights_only=True)
        torch.save(saved | {"start": "0"}, kept)
    assert main.main(D2D) == 0
    shown = capsys.readouterr().out
    assert (said in shown) == (damage != "another original")
    assert not kept.exists()
    history = (kept.parent / "metrics.jsonl").read_text()
    found = results(workspace / "exp_results")
    (workspace / "exp_results").rename(workspace / "before")
    assert main.main(D2D) == 0
    assert results(workspace / "exp_results") == found
    assert (kept.parent / "metrics.jsonl").read_text() == history


class Kept:
    """Progress in memory, of work that stops where it is kept for the n-th time."""

    def __init__(self, times: int):
        self.state, self.times = None, times

    def load(self):
        return self.state

    def save(self, state):
        if self.times == 0:
            return
        self.times -= 1
        self.state = copy.deepcopy(dict(state()))
        if self.times == 0:
            raise KeyboardInterrupt


def test_an_unlearning_that_draws_users_goes_on_with_the_same_draws():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 2, 300))
    tables = {"table": torch.from_numpy(rng.normal(size=(300, 4))) + labels[:, None]}
    options = METHODS["d2d"].options(unlearn_steps=60, pairs_users=100, kernel_width="median")

    def fitted(progress):
        fit, generator = METHODS["d2d"].fit, np.random.default_rng(1)
        eraser = fit(tables, {"a": labels}, options, generator, None, UNCHANGED, progress)
        return eraser.edited["table"], eraser.history

    progress = Kept(2)
    with pytest.raises(KeyboardInterrupt):
        fitted(progress)
    assert progress.state["step"] == 40
    edited, history = fitted(progress)
    whole, of_whole = fitted(FORGETFUL)
    assert torch.equal(edited, whole)
    assert history == of_whole


def test_training_goes_on_and_a_run_with_other_settings_does_not_lose_it(
    workspace, monkeypatch, capsys
):
    checkpoint = checkpointed(workspace, monkeypatch, capsys)
    assert main.main([*TINY, "lr=0.02"]) == 0
    assert checkpoint.exists()
    capsys.readouterr()
    assert main.main([*TINY, "method=original"]) == 0
    assert "Resuming after epoch 2 of 4" in capsys.readouterr().out
    assert not checkpoint.exists()


def test_ctrl_c_in_a_process_of_its_own(workspace, fork):
    arguments = [*TINY, "epochs=1000"]
    run = fork(started, "main", *arguments)
    metrics = workspace / "exp_results/ncf/ml-100k/original/seed-0/metrics.jsonl"
    give_up = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(run.process.pid, signal.SIGINT)
    code, _, error = run.end()
    assert code == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1] == (
        "Interrupted. Finished epochs, shards and runs are kept. To go on: python main.py "
        + " ".join(arguments)
    )


@pytest.mark.parametrize("program", ["main.py", "attack.py"])
def test_ctrl_c_while_modules_are_imported(workspace, program):
    # in slices: a signal that comes just before a sleep begins is seen when the sleep ends
    slow = "import time\nprint('importing', flush=True)\n"
    slow += "for _ in range(600):\n"
    slow += "    try: time.sleep(0.1)\n"
    slow += "    except KeyboardInterrupt: pass\n"  # as some packages do
    (workspace / "torch.py").write_text(slow)
    with subprocess.Popen(
        [sys.executable, PROJECT / program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(workspace)},
    ) as process:
        try:
            assert process.stdout.readline() == "importing\n"
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert error == "\nInterrupted; nothing had begun.\n"


def test_ctrl_c_that_is_to_be_ignored_is_ignored_from_the_start(workspace):
    (workspace / "torch.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, PROJECT / "main.py"],
        env=os.environ | {"PYTHONPATH": str(workspace)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 7


def test_ctrl_c_in_an_attack(workspace, monkeypatch, capsys):
    assert main.main([*TINY, "epochs=1"]) == 0

    def interrupted(*arguments, **keys):
        raise KeyboardInterrupt

    monkeypatch.setattr(attack, "out_of_sample", interrupted)
    assert attack.main(["shadow_ratio=0.5"]) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "Interrupted. Attacks that had ended are saved. To go on: python attack.py shadow_ratio=0.5"
    )


def test_what_started_from_another_original_is_done_again(workspace, capsys):
    arguments = [*TINY, "epochs=1", "method=u2u", "unlearn_steps=2"]
    assert main.main(arguments) == 0
    original = workspace / "exp_results/ncf/ml-100k/original/seed-0/weights/user_embedding.npy"
    capsys.readouterr()
    assert main.main(arguments) == 0
    assert "is done already" in capsys.readouterr().out
    np.save(original, np.load(original) + 1)
    assert main.main(arguments) == 0
    said = capsys.readouterr().out
    assert "is done already" not in said
    assert "was kept as seed-0.1" in said
    original.unlink()  # nothing to compare with, and nothing wrong
    assert main.main(arguments) == 0
    assert "is done already" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", '{"key": ', "[]", "{}"])
def test_a_damaged_summary_is_no_summary_and_the_run_is_kept(workspace, content):
    assert main.main([*TINY, "epochs=1"]) == 0
    folder = workspace / "exp_results/ncf/ml-100k/original"
    (folder / "seed-0/summary.json").write_text(content)
    assert main.main([*TINY, "epochs=1"]) == 0
    assert json.loads((folder / "seed-0/summary.json").read_text())["epochs"] == 1
    assert (folder / "seed-0.1/summary.json").read_text() == content


def test_an_attack_with_another_attacker_leaves_what_the_first_one_found(workspace):
    assert main.main([*TINY, "epochs=1"]) == 0
    path = workspace / "exp_results/ncf/ml-100k/original/seed-0/attack.json"
    arguments = ["shadow_ratio=0.5", "draws=2", "threads=1"]
    assert attack.main([*arguments, "attackers=mlp-scaled"]) == 0
    first = json.loads(path.read_text())["gender/shadow"]["attackers"]
    assert attack.main([*arguments, "attackers=svm"]) == 0
    both = json.loads(path.read_text())["gender/shadow"]["attackers"]
    assert both.keys() == {"mlp-scaled", "svm"}
    assert both["mlp-scaled"] == first["mlp-scaled"]
    assert attack.main(["shadow_ratio=0.5", "draws=3", "threads=1", "attackers=svm"]) == 0
    assert json.loads(path.read_text())["gender/shadow"]["attackers"].keys() == {"svm"}


def test_a_damaged_attack_json_is_said_and_kept(workspace, capsys):
    assert main.main([*TINY, "epochs=1"]) == 0
    path = workspace / "exp_results/ncf/ml-100k/original/seed-0/attack.json"
    path.write_text('{"gender/shadow": ')
    assert attack.main(["shadow_ratio=0.5", "draws=1", "attackers=svm"]) == 2
    assert "attack.json is damaged; move it away" in capsys.readouterr().err
    assert path.read_text() == '{"gender/shadow": '


@pytest.mark.parametrize("content", ["", "{", "[]", '{"raw": 3}'])
def test_a_damaged_meta_json_has_the_data_prepared_anew(workspace, capsys, content):
    assert main.main([*TINY, "epochs=1"]) == 0
    folder = workspace / "data/datasets/ml-100k"
    before = (folder / "preprocess/train_interactions.csv").read_bytes()
    (folder / "preprocess/meta.json").write_text(content)
    assert main.main([*TINY, "epochs=1"]) == 0
    assert "preprocess/meta.json is damaged" in capsys.readouterr().out
    assert (folder / "preprocess/train_interactions.csv").read_bytes() == before
    assert (folder / "preprocess.1/meta.json").read_text() == content


def test_a_checkpoint_that_outlived_its_run_is_dropped(tmp_path):
    """A kill between writing the summary and dropping the checkpoint."""
    folder = RunFolder.of(
        ExperimentConfig(results_path=str(tmp_path)), [Group.TRAINING], {"data": "x"}
    )
    folder.start(ExperimentConfig())
    folder.embedding_path.parent.mkdir()
    np.save(folder.embedding_path, np.zeros((2, 2)))
    folder.finish({})
    folder.checkpoint.touch()
    assert folder.finished() == {"key": folder.key}
    assert not folder.checkpoint.exists()


def test_a_checkpoint_that_can_not_be_read_now_is_not_given_up(workspace, monkeypatch, capsys):
    checkpoint = checkpointed(workspace, monkeypatch, capsys)
    content = checkpoint.read_bytes()

    def failing(path, real=Path.read_bytes):
        if path.name != checkpoint.name:
            return real(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        assert main.main([*TINY, "method=original"]) == 2
    assert f"{checkpoint.name}: Input/output error" in capsys.readouterr().err
    assert checkpoint.read_bytes() == content
    assert main.main([*TINY, "method=original"]) == 0
    assert "Resuming after epoch 2 of 4" in capsys.readouterr().out


def test_an_attack_without_the_data_names_the_command_that_makes_it(workspace, capsys):
    assert main.main([*TINY, "epochs=1"]) == 0
    (workspace / "data/datasets/ml-100k").rename(workspace / "elsewhere")
    assert attack.main(["shadow_ratio=0.5"]) == 2
    assert "main.py prepares it: python main.py\n" in capsys.readouterr().err
    assert not (workspace / "data/datasets/ml-100k").exists()


class InterruptedAtLine:
    """Ctrl-C when the `number`-th line of Python, library code included, is about to run."""

    def __init__(self, number: int):
        self.left = number

    def __enter__(self) -> None:
        self.usual = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.usual)

    def _trace(self, frame, event, _):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.filterwarnings("error")
def test_ctrl_c_at_any_line_of_writing_a_file_leaves_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "file.json"
    seen = set()
    gc.freeze()  # what is there already is not searched again at every line
    for number in range(1, 1000):
        write_json(path, "old")
        interrupt = InterruptedAtLine(number)
        try:
            with interrupt:
                write_json(path, "new")
        except KeyboardInterrupt:
            pass
        gc.collect()
        seen.add(json.loads(path.read_text()))
        assert set(tmp_path.iterdir()) <= {path, tmp_path / ".file.json.tmp"}
        if interrupt.left > 0:
            break
    gc.unfreeze()
    assert interrupt.left > 0
    assert number > 50
    assert seen == {"old", "new"}
