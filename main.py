"""Train a recommender, unlearn a user attribute, and evaluate what is left of both.

python main.py [--config FILE] [key=value ...]; configs/exp_config.json says what to do.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from data.dataset import Attribute, Dataset, load_attribute, load_dataset
from data.formats import default_min_interactions
from data.prepare import PrepareSettings, prepared_folder
from data.sampling import NegativeSampler
from methods import METHODS
from methods.regularizers import frobenius, ranking
from methods.unlearning import Objective, Unlearned, unlearn
from models import MODELS, Recommender, build_model, top_items
from utils.cli import command
from utils.config import Choices, ExperimentConfig
from utils.logs import log_file
from utils.metrics import evaluate
from utils.report import describe_run, sweep_table
from utils.runs import RunFolder, load_weights, run_path, save_embedding, save_weights
from utils.runtime import environment, peak_memory_mb, resolve_device
from utils.seeds import torch_generator
from utils.training import Trained, TrainingSettings, train

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
    folder = RunFolder.of(config, method.groups, {"data": dataset.checksum})
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
        if method.distinguishability:
            model, unlearned = unlearn_embedding(
                config, dataset, attribute, method.distinguishability
            )
            outcome = unlearned.summary() | {"original": original["test"]}
        else:
            model, trained = train_recommender(config, dataset, folder)
            outcome = trained.summary()
        embedding = model.user_embedding.detach().cpu().numpy()
        save_weights(folder.weights_path(config.target_model), model.state_dict())
        summary = {
            "config": asdict(config),
            "attribute": {"name": attribute.name, "users": attribute.counts()},
            "sizes": dataset.sizes(),
            "test": evaluate(model.score, dataset.test),
            **outcome,
            "peak_memory_mb": peak_memory_mb(),
            "environment": environment(device),
            "checksums": {
                "data": dataset.checksum,
                "user_embedding": save_embedding(folder.embedding_path, embedding),
            },
        }
        folder.finish(summary)
        describe_run(summary, folder.path, next_steps=asked)
    return summary


def load_data(config: ExperimentConfig, device: torch.device) -> tuple[Dataset, Attribute]:
    """Fetch and prepare the data if need be, then read it onto the device."""
    minimum = config.min_interactions or default_min_interactions(config.dataset)
    settings = PrepareSettings(
        minimum,
        config.test_num_ng,
        config.split_seed,
        config.user_column,
        config.item_column,
        config.time_column,
    )
    folder = prepared_folder(Path(config.dataset_path), config.dataset, settings)
    held_out = config.selection == "validation"
    dataset = load_dataset(folder, config.dataset, held_out, config.split_seed)
    return dataset.to(device), load_attribute(folder, config.attribute)


def fresh_model(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    """The recommender before training; the same on every device."""
    generator = torch_generator(config.seed, "init", config.model)
    model = build_model(
        config.model, dataset.n_users, dataset.n_items, config.embedding_size, generator
    )
    return model.to(dataset.train.device)


def train_recommender(
    config: ExperimentConfig, dataset: Dataset, folder: RunFolder
) -> tuple[Recommender, Trained]:
    """Train from scratch, or go on from the folder's checkpoint."""
    model = fresh_model(config, dataset)
    sampler = NegativeSampler(dataset.train, dataset.n_users, dataset.n_items, config.num_ng)
    settings = TrainingSettings(
        config.lr, config.batch_size, config.epochs, config.selection, config.seed
    )
    return model, train(
        model, model.score, sampler, dataset.validation, dataset.test, settings, folder
    )


def unlearn_embedding(
    config: ExperimentConfig,
    dataset: Dataset,
    attribute: Attribute,
    distinguishability: Callable[[torch.Tensor], Objective],
) -> tuple[Recommender, Unlearned]:
    """Load the finished original and edit its user embedding; all else stays as it is."""
    original = replace(config, method="original")
    folder = RunFolder.of(original, METHODS["original"].groups, {"data": dataset.checksum})
    model = fresh_model(config, dataset)
    load_weights(folder.weights_path(config.target_model), model)
    theta = model.user_embedding.detach()
    unlearned = unlearn(
        theta,
        torch.from_numpy(attribute.labels).to(theta.device),
        distinguishability,
        regularizer(config, model, dataset),
        config.au_trade_off,
        config.unlearn_steps,
        config.unlearn_lr,
    )
    theta.copy_(unlearned.embedding)
    return model, unlearned


def regularizer(config: ExperimentConfig, model: Recommender, dataset: Dataset) -> Objective:
    """l_r of eq. 1, around the model's present state."""
    if config.regularizer == "frobenius":
        return frobenius(model.user_embedding.detach().clone())
    top = top_items(model, dataset.n_users, dataset.n_items, config.ranking_top)
    return ranking(model.embedding_scorer(top), config.ranking_margin)


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
