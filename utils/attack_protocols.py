"""Who trains the attacker, who tests it, and how well it does.

Both protocols balance the classes by down-sampling all to the size of the smallest:

shadow  (MM23) a small share of the balanced users is exposed with labels and trains the
        attacker; the rest tests it. Users and split are drawn anew `draws` times.
cv      (the artefact; behind RC25's Table 3) stratified cross-validation with `folds` folds,
        repeated `repeats` times on balanced users that are drawn once.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from utils.attackers import ATTACKERS
from utils.config import AttackConfig
from utils.errors import UserError
from utils.seeds import derive, numpy_generator

METRICS = ("accuracy", "precision", "recall", "auc")


@dataclass(frozen=True)
class Protocol:
    """Keys of the attack config that an attack depends on."""

    name: str
    shadow_ratio: float
    draws: int
    folds: int
    repeats: int
    seed: int

    @classmethod
    def of(cls, config: AttackConfig) -> "Protocol":
        """The protocol that an attack config asks for."""
        return cls(
            config.protocol,
            config.shadow_ratio,
            config.draws,
            config.folds,
            config.repeats,
            config.attack_seed,
        )


@dataclass(frozen=True)
class Round:
    """One split: row numbers of the users that train and that test the attacker."""

    train: np.ndarray
    test: np.ndarray


def balanced_users(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of equally many users of every class (labels -1 are left out), sorted."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    size = counts.min()
    chosen = [rng.choice(np.flatnonzero(labels == c), size, replace=False) for c in classes]
    return np.sort(np.concatenate(chosen))


def rounds(labels: np.ndarray, protocol: Protocol) -> list[Round]:
    """The splits of a protocol.

    Raises:
        UserError: too few users of a class for a stratified split.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    smallest, total = counts.min(), counts.min() * len(classes)
    if protocol.name == "shadow":
        exposed = round(total * protocol.shadow_ratio)
        if smallest < 2 or not len(classes) <= exposed <= total - len(classes):
            raise UserError(
                f"shadow_ratio {protocol.shadow_ratio:g} of {total} balanced users exposes "
                f"{exposed}: at least one of each of the {len(classes)} classes must be on "
                "either side; change shadow_ratio or take an attribute with larger classes"
            )
        return [_shadow_round(labels, exposed, protocol.seed, d) for d in range(protocol.draws)]
    if smallest < protocol.folds:
        raise UserError(
            f"the smallest class has {smallest} users, fewer than folds {protocol.folds}; lower "
            "folds or take an attribute with larger classes"
        )
    users = balanced_users(labels, numpy_generator(protocol.seed, "balance"))
    splitter = RepeatedStratifiedKFold(
        n_splits=protocol.folds,
        n_repeats=protocol.repeats,
        random_state=_seed32(protocol.seed, "folds"),
    )
    return [
        Round(users[train], users[test]) for train, test in splitter.split(users, labels[users])
    ]


def _shadow_round(labels: np.ndarray, exposed: int, seed: int, draw: int) -> Round:
    users = balanced_users(labels, numpy_generator(seed, "balance", draw))
    train, test = train_test_split(
        users,
        train_size=exposed,
        stratify=labels[users],
        random_state=_seed32(seed, "shadow", draw),
    )
    return Round(train, test)


def score_round(
    embedding: np.ndarray,
    labels: np.ndarray,
    split: Round,
    attacker: str,
    protocol: str,
    seed: int,
) -> dict[str, float]:
    """Train one attacker on one round and score it on the round's test users.

    Two classes: class 1 (the later name) is the positive one. More: macro averages, AUC
    one-vs-rest.
    """
    classifier = ATTACKERS[attacker](protocol, seed)
    with threadpool_limits(1):
        unconverged = _fit(classifier, embedding[split.train], labels[split.train])
        truth = labels[split.test]
        predicted = classifier.predict(embedding[split.test])
        scores = _class_scores(classifier, embedding[split.test])
    two = labels.max() == 1
    average = "binary" if two else "macro"
    return {
        "accuracy": accuracy_score(truth, predicted),
        "precision": precision_score(truth, predicted, average=average, zero_division=0),
        "recall": recall_score(truth, predicted, average=average, zero_division=0),
        "auc": roc_auc_score(truth, scores[:, 1] if two else scores, multi_class="ovr"),
        "unconverged": float(unconverged),
    }


def _fit(classifier: Any, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fit; True if it stopped at its iteration limit, which is counted, not printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(features, labels)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return len(others) < len(caught)


def _class_scores(classifier: Any, features: np.ndarray) -> np.ndarray:
    """(n, C) scores that rank users for each class and sum to 1."""
    if hasattr(classifier, "predict_proba"):
        return classifier.predict_proba(features)
    decision = classifier.decision_function(features)
    if decision.ndim == 1:
        decision = np.stack([-decision, decision], axis=1)
    return softmax(decision, axis=1)


def attack(
    embedding: np.ndarray,
    labels: np.ndarray,
    attackers: Sequence[str],
    protocol: Protocol,
    jobs: int,
) -> dict[str, Any]:
    """Attack an embedding; see the module's docstring.

    Args:
        embedding: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, -1 where unknown.
        attackers: names in ATTACKERS.
        protocol: the protocol and its settings.
        jobs: processes; changes the speed alone.

    Returns:
        {"users": ..., "attackers": {name: {metric: {"mean", "std", "values"}, "leakage", ...}}};
        std over rounds with n - 1, leakage = |mean AUC - 0.5|.
    """
    splits = rounds(labels, protocol)
    embedding = embedding.astype(np.float32)
    tasks = [(name, number) for name in attackers for number in range(len(splits))]
    work = (
        delayed(score_round)(
            embedding,
            labels,
            splits[number],
            name,
            protocol.name,
            _seed32(protocol.seed, "attacker", number),
        )
        for name, number in tasks
    )
    results = list(
        tqdm(
            Parallel(n_jobs=jobs, return_as="generator")(work),
            total=len(tasks),
            desc=f"attacking ({protocol.name})",
            unit="fit",
            leave=False,
        )
    )
    scores = {
        name: [result for (other, _), result in zip(tasks, results, strict=True) if other == name]
        for name in attackers
    }
    return {
        "users": {
            "train": len(splits[0].train),
            "test": len(splits[0].test),
            "balanced": len(splits[0].train) + len(splits[0].test),
        },
        "rounds": len(splits),
        "attackers": {name: _aggregate(rows) for name, rows in scores.items()},
    }


def out_of_fold_predictions(
    embedding: np.ndarray, labels: np.ndarray, attacker: str, protocol: Protocol
) -> np.ndarray:
    """What an attacker says of each balanced user, trained on others only.

    Args:
        embedding: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, -1 where unknown.
        attacker: a name in ATTACKERS.
        protocol: "cv" with one repeat, so that each user is tested once.

    Returns:
        (n,) int64 predicted classes, -1 for users that balancing leaves out.

    Raises:
        UserError: fewer users of a class than folds.
    """
    assert protocol.name == "cv" and protocol.repeats == 1
    embedding = embedding.astype(np.float32)
    predictions = np.full(len(labels), -1, dtype=np.int64)
    for number, split in enumerate(rounds(labels, protocol)):
        seed = _seed32(protocol.seed, "attacker", number)
        classifier = ATTACKERS[attacker](protocol.name, seed)
        with threadpool_limits(1):
            _fit(classifier, embedding[split.train], labels[split.train])
            predictions[split.test] = classifier.predict(embedding[split.test])
    return predictions


def _aggregate(rows: list[dict[str, float]]) -> dict[str, Any]:
    values = {metric: [row[metric] for row in rows] for metric in METRICS}
    summary: dict[str, Any] = {
        metric: {
            "mean": float(np.mean(column)),
            "std": float(np.std(column, ddof=1)) if len(column) > 1 else 0.0,
            "values": column,
        }
        for metric, column in values.items()
    }
    summary["leakage"] = abs(summary["auc"]["mean"] - 0.5)
    summary["unconverged"] = int(sum(row["unconverged"] for row in rows))
    return summary


def _seed32(seed: int, *names: str | int) -> int:
    """scikit-learn and XGBoost take seeds of 31 bits."""
    return derive(seed, *names) % 2**31
