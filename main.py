"""Train a recommender, unlearn a user attribute, and evaluate what is left of both.

python main.py [--config FILE] [key=value ...]; configs/exp_config.json says what to do.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # before the imports that take their time
    sys.path.insert(0, str(Path(__file__).parent))  # python -I leaves it out
    from utils.start import start

    start("main")

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.adjacency import cached_adjacency, to_torch
from data.dataset import Attribute, Dataset, load_attribute, load_dataset
from data.prepare import PrepareSettings, locked_dataset, prepared_folder
from data.sampling import NegativeSampler
from data.sources.formats import default_min_interactions
from data.tables.files import load_items, load_table, save_table, with_people
from data.tables.formats import save_array
from data.tables.labels import load_labels, warn_of_label
from data.tables.manifest import hand_over
from data.tables.run_files import save_places, save_users
from data.tables.user_table import UserTable, check_squares
from methods import METHODS, ExperimentConfig
from methods.base import TopScorer
from methods.checks import check_run, idle_in_run, ranks
from methods.eraser import Eraser, UserTables
from methods.eraser_files import About, apply_fitted, save_eraser
from methods.leace import AffineEraser
from methods.several import fit_several
from methods.streaming import stream
from models import MODELS, EmbeddingScorer, Recommender, build_model, scores_of_users, top_items
from models.training.loop import train
from models.training.step import TrainingSettings
from utils.audit.baselines import LISTED
from utils.cli import Command, execute
from utils.config import Group, RunConfig, identity
from utils.errors import UserError
from utils.messages import sweep_table
from utils.metrics import evaluate_users, means
from utils.ranks import SAME_FOLDERS, SAME_KEYS, Ranks, joined
from utils.reproduction import renew_report
from utils.runs.checkpoint import CheckpointFile
from utils.runs.files import file_checksum, write_json_lines
from utils.runs.folder import (
    RunFolder,
    default,
    edited_path,
    load_weights,
    run_path,
    save_weights,
)
from utils.runs.records import runs
from utils.runs.session import session
from utils.runtime import available_cores, resolve_device
from utils.seeds import numpy_generator, torch_generator
from utils.threads import Threads
from utils.top_items import TOP, top_kept

log = logging.getLogger(__name__)


def run(config: RunConfig) -> dict[str, Any]:
    """One run from its config to its folder; returns the summary. A finished run is not redone
    (its summary has the key "found").
    """
    if config.stream == "on":
        return stream(config)
    if config.eraser:
        return apply_fitted(config)
    if config.user_embedding:
        config = of_file(config)
    with joined() as ranks:
        ranks.check_same(asdict(config), SAME_KEYS)
        return run_together(config, ranks)


def run_together(config: RunConfig, ranks: Ranks, asked: bool = True) -> dict[str, Any]:
    """The same by one process or several.

    Args:
        config: what to run.
        ranks: who do it; the first one alone writes.
        asked: False for an original that another method starts from.
    """
    method, device = METHODS[config.method], resolve_device(config.device)
    data = ranks.in_turn(lambda: load(config, device))
    given = {"original": config.user_embedding, "items": config.item_embedding}
    given["labels"] = config.labels
    sums = {f"the SHA-256 of {given.get(one) or one}": sha for one, sha in data.checksums.items()}
    ranks.check_same(sums, SAME_FOLDERS)
    groups = method.groups - (set() if data.dataset else {Group.DATA, Group.TRAINING})
    original = original_folder(config, data) if method.fit and data.dataset else None
    with session(config, groups, data.checksums, method.title, asked, original, ranks) as this:
        if this.summary is None:
            threads = Threads(1 if config.threads else available_cores())
            if not method.fit:
                model, results = train_recommender(config, data, this.folder, threads, ranks)
            elif original:
                first = run_together(replace(config, method="original"), ranks, asked=False)
                model, results = unlearn_recommender(
                    config, data, original, this.folder, threads, ranks
                )
                results["original"] = first["test"]
            else:
                model, results = None, unlearn_table(config, data, this.folder, threads, ranks)
            if model and data.dataset:
                results["test"] = ranks.told(
                    partial(save, config, model, data.dataset, this.folder)
                )
            results = {**data.described(), **results}
            checksums = {**data.checksums}
            if original:
                checksums["original_embedding"] = file_checksum(original.embedding_path)
            this.finish(config, results, checksums, device, threads)
        assert this.summary is not None
        if config.output and data.table:
            ranks.alone(partial(hand_over, config, data.table, this.folder, this.summary))
    return this.summary


def of_file(config: RunConfig) -> RunConfig:
    """The config of a run on somebody else's embedding, whose own units mean nothing."""
    asked = vars(config)["unlearn_scale"] or "relative"
    return replace(config, unlearn_scale=asked)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Data:
    """What a run starts from.

    Attributes:
        dataset: what to train and rank with, on the run's device; None where a table is given.
        table: somebody else's embedding; None where a dataset is given.
        items: (n_items, d), what its scores are made with; None if not given.
        attribute: the users' labels, if the method needs them.
        labels: the same on the run's device; -1, too, of those that the method isn't shown.
        parts: the same by attribute; of one alone, that one.
        checksums: of the files behind them.
    """

    dataset: Dataset | None
    table: UserTable | None
    items: np.ndarray | None
    attribute: Attribute | None
    labels: Tensor | None
    parts: Mapping[str, Tensor]
    checksums: Mapping[str, str]

    def described(self) -> dict[str, Any]:
        """What a summary says of it."""
        if self.table is not None:
            users, dimensions = self.table.vectors.shape
            sizes = {"users": users, "dimensions": dimensions}
        else:
            assert self.dataset is not None
            sizes = self.dataset.sizes()
        counts = self.attribute.counts() if self.attribute else None
        return {"sizes": sizes, "users_of_class": counts}


def load(config: RunConfig, device: torch.device) -> Data:
    """Read the dataset, fetched and prepared if need be, or the embedding of a file; and the labels
    if the method needs them.
    """
    attribute: Attribute | None
    if config.user_embedding:
        assert config.labels  # checked at the door
        path, dataset, items = Path(config.user_embedding), None, None
        table = load_table(path, config.table)
        check_squares(path, table.vectors)
        users = len(table.vectors), table.ids
        attribute = load_labels(Path(config.labels), config.attribute, *users)
        warn_of_label(path, table.vectors, attribute)
        checksums = {"original": file_checksum(path)}
        if config.table:
            checksums["table"] = table.name
        if config.item_embedding:
            items = load_items(Path(config.item_embedding), table.vectors.shape[1])
            checksums["items"] = file_checksum(Path(config.item_embedding))
    else:
        table = None
        items = None
        dataset, attribute = load_prepared(config)
        dataset = dataset.to(device)
        checksums = {"data": dataset.checksum}
    if not attribute:
        return Data(dataset, table, items, None, None, {}, checksums)
    checksums["labels"] = attribute.checksum
    seen = attribute.seen(config.labels_seen, config.seed)
    labels = torch.from_numpy(seen.labels).to(device)
    parts = {name: torch.from_numpy(one).to(device) for name, one in seen.apart().items()}
    return Data(dataset, table, items, attribute, labels, parts, checksums)


def load_prepared(config: RunConfig) -> tuple[Dataset, Attribute | None]:
    """Fetch and prepare the dataset if need be, then read it."""
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
    method = METHODS[config.method]
    options, groups = method.options_of(config), method.groups
    with locked_dataset(Path(config.dataset_path), config.dataset):
        folder = prepared_folder(Path(config.dataset_path), config.dataset, settings)
        dataset = load_dataset(folder, config.dataset, hold_out_validation, config.split_seed)
        needed = Group.ATTRIBUTE in groups
        # one that isn't there is refused now, not after the training by the attack
        asked = needed or config.attribute != default(config, "attribute")
        attribute = load_attribute(folder, config.attribute) if asked else None
    if ranks(options) and options.ranking_top > dataset.n_items:
        raise UserError(
            f"ranking_top {options.ranking_top} is more than the {dataset.n_items} items of "
            f"{config.dataset}; lower it"
        )
    return dataset, attribute if needed else None


def fresh_model(config: RunConfig, dataset: Dataset) -> Recommender:
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
    config: RunConfig, data: Data, folder: RunFolder, threads: Threads, ranks: Ranks
) -> tuple[Recommender, dict[str, Any]]:
    """Train from scratch, or go on from the folder's checkpoint; an in-training method adds its
    penalty. Returns the model and what the summary records.
    """
    dataset = data.dataset
    assert dataset is not None
    model = ranks.in_turn(lambda: fresh_model(config, dataset))
    per_example = {"bce": 2, "bpr": 3}[config.loss]
    model.prepare_training(per_example * config.batch_size, config.propagation_mb)
    penalty = None
    method = METHODS[config.method]
    if method.penalty:
        assert data.labels is not None
        size, options = model.user_embedding.shape[1], method.options_of(config)
        generator = torch_generator(config.seed, "init", config.method)
        penalty = method.penalty(data.labels, size, options, generator)
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
    trained = train(model, sampler, *ranked, settings, folder, penalty, threads, ranks)
    path = {"propagation": model.training_path} if model.training_path else {}
    return model, trained.summary() | path


def original_folder(config: RunConfig, data: Data) -> RunFolder:
    """Of the run that a post-training method starts from."""
    assert data.dataset is not None
    original = replace(config, method="original")
    return RunFolder.of(original, METHODS["original"].groups, {"data": data.dataset.checksum})


def unlearn_recommender(
    config: RunConfig,
    data: Data,
    original: RunFolder,
    folder: RunFolder,
    threads: Threads,
    ranks: Ranks,
) -> tuple[Recommender, dict[str, Any]]:
    """Load the finished original and edit the user tables of the scope; all else stays as it is.
    Returns the model and what the summary records.
    """
    dataset = data.dataset
    assert dataset is not None
    model = fresh_model(config, dataset)
    load_weights(original.weights_path(config.target_model), model)
    if config.scope == "served":
        model.keep_served()
    tables = {name: table.detach().clone() for name, table in model.user_tables().items()}
    if config.scope == "embedding":
        tables = dict([next(iter(tables.items()))])

    def scorer(top: int) -> EmbeddingScorer:
        return model.embedding_scorer(top_items(model, dataset.n_users, dataset.n_items, top))

    eraser = fit(config, tables, data, scorer, threads, folder, ranks)
    with torch.no_grad():
        for name, edited in eraser.apply(tables).items():
            model.user_tables()[name].copy_(edited)

    def keep() -> None:
        keep_eraser(config, eraser, data, folder)
        write_json_lines(folder.path / "metrics.jsonl", eraser.history)

    ranks.alone(keep)
    left = [name for name in model.served() if name not in tables]
    return model, recorded(eraser, "float32") | {"edited": list(tables), "served_unedited": left}


def unlearn_table(
    config: RunConfig, data: Data, folder: RunFolder, threads: Threads, ranks: Ranks
) -> dict[str, Any]:
    """Edit somebody else's embedding and save it, as an array and in its own format; returns what
    the summary records.
    """
    table = data.table
    assert table is not None and data.labels is not None and config.user_embedding
    given, source = table.vectors, Path(config.user_embedding)
    people = table.people
    rows = torch.from_numpy(people).to(data.labels.device)
    parts = {name: one[rows] for name, one in data.parts.items()}
    known = replace(data, labels=data.labels[rows], parts=parts)
    # half precision is too coarse to add up 500 small steps in
    dtype = torch.float64 if given.dtype == "float64" else torch.float32
    device = resolve_device(config.device)
    tables = {table.name: torch.from_numpy(given[people]).to(device, dtype)}
    eraser = fit(config, tables, known, None, threads, folder, ranks)

    def keep() -> None:
        keep_eraser(config, eraser, known, folder)
        edited = with_people(source, table, eraser.apply(tables)[table.name])
        save_array(folder.embedding_path, edited)
        if (path := edited_path(folder.path, source)) != folder.embedding_path:
            save_table(path, table.edited(edited), source)
        write_json_lines(folder.path / "metrics.jsonl", eraser.history)

    ranks.alone(keep)
    return recorded(eraser, given.dtype) | lists_kept(tables, eraser, data.items)


def lists_kept(tables: UserTables, eraser: Eraser, items: np.ndarray | None) -> dict[str, Any]:
    """What a summary says of the users' best items, where the items are known."""
    if items is None:
        return {}
    (before,), (after,) = (
        [one.cpu().numpy() for one in some.values()] for some in (tables, eraser.apply(tables))
    )
    top = min(TOP, len(items))
    kept = top_kept(before, after, items.astype(before.dtype), top=top)
    return {"top_items": {"of": len(items), "top": top, "kept": kept}}


def keep_eraser(config: RunConfig, eraser: Eraser, data: Data, folder: RunFolder) -> None:
    """Write the map that can be given to users who come later, of one table; a transductive method
    has none.
    """
    if isinstance(eraser, AffineEraser) and len(eraser.widths) == 1:
        assert data.labels is not None
        fitted_on = next(
            data.checksums[name] for name in ("original", "data") if name in data.checksums
        )
        users = int((data.labels >= 0).sum())
        about = About(config.method, config.attribute, users, fitted_on)
        save_eraser(folder.eraser_path, eraser, about)
        log.info("  for users who come later: eraser=%s", folder.eraser_path)


def fit(
    config: RunConfig,
    tables: UserTables,
    data: Data,
    scorer: TopScorer | None,
    threads: Threads,
    folder: RunFolder,
    ranks: Ranks,
) -> Eraser:
    """Fit the config's post-training method to the tables and the attribute, or attributes."""
    method = METHODS[config.method]
    assert method.fit is not None and data.labels is not None
    options = method.options_of(config)
    rng = numpy_generator(config.seed, config.method)
    device = resolve_device(config.device)
    kept = CheckpointFile(folder.checkpoint, "unlearning", device, writes=ranks.first)
    of_method = method.by_ranks(ranks) if method.by_ranks else method.fit
    eraser = fit_several(
        of_method, tables, data.labels, data.parts, options, rng, scorer, threads, kept
    )
    for name, edited in eraser.apply(tables).items():
        if not torch.isfinite(edited).all():
            raise UserError(
                f'method "{config.method}" makes values of {name} that are not finite; nothing is '
                "saved: its users are too few or too alike, take another method"
            )
    return eraser


def recorded(eraser: Eraser, saved: np.dtype | str) -> dict[str, Any]:
    """What the summary records of a fit whose result is saved in this dtype."""
    rounding = {"rounding": float(np.finfo(saved).eps)} if "spread" in eraser.record else {}
    return eraser.record | rounding


def save(
    config: RunConfig, model: Recommender, dataset: Dataset, folder: RunFolder
) -> dict[str, float]:
    """The weights, the user embedding by itself, and all else that is made of a user: the vectors
    of every place, the recommended items, the test metrics. Returns these metrics' means.
    """
    save_weights(folder.weights_path(config.target_model), model.state_dict())
    save_array(folder.embedding_path, model.user_embedding.detach().cpu().numpy())
    vectors = {**model.user_tables(), **model.served()}
    places = {name: tensor.detach().cpu().numpy() for name, tensor in vectors.items()}
    places["scores"] = scores_of_users(model, dataset.n_users, dataset.n_items, config.seed)
    save_places(folder.places_path, places)
    top = min(LISTED, dataset.n_items)
    lists = top_items(model, dataset.n_users, dataset.n_items, top, dataset.train)
    save_array(folder.lists_path, lists.int().cpu().numpy())
    of_users = evaluate_users(model.scorer(), dataset.test)
    columns = {name: np.full(dataset.n_users, np.nan) for name in of_users}
    for name, values in of_users.items():
        columns[name][dataset.test.users.cpu()] = values.cpu()
    save_users(folder.users_path, dataset.user_ids, columns)
    return means(of_users)


def same(config: RunConfig) -> str:
    """What tells a run apart within a sweep."""
    groups = METHODS[config.method].groups
    files = ("user_embedding", "table", "item_embedding", "labels", "eraser", "output")
    given = [getattr(config, name) for name in files]
    return f"{run_path(config, groups)} {identity(config, groups)} {given}"


def close(summaries: list[dict[str, Any]], config: RunConfig) -> None:
    """Show a sweep's results, and renew the report beside its record."""
    sweep_table(summaries)
    renew_report(config.record)


COMMAND = Command(
    program="main.py",
    config=ExperimentConfig,
    default_config="configs/exp_config.json",
    choices={"method": METHODS, "model": MODELS},
    check=check_run,
    idle=idle_in_run,
    record=lambda config: runs(config.record) if config.record else None,
    same=same,
    run=run,
    close=close,
    kept="Finished epochs, shards and runs are kept.",
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return execute(COMMAND, argv)
