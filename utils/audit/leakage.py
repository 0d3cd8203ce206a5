"""What attackers' scores tell: the papers' metrics by round, their means, and the leakage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from utils.audit.scores import Scores

METRICS = ("accuracy", "precision", "recall", "auc")


def round_metrics(found: Scores, labels: np.ndarray) -> dict[str, float]:
    """METRICS of one attacker in one round.

    Two classes: class 1 (the later name) is the positive one. More: macro averages, AUC
    one-vs-rest.

    Args:
        found: its scores.
        labels: (n,) int64 of all users, classes 0 .. C-1, -1 where unknown.
    """
    truth = labels[found.split.test]
    average = "binary" if labels.max() == 1 else "macro"
    return {
        "accuracy": accuracy_score(truth, found.predicted),
        "precision": precision_score(truth, found.predicted, average=average, zero_division=0),
        "recall": recall_score(truth, found.predicted, average=average, zero_division=0),
        "auc": auc(found, labels),
    }


def auc(found: Scores, labels: np.ndarray) -> float:
    """The AUC alone; arguments as in `round_metrics`."""
    return _auc(found.scores, labels[found.split.test])


def _auc(scores: np.ndarray, truth: np.ndarray) -> float:
    of_classes = scores[:, 1] if scores.shape[1] == 2 else scores
    return roc_auc_score(truth, of_classes, multi_class="ovr")


def two_sided(aucs: Sequence[float]) -> float:
    """The leakage over rounds, |mean AUC - 0.5|, since an attacker may flip the sign."""
    return abs(float(np.mean(aucs)) - 0.5)


def summarise(found: Mapping[str, list[Scores]], labels: np.ndarray) -> dict[str, Any]:
    """An attack in figures, as attack.json has it.

    Args:
        found: each attacker's scores, a round each.
        labels: as in `round_metrics`.

    Returns:
        {"users": {"train", "test", "balanced" (both), "smallest" (both, of the smallest class)},
        "rounds": ..., "attackers": {name: {metric: {"mean", "std", "values"}, "leakage",
        "unconverged", "own_auc"}}}; std over rounds with n - 1, leakage = |mean AUC - 0.5|;
        own_auc, where it was asked for, the mean AUC on the users that the attacker was trained on.
    """
    one, *_ = found.values()
    first = one[0].split
    train, test = len(first.train), len(first.test)
    smallest = min(np.bincount(labels[np.concatenate([first.train, first.test])]))
    return {
        "users": {
            "train": train,
            "test": test,
            "balanced": train + test,
            "smallest": int(smallest),
        },
        "rounds": len(one),
        "attackers": {name: _of_attacker(rows, labels) for name, rows in found.items()},
    }


def _of_attacker(found: list[Scores], labels: np.ndarray) -> dict[str, Any]:
    rows = [round_metrics(one, labels) for one in found]
    summary: dict[str, Any] = {}
    for metric in METRICS:
        values = [row[metric] for row in rows]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        summary[metric] = {"mean": float(np.mean(values)), "std": std, "values": values}
    summary["leakage"] = two_sided(summary["auc"]["values"])
    summary["unconverged"] = sum(not one.converged for one in found)
    own = [_auc(one.own, labels[one.split.train]) for one in found if one.own is not None]
    if own:
        summary["own_auc"] = float(np.mean(own))
    return summary


def predictions(found: list[Scores], n_users: int) -> np.ndarray:
    """(n_users,) int64: what one attacker says of each user, -1 of those whom no round tests.

    Args:
        found: rounds that test no user twice, such as those of "cv" with one repeat.
        n_users: rows of the embedding.
    """
    said = np.full(n_users, -1, dtype=np.int64)
    for one in found:
        said[one.split.test] = one.predicted
    return said
