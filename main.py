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
from utils.config import ExperimentConfig
from utils.logs import log_file
from utils.report import describe_run, remarks, sweep_table
from utils.runs import RunFolder
from utils.runtime import environment, peak_memory_mb, resolve_device

log = logging.getLogger(__name__)


def run(config: ExperimentConfig, asked: bool = True) -> dict[str, Any]:
    """One run from its config to its folder; returns the summary. A finished run is not redone.

    Args:
        config: what to run.
        asked: False for an original that another method starts from.
    """
    device = resolve_device(config.device)
    task = task_of(config, device, run=lambda original: run(original, asked=False))
    folder = RunFolder.of(config, task.groups, task.checksums)
    with folder.locked(config.busy):
        if summary := folder.finished():
            if asked:
                log.info("%s is done already; here is what came out.", folder.path)
                describe_run(summary, folder.path)
            return summary
        folder.start(config)
        with log_file(folder.path / "train_log.log"):
            log.info("%s: %s", METHODS[config.method].title, folder.path)
            if not asked:
                log.info("  (trained first: the method starts from it)")
            summary = {"config": asdict(config), **task.work(folder)}
            summary |= {
                "remarks": remarks(summary),
                "peak_memory_mb": peak_memory_mb(),
                "environment": environment(device),
                "checksums": {**task.checksums, **folder.checksums()},
            }
            folder.finish(summary)
            describe_run(summary, folder.path, next_steps=asked)
    return summary


COMMAND = Command(
    program="main.py",
    config=ExperimentConfig,
    default_config="configs/exp_config.json",
    choices={"method": METHODS, "model": MODELS},
    check=check,
    run=run,
    close=sweep_table,
    kept="Finished epochs and runs are kept.",
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return execute(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
