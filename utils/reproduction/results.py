"""Our records and the published cells, by the names that the tables use."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

import methods
import models
from data.sources.formats import FORMATS
from utils.reproduction.cells import Measured, auc_error, measured, ndcg_error, share_error
from utils.runs import records

PROJECT = Path(__file__).resolve().parents[2]
PUBLISHED = PROJECT / "exp_results" / "published"

METHODS = {
    name: methods.METHODS[name].title for name in ("original", "u2u", "d2d", "retrain", "adv")
}
MODELS = {name: models.MODELS[name].title for name in ("ncf", "lgn")}
DATASETS = {name: FORMATS[name].title for name in ("ml-100k", "ml-1m", "lfm-2b")}
"""The papers' methods, recommenders and datasets: name in the configs -> title in the tables."""
POST_TRAINING = tuple(name for name in METHODS if methods.METHODS[name].fit)
BLOCKS = tuple((dataset, model) for model in MODELS for dataset in DATASETS)
"""Each dataset with each recommender, in the order of the papers' tables."""

RECOMMENDATION = {"ndcg@5": "NDCG@5", "hr@5": "HR@5", "ndcg@10": "NDCG@10", "hr@10": "HR@10"}
"""Column of the published table -> column of ours."""
ATTACK = {
    f"{attacker}_{column}": (f"{attacker.upper()} {heading}", attacker, score)
    for attacker in ("mlp", "xgb")
    for column, heading, score in (
        ("acc", "Acc", "accuracy"),
        ("precision", "Precision", "precision"),
        ("recall", "Recall", "recall"),
        ("auc", "AUC", "auc"),
    )
}
"""Column of the published table -> its heading, and attacker and score of ours."""

FOLDED = "accuracy, folded"
MM23_ATTACK = ATTACK | {
    f"{attacker}_auc": (f"{attacker.upper()} “AUC”", attacker, FOLDED)
    for attacker in ("mlp", "xgb")
}
"""The same of MM23, whose "AUC" is max(b, 1 - b), b the balanced accuracy of the answers."""


@dataclass(frozen=True)
class Setting:
    """Which of our runs stand beside a paper's.

    Attributes:
        regularizer, alpha: of the post-training methods.
        fits: whether a run has the paper's settings, from the model and those of the run's
            settings that are not our defaults.
        stand_in: a dataset -> ours that stands in for it.
    """

    regularizer: str
    alpha: float
    fits: Callable[[str, Mapping[str, Any]], bool]
    stand_in: Mapping[str, str] = field(default_factory=dict, hash=False)


def _as_companion(model: str, settings: Mapping[str, Any]) -> bool:
    return set(settings) <= {"batch_size"}


def _as_paper(model: str, settings: Mapping[str, Any]) -> bool:
    epochs = {"ncf": 50, "lgn": 400}[model]
    return (settings.get("embedding_size"), settings.get("epochs")) == (16, epochs)


RC25 = Setting("ranking", 1e-6, _as_companion)
"""What the companion's artefact runs; another batch stands in where 256 was not run."""
RC25_FROBENIUS = replace(RC25, regularizer="frobenius")
"""The same with the regulariser that both papers write."""
MM23 = Setting("frobenius", 1e-4, _as_paper)

ATTRIBUTE = "gender"
"""Of all the papers' cells."""
BATCH = 256
"""The published batch size, and our default."""
TIMED_EPOCHS, EPOCHS = 2, 25
TIMES = Setting(
    "frobenius",
    1e-6,
    lambda model, settings: (
        settings.get("epochs") == TIMED_EPOCHS and set(settings) <= {"epochs", "batch_size"}
    ),
    {"lfm-2b": "synthetic-lfm-2b"},
)
"""Runs made for their seconds alone, one after another on a machine that does nothing else."""


def block_title(dataset: str, model: str, setting: Setting = RC25) -> str:
    """A dataset and recommender; a dataset that stands in is named."""
    stand_in = setting.stand_in.get(dataset)
    return f"{MODELS[model]} on {DATASETS[dataset]}" + (f" ({stand_in})" if stand_in else "")


def published(name: str) -> pd.DataFrame:
    """A published table, by the stem of its file: index dataset, model, method."""
    table = pd.read_csv(PUBLISHED / f"{name}.csv")
    return table.set_index(["dataset", "model", "method"])


@dataclass(frozen=True)
class Results:
    """Our records: a row a run, and a row an attack and attacker, which leads to its run."""

    runs: pd.DataFrame
    attacks: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """From runs.csv and attacks.csv in a folder; no rows where there is no file."""
        runs = _frame(records.runs(folder), ["au_trade_off", *records.METRICS, "seconds"])
        numbers = [*records.SCORES, "auc_std", "au_trade_off", "users", "test_users", "rounds"]
        attacks = _frame(records.attacks(folder), numbers)
        attacks = attacks.merge(runs[["run", "settings"]], on="run", suffixes=("", "_of_run"))
        return cls(runs, attacks)

    @cached_property
    def whole(self) -> bool:
        """Whether this is the reproduction: most of the papers' blocks have runs."""
        ran = [
            any(len(self.of(RC25, dataset, model, method)) for method in METHODS)
            for dataset, model in BLOCKS
        ]
        return sum(ran) > len(ran) / 2

    def of(self, setting: Setting, dataset: str, model: str, method: str) -> pd.DataFrame:
        """Runs of a cell, one a seed: of the batch sizes that were run, the one nearest BATCH."""
        dataset = setting.stand_in.get(dataset, dataset)
        runs = self._by_method.get((dataset, model, method))
        if runs is None:
            return self.runs.iloc[:0]
        which = runs["attribute"].isin(["", ATTRIBUTE])
        if method in POST_TRAINING:
            which &= runs["regularizer"] == setting.regularizer
            which &= runs["au_trade_off"] == setting.alpha
        runs = where(runs[which], lambda settings: setting.fits(model, settings))
        sizes = sorted(set(map(batch_size, runs["settings"])))
        nearest = min(sizes, key=lambda size: abs(math.log(size / BATCH)), default=BATCH)
        return where(runs, lambda settings: batch_size(settings) == nearest)

    @cached_property
    def _by_method(self) -> dict[tuple[str, ...], pd.DataFrame]:
        return dict(iter(self.runs.groupby(["dataset", "model", "method"])))

    def recommendation(self, runs: pd.DataFrame, metric: str) -> Measured | None:
        """A ranking metric (HR@k or NDCG@k) of a cell's runs."""
        if not len(runs):
            return None
        users, mean = int(runs["users"].iloc[0]), runs[metric].mean()
        if metric.startswith("HR"):
            error = share_error(mean, users)
        else:
            error = ndcg_error(mean, runs[metric.replace("NDCG", "HR")].mean(), users)
        return measured(runs[metric].tolist(), error)

    def seconds(self, runs: pd.DataFrame) -> Measured | None:
        """Seconds of unlearning, or of EPOCHS epochs of training, from runs of TIMED_EPOCHS."""
        if not len(runs):
            return None
        trained = ~runs["method"].isin(POST_TRAINING)
        seconds = runs["seconds"].where(~trained, runs["seconds"] * EPOCHS / TIMED_EPOCHS)
        return measured(seconds.tolist(), 0.0)

    def attack(
        self, runs: pd.DataFrame, protocol: str, attacker: str, score: str
    ) -> Measured | None:
        """What an attacker found in a cell's runs, with the attack's default settings."""
        rows = self._attacks(runs, protocol, attacker)
        if not len(rows):
            return None
        # cv tests every balanced user, a draw of shadow the share that it doesn't expose
        users = int(rows["test_users" if protocol == "shadow" else "users"].iloc[0])
        means = {name: float(rows[name].mean()) for name in records.SCORES}
        # users that the score is a share of: all, those called positive, or the positives
        called = means["recall"] * users / 2 / means["precision"] if means["precision"] else 0.0
        base = {"accuracy": users, "precision": called, "recall": users / 2}
        mean = means[score]
        error = auc_error(mean, users) if score == "auc" else share_error(mean, base[score])
        return measured(rows[score].tolist(), error)

    def attacked(self, runs: pd.DataFrame, protocol: str, attacker: str) -> pd.DataFrame:
        """Those of the runs that the attacker, with default settings, was tried on."""
        return runs[runs["run"].isin(self._attacks(runs, protocol, attacker)["run"])]

    def _attacks(self, runs: pd.DataFrame, protocol: str, attacker: str) -> pd.DataFrame:
        rows = self._by_attacker.get((protocol, attacker))
        if rows is None or not len(runs):
            return self.attacks.iloc[:0]
        return rows[rows["run"].isin(runs["run"])]

    @cached_property
    def _by_attacker(self) -> dict[tuple[str, ...], pd.DataFrame]:
        plain = where(self.attacks, lambda settings: not settings)
        plain = plain[plain["attribute"] == ATTRIBUTE]  # an original is attacked for others too
        return dict(iter(plain.groupby(["protocol", "attacker"])))


Key = TypeVar("Key")


def on_common_seeds(runs: Mapping[Key, pd.DataFrame]) -> dict[Key, pd.DataFrame]:
    """Of what was run at all, the runs of the seeds that all of it has: a fair comparison."""
    ran = {key: frame for key, frame in runs.items() if len(frame)}
    seeds = set.intersection(*(set(frame["seed"]) for frame in ran.values())) if ran else set()
    return {key: frame[frame["seed"].isin(seeds)] for key, frame in ran.items()}


def batch_size(settings: Mapping[str, Any]) -> int:
    """Of a run with these settings."""
    return settings.get("batch_size", BATCH)


def where(frame: pd.DataFrame, fits: Callable[[dict[str, Any]], bool]) -> pd.DataFrame:
    """The rows whose settings fit."""
    return frame[frame["settings"].map(fits).astype(bool)]


def _frame(record: records.Record, numbers: list[str]) -> pd.DataFrame:
    rows = record.rows()
    frame = pd.DataFrame(rows, columns=list(record.columns), dtype=str)
    for column in numbers:
        frame[column] = pd.to_numeric(frame[column])
    frame["settings"] = [json.loads(one) if one else {} for one in frame["settings"]]
    return frame
