"""CPU threads of a loop of steps: so many, or as many as are faster at the moment.

Where nothing else runs, all cores do a step sooner than one. Beside another busy process they can
take ten times as long: a parallel loop ends when its slowest thread does, and threads that wait for
one that isn't running burn the core that it needs. Which case it is shows only in the time taken,
and changes while a training goes on. A step's result doesn't depend on the number of threads, to
the byte (tests/test_threads.py), so the number may change from step to step.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

LOOK = 5
"""Steps from which the time of a step is judged, by their median."""

HOPELESS = 3
"""A number of threads whose first two steps take so many times the other's gets no further ones."""

SHARE = 0.04
"""About the most of the time that finding out takes, beyond what the better number takes anyway."""

REST = 1.0
"""Seconds from one look to the next, at least."""

SURPRISE = 1.25
"""A look is also due when steps take so many times what they took with the other number."""


class Threads:
    """Chooses the number of threads for every step: one or `most`, whichever is faster.

    Args:
        most: cores that may be used; with 1 torch's number of threads is left as it is.
        use: sets the number.
        clock: seconds.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._most, self._use, self._clock = most, use, clock
        self._now = 0  # not yet set
        # a step's kind: what chooses for it, and what that chose for the next one
        self._plans: dict[Hashable, tuple[Generator[int, float, None], int]] = {}
        self._steps: Counter[int] = Counter()

    @contextmanager
    def step(self, kind: Hashable = None) -> Iterator[None]:
        """Within it a step is done; only steps of a kind are compared with one another."""
        if self._most == 1:
            yield
            return
        if kind not in self._plans:
            plan = _plan(self._most)
            self._plans[kind] = plan, next(plan)
        plan, number = self._plans[kind]
        if number != self._now:
            self._use(number)
            self._now = number
        start = self._clock()
        yield
        self._plans[kind] = plan, plan.send(self._clock() - start)
        self._steps[number] += 1

    @property
    def used(self) -> int | str:
        """Torch's number; "1-2", say, where both were used."""
        numbers = sorted(self._steps)
        return "-".join(map(str, numbers)) if len(numbers) > 1 else torch.get_num_threads()


UNCHANGED = Threads(1)
"""Torch's number of threads, whatever it is."""


def _plan(most: int) -> Generator[int, float, None]:
    """Yields the number of threads for the next step; is sent the seconds that it took."""
    faster, slower = 1, most
    while True:
        took: dict[int, list[float]] = {faster: [], slower: []}
        while len(took[faster]) < LOOK:
            took[faster].append((yield faster))
        usual = median(took[faster])
        while len(took[slower]) < 2 or (
            len(took[slower]) < LOOK and min(took[slower]) <= HOPELESS * usual
        ):
            took[slower].append((yield slower))
        faster, slower = sorted((faster, slower), key=lambda number: median(took[number]))
        usual, other = median(took[faster]), median(took[slower])
        cost = sum(took[slower]) - len(took[slower]) * usual
        rest, recent = max(REST, cost / SHARE), deque([usual] * LOOK, LOOK)
        while rest > 0 and median(recent) <= SURPRISE * other:
            recent.append((yield faster))
            rest -= recent[-1]


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch has one thread: for a sum whose order depends on their number."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)
