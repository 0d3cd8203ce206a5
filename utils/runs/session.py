"""A run from its lock to its summary: found finished, or made now."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import torch

from utils.config import Groups, RunConfig
from utils.messages import describe_run, remarks
from utils.ranks import Ranks
from utils.runs.folder import RunFolder
from utils.runs.logs import log_file
from utils.runs.records import add_run, find_run, runs
from utils.runtime import environment, forget_peak_memory, peak_memory_mb
from utils.threads import Threads

log = logging.getLogger(__name__)


class Session:
    """What the work of a run is given, and where it leaves what came out.

    Attributes:
        folder: the run's; the first rank alone writes there.
        ranks: who do the work.
        summary: of the finished run; None until there is one.
    """

    def __init__(self, folder: RunFolder, ranks: Ranks):
        self.folder, self.ranks = folder, ranks
        self.summary: dict[str, Any] | None = None

    def finish(
        self,
        config: RunConfig,
        results: dict[str, Any],
        checksums: Mapping[str, str],
        device: torch.device,
        threads: Threads,
    ) -> None:
        """Write the summary, which makes the run done; the embedding is there by now."""
        processes = {"processes": self.ranks.size} if self.ranks.size > 1 else {}

        def write() -> dict[str, Any]:
            summary = {"config": asdict(config), **results}
            summary |= {
                "remarks": remarks(summary),
                "peak_memory_mb": peak_memory_mb(),
                "environment": environment(device) | {"threads": threads.used} | processes,
                "checksums": {**checksums, **self.folder.checksums()},
            }
            return self.folder.finish(summary)

        self.summary = self.ranks.told(write)


@contextmanager
def session(
    config: RunConfig,
    groups: Groups,
    checksums: Mapping[str, str],
    title: str,
    asked: bool,
    original: RunFolder | None,
    ranks: Ranks,
) -> Iterator[Session]:
    """A run's folder, locked, with its log and record. A finished run has a summary from the start
    (with the key "found"); any other is to be finished within the context. Of several ranks the
    first one holds all that and tells the others.

    Args:
        config: the run's.
        groups: which of its keys the result depends on.
        checksums: of the files that it depends on.
        title: the method's.
        asked: False for an original that another method starts from.
        original: the run that the method starts from.
        ranks: who do the work.

    Raises:
        UserError: another process is at work there and `busy` is "end".
    """
    this = Session(RunFolder.of(config, groups, checksums), ranks)
    with ExitStack() as held:

        def begin() -> dict[str, Any] | None:
            held.enter_context(_begun(this, config, groups, title, asked, original))
            return this.summary

        this.summary = ranks.told(begin)
        yield this


@contextmanager
def _begun(
    this: Session,
    config: RunConfig,
    groups: Groups,
    title: str,
    asked: bool,
    original: RunFolder | None,
) -> Iterator[None]:
    """What the first rank holds of a session."""
    folder = this.folder
    record = runs(config.record) if config.record else None
    with folder.locked(config.busy):
        if original and original.path.exists() and not original.finished():
            with original.locked(config.busy):
                original.found()
        start = original.embedding_path if original else None
        if summary := folder.found(start, weights=not asked):
            summary |= {"config": asdict(config)}
            if asked:
                log.info("%s is done already; here is what came out.", folder.path)
                describe_run(summary, folder.path, type(config))
            if record:
                add_run(record, config, groups, summary)
            this.summary = summary | {"found": True}
            yield
            return
        if asked and record and (summary := find_run(record, config, folder.key)):
            log.info("%s is done already, by its row in %s.", folder.path, record.path)
            this.summary = summary | {"found": True}
            yield
            return
        folder.start(config)
        with log_file(folder.path / "train_log.log"):
            log.info("%s: %s", title, folder.path)
            if not asked:
                log.info("  (trained first: the method starts from it)")
            forget_peak_memory()  # of earlier runs of a sweep
            yield
            forget_peak_memory()  # a method goes on whose original this was
            assert this.summary is not None
            if record:  # before printing: nobody may be reading
                add_run(record, config, groups, this.summary)
            describe_run(this.summary, folder.path, type(config), next_steps=asked)
