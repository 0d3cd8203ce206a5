"""An epoch's training steps: run one by one, or recorded once and replayed.

A step of NCF is some fifty small operations: launched one at a time from Python, a GPU would wait
for the CPU most of the time. Recorded as a CUDA graph, a step is one launch. A
recording repeats the very same kernels on the very same memory, so all that changes from step to
step must lie in tensors that stay where they are: the epoch's data, the number of the batch, which
the step itself moves on, and the losses, which it writes. Nothing is read back within an epoch.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from utils.errors import first_line
from utils.threads import UNCHANGED, Threads

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""Three parts of a batch, each (n,); of an epoch's data, each (n_examples,)."""

Step = Callable[[Batch, bool], tuple[Tensor, Tensor]]
"""Updates the parameters from a batch, with or without the penalty; gives two losses, scalars.

All that it changes must be in tensors that exist after a first call and stay where they are.
"""

Work = Callable[[], None]

MOST_LOOKUPS = 3072
"""Rows of a table that a recorded step may look up at once: with more, the gradient of PyTorch's
embedding() sorts them on the GPU and waits for it (github.com/pytorch/pytorch/issues/82886). Steps
that large gain little from a recording.
"""

WARM_UP = 3
"""Steps of a kind before it is recorded, as many as PyTorch's documentation has."""


class Recorder(Protocol):
    """Records work on a device; see CudaGraphs."""

    def warm_up(self, work: Work) -> None:
        """Do `work` under a recording's conditions, for all that happens the first time only."""

    def record(self, work: Work) -> Work:
        """Record `work` without doing it; gives what does it.

        Raises:
            RuntimeError: it can't be recorded.
        """


class CudaGraphs:
    """Work on a GPU, recorded as CUDA graphs, each with memory of its own.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Work) -> None:
        """On the stream that will record: libraries prepare their workspaces a stream each."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Work:
        """The recording of `work`; nothing runs on the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        # the outer stream comes back even where ending a broken recording raises
        with (
            torch.cuda.device(self.device),
            torch.cuda.stream(torch.cuda.current_stream(self.device)),
            torch.cuda.graph(graph, stream=self.stream),
        ):
            work()
        return graph.replay


def recorder_for(device: torch.device, lookups: int) -> Recorder | None:
    """What records steps on this device that look up so many rows, if there is a gain in it."""
    return CudaGraphs(device) if device.type == "cuda" and lookups <= MOST_LOOKUPS else None


class PlainSteps:
    """Steps one by one, each on a slice of the data."""

    def __init__(self, step: Step, size: int, threads: Threads = UNCHANGED):
        self.step, self.size, self.threads = step, size, threads

    def epoch(self, data: Batch, with_penalty: Callable[[int], bool], tick: Work) -> Tensor:
        """One pass over the data.

        Args:
            data: the epoch's.
            with_penalty: whether the batch of this number, from 0, has the penalty's term.
            tick: called after every step.

        Returns:
            (batches, 2), what the steps gave.
        """
        # written to one place: a small tensor kept from every step would lie between the large
        # blocks that the steps free and take again, and keep them from fitting
        losses = torch.zeros(math.ceil(len(data[0]) / self.size), 2, device=data[0].device)
        batches = zip(*(part.split(self.size) for part in data), strict=True)
        for number, batch in enumerate(batches):
            penalised = with_penalty(number)
            with self.threads.step(penalised):
                recommendation, total = self.step(cast(Batch, batch), penalised)
                losses[number, 0], losses[number, 1] = recommendation, total
            tick()
        return losses


class ReplayedSteps:
    """The same steps, each kind recorded once and replayed from then on.

    A kind is a batch's length, with or without the penalty: the full batches and the last, smaller
    one have recordings of their own, and so have retrain's batches with and without its term.

    The first WARM_UP steps of a kind are run as they are. They are steps of the training like any
    other, so warming up changes nothing that would have to be put back, and recording runs
    nothing. A step makes its gradients and uses them up within itself: parameters and the
    optimizer's state are all that passes from one step to the next, and these are the same
    tensors whether a step is run or replayed.

    Where recording fails all steps are run as they are, after one warning.
    """

    def __init__(self, step: Step, size: int, recorder: Recorder):
        self.step, self.size = step, size
        self.recorder: Recorder | None = recorder
        self.examples = 0

    def epoch(self, data: Batch, with_penalty: Callable[[int], bool], tick: Work) -> Tensor:
        """As PlainSteps.epoch."""
        self._load(data)
        for number in range(len(self.losses)):
            length = min(self.size, self.examples - number * self.size)
            self._do((length, with_penalty(number)))
            tick()
        return self.losses.clone()

    def _load(self, data: Batch) -> None:
        """Put the data where the recordings look for it, a row a batch."""
        if len(data[0]) != self.examples:
            self.examples = len(data[0])
            rows = math.ceil(self.examples / self.size)
            self.data = [part.new_zeros(rows, self.size) for part in data]
            self.losses = torch.zeros(rows, 2, device=data[0].device)
            self.number = torch.zeros(1, dtype=torch.int64, device=data[0].device)
            self.seen: Counter[tuple[int, bool]] = Counter()
            self.recorded: dict[tuple[int, bool], Work] = {}
        for kept, part in zip(self.data, data, strict=True):
            kept.view(-1)[: self.examples] = part
        self.number.zero_()

    def _do(self, kind: tuple[int, bool]) -> None:
        """The next step, of this kind."""
        work = partial(self._next, *kind)
        if self.recorder is None:
            work()
        elif self.seen[kind] < WARM_UP:
            self.seen[kind] += 1
            self.recorder.warm_up(work)
        else:
            if kind not in self.recorded:
                self.recorded[kind] = self._record(self.recorder, work)
            self.recorded[kind]()

    def _record(self, recorder: Recorder, work: Work) -> Work:
        try:
            return recorder.record(work)
        except RuntimeError as error:
            log.warning(
                "a training step can't be recorded (%s); going on without", first_line(error)
            )
            self.recorder = None
            return work

    def _next(self, length: int, with_penalty: bool) -> None:
        """What is recorded: the step on the batch at `number`."""
        users, items, third = (part.index_select(0, self.number)[0, :length] for part in self.data)
        losses = self.step((users, items, third), with_penalty)
        self.losses.index_copy_(0, self.number, torch.stack(losses)[None])
        self.number.add_(1)
