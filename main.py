"""Train a recommender, unlearn a user attribute, and evaluate what is left of both.

python main.py [--config FILE] [key=value ...]; configs/exp_config.json says what to do.
"""

import logging
import sys
from dataclasses import asdict
from typing import Any

from methods import METHODS
from methods.stages import check, task_of
from models import MODELS
from utils.cli import Command, execute
from utils.config import ExperimentConfig, identity
from utils.logs import log_file
from utils.messages import describe_run, remarks, sweep_table
from utils.records import add_run, check_record, find_run, runs
from utils.report import renew_report
from utils.runs import RunFolder, run_path
from utils.runtime import available_cores, environment, peak_memory_mb, resolve_device
from utils.threads import Threads

log = logging.getLogger(__name__)


def run(config: ExperimentConfig, asked: bool = True) -> dict[str, Any]:
    """One run from its config to its folder; returns the summary. A finished run is not redone
    (its summary has the key "found").

    Args:
        config: what to run.
        asked: False for an original that another method starts from.
    """
    device = resolve_device(config.device)
    task = task_of(config, device, run=lambda original: run(original, asked=False))
    folder = RunFolder.of(config, task.groups, task.checksums)
    record = runs(config.record) if config.record else None
    with folder.locked(config.busy):
        if summary := folder.finished():
            if asked:
                log.info("%s is done already; here is what came out.", folder.path)
                describe_run(summary, folder.path)
            if record:
                add_run(record, config, task.groups, summary)
            return summary | {"config": asdict(config), "found": True}
        if asked and record and (summary := find_run(record, config, folder.key)):
            log.info("%s is done already, by its row in %s.", folder.path, record.path)
            return summary | {"found": True}
        folder.start(config)
        with log_file(folder.path / "train_log.log"):
            log.info("%s: %s", METHODS[config.method].title, folder.path)
            if not asked:
                log.info("  (trained first: the method starts from it)")
            threads = Threads(1 if config.threads else available_cores())
            summary = {"config": asdict(config), **task.work(folder, threads)}
            summary |= {
                "remarks": remarks(summary),
                "peak_memory_mb": peak_memory_mb(),
                "environment": environment(device) | {"threads": threads.used},
                "checksums": {**task.checksums, **folder.checksums()},
            }
            summary = folder.finish(summary)
            describe_run(summary, folder.path, next_steps=asked)
        if record:
            add_run(record, config, task.groups, summary)
    return summary


def check_run(config: ExperimentConfig) -> None:
    """Refuse keys that make no sense together, and a record that isn't one."""
    check(config)
    if config.record:
        check_record(runs(config.record), config)


def same(config: ExperimentConfig) -> str:
    """What tells a run apart within a sweep."""
    groups = METHODS[config.method].groups
    return f"{run_path(config, groups)} {identity(config, groups)}"


def close(summaries: list[dict[str, Any]], config: ExperimentConfig) -> None:
    """Show a sweep's results, and renew the report beside its record."""
    sweep_table(summaries)
    renew_report(config.record)


COMMAND = Command(
    program="main.py",
    config=ExperimentConfig,
    default_config="configs/exp_config.json",
    choices={"method": METHODS, "model": MODELS},
    check=check_run,
    same=same,
    run=run,
    close=close,
    kept="Finished epochs and runs are kept.",
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return execute(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
