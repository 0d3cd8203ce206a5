"""One work by several processes, which `torchrun` starts; a single process is a rank by itself.

Sums over all ranks are the only thing that they tell one another. They do their parts `together`,
with a sum every second: so no rank waits long for another, a rank's failure ends all of them, and
silence means that one has gone.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from utils.errors import UserError, first_line, in_one_line

T = TypeVar("T")

BEAT = 1.0
"""Seconds between two sums, or as long as one piece of a rank's part takes."""

SILENCE = timedelta(seconds=60)
"""How long a rank waits for the others' next sum."""

ROLL_CALL = timedelta(seconds=10)
"""How long one then waits for who is left: some may be in the middle of a long piece."""


def launched() -> bool:
    """Whether `torchrun` has started this process."""
    return dist.is_torchelastic_launched()


def speaks() -> bool:
    """Whether this process is the one that says what is said once."""
    return not launched() or os.environ.get("RANK") == "0"


@dataclass(frozen=True)
class Ranks:
    """The processes of one work.

    Attributes:
        rank: this one's number.
        size: how many there are.
        store: where they leave notes once a sum has failed; None of one alone.
    """

    rank: int = 0
    size: int = 1
    store: dist.Store | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes what there is one of."""
        return self.rank == 0

    def own(self, things: int) -> range:
        """The numbers of the things, 0 to `things` - 1, that are this rank's part."""
        return range(self.rank, things, self.size)

    def share(self, things: int) -> slice:
        """The same as a run of neighbours, about as long in every rank; empty where there are more
        ranks than things.
        """
        return slice(things * self.rank // self.size, things * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> None:
        """Put the sum of the ranks' tensors in the place of each; the same bytes in every rank.

        Raises:
            UserError: a rank has gone.
            SystemExit: so it has, and another one says so.
        """
        if self.size == 1:
            return
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            missing = self._missing()
            if missing and self.rank != min(set(range(self.size)) - set(missing)):
                raise SystemExit(2) from None
            which = ", ".join(map(str, missing)) or "unknown"
            raise UserError(
                f"rank {self.rank}: another rank ({which}) has gone, or is silent for "
                f"{SILENCE.total_seconds():.0f} s ({_briefly(error)}); what it said last "
                "says why; what is finished is kept, and the same command goes on from there"
            ) from None

    def whole(self, part: Tensor) -> Tensor:
        """The sum of the ranks' tensors, added up in float64, in the part's own dtype; the part
        itself where there is one rank. Raises as `add`.
        """
        if self.size == 1:
            return part
        total = part.double()
        self.add(total)
        return total.to(part.dtype)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of the ranks' arrays, in float64; raises as `add`."""
        total = torch.from_numpy(np.array(array, dtype=np.float64))
        self.add(total)
        return total.numpy()

    def _missing(self) -> list[int]:
        """The ranks that leave no note once a sum has failed; none if nobody can tell."""
        dist.destroy_process_group()  # who still waits for this one learns of it
        missing: list[int] = []
        give_up = time.monotonic() + ROLL_CALL.total_seconds()
        with contextlib.suppress(RuntimeError):  # the store has gone too
            assert self.store is not None
            self.store.set_timeout(ROLL_CALL)
            self.store.set(f"left/{self.rank}", "")
            while time.monotonic() < give_up:
                others = range(self.size)
                missing = [rank for rank in others if not self.store.check([f"left/{rank}"])]
                if len(missing) == 1:  # a sum fails only if one has gone, so it is this one
                    time.sleep(BEAT)  # the store may end with this process: others read it too
                    break
                time.sleep(BEAT / 10)
        return missing

    def gathered(self, array: np.ndarray) -> np.ndarray:
        """The ranks' arrays (n, ...), of n each its own, one behind the other; float64."""
        counts = np.zeros(self.size)
        counts[self.rank] = len(array)
        ends = self.sum(counts).cumsum().astype(int)
        all_of = np.zeros((ends[-1], *array.shape[1:]))
        all_of[ends[self.rank] - len(array) : ends[self.rank]] = array
        return self.sum(all_of)

    def union(self, names: Iterable[str]) -> list[str]:
        """All ranks' names, sorted. As numbers, since a sum is all that they tell one another."""
        line = json.dumps(sorted(set(names))).encode() + b"\n"
        told = self.gathered(np.frombuffer(line, np.uint8)).astype(np.uint8).tobytes()
        return sorted({name for one in told.splitlines() for name in json.loads(one)})

    def agree(self, work: Callable[[], T]) -> T:
        """What this rank's work gives, once that of every rank has; raises as `together`.

        The work may take as long as it likes: a thread goes on with the sums meanwhile. It asks
        for none itself.
        """
        if self.size == 1:
            return work()
        done, failures = threading.Event(), list[Exception]()

        def waiting() -> Iterator[int]:
            while not done.wait(BEAT):
                yield 0
            if failures:
                raise failures[0]

        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(self.together, waiting())
            try:
                made = work()
            except Exception as error:  # told to the others first
                failures.append(error)
            finally:
                done.set()
            others.result()
        return made

    def alone(self, work: Callable[[], T]) -> T | None:
        """What the first rank's work gives, to it, while the others wait; raises as `together`."""
        return self.agree(lambda: work() if self.first else None)

    def told(self, work: Callable[[], T]) -> T:
        """What the first rank's work gives, to all; JSON can hold it. Raises as `together`."""
        if self.size == 1:
            return work()
        said = self.alone(lambda: json.dumps(work()).encode()) or b""
        letters = self.gathered(np.frombuffer(said, np.uint8))
        made: T = json.loads(letters.astype(np.uint8).tobytes())
        return made

    def check_same(self, what: str, number: int) -> None:
        """Refuse to go on where this is another number in another rank.

        Raises:
            UserError: it isn't the first one's; or as `together`.
        """
        of_first = self.told(lambda: number)

        def check() -> None:
            if number != of_first:
                raise UserError(
                    f"{what} {number} here, {of_first} to the first rank; all processes must see "
                    "the same folders"
                )

        self.agree(check)

    def in_turn(self, work: Callable[[], T]) -> T:
        """What this rank's work gives, which finds what the first rank's has left on the disk;
        raises as `together`.
        """
        made = self.alone(work)
        return self.agree(lambda: work() if made is None else made)

    def together(self, part: Iterable[int], title: str = "", rows: int = 0) -> None:
        """Do this rank's part while the others do theirs; the end of the last one ends all.

        Args:
            part: works when it is iterated over, and yields how many rows a piece of it was.
            title: of the progress bar; "" = none.
            rows: of all ranks' parts, for the bar.

        Raises:
            UserError: this rank's part has failed, with the rank's number where there are several.
            SystemExit: another's has; of several that fail the first one says so.
        """
        hidden = not (title and self.first)
        bar = tqdm(total=rows, desc=title, unit="row", unit_scale=True, leave=False, disable=hidden)
        pieces = iter(part)
        failure: Exception | None = None
        ended, failed = 0.0, np.empty(0, int)
        try:
            with bar:
                while ended < self.size and not failed.size:
                    worked, is_last = 0, False
                    try:
                        worked, is_last = _until_beat(pieces)
                    except Exception as error:  # told to the others first
                        failure = error
                    flags = np.zeros(self.size)
                    flags[self.rank] = failure is not None
                    ended, rows, *told = self.sum(np.array([is_last, worked, *flags]))
                    failed = np.flatnonzero(told)
                    bar.update(int(rows))
        finally:
            if isinstance(pieces, Generator):
                pieces.close()  # half-written files go
        if failed.size:
            self._fail(failure, int(failed[0]))

    def _fail(self, failure: Exception | None, first: int) -> None:
        if failure is None or first != self.rank:
            time.sleep(BEAT)  # torchrun takes who ends first for the cause
            raise SystemExit(2)
        line = in_one_line(failure)
        if line is None or self.size == 1:
            raise failure
        raise UserError(f"rank {self.rank}: {line}") from None


def _briefly(error: Exception) -> str:
    """What gloo says, without the line of its source before it and the greeting behind."""
    return first_line(error).partition("] ")[2].partition(". ")[0] or first_line(error)


ALONE = Ranks()
"""A single process."""


def _until_beat(pieces: Iterator[int]) -> tuple[int, bool]:
    """Rows done until the next sum is due, and whether there is nothing more to do."""
    due, worked = time.monotonic() + BEAT, 0
    for rows in pieces:
        worked += rows
        if time.monotonic() >= due:
            return worked, False
    return worked, True


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that `torchrun` has started, or alone. Within it the first one
    alone shows progress bars; what ends another is said by that once it is over.

    Raises:
        UserError: they can't reach one another.
    """
    if not launched():
        yield ALONE
        return
    try:
        store, rank, size = next(rendezvous("env://", timeout=SILENCE))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=SILENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {os.environ.get('RANK')} can't reach the others ({first_line(error)}); "
            "GLOO_SOCKET_IFNAME=eth0, or the like, names the network to them"
        ) from None
    ranks = Ranks(rank, size, store)
    with contextlib.ExitStack() as held:
        held.callback(_leave)
        if not ranks.first:
            nowhere = held.enter_context(Path(os.devnull).open("w"))
            held.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield ranks
        except KeyboardInterrupt:  # torchrun hands it to all, and the first one says so
            if ranks.first:
                raise
            raise SystemExit(130) from None


def _leave() -> None:
    if dist.is_initialized():  # who has called the roll has left already
        dist.destroy_process_group()
