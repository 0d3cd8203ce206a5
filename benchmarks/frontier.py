"""What turning a method's dials hides and costs: `python -m benchmarks.frontier`.

Runs every combination of configs/frontier.json and audits it at once, since runs that differ in
such settings follow one another in one folder. Their rows go into the config's record, and what
has its rows is not done again; `python -m utils.reproduction` shows them in
exp_results/tables/erasers.md. A point of ML-100K takes 35 s on one core, of ML-1M 80 s, beside the
training of the originals, which all points of a seed share: another processor's are others.
"""

import sys
from dataclasses import asdict, fields, replace
from typing import Any

import attack
import main as unlearning
from utils.cli import execute
from utils.config import AttackConfig, RunConfig
from utils.messages import sweep_table


def audit_of(config: RunConfig) -> AttackConfig:
    """The audit of a run: the keys that both have are the run's."""
    names = {field.name for field in fields(AttackConfig)}
    common = {key: value for key, value in asdict(config).items() if key in names}
    return replace(AttackConfig(), **common | {"attack": "audit"})


def run(config: RunConfig) -> dict[str, Any]:
    """A run, audited before another takes its folder; returns the run's summary."""
    summary = unlearning.run(config)
    attack.run(audit_of(config))
    return summary


COMMAND = replace(
    unlearning.COMMAND,
    program="-m benchmarks.frontier",
    default_config="configs/frontier.json",
    run=run,
    close=lambda summaries, config: sweep_table(summaries),  # the report has its own command
)

if __name__ == "__main__":
    sys.exit(execute(COMMAND))
