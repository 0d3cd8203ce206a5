"""Infer a user attribute from a saved user embedding, as an attacker would.

python attack.py [--config FILE] [key=value ...]; configs/attack_config.json says what to do.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Attribute, load_attribute
from methods import METHODS
from models import MODELS
from utils.attack_protocols import Protocol, attack
from utils.attackers import ATTACKERS
from utils.cli import command
from utils.config import AttackConfig, Choices, ExperimentConfig, Group, identity
from utils.errors import UserError
from utils.files import write_json
from utils.logs import log_file
from utils.report import command_for, describe_attack
from utils.runs import load_embedding, run_path
from utils.runtime import available_cores

log = logging.getLogger(__name__)


def run(config: AttackConfig) -> dict[str, Any]:
    """Attack one run's embedding; the result goes to attack.json in its folder."""
    method = METHODS[config.method]
    folder = run_path(config, method.groups)
    embedding = load_run(config)
    attribute = load_labels(config, len(embedding))
    with log_file(folder / "train_log-attack.log"):
        log.info(
            "Attack (%s) on %s of %s on %s, seed %d",
            config.protocol,
            method.title,
            config.model,
            config.dataset,
            config.seed,
        )
        jobs = config.threads or available_cores()
        result = attack(embedding, attribute.labels, config.attackers, Protocol.of(config), jobs)
        result |= {
            "attribute": attribute.name,
            "positive_class": attribute.classes[1] if len(attribute.classes) == 2 else None,
        }
        describe_attack(result)
        save(folder / "attack.json", config, result)
    return result


def load_run(config: AttackConfig) -> np.ndarray:
    """The user embedding (n_users, d) of the finished run that the config names.

    Raises:
        UserError: there is no such run; names the command that makes it.
    """
    folder = run_path(config, METHODS[config.method].groups)
    if not (folder / "summary.json").exists():
        command_line = command_for("main.py", ExperimentConfig, asdict(config))
        raise UserError(f"{folder} holds no finished run; first: {command_line}")
    return load_embedding(folder / "weights" / "user_embedding.npy")


def load_labels(config: AttackConfig, n_users: int) -> Attribute:
    """The true labels of the users of the embedding's rows."""
    folder = Path(config.dataset_path) / config.dataset / "preprocess"
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist; main.py prepares it: "
            f"python main.py dataset={config.dataset} dataset_path={config.dataset_path}"
        )
    attribute = load_attribute(folder, config.attribute)
    if len(attribute.labels) != n_users:
        raise UserError(
            f"{folder} describes {len(attribute.labels)} users, but the embedding has {n_users} "
            "rows: it was trained on other data; run main.py again"
        )
    return attribute


def save(path: Path, config: AttackConfig, result: dict[str, Any]) -> None:
    """Add the result to the run's attack.json, an entry an attribute and protocol."""
    content = json.loads(path.read_text()) if path.exists() else {}
    settings = identity(config, [Group.ATTACK])
    content[f"{config.attribute}/{config.protocol}"] = {"settings": settings, **result}
    write_json(path, content)
    log.info("  saved in %s", path)


def run_all(configs: list[AttackConfig]) -> None:
    """Every combination of a sweep."""
    for config in configs:
        run(config)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    choices: Choices = {"method": METHODS, "model": MODELS, "attackers": ATTACKERS}
    kept = "Attacks that had ended are saved."
    return command(AttackConfig, "configs/attack_config.json", choices, run_all, kept, argv)


if __name__ == "__main__":
    sys.exit(main())
