"""What turning a method's dials hides and costs: `python -m benchmarks.frontier`.

Runs every combination of configs/frontier.json and audits it at once, since runs that differ in
such settings follow one another in one folder. Their rows go into the config's record, and what
has its rows is not done again; `python -m utils.reproduction` shows them in
exp_results/tables/erasers.md. A point of ML-100K takes 35 s on one core, of ML-1M 80 s, beside the
training of the originals, which all points of a seed share: another processor's are others.
"""

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path

import attack
import main as unlearning
from methods import ExperimentConfig
from utils.config import AttackConfig, RunConfig, load_configs
from utils.messages import sweep_keys, sweep_point
from utils.runs.logs import console
from utils.runtime import set_threads


def audit_of(config: RunConfig) -> AttackConfig:
    """The audit of a run: the keys that both have are the run's."""
    names = {field.name for field in fields(AttackConfig)}
    common = {key: value for key, value in asdict(config).items() if key in names}
    return replace(AttackConfig(), **common | {"attack": "audit"})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/frontier.json"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key")
    options = parser.parse_args()
    choices = unlearning.COMMAND.choices
    configs = load_configs(ExperimentConfig, options.config, options.overrides, choices)
    keys = sweep_keys(configs)
    with console():
        for number, config in enumerate(configs, start=1):
            print(f"[{number} of {len(configs)}] {sweep_point(config, keys)}")
            set_threads(config.threads)
            unlearning.run(config)
            attack.run(audit_of(config))


if __name__ == "__main__":
    main()
