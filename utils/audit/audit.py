"""The audit: what an attacker who tries would learn of an attribute, wherever a user has vectors.

Every attacker is tried at every place, on halves (utils.audit.halves); the verdict compares the
worst of all with the worst that permuted labels give. Beside it stand what the same attackers find
without any embedding, how many labels they need, who is found, and what the recommendations cost.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from utils.audit.baselines import random_vectors
from utils.audit.groups import friedman_rafsky
from utils.audit.halves import attack_places, halves, participants, worst
from utils.audit.leakage import summarise
from utils.audit.null import Judged
from utils.audit.protocols import Protocol, Round
from utils.audit.scores import Scores, out_of_sample
from utils.audit.statistics import (
    FPR_GRID,
    auc_interval,
    class_aucs,
    leakage,
    membership,
    roc,
    tpr_at,
)
from utils.audit.utility import METRICS, by_class, mean_of
from utils.errors import UserError
from utils.seeds import numpy_generator

RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the balanced users whose labels an attacker of the ratio curve knows."""
CURVE_DRAWS = 5
FALSE_ALARMS = (0.01, 0.1)
"""False positive rates at which the share of found users is said."""
BOOTSTRAPS = 200
"""Draws of users that a ROC curve's band is made of."""
FEWEST = 20
"""Tested users of each class that a subgroup must have to be judged."""


@dataclass(frozen=True)
class Settings:
    """Keys of the attack config that an audit depends on.

    Attributes:
        attackers: names in ATTACKERS.
        users: the most that take part.
        permutations: of the null.
        seed: of everything drawn.
    """

    attackers: tuple[str, ...]
    users: int
    permutations: int
    seed: int


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        places: users' vectors (n, d) by place.
        attribute: its name.
        classes: names of the classes, in the order of the labels.
        labels: (n,) int64, -1 where unknown.
        counts: users of each class, and of unknown class.
        baselines: features (n, d) by name, of what was known before any training.
        activity: (n,) interactions a user; None where they aren't known.
        others: a name -> (n,) classes, as text, of the users' other attributes; "" where unknown.
        metrics: a name -> (n,) value a user of the recommendations' quality; None as above.
        before: the same of the original.
        earlier: (n, d) by place, of the same users, what trains the attackers instead of `places`;
            None = these.
        treatment: what was done to the vectors, in words.
        remarks: what the run that did it warns of.
        checksums: SHA-256 of the files behind all this.
    """

    places: Mapping[str, np.ndarray]
    attribute: str
    classes: tuple[str, ...]
    labels: np.ndarray
    counts: Mapping[str, int]
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    activity: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: Mapping[str, np.ndarray] | None = None
    before: Mapping[str, np.ndarray] | None = None
    earlier: Mapping[str, np.ndarray] | None = None
    treatment: str = "The vectors are audited as they were given."
    remarks: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)


def audit(subject: Subject, settings: Settings, jobs: int) -> dict[str, Any]:
    """The audit's figures, as audit.json has them (exp_results/README.md says what they are).

    Raises:
        UserError: too few users of a class.
    """
    seed = settings.seed
    users = participants(subject.labels, settings.users, seed)
    labels, split = subject.labels[users], halves(subject.labels[users], seed)
    vectors = {name: x[users] for name, x in subject.places.items()}
    first = next(iter(vectors.values()))
    rng = numpy_generator(seed, "random vectors")
    baselines = {name: x[users] for name, x in subject.baselines.items()}
    baselines["random"] = random_vectors(len(users), first.shape[1], rng)
    tables, owners, attacked = dict(vectors), labels, split
    if subject.earlier is not None:  # two rows a user, of which the second is never trained on
        for name, x in vectors.items():
            tables[name] = np.concatenate([subject.earlier[name][users], x])
        owners, attacked = np.tile(labels, 2), Round(split.train, len(labels) + split.test)
    at_places = attack_places(tables, owners, settings.attackers, attacked, seed, jobs)
    beside = attack_places(baselines, labels, settings.attackers, split, seed, jobs)
    of_places = worst(at_places, owners, settings.permutations, seed)
    of_all = of_places.pop(None)
    of_baselines = worst(beside, labels, settings.permutations, seed)
    del of_baselines[None]
    truth = labels[split.test]
    chosen = at_places[of_all.place][of_all.attacker]
    curve = {}
    if subject.earlier is None:
        curve = _curve(vectors[of_all.place], labels, of_all.attacker, seed, jobs)
    return {
        "verdict": _verdict(of_all, chosen, truth),
        "users": {
            "train": len(split.train),
            "test": len(split.test),
            "of_class": dict(subject.counts),
        },
        "trained_on": "audited" if subject.earlier is None else "original",
        "attribute": subject.attribute,
        "classes": list(subject.classes),
        "places": {
            name: {
                "dimensions": vectors[name].shape[1],
                **_place(row, of_places[name], truth),
                **_curves(row[of_places[name].attacker], truth, seed, name),
                "apart": asdict(_apart(vectors[name], labels, settings, name)),
            }
            for name, row in at_places.items()
        },
        "baselines": {
            name: {"dimensions": baselines[name].shape[1], **_place(row, of_baselines[name], truth)}
            for name, row in beside.items()
        },
        "curve": curve,
        "groups": _groups(chosen, truth, subject, users[split.test]),
        "utility": _utility(subject),
    }


def _verdict(of_all: Judged, found: Scores, truth: np.ndarray) -> dict[str, Any]:
    low, high = auc_interval(found.scores, truth)
    return {
        "leaks": of_all.leaks,
        "can_tell": of_all.can_tell,
        "place": of_all.place,
        "attacker": of_all.attacker,
        "auc": of_all.auc,
        "interval": [low, high],
        "classes": max(2, found.scores.shape[1]),
        "leakage": of_all.leakage,
        "p": of_all.p,
        "null_95": of_all.bound,
        "null_mean": float(of_all.null.mean()),
        "permutations": len(of_all.null),
    }


def _place(row: Mapping[str, Scores], found: Judged, truth: np.ndarray) -> dict[str, Any]:
    return {
        "worst": found.attacker,
        "auc": found.auc,
        "leakage": found.leakage,
        "p": found.p,
        "null_95": found.bound,
        "leaks": found.leaks,
        "attackers": {name: _attacker(one, truth) for name, one in row.items()},
    }


def _curves(found: Scores, truth: np.ndarray, seed: int, place: str) -> dict[str, Any]:
    if found.scores.shape[1] > 2:
        return {}
    return {"roc": _roc(found, truth, numpy_generator(seed, "roc", place))}


def _roc(found: Scores, truth: np.ndarray, rng: np.random.Generator) -> dict[str, list[float]]:
    """The attacker's ROC curve, turned round where it points the wrong way, with a 95 % band."""
    score, positive = _turned(found, truth)
    curve = roc(score, positive)
    drawn = []
    for _ in range(BOOTSTRAPS):
        users = np.concatenate(
            [rng.choice(side, len(side)) for side in map(np.flatnonzero, (positive, ~positive))]
        )
        drawn.append(roc(score[users], positive[users]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    names = ("fpr", "tpr", "low", "high")
    return {
        name: [round(float(one), 4) for one in values]
        for name, values in zip(names, (FPR_GRID, curve, low, high), strict=True)
    }


def _turned(found: Scores, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of class 1 by an attacker who knows which way they point, and who is in it."""
    sign = 1 if class_aucs(found.scores, truth)[0] >= 0.5 else -1
    return sign * found.scores[:, 1], membership(truth, 2)[:, 0]


def _attacker(found: Scores, truth: np.ndarray) -> dict[str, Any]:
    aucs = class_aucs(found.scores, truth)
    low, high = auc_interval(found.scores, truth)
    figures: dict[str, Any] = {
        "auc": float(np.nanmean(aucs)),
        "interval": [low, high],
        "leakage": leakage(aucs),
        "converged": found.converged,
    }
    if found.scores.shape[1] == 2:
        score, positive = _turned(found, truth)
        figures["at_fpr"] = {str(rate): tpr_at(score, positive, rate) for rate in FALSE_ALARMS}
    else:
        figures["class_aucs"] = [float(one) for one in aucs]
    return figures


def _apart(x: np.ndarray, labels: np.ndarray, settings: Settings, place: str) -> Any:
    rng = numpy_generator(settings.seed, "apart", place)
    return friedman_rafsky(x, labels, min(settings.permutations, 999), rng)


def _curve(
    x: np.ndarray, labels: np.ndarray, attacker: str, seed: int, jobs: int
) -> dict[str, Any]:
    """The worst attacker and the simplest one, by the share of labels that they know."""
    names = tuple(dict.fromkeys((attacker, "logistic")))
    points = []
    for ratio in RATIOS:
        try:
            found = out_of_sample(
                x,
                labels,
                names,
                Protocol("shadow", ratio, CURVE_DRAWS, 2, 1, seed),
                jobs,
                quiet=True,
                settings="cv",
            )
        except UserError:  # so few users that a side would lack a class
            continue
        summary = summarise(found, labels)
        aucs = {name: summary["attackers"][name]["auc"] for name in names}
        points.append(
            {
                "ratio": ratio,
                "known": summary["users"]["train"],
                "auc": {
                    name: {"mean": one["mean"], "std": one["std"]} for name, one in aucs.items()
                },
            }
        )
    return {"attackers": list(names), "draws": CURVE_DRAWS, "points": points}


def _groups(
    found: Scores, truth: np.ndarray, subject: Subject, tested: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The worst attacker's AUC among the tested users of one activity, and of one class of every
    other attribute, by attribute and group; groups with too few of a class are left out.
    """
    groups = {} if subject.activity is None else {"activity": _thirds(subject.activity[tested])}
    for attribute, classes in subject.others.items():
        of_tested = classes[tested]
        groups[attribute] = {name: of_tested == name for name in np.unique(classes) if name}
    result: dict[str, dict[str, Any]] = {}
    for attribute, members in groups.items():
        for name, own in members.items():
            of_class, scores = truth[own], found.scores[own]
            if np.bincount(of_class, minlength=scores.shape[1]).min() < FEWEST:
                continue
            result.setdefault(attribute, {})[str(name)] = {
                "users": int(own.sum()),
                "auc": float(class_aucs(scores, of_class).mean()),
                "interval": list(auc_interval(scores, of_class)),
            }
    return result


def _thirds(activity: np.ndarray) -> dict[str, np.ndarray]:
    """Who (n,) is in which third by activity, as far as equally active users allow."""
    third = np.searchsorted(np.quantile(activity, [1 / 3, 2 / 3]), activity, side="left")
    if third.min() == third.max():
        return {}
    members = [third == number for number in np.unique(third)]
    return {f"{activity[own].min()} to {activity[own].max()} interactions": own for own in members}


def _utility(subject: Subject) -> dict[str, Any]:
    """The recommendations' quality by class, and, where it is known, paired with the original's."""
    if subject.metrics is None:
        return {}
    labels, classes = subject.labels, subject.classes
    result: dict[str, Any] = {}
    for metric in METRICS:
        values = subject.metrics[metric]
        of_class = by_class(values, labels, classes)
        result[metric] = {
            "all": asdict(mean_of(values[~np.isnan(values)])),
            "classes": {name: asdict(one) for name, one in of_class.items()},
        }
        if subject.before is not None:
            change = values - subject.before[metric]
            result[metric]["change"] = {
                "all": asdict(mean_of(change[~np.isnan(change)])),
                "classes": {
                    name: asdict(one) for name, one in by_class(change, labels, classes).items()
                },
                "kept": float(np.nanmean(values) / np.nanmean(subject.before[metric])),
            }
    return result
