"""What a long run needs to go on after an interruption, in one file of its folder."""

import logging
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch

from utils.errors import first_line, in_one_line
from utils.runs.files import replace_file

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds of work that an interruption may cost."""


class Progress(Protocol):
    """Keeps the state of a long piece of work, for whoever does it again after an interruption."""

    def load(self) -> Mapping[str, Any] | None:
        """The state kept last; None where there is none."""

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep a state, tensors, numbers and text by name, if it is time to."""


class Forgetful:
    """Keeps nothing."""

    def load(self) -> None:
        """Nothing was kept."""

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Not now."""


FORGETFUL = Forgetful()


class CheckpointFile:
    """Keeps the state in a file, whenever EVERY seconds have passed since it did so last.

    Args:
        path: the file; dropped by who owns the run.
        work: what is kept, for messages.
        device: where its tensors go.
        writes: False for whoever only reads what another one keeps.
    """

    def __init__(self, path: Path, work: str, device: torch.device, writes: bool = True):
        self.path, self.work, self.device, self.writes = path, work, device, writes
        self._last = time.monotonic()

    def load(self) -> Mapping[str, Any] | None:
        """As every `Progress`; a damaged file is warned of."""
        return load_checkpoint(self.path, self.work, self.device)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """As every `Progress`."""
        if self.writes and time.monotonic() - self._last >= EVERY:
            save_checkpoint(self.path, state())
            self._last = time.monotonic()


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers and text by name, whole or not at all."""
    with replace_file(path) as file:
        torch.save(dict(content), file)


def load_checkpoint(path: Path, work: str, device: torch.device) -> dict[str, Any] | None:
    """What was saved, without running anything in it; None where nothing was, or it is damaged.

    Args:
        path: the file.
        work: what it is of, for a warning.
        device: where its tensors go.

    Raises:
        OSError, MemoryError: the machine can't read it now.
    """
    if not path.exists():
        return None
    # read first: of a damaged file torch raises errors that look like the disk's
    content = BytesIO(path.read_bytes())
    try:
        saved = torch.load(content, map_location=device, weights_only=True)
        if not isinstance(saved, dict):
            raise ValueError("it holds no names")
    except Exception as error:  # a damaged pickle can raise anything at all
        if in_one_line(error):  # out of memory: the checkpoint may be whole
            raise
        damaged(path, work, error)
        return None
    return saved


def damaged(path: Path, work: str, error: Exception) -> None:
    """Say that a checkpoint can't be gone on from, and why."""
    reason = first_line(error)
    log.warning("%s is damaged (%s); nothing in it was run, %s starts anew", path, reason, work)
