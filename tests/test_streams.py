"""Output that nobody reads, that is closed, or that lacks letters; and a worker that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import attack
import main
from tests.forked import unread

PROJECT = Path(__file__).resolve().parents[1]
TINY = ["epochs=1", "batch_size=512", "embedding_size=4", "num_ng=1", "threads=1"]
SVM = ["attackers=svm", "shadow_ratio=0.5", "draws=2"]
ORIGINAL = Path("exp_results/ncf/ml-100k/original/seed-0")

WORK = """
import sys
from utils.streams import keep_writable
keep_writable()
from pathlib import Path
done = Path(sys.argv[1]).open("w")
print("line" * 20_000, file=sys.stdout)
print("0.5 ± 0.1", file=sys.stderr)
for stream in (sys.stdout, sys.stderr):
    print("two", file=stream)
done.write("done")
"""


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
    )


@pytest.mark.parametrize(
    "streams",
    [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -c 1", "2>&1 | head -c 1", "2</dev/null"],
)
def test_the_work_goes_on_and_nothing_is_said_into_other_files(tmp_path, streams):
    (tmp_path / "work.py").write_text(WORK)
    done = shell(f"{sys.executable} {tmp_path}/work.py {tmp_path}/done {streams}")
    assert done.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in done.stderr


def test_letters_that_the_terminal_lacks(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    done = shell(f"{sys.executable} {tmp_path}/work.py {tmp_path}/x", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stderr == "0.5 \\xb1 0.1\ntwo\n"


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_output_is_one_line(workspace):
    """Isolated, where Python does not look for modules beside the program."""
    done = shell(f"{sys.executable} -I -W error {PROJECT}/main.py {' '.join(TINY)} > /dev/full")
    assert done.returncode == 2
    error = done.stderr.splitlines()
    assert error[-1].startswith("error: standard output: No space left on device; free some space")
    assert "Traceback" not in done.stderr


def test_a_command_whose_reader_has_gone_ends_its_work(workspace, fork):
    code, said, error = fork(unread, "main", *TINY, "record=tables").end()
    assert (code, said) == (0, ""), error
    assert (ORIGINAL / "summary.json").exists()
    assert len(Path("tables/runs.csv").read_text().splitlines()) == 2


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.thorough
def test_a_killed_worker_is_one_line(workspace, monkeypatch, capsys):
    assert main.main(TINY) == 0
    capsys.readouterr()
    arguments = [*SVM, "threads=2"]
    with monkeypatch.context() as patch:
        patch.setattr("utils.audit.scores.train_and_score", killed)
        assert attack.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: a worker process was killed, most often by the system")
    assert attack.main(arguments) == 0


def test_what_was_found_is_kept_before_it_is_printed(workspace, monkeypatch):
    def unprintable(*_, **__):
        raise OSError(5, "gone")

    for name in ("utils.runs.session.describe_run", "attack.describe_attack"):
        monkeypatch.setattr(name, unprintable)
    assert main.main([*TINY, "record=tables"]) == 2
    assert (ORIGINAL / "summary.json").exists()
    assert attack.main([*SVM, "threads=1", "record=tables"]) == 2
    assert "gender/shadow" in json.loads((ORIGINAL / "attack.json").read_text())
    assert {path.name for path in Path("tables").glob("*.csv")} == {"runs.csv", "attacks.csv"}


def test_the_progress_bars_first_words(workspace, capsys):
    assert main.main(TINY) == 0
    shown = capsys.readouterr().err
    assert "epoch 1/1: 0batch" in shown
    assert ": :" not in shown
