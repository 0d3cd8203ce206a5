"""The two stages that main.py strings together: train a recommender, unlearn its embedding."""

from dataclasses import replace

import torch
from torch import Tensor

from data.adjacency import cached_adjacency, to_torch
from data.dataset import Dataset
from data.sampling import NegativeSampler
from methods import METHODS
from methods.regularizers import frobenius, ranking
from methods.unlearning import Objective, Unlearned, unlearn
from models import Recommender, build_model, top_items
from utils.config import ExperimentConfig
from utils.runs import RunFolder, load_weights
from utils.seeds import torch_generator
from utils.training import Trained, TrainingSettings, train


def fresh_model(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    """The recommender before training; the same on every device."""

    def graph() -> Tensor:
        sizes = (dataset.n_users, dataset.n_items)
        return to_torch(cached_adjacency(dataset.graph_path, dataset.train.cpu().numpy(), *sizes))

    generator = torch_generator(config.seed, "init", config.model)
    sizes = (dataset.n_users, dataset.n_items, config.embedding_size)
    return build_model(config.model, *sizes, generator, graph).to(dataset.train.device)


def train_recommender(
    config: ExperimentConfig, dataset: Dataset, labels: Tensor | None, folder: RunFolder
) -> tuple[Recommender, Trained]:
    """Train from scratch, or go on from the folder's checkpoint.

    Args:
        config: what to train and how; an in-training method adds its penalty.
        dataset: on the device to train on.
        labels: (n_users,) int64 on that device, for an in-training method.
        folder: the run's.
    """
    model = fresh_model(config, dataset)
    penalty = None
    if make_penalty := METHODS[config.method].penalty:
        assert labels is not None
        generator = torch_generator(config.seed, "init", config.method)
        penalty = make_penalty(config, labels, model.user_embedding.shape[1], generator)
    sampler = NegativeSampler(dataset.train, dataset.n_users, dataset.n_items, config.num_ng)
    settings = TrainingSettings(
        config.lr, config.batch_size, config.epochs, config.loss, config.selection, config.seed
    )
    trained = train(model, sampler, dataset.validation, dataset.test, settings, folder, penalty)
    return model, trained


def unlearn_embedding(
    config: ExperimentConfig, dataset: Dataset, labels: Tensor | None
) -> tuple[Recommender, Unlearned]:
    """Load the finished original and edit its user embedding; all else stays as it is."""
    distinguishability = METHODS[config.method].distinguishability
    assert distinguishability is not None and labels is not None
    original = RunFolder.of(
        replace(config, method="original"),
        METHODS["original"].groups,
        {"data": dataset.checksum},
    )
    model = fresh_model(config, dataset)
    load_weights(original.weights_path(config.target_model), model)
    theta = model.user_embedding.detach()
    unlearned = unlearn(
        theta,
        labels,
        distinguishability,
        make_regularizer(config, model, dataset),
        config.au_trade_off,
        config.unlearn_steps,
        config.unlearn_lr,
    )
    with torch.no_grad():
        model.user_embedding.copy_(unlearned.embedding)
    return model, unlearned


def make_regularizer(config: ExperimentConfig, model: Recommender, dataset: Dataset) -> Objective:
    """l_r of eq. 1, around the model's present state."""
    if config.regularizer == "frobenius":
        return frobenius(model.user_embedding.detach().clone())
    top = top_items(model, dataset.n_users, dataset.n_items, config.ranking_top)
    return ranking(model.embedding_scorer(top), config.ranking_margin)
