"""A helper process of test_interruption: runs commands and kills them, over and over.

It is forked from one that has imported everything (forked.py), so that a start costs milliseconds.
Half of the kills come at a random time, half at a random one of the moments at which the command
opens, renames, removes or makes a file or folder below the workspace: between two of these is where
something half-made would lie. Prints a line of JSON a start: exit code (null = killed).
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.forked import command

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def child(work: Callable[[], int], workspace: Path, die_at: int | None, counter: int) -> None:
    """Run and exit, or be killed at the `die_at`-th file event; counts events in a pipe."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        if not Path.cwd().joinpath(arguments[0]).is_relative_to(workspace):
            return
        seen += 1
        os.write(counter, b".")
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.addaudithook(watch)
    os._exit(work())


def start(
    work: Callable[[], int], workspace: Path, die_at: int | None, die_after: float | None
) -> tuple[int | None, int, float]:
    """Exit code (None = killed), file events, seconds."""
    reader, writer = os.pipe()
    begin = time.perf_counter()
    pid = os.fork()
    if not pid:
        os.close(reader)
        child(work, workspace, die_at, writer)
    os.close(writer)
    status = None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = code
        elif die_after is not None and time.perf_counter() - begin > die_after:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        else:
            time.sleep(0.005)
    events = b""
    while block := os.read(reader, 1 << 16):
        events += block
    os.close(reader)
    code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    return code, len(events), time.perf_counter() - begin


def run_whole(commands: list[list[str]]) -> int:
    """All commands one after the other; stops at a failing one."""
    for program, *arguments in commands:
        if code := command(program, *arguments):
            return code
    return 0


def torment(workspace: Path, kills: int, seed: int, commands: list[list[str]]) -> int:
    """Run whole once for the yardstick, then with kills until there were enough and it is done."""
    rng = random.Random(seed)

    def work() -> int:
        return run_whole(commands)

    def afresh() -> None:
        shutil.rmtree("exp_results", ignore_errors=True)
        shutil.rmtree("data/datasets/ml-100k/preprocess", ignore_errors=True)

    code, events, seconds = start(work, workspace, None, None)
    assert code == 0, code
    Path("exp_results").rename("whole")
    afresh()
    killed = 0
    while True:
        die_at = die_after = None
        if killed < kills and killed % 2:
            die_at = rng.randrange(1, events)
        elif killed < kills:
            die_after = rng.uniform(0, 0.7 * seconds)
        code, _, _ = start(work, workspace, die_at, die_after)
        killed += code is None
        print(json.dumps({"code": code, "event": die_at, "seconds": die_after}), flush=True)
        if code not in (None, 0):
            sys.exit(f"exit code {code} after {killed} kills")
        if code == 0 and killed >= kills:
            return 0
        if code == 0:  # finished before its kill: once more from nothing
            afresh()
