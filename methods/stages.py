"""What a run consists of: train a recommender, or unlearn a trained one's user embedding, or one
from a file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.adjacency import cached_adjacency, to_torch
from data.dataset import Attribute, Dataset, load_attribute, load_dataset
from data.external import load_labels
from data.formats import default_min_interactions
from data.prepare import PrepareSettings, locked_dataset, prepared_folder
from data.sampling import NegativeSampler
from methods import METHODS
from methods.objective import Objective
from methods.regularizers import frobenius, ranking
from methods.unlearning import Optimizer, Unlearned, unlearn
from models import Recommender, build_model, top_items
from utils.config import ExperimentConfig, Group
from utils.embeddings import load_embedding, save_embedding
from utils.errors import UserError
from utils.files import file_checksum, write_json_lines
from utils.metrics import evaluate
from utils.runs import RunFolder, load_weights, save_weights
from utils.runtime import resolve_device
from utils.seeds import torch_generator
from utils.threads import Threads
from utils.trainer import TrainingSettings
from utils.training import Trained, train

Run = Callable[[ExperimentConfig], dict[str, Any]]
"""Makes sure that a run is finished; gives its summary."""


@dataclass(frozen=True)
class Task:
    """A run before it is run.

    Attributes:
        groups: config keys that the result depends on.
        checksums: of the files that it depends on.
        work: fills the run folder with all but the summary, with so many threads; returns the
            summary's results.
    """

    groups: frozenset[Group]
    checksums: Mapping[str, str]
    work: Callable[[RunFolder, Threads], dict[str, Any]]


def task_of(config: ExperimentConfig, device: torch.device, run: Run) -> Task:
    """The task of a config; `run` provides the original that a post-training method edits."""
    if config.user_embedding:
        return _file_task(config, device)
    return _dataset_task(config, device, run)


def check(config: ExperimentConfig) -> None:
    """Refuse keys that make no sense together.

    Raises:
        UserError: says which, and what to do.
    """
    resolve_device(config.device)
    path = config.user_embedding
    if config.target_model == "user_embedding.npy":
        raise UserError("target_model can't be \"user_embedding.npy\", the embedding's own name")
    if config.labels and not path:
        raise UserError(f"labels {config.labels} belongs to user_embedding=FILE, which is missing")
    edits = METHODS[config.method].distinguishability
    if path and not (edits and config.regularizer == "frobenius" and config.labels):
        able = ", ".join(name for name in METHODS if METHODS[name].distinguishability)
        raise UserError(
            f"user_embedding {path} needs labels=FILE, a method that edits a finished embedding "
            f'({able}) and regularizer "frobenius": there is no model to train or to rank with'
        )
    has_closed_form = config.method == "u2u" and config.regularizer == "frobenius"
    if edits and config.unlearn_optimizer == "exact" and not has_closed_form:
        raise UserError(
            f'method "{config.method}" with regularizer "{config.regularizer}" has no closed form, '
            'only "u2u" with "frobenius"; take unlearn_optimizer "adam"'
        )


def _dataset_task(config: ExperimentConfig, device: torch.device, run: Run) -> Task:
    method = METHODS[config.method]
    dataset, attribute = load_data(config, device)
    labels = torch.from_numpy(attribute.labels).to(device) if attribute else None
    if method.distinguishability and config.regularizer == "ranking":
        _check_ranking(config, dataset)

    def work(folder: RunFolder, threads: Threads) -> dict[str, Any]:
        if method.distinguishability:
            original = run(replace(config, method="original"))
            model, unlearned = unlearn_recommender(config, dataset, labels, threads)
            write_json_lines(folder.path / "metrics.jsonl", unlearned.history)
            outcome = unlearned.summary() | {"original": original["test"]}
        else:
            model, trained = train_recommender(config, dataset, labels, folder, threads)
            outcome = trained.summary()
            if model.training_path:
                outcome["propagation"] = model.training_path
        save_weights(folder.weights_path(config.target_model), model.state_dict())
        save_embedding(folder.embedding_path, model.user_embedding.detach().cpu().numpy())
        return {
            "sizes": dataset.sizes(),
            "users_of_class": attribute.counts() if attribute else None,
            "test": evaluate(model.scorer(), dataset.test),
            **outcome,
        }

    checksums = {"data": dataset.checksum} | ({"labels": attribute.checksum} if attribute else {})
    return Task(method.groups, checksums, work)


def _check_ranking(config: ExperimentConfig, dataset: Dataset) -> None:
    if config.ranking_top > dataset.n_items:
        raise UserError(
            f"ranking_top {config.ranking_top} is more than the {dataset.n_items} items of "
            f"{config.dataset}; lower it"
        )


def _file_task(config: ExperimentConfig, device: torch.device) -> Task:
    assert config.user_embedding and config.labels  # checked at the door
    path = Path(config.user_embedding)
    theta_star = load_embedding(path)
    attribute = load_labels(Path(config.labels), config.attribute, len(theta_star))

    def work(folder: RunFolder, threads: Threads) -> dict[str, Any]:
        # half precision is too coarse to add up 500 small steps in
        dtype = torch.float64 if theta_star.dtype == "float64" else torch.float32
        theta = torch.from_numpy(theta_star).to(device, dtype)
        labels = torch.from_numpy(attribute.labels).to(device)
        unlearned = _unlearn(config, theta, labels, frobenius(theta), threads)
        write_json_lines(folder.path / "metrics.jsonl", unlearned.history)
        edited = unlearned.embedding.cpu().numpy().astype(theta_star.dtype)
        save_embedding(folder.embedding_path, edited)
        sizes = {"users": len(edited), "dimensions": edited.shape[1]}
        return {"sizes": sizes, "users_of_class": attribute.counts(), **unlearned.summary()}

    checksums = {"original": file_checksum(path), "labels": attribute.checksum}
    return Task(frozenset({Group.ATTRIBUTE, Group.POST_TRAINING}), checksums, work)


def load_data(config: ExperimentConfig, device: torch.device) -> tuple[Dataset, Attribute | None]:
    """Fetch and prepare the data if need be, then read it; the attribute if the method needs it."""
    settings = PrepareSettings(
        config.min_interactions or default_min_interactions(config.dataset),
        config.test_num_ng,
        config.split_seed,
        config.user_column,
        config.item_column,
        config.time_column,
        config.held_out,
        config.time_ties,
        config.catalogue,
        config.test_negatives,
    )
    hold_out_validation = config.selection == "validation"
    needed = Group.ATTRIBUTE in METHODS[config.method].groups
    with locked_dataset(Path(config.dataset_path), config.dataset):
        folder = prepared_folder(Path(config.dataset_path), config.dataset, settings)
        dataset = load_dataset(folder, config.dataset, hold_out_validation, config.split_seed)
        attribute = load_attribute(folder, config.attribute) if needed else None
    return dataset.to(device), attribute


def fresh_model(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    """The recommender before training; the same on every device."""

    def graph() -> Tensor:
        sizes = (dataset.n_users, dataset.n_items)
        with locked_dataset(Path(config.dataset_path), config.dataset):
            pairs = dataset.train.cpu().numpy()
            return to_torch(cached_adjacency(dataset.graph_path, pairs, *sizes))

    generator = torch_generator(config.seed, "init", config.model)
    sizes = (dataset.n_users, dataset.n_items, config.embedding_size)
    return build_model(config.model, *sizes, generator, graph).to(dataset.train.device)


def train_recommender(
    config: ExperimentConfig,
    dataset: Dataset,
    labels: Tensor | None,
    folder: RunFolder,
    threads: Threads,
) -> tuple[Recommender, Trained]:
    """Train from scratch, or go on from the folder's checkpoint.

    Args:
        config: what to train and how; an in-training method adds its penalty.
        dataset: on the device to train on.
        labels: (n_users,) int64 on that device, for an in-training method.
        folder: the run's.
        threads: of the steps, on a CPU.
    """
    model = fresh_model(config, dataset)
    per_example = {"bce": 2, "bpr": 3}[config.loss]
    model.prepare_training(per_example * config.batch_size, config.propagation_mb)
    penalty = None
    if make_penalty := METHODS[config.method].penalty:
        assert labels is not None
        generator = torch_generator(config.seed, "init", config.method)
        penalty = make_penalty(config, labels, model.user_embedding.shape[1], generator)
    sampler = NegativeSampler(dataset.train, dataset.n_users, dataset.n_items, config.num_ng)
    settings = TrainingSettings(
        config.lr,
        config.batch_size,
        config.epochs,
        config.loss,
        config.selection,
        config.seed,
        config.precision,
        config.cuda_graphs,
    )
    ranked = dataset.validation, dataset.test
    trained = train(model, sampler, *ranked, settings, folder, penalty, threads)
    return model, trained


def unlearn_recommender(
    config: ExperimentConfig, dataset: Dataset, labels: Tensor | None, threads: Threads
) -> tuple[Recommender, Unlearned]:
    """Load the finished original and edit its user embedding; all else stays as it is."""
    assert labels is not None
    original = RunFolder.of(
        replace(config, method="original"),
        METHODS["original"].groups,
        {"data": dataset.checksum},
    )
    model = fresh_model(config, dataset)
    load_weights(original.weights_path(config.target_model), model)
    theta = model.user_embedding.detach().clone()
    if config.regularizer == "frobenius":
        regularizer = frobenius(theta)
    else:
        top = top_items(model, dataset.n_users, dataset.n_items, config.ranking_top)
        regularizer = ranking(model.embedding_scorer(top), config.ranking_margin)
    unlearned = _unlearn(config, theta, labels, regularizer, threads)
    with torch.no_grad():
        model.user_embedding.copy_(unlearned.embedding)
    return model, unlearned


def _unlearn(
    config: ExperimentConfig,
    theta: Tensor,
    labels: Tensor,
    regularizer: Objective,
    threads: Threads,
) -> Unlearned:
    distinguishability = METHODS[config.method].distinguishability
    assert distinguishability is not None
    optimizer = Optimizer(
        config.unlearn_optimizer, config.unlearn_steps, config.unlearn_lr, config.unlearn_tolerance
    )
    alpha = config.au_trade_off
    return unlearn(theta, labels, distinguishability, regularizer, alpha, optimizer, threads)
