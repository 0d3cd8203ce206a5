"""One work by several processes, which `torchrun` starts; a single process is a rank by itself.

Sums over all ranks are the only thing that they tell one another. They do their parts `together`,
with a sum every second: so no rank waits long for another, a rank's failure ends all of them, and
silence means that one has gone. Whatever it is, the first rank says it, and has it in its log; if
that one has gone, the next; if nobody can tell who has, everyone.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from utils.errors import UserError, first_line, in_one_line

T = TypeVar("T")

SAME_FOLDERS = "every rank has to see the same folders"
SAME_KEYS = "start all ranks with the same keys"

BEAT = 1.0
"""Seconds between two sums, or as long as one piece of a rank's part takes."""

SILENCE = timedelta(seconds=45)
"""How long a rank waits for the others' next sum; with the roll-call, all ends within a minute."""

START = timedelta(seconds=60)
"""How long a rank waits for the store through which all find one another."""

ROLL_CALL = timedelta(seconds=10)
"""How long one then waits for who is left: some may be in the middle of a long piece."""


class Stopped(BaseException):
    """SIGTERM: torchrun sends it to the others as soon as one has ended; and in the midst of long
    work a rank does to itself, whose sums have failed.
    """


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
        ending: set once this one knows why all end, and is not to be stopped any more.
    """

    rank: int = 0
    size: int = 1
    store: dist.Store | None = None
    ending: threading.Event = field(default_factory=threading.Event, compare=False)

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
            return
        except RuntimeError as error:
            said = _briefly(error)
        # not before: an error's traceback keeps the connections open, on which others may wait
        raise self.without(f"is silent for {SILENCE.seconds} s ({said})")

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

    def without(self, reason: str) -> UserError | SystemExit:
        """What ends this rank, once some of the others have gone, or may have.

        Args:
            reason: what else it can be, as "another rank has gone, or ..." goes on.
        """
        self._end()
        missing = self._called()
        if missing is not None and self.rank != min(set(range(self.size)) - missing.keys()):
            return SystemExit(2)
        which = ", ".join((missing or {}).values()) or "unknown"
        return UserError(
            f"rank {self.rank}: another rank ({which}) has gone, or {reason}; what it said last "
            "says why; what is finished is kept, and the same command goes on from there"
        )

    def _end(self) -> None:
        """Nothing is to come between this and the last line; not for a thread, whose rank works."""
        if threading.current_thread() is threading.main_thread():
            self.ending.set()

    def at(self, work: str) -> None:
        """Leave a note of what this rank is at, for the others if it goes."""
        if self.store is not None:
            self.store.set(f"at/{self.rank}", work)

    def _called(self) -> dict[int, str] | None:
        """The ranks that leave no note once a sum has failed, and what each was at; None if nobody
        can tell.
        """
        found: list[dict[int, str]] = []
        with contextlib.suppress(RuntimeError, ValueError, AssertionError):
            dist.destroy_process_group()  # who still waits for this one learns of it
        asking = threading.Thread(target=self._call, args=[found], daemon=True)
        asking.start()  # a store that has frozen, or whose machine has gone, never answers
        asking.join(ROLL_CALL.total_seconds() + 2 * BEAT)
        return found[-1] if found else None

    def _call(self, found: list[dict[int, str]]) -> None:
        """Add the ranks that have left no note so far, as long as more may leave one."""
        give_up, store = time.monotonic() + ROLL_CALL.total_seconds(), self.store
        assert store is not None

        def with_work(rank: int) -> str:
            at = f"at/{rank}"
            return f"{rank}, last at {store.get(at).decode()}" if store.check([at]) else str(rank)

        with contextlib.suppress(RuntimeError):  # the store has gone too
            store.set_timeout(ROLL_CALL)
            store.set(f"left/{self.rank}", "")
            while time.monotonic() < give_up:
                left = [store.check([f"left/{rank}"]) for rank in range(self.size)]
                found.append({rank: with_work(rank) for rank, it in enumerate(left) if not it})
                if len(found[-1]) < 2:  # a sum fails only if one has gone, so it is this one
                    time.sleep(BEAT)  # the store may end with this process: others read it too
                    break
                time.sleep(BEAT / 10)

    def gathered(self, array: np.ndarray) -> np.ndarray:
        """The ranks' arrays (n, ...), of n each its own, one behind the other; float64."""
        counts = np.zeros(self.size)
        counts[self.rank] = len(array)
        ends = self.sum(counts).cumsum().astype(int)
        all_of = np.zeros((ends[-1], *array.shape[1:]))
        all_of[ends[self.rank] - len(array) : ends[self.rank]] = array
        return self.sum(all_of)

    def _joined(self, said: bytes) -> bytes:
        """What the ranks say, one behind the other. As numbers, since a sum is all that they tell
        one another.
        """
        return self.gathered(np.frombuffer(said, np.uint8)).astype(np.uint8).tobytes()

    def union(self, names: Iterable[str]) -> list[str]:
        """All ranks' names, sorted."""
        line = json.dumps(sorted(set(names))).encode() + b"\n"
        told = self._joined(line)
        return sorted({name for one in told.splitlines() for name in json.loads(one)})

    def agree(self, work: Callable[[], T]) -> T:
        """What this rank's work gives, once that of every rank has; raises as `together`.

        The work may take as long as it likes: a thread goes on with the sums meanwhile, and stops
        the work if they fail. It asks for none itself.
        """
        if self.size == 1:
            return work()
        done, failures = threading.Event(), list[Exception]()

        def waiting() -> Iterator[int]:
            while not done.wait(BEAT):
                yield 0
            if failures:
                raise failures[0]

        def beside() -> None:
            try:
                self.together(waiting())
            except BaseException:
                if not done.is_set():  # minutes more of it would be for nothing
                    _stop_main()
                raise

        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(beside)
            try:
                try:
                    made = work()
                except Exception as error:  # told to the others first
                    failures.append(error)
                finally:
                    done.set()
                if others.exception():
                    self._end()
            except Stopped:
                others.result()  # may know why
                raise
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
        made: T = json.loads(self._joined(said))
        return made

    def check_same(self, own: Mapping[str, Any], remedy: str) -> None:
        """Refuse to go on where something is not the same for this rank and the first.

        Args:
            own: by what it is, in a message's words; JSON can hold it.
            remedy: ends the message.

        Raises:
            UserError: names it, and what it is for both; or as `together`.
        """
        own = json.loads(json.dumps(own))
        of_first = self.told(lambda: own)

        def check() -> None:
            for what in sorted(own.keys() | of_first.keys()):
                here, there = own.get(what), of_first.get(what)
                if here != there:
                    raise UserError(f"{what} is {here} here, {there} for rank 0; {remedy}")

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
            UserError: a rank's part has failed, and this is the first rank; with the number of the
                one that failed, where there are several.
            SystemExit: so it has, and the first rank says so.
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

    def _fail(self, failure: Exception | None, failed: int) -> None:
        """End all: of several that have failed the first one counts."""
        self._end()
        own = failure if failed == self.rank else None
        if own and self.size == 1:
            raise own
        said = in_one_line(own) if own else None
        line = self._joined((said or "").encode()).decode()
        if own and not line:
            raise own
        if line and self.first:
            raise UserError(f"rank {failed}: {line}")
        time.sleep(BEAT)  # torchrun takes who ends first for the cause
        raise SystemExit(2)


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
        store, rank, size = next(rendezvous("env://", timeout=START))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=SILENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {os.environ.get('RANK')} can't reach the others ({first_line(error)}); "
            "GLOO_SOCKET_IFNAME=eth0, or the like, names the network to them"
        ) from None
    ranks = Ranks(rank, size, store)
    with contextlib.ExitStack() as held:
        held.callback(_leave)
        held.enter_context(_stoppable(ranks))
        if not ranks.first:
            nowhere = held.enter_context(Path(os.devnull).open("w"))
            held.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield ranks
        except KeyboardInterrupt:  # torchrun hands it to all, and the first one says so
            if ranks.first:
                raise
            raise SystemExit(130) from None
        except Stopped:
            raise ranks.without("somebody stops all (SIGTERM)") from None


@contextlib.contextmanager
def _stoppable(ranks: Ranks) -> Iterator[None]:
    """Within it SIGTERM is an exception, so that nothing half-written is left, and is said."""

    def stop(*_: object) -> None:
        if not ranks.ending.is_set():
            ranks.ending.set()
            raise Stopped("stopped (SIGTERM); torchrun does so where another rank has ended")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_main() -> None:
    """A SIGTERM to the main thread, which wakes it from a system call, too."""
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _leave() -> None:
    if dist.is_initialized():  # who has called the roll has left already
        dist.destroy_process_group()
