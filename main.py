"""Train a recommender, unlearn a user attribute, and evaluate what is left of both.

python main.py [--config FILE] [key=value ...]; configs/exp_config.json says what to do.
"""

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from data.dataset import Attribute, Dataset, load_attribute, load_dataset
from data.prepare import PrepareSettings, prepared_folder
from methods import METHODS
from methods.stages import train_recommender, unlearn_embedding
from models import MODELS
from utils.cli import command
from utils.config import Choices, ExperimentConfig, Group
from utils.files import write_json_lines
from utils.logs import log_file
from utils.metrics import evaluate
from utils.report import describe_run, sweep_table
from utils.runs import RunFolder, run_path, save_embedding, save_weights
from utils.runtime import environment, peak_memory_mb, resolve_device

log = logging.getLogger(__name__)


def run(config: ExperimentConfig, asked: bool = True) -> dict[str, Any]:
    """One run from its config to its folder; returns the summary. A finished run is not redone.

    Args:
        config: what to run.
        asked: False for an original that another method starts from.
    """
    method = METHODS[config.method]
    device = resolve_device(config.device)
    dataset, attribute = load_data(config, device)
    checksums = {"data": dataset.checksum} | ({"labels": attribute.checksum} if attribute else {})
    folder = RunFolder.of(config, method.groups, checksums)
    if summary := folder.finished():
        if asked:
            log.info("%s is done already; here is what came out.", folder.path)
            describe_run(summary, folder.path)
        return summary
    original = {}
    if method.distinguishability:
        original = run(replace(config, method="original"), asked=False)
    folder.start(config)
    with log_file(folder.path / "train_log.log"):
        log.info("%s of %s on %s, seed %d", method.title, config.model, config.dataset, config.seed)
        if not asked:
            log.info("(trained first, since the method starts from it)")
        labels = torch.from_numpy(attribute.labels).to(device) if attribute else None
        if method.distinguishability:
            model, unlearned = unlearn_embedding(config, dataset, labels)
            write_json_lines(folder.path / "metrics.jsonl", unlearned.history)
            outcome = unlearned.summary() | {"original": original["test"]}
        else:
            model, trained = train_recommender(config, dataset, labels, folder)
            outcome = trained.summary()
        save_weights(folder.weights_path(config.target_model), model.state_dict())
        embedding = model.user_embedding.detach().cpu().numpy()
        checksums["user_embedding"] = save_embedding(folder.embedding_path, embedding)
        summary = {
            "config": asdict(config),
            "sizes": dataset.sizes(),
            "users_of_class": attribute.counts() if attribute else None,
            "test": evaluate(model.scorer(), dataset.test),
            **outcome,
            "peak_memory_mb": peak_memory_mb(),
            "environment": environment(device),
            "checksums": checksums,
        }
        folder.finish(summary)
        describe_run(summary, folder.path, next_steps=asked)
    return summary


def load_data(config: ExperimentConfig, device: torch.device) -> tuple[Dataset, Attribute | None]:
    """Fetch and prepare the data if need be, then read it; the attribute if the method needs it."""
    settings = PrepareSettings(config.min_interactions, config.test_num_ng, config.split_seed)
    folder = prepared_folder(Path(config.dataset_path), config.dataset, settings)
    dataset = load_dataset(folder, config.dataset, config.selection == "validation")
    needed = Group.ATTRIBUTE in METHODS[config.method].groups
    attribute = load_attribute(folder, config.attribute) if needed else None
    return dataset.to(device), attribute


def run_all(configs: list[ExperimentConfig]) -> None:
    """Every combination of a sweep, and a table at its end."""
    summaries = [run(config) for config in configs]
    if len(summaries) > 1:
        paths = [run_path(config, METHODS[config.method].groups) for config in configs]
        sweep_table(paths, summaries)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    choices: Choices = {"method": METHODS, "model": MODELS}
    kept = "Finished epochs and runs are kept: the same command goes on from there."
    return command(ExperimentConfig, "configs/exp_config.json", choices, run_all, kept, argv)


if __name__ == "__main__":
    sys.exit(main())
