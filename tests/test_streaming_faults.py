"""stream=on when the machine fails: a full disk, a killed rank, ranks that see other folders, files
that change meanwhile. It ends in one line, nothing half-written counts, the next start goes on.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import main
from methods import streaming
from tests import forked
from tests.conftest import free_port
from tests.test_failures import failing
from tests.test_streaming import CALIBRATED, POLISHED, STREAM, refused, shop, whole
from utils.runs import files

__all__ = ["shop"]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.npy"))}


def complaint(ended):
    """The one line of all ranks, who end with exit code 2 if they weren't killed."""
    assert {code for code, *_ in ended} - {-signal.SIGKILL} == {2}
    lines = [line for *_, error in ended for line in error.splitlines()]
    assert not any("Traceback" in line for line in lines)
    (line,) = (line.rpartition("\r")[2] for line in lines if "error: " in line)
    return line


FULL = "No space left on device; free some space"


PASSES = [f".pass-{number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("method", "passes", "map_of"),
    [(["method=leace"], [], ["eraser.safetensors"]), (POLISHED, PASSES, [])],
)
def test_a_full_disk_is_named_and_the_same_command_goes_on(
    shop, capsys, monkeypatch, method, passes, map_of
):
    """It is full after 0, 1, ... files have been written."""
    keys = [*STREAM, *method, "output=out/"]
    assert main.main([*STREAM, *method, "output=at-once/"]) == 0
    begun = [*passes, "moments.npz", "manifest.json"]
    written = [*begun, *map_of, *bytes_of("at-once"), "manifest.json"]
    for after, name in enumerate(written):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", failing(errno.ENOSPC, after))
            line = refused(capsys, *keys)
        assert line.startswith(f"error: out/{name}") and f": {FULL}" in line
        there = {re.sub("-[0-9a-f]{16}.npz", "", path.name) for path in Path("out").iterdir()}
        kept = [one for one in written[:after] if after < len(begun) or one not in passes]
        assert there == {*kept, "stream.log"}
        assert main.main(keys) == 0
        said = capsys.readouterr().out.count("was done before the work was interrupted")
        assert said == (min(after, len(passes)) if after < len(begun) else 0)
        assert bytes_of("out") == bytes_of("at-once")
        shutil.rmtree("out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_is_said_by_the_first_rank_alone(shop, ranks):
    Path("out").mkdir()
    Path("out/stream.log").symlink_to("/dev/full")
    ended = [one.end() for one in ranks(2, *STREAM, "method=leace", "output=out/")]
    assert complaint(ended).startswith(f"error: rank 0: {Path.cwd()}/out/stream.log: {FULL}")


def test_a_shard_that_the_disk_does_not_take_is_named_with_its_rank(shop, ranks, fork):
    assert [one.end()[0] for one in ranks(2, *STREAM, *CALIBRATED, "output=two/")] == [0, 0]
    port, keys = free_port(), [*STREAM, *CALIBRATED, "output=out/"]
    first, second = (
        fork(forked.one_of, 0, 2, port, *keys),
        fork(forked.limited, 1, 2, port, 2000, *keys),
    )
    line = complaint([first.end(), second.end()])
    assert line.startswith("error: rank 1: out/part-1.npy: File too large; the file system")
    assert not Path("out/part-1.npy").exists()
    assert not list(Path("out").glob(".*"))
    assert "made" not in json.loads(Path("out/manifest.json").read_text())
    assert main.main(keys) == 0
    assert bytes_of("out") == bytes_of("two")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("end", "at"),
    [
        ("vectors/part-1.npy", 5),  # its ends, its header, pass 1, pass 2, pass 3
        ("vectors/part-1.npy", 7),  # read to be written
        ("out/.part-1.npy.tmp", 2),  # opened, renamed
    ],
)
def test_a_rank_that_is_killed_ends_the_others(shop, ranks, fork, end, at):
    """Three start, one of them is killed, and then it is done by two, or by one."""
    assert [one.end()[0] for one in ranks(3, *STREAM, *CALIBRATED, "output=three/")] == [0] * 3
    port, keys, start = free_port(), [*STREAM, *CALIBRATED, "output=out/"], time.monotonic()
    started = [fork(forked.one_of, rank, 3, port, *keys) for rank in (0, 2)]
    killed = fork(forked.dying, 1, 3, port, end, at, *keys)
    ended = [one.end() for one in [*started, killed]]
    assert time.monotonic() - start < 60
    assert [code for code, *_ in ended] == [2, 2, -signal.SIGKILL]
    says = "error: rank 0: another rank (1, last at vectors/part-1.npy) has gone"
    assert complaint(ended).startswith(says)
    assert not Path("out/part-1.npy").exists()
    learnt = Path("out/manifest.json").exists()
    assert learnt == (at != 5)
    if learnt:
        assert main.main(keys) == 0
        assert bytes_of("out") == bytes_of("three")
    else:
        first, second = (one.end() for one in ranks(2, *keys))
        assert (first[0], second[0]) == (0, 0)
        assert "pass-2 was done before" in first[1]
        np.testing.assert_allclose(whole("out"), whole("three"), rtol=1e-5, atol=1e-6)
    assert not list(Path("out").glob(".*"))


DIES = """
import os
import sys

import main
from tests.forked import die_at

if os.environ["RANK"] == "1":
    die_at("vectors/part-1.npy", 5)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.thorough
def test_under_torchrun_too_a_rank_that_is_killed_is_named_and_no_scratch_is_left(shop):
    """It sends SIGTERM to the others as soon as one has ended."""
    Path("dies.py").write_text(DIES)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    keys = [*STREAM, *CALIBRATED, "output=out/"]
    ended = subprocess.run(
        [*start, "dies.py", *keys],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(forked.PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    said = [line.rpartition("\r")[2] for line in ended.stderr.splitlines()]
    (line,) = (line for line in said if line.startswith("error: "))
    assert line.startswith("error: rank 0: another rank (1, last at vectors/part-1.npy) has gone")
    assert "another rank" in Path("out/stream.log").read_text()
    assert not [path for path in Path("out").iterdir() if path.suffix == ".tmp"]
    assert main.main(keys) == 0


def test_a_rank_whose_sum_fails_leaves_nobody_waiting_for_it(ranks):
    """Its error's traceback held the connections open until the roll-call was over."""
    ended = [one.end() for one in ranks(3, work=forked.forsaken)]
    assert [code for code, *_ in ended] == [0, 0, 0], ended
    assert "(1, 2)" not in ended[0][1]


def test_ctrl_c_of_all_ranks_is_said_once_and_the_next_start_goes_on(shop, ranks):
    """Rank 1 waits for a shard that is a pipe which nobody writes to."""
    Path("vectors/part-1.npy").rename("kept.npy")
    os.mkfifo("vectors/part-1.npy")
    keys = [*STREAM, "method=leace", "output=out/"]
    started = ranks(2, *keys)
    time.sleep(1)
    for one in started:
        os.kill(one.process.pid, signal.SIGINT)
    ended = [one.end() for one in started]
    assert [code for code, *_ in ended] == [130, 130]
    assert "To go on: the same torchrun command" in ended[0][2].splitlines()[-1]
    assert ended[1][2] == ""
    Path("kept.npy").rename("vectors/part-1.npy")
    assert main.main(keys) == 0


def other_labels(there):
    labels = np.load(there / "labels/part-1.npy")
    np.save(there / "labels/part-1.npy", labels[::-1])


def disguised_labels(there):
    """Of the same size and time."""
    path = there / "labels/part-1.npy"
    before = path.stat()
    other_labels(there)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


MOUNTS = {
    "a shard less": (
        lambda there: (there / "vectors/part-1.npy").unlink(),
        "vectors/part-1.npy is not the same for all: here missing, for rank 0 2288 bytes of 20",
    ),
    "no labels": (
        lambda there: shutil.rmtree(there / "labels"),
        "labels/part-0.npy is not the same for all: here missing, for rank 0",
    ),
    "other labels": (other_labels, "labels/part-1.npy is not the same for all: here 848 bytes of"),
    "disguised labels": (disguised_labels, "labels/part-1.npy is not the same for all: here 848"),
    "another output": (lambda there: None, "out has no stream.log here"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("what", MOUNTS)
def test_a_rank_that_sees_other_folders_says_so(shop, fork, monkeypatch, tmp_path_factory, what):
    """Its present folder is a copy of the others'."""
    there = tmp_path_factory.mktemp("mounted") / "there"
    shutil.copytree(shop, there)
    spoil, says = MOUNTS[what]
    spoil(there)
    port, keys = free_port(), [*STREAM, "method=leace", "output=out/"]
    started = [fork(forked.one_of, 0, 2, port, *keys)]
    monkeypatch.chdir(there)
    started.append(fork(forked.one_of, 1, 2, port, *keys))
    line = complaint([one.end() for one in started])
    assert line.startswith(f"error: rank 1: {says}")
    assert "every rank has to see the same" in line
    assert not (shop / "out/manifest.json").exists()


@pytest.mark.parametrize("other", ["seed=1", "attribute=age", "method=barycentre"])
def test_a_rank_of_other_settings_is_refused(shop, fork, other):
    port, keys = free_port(), [*STREAM, "method=leace", "output=out/"]
    started = [
        fork(forked.one_of, 0, 2, port, *keys),
        fork(forked.one_of, 1, 2, port, *keys, other),
    ]
    line = complaint([one.end() for one in started])
    name, _, value = other.partition("=")
    assert line.startswith(f"error: rank 1: {name} is {value} here, ")
    assert line.endswith("for rank 0; start all ranks with the same keys")
    assert not Path("out").exists()


def meanwhile(monkeypatch, happens):
    """Have something happen after the last shard was written."""
    write = streaming.write

    def written(*arguments):
        found = write(*arguments)
        happens()
        return found

    monkeypatch.setattr(streaming, "write", written)


def test_files_that_change_while_they_are_read_are_not_called_done(shop, capsys, monkeypatch):
    keys = [*STREAM, "method=leace", "output=out/"]
    with monkeypatch.context() as patch:
        meanwhile(patch, lambda: os.utime("labels/part-1.npy"))
        assert "labels/part-1.npy has changed while it was read" in refused(capsys, *keys)
    assert "made" not in json.loads(Path("out/manifest.json").read_text())
    assert "made with other labels" in refused(capsys, *keys)


def test_a_shard_that_has_gone_is_not_called_done(shop, capsys, monkeypatch):
    keys = [*STREAM, "method=leace", "output=out/"]
    with monkeypatch.context() as patch:
        meanwhile(patch, Path("out/part-2.npy").unlink)
        assert "out/part-2.npy was written and is not there" in refused(capsys, *keys)
    assert "made" not in json.loads(Path("out/manifest.json").read_text())
    assert main.main(keys) == 0
    Path("out/manifest.json").write_text("{")
    assert "out/manifest.json is damaged; move out away" in refused(capsys, *keys)


def test_a_dying_process_does_not_write_into_the_shard_of_the_next(tmp_path):
    path = tmp_path / "part-0.npy"
    with path.with_name(".part-0.npy.tmp").open("wb") as dying, files.replace_large(path) as file:
        dying.write(b"before")
        dying.flush()
        file.write(b"new")
    assert path.read_bytes() == b"new"
