"""Commands in processes of their own that cost milliseconds: forks of one that has imported all.

Python's own fork server; nothing of a test session is imported here. Where the start of Python or
of a command is the point, a test starts a process itself.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist

import attack
import main
from utils import ranks
from utils.errors import UserError
from utils.runs import checkpoint
from utils.start import start

PROJECT = Path(__file__).resolve().parents[1]
PROGRAMS = {"main.py": main.main, "attack.py": attack.main}


class Forked:
    """A command in the present folder; what it says goes to two files.

    Attributes:
        process: its process, of multiprocessing.
    """

    def __init__(self, work: Callable[..., int], *arguments, files: Path):
        self.said = files / "said", files / "complained"
        self.process: BaseProcess = CONTEXT.Process(
            target=_in_folder, args=(work, Path.cwd(), self.said, arguments)
        )
        with contextlib.chdir(PROJECT):  # the server starts with the first
            self.process.start()

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """The first line of output that has this text."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if self.said[0].exists():
                for line in self.said[0].read_text().splitlines(keepends=True):
                    if text in line and line.endswith("\n"):
                        return line
            assert self.process.is_alive(), self.said[1].read_text()
            time.sleep(0.01)
        raise TimeoutError(text)

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        """Exit code, output, complaints; an error if it has not ended by then."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running; it said {self.said[0].read_text()}")
        return code, *(file.read_text() for file in self.said)


def _in_folder(
    work: Callable[..., int], folder: Path, said: tuple[Path, Path], arguments: tuple
) -> None:
    os.chdir(folder)
    for number, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(work(*arguments))


def command(program: str, *arguments: str) -> int:
    """A command's exit code."""
    return PROGRAMS[program](list(arguments))


def started(program: str, *arguments: str) -> NoReturn:
    """As `python PROGRAM.py` starts a command, its imports made before."""
    sys.argv = [f"{program}.py", *arguments]
    start(program)


def unread(program: str, *arguments: str) -> NoReturn:
    """The same whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, sys.stdout.fileno())
    started(program, *arguments)


def one_of(rank: int, size: int, port: int, *arguments: str) -> int:
    """main.py's exit code, as one of the processes that torchrun starts."""
    _launch(rank, size, port)
    return main.main(list(arguments))


def patient(rank: int, size: int, port: int) -> int:
    """0 where the others wait for the first rank's work, which takes longer than their patience
    with silence, and where all are told what came out.
    """
    _launch(rank, size, port)
    ranks.SILENCE = timedelta(seconds=2)
    ranks.BEAT = 0.5

    def work() -> dict:
        time.sleep(4)
        return {"by": rank}

    with ranks.joined() as joined:
        return joined.told(work)["by"]


def frozen(rank: int, size: int, port: int, at_work: int) -> int:
    """0 where rank `at_work` ends in the midst of its work since the other, which freezes, is
    silent, and says so.
    """
    _launch(rank, size, port)
    ranks.SILENCE = timedelta(seconds=5)
    ranks.BEAT = 0.5

    def work() -> None:
        if rank != at_work:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(120)

    try:
        with ranks.joined() as joined:
            joined.sum(np.zeros(1))  # both are there
            joined.agree(work)
    except UserError as error:
        print(error)
        return 0
    return 1


def forsaken(rank: int, size: int, port: int) -> int:
    """0 where this rank's sum fails, alone that of the first by itself, and the others soon leave
    it, too.
    """
    _launch(rank, size, port)

    def failing(_: torch.Tensor) -> None:
        group = dist.distributed_c10d._get_default_group()  # as torch's own frames hold it
        raise RuntimeError(f"{group.name()} has lost one")

    with ranks.joined() as joined:
        joined.sum(np.zeros(1))  # all are there
        if joined.first:
            dist.all_reduce = failing
        start = time.monotonic()
        try:
            joined.sum(np.zeros(1))
        except (UserError, SystemExit) as error:
            print(error)
            return int(time.monotonic() - start > ranks.ROLL_CALL.total_seconds() / 2)
    return 2


def _launch(rank: int, size: int, port: int) -> None:
    os.environ |= {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def careful(rank: int, size: int, port: int, *arguments: str) -> int:
    """As `one_of`, which keeps a checkpoint whenever it could."""
    checkpoint.EVERY = 0
    return one_of(rank, size, port, *arguments)


def limited(rank: int, size: int, port: int, most: int, *arguments: str) -> int:
    """As `one_of`, on a disk that takes no file of more bytes than `most`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    return one_of(rank, size, port, *arguments)


def dying(rank: int, size: int, port: int, end: str, at: int, *arguments: str) -> int:
    """As `one_of`, killed as `die_at` says."""
    die_at(end, at)
    return one_of(rank, size, port, *arguments)


def die_at(end: str, at: int) -> None:
    """Be killed as this process opens or renames a file whose name ends so, the `at`-th time."""
    left = iter(range(at - 1))

    def watch(event: str, seen: tuple) -> None:
        is_it = event in ("open", "os.rename") and str(seen[0]).endswith(end)
        if is_it and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def has_imported(module: str) -> int:
    """1 if the commands' imports have led to this module."""
    return int(module in sys.modules)


def _warm_up() -> None:
    """What torch imports only at its first optimiser: before the forks, once."""
    torch.set_num_threads(1)
    weights = torch.nn.Parameter(torch.zeros(1))
    weights.grad = torch.zeros(1)
    torch.optim.Adam([weights], fused=True).step()


CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked"])
_warm_up()
