"""A small synthetic MovieLens in ML-100K's raw format, with a planted gender taste.

What is marked thorough takes seconds a test and is left to .ci/run, so that README's command stays
under three minutes on two cores: an idea's cheapest test is not marked.

The process that only hands out tests reads this too: what takes seconds to import is imported in
the fixtures.
"""

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from utils.start import same_sums

same_sums()  # as the commands begin

N_USERS, N_ITEMS, PER_USER = 80, 160, 24

PROCESSES = (
    "attack", "audit", "failures", "interruption", "processes", "streaming", "streaming_faults",
    "streams", "structure",
)  # fmt: skip
"""Test files that start a fork server or joblib's workers, which take seconds to start and stay."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """File by file: what a module's tests share is made once. PROCESSES are one file here."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "processes" if file in [f"tests/test_{one}.py" for one in PROCESSES] else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def one_thread():
    """What is this small gains nothing from two threads, and they lose much on a busy machine."""
    import torch

    torch.set_num_threads(1)


def write_ml100k(folder: Path, seed: int = 0, n_users: int = N_USERS) -> Path:
    """u.data and u.user: women like the lower half of the items, men the upper half."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ratings, users = [], []
    for user in range(1, n_users + 1):
        gender = "F" if user % 3 == 0 else "M"
        age = int(rng.integers(12, 70))
        occupation = rng.choice(["artist", "doctor", "student"])
        users.append(f"{user}|{age}|{gender}|{occupation}|{10000 + user}")
        weights = np.ones(N_ITEMS)
        half = slice(0, N_ITEMS // 2) if gender == "F" else slice(N_ITEMS // 2, None)
        weights[half] = 9
        items = rng.choice(N_ITEMS, PER_USER, replace=False, p=weights / weights.sum())
        times = np.sort(rng.integers(0, 40, PER_USER))  # many ties
        ratings += [
            f"{user}\t{item + 1}\t{3}\t{time}" for item, time in zip(items, times, strict=True)
        ]
    (folder / "u.data").write_text("\n".join(ratings) + "\n")
    (folder / "u.user").write_text("\n".join(users) + "\n")
    return folder


@pytest.fixture
def fork(tmp_path_factory: pytest.TempPathFactory):
    """Start something in the present folder, in a process of its own; see `Forked`."""
    from tests.forked import Forked

    started = []

    def start(*arguments):
        started.append(Forked(*arguments, files=tmp_path_factory.mktemp("forked")))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.join()


@pytest.fixture
def ranks(fork):
    """Start a work, main.py's unless said, as so many ranks of one work."""
    from tests.forked import one_of

    def start(size, *arguments, work=one_of):
        port = free_port()
        return [fork(work, rank, size, port, *arguments) for rank in range(size)]

    return start


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def last_line(said: str) -> str:
    """What is left of a terminal's line once progress bars have been written over."""
    return said.rstrip().splitlines()[-1].rpartition("\r")[2]


def write_workspace(folder: Path) -> Path:
    """An empty place to run the commands in, with the data and two small configs."""
    write_ml100k(folder / "data" / "datasets" / "ml-100k" / "raw")
    configs = folder / "configs"
    configs.mkdir()
    project = Path(__file__).resolve().parents[1] / "configs"
    for name in ("exp_config.json", "attack_config.json"):
        (configs / name).write_text((project / name).read_text())
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """See `write_workspace`; it is the present folder."""
    monkeypatch.chdir(tmp_path)
    return write_workspace(tmp_path)


def few_draws(patch: pytest.MonkeyPatch) -> None:
    """Bands and curves of an audit's page from few draws, half of what a small audit costs."""
    patch.setattr("utils.audit.audit.BOOTSTRAPS", 4)
    patch.setattr("utils.audit.audit.CURVE_DRAWS", 1)


@pytest.fixture
def small_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `few_draws`."""
    few_draws(monkeypatch)


@pytest.fixture
def plain_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits whose page and curves nobody looks at: three points in four of what they cost."""
    few_draws(monkeypatch)

    def numbers_only(path: Path, result: dict) -> Path:
        path.write_text(json.dumps(result))
        return path.with_suffix(".html")

    monkeypatch.setattr("attack.save_audit", numbers_only)
