"""Infer a user attribute from a saved user embedding, as an attacker would.

python attack.py [--config FILE] [key=value ...]; configs/attack_config.json says what to do.
"""

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Attribute, load_attribute
from data.external import load_labels
from methods import METHODS
from models import MODELS
from utils.attack_protocols import Protocol, attack
from utils.attackers import ATTACKERS
from utils.cli import command
from utils.config import AttackConfig, Choices, ExperimentConfig, Group, identity
from utils.embeddings import load_embedding
from utils.errors import UserError
from utils.files import write_json
from utils.logs import log_file
from utils.report import command_for, describe_attack
from utils.runs import run_path
from utils.runtime import available_cores

log = logging.getLogger(__name__)


def run(config: AttackConfig) -> dict[str, Any]:
    """Attack one embedding: a run's, or that of a file."""
    target = target_file(config) if config.user_embedding else target_run(config)
    with log_file(target.log):
        log.info("Attack (%s) on %s", config.protocol, target.title)
        jobs = config.threads or available_cores()
        labels, classes = target.attribute.labels, target.attribute.classes
        result = attack(target.embedding, labels, config.attackers, Protocol.of(config), jobs)
        result |= {
            "attribute": target.attribute.name,
            "positive_class": classes[1] if len(classes) == 2 else None,
        }
        describe_attack(result)
        save(target.result, config, result)
    return result


@dataclass(frozen=True)
class Target:
    """What is attacked, and where to write what came out."""

    title: str
    embedding: np.ndarray
    attribute: Attribute
    result: Path
    log: Path


def load_run(config: AttackConfig) -> np.ndarray:
    """The user embedding (n_users, d) of the finished run that the config names.

    Raises:
        UserError: there is no such run; names the command that makes it.
    """
    folder = run_path(config, METHODS[config.method].groups)
    if not (folder / "summary.json").exists():
        makes_it = command_for("main.py", ExperimentConfig, asdict(config))
        raise UserError(f"{folder} holds no finished run; first: {makes_it}")
    return load_embedding(folder / "weights" / "user_embedding.npy")


def load_run_labels(config: AttackConfig, n_users: int) -> Attribute:
    """The true labels of the users of a run's embedding, which has `n_users` rows."""
    prepared = Path(config.dataset_path) / config.dataset / "preprocess"
    if not prepared.is_dir():
        raise UserError(
            f"{prepared} does not exist; main.py prepares it: "
            f"python main.py dataset={config.dataset} dataset_path={config.dataset_path}"
        )
    attribute = load_attribute(prepared, config.attribute)
    if len(attribute.labels) != n_users:
        raise UserError(
            f"{prepared} describes {len(attribute.labels)} users, but the embedding has {n_users} "
            "rows: it was trained on other data; run main.py again"
        )
    return attribute


def target_run(config: AttackConfig) -> Target:
    """The embedding in a finished run's folder."""
    method = METHODS[config.method]
    folder = run_path(config, method.groups)
    embedding = load_run(config)
    attribute = load_run_labels(config, len(embedding))
    logs = folder / "train_log-attack.log"
    return Target(f"{method.title}: {folder}", embedding, attribute, folder / "attack.json", logs)


def target_file(config: AttackConfig) -> Target:
    """An embedding of your own; results go beside it."""
    path = Path(config.user_embedding or "")
    if not config.labels:
        raise UserError(f"user_embedding {path} needs labels=FILE: who trains the attacker?")
    embedding = load_embedding(path)
    attribute = load_labels(Path(config.labels), config.attribute, len(embedding))
    beside = [path.with_name(f"{path.stem}.attack{ending}") for ending in (".json", ".log")]
    return Target(str(path), embedding, attribute, *beside)


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
