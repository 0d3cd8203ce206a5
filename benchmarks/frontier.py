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


def audits_of(config: RunConfig) -> list[AttackConfig]:
    """The audits of a run, by attackers who were trained on its vectors, and on the original's; the
    keys that a run has too are the run's.
    """
    names = {field.name for field in fields(AttackConfig)}
    common = {key: value for key, value in asdict(config).items() if key in names}
    audit = replace(AttackConfig(), **common | {"attack": "audit"})
    return [replace(audit, audit_trained_on=which) for which in ("audited", "original")]


def run(config: RunConfig) -> dict[str, Any]:
    """A run, audited before another takes its folder; returns the run's summary."""
    summary = unlearning.run(config)
    for audit in audits_of(config):
        attack.run(audit)
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
