"""What attackers say of users whom they weren't trained on: the scores that all else is made of.

Accuracy, AUC, pictures and tests are functions of these scores (utils.audit.leakage), so that
no attacker is trained in two places.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from utils.audit.attackers import ATTACKERS
from utils.audit.protocols import Protocol, Round, rounds
from utils.seeds import seed32


@dataclass(frozen=True)
class Scores:
    """One attacker's word on the test users of one round, having seen that round's others only.

    Attributes:
        split: the round.
        scores: (n_test, C), higher where a class is likelier; rows sum to 1.
        predicted: (n_test,) int64, the attacker's own choice of class.
        converged: whether it was trained to the end, and has a score for everybody.
        own: (n_train, C) likewise of the users that it was trained on; None where not asked for.
    """

    split: Round
    scores: np.ndarray
    predicted: np.ndarray
    converged: bool
    own: np.ndarray | None = None


def out_of_sample(
    embedding: np.ndarray,
    labels: np.ndarray,
    attackers: Sequence[str],
    protocol: Protocol,
    jobs: int = 1,
    quiet: bool = False,
    settings: str = "",
    own: bool = False,
) -> dict[str, list[Scores]]:
    """Train every attacker on every round of a protocol and let it score the round's test users.

    Args:
        embedding: (n, d) user embedding.
        labels: (n,) int64, classes 0 .. C-1, -1 where unknown.
        attackers: names in ATTACKERS.
        protocol: the protocol and its settings.
        jobs: processes; changes the speed alone.
        quiet: without progress.
        settings: the protocol whose settings the attackers have, where it is another one.
        own: whether they score the users, too, that they were trained on.

    Returns:
        Each attacker's scores, a round each.

    Raises:
        UserError: too few users of a class for the protocol.
    """
    splits = rounds(labels, protocol)
    features = embedding.astype(np.float32)
    work = (
        delayed(train_and_score)(
            ATTACKERS[name](settings or protocol.family, seed32(protocol.seed, "attacker", number)),
            features,
            labels,
            split,
            own,
        )
        for name in attackers
        for number, split in enumerate(splits)
    )
    results = tqdm(
        Parallel(n_jobs=jobs, return_as="generator")(work),
        total=len(attackers) * len(splits),
        desc=f"attacking ({protocol.name})",
        unit="fit",
        leave=False,
        disable=quiet,
    )
    found = iter(list(results))
    return {name: [next(found) for _ in splits] for name in attackers}


def train_and_score(
    classifier: Any, features: np.ndarray, labels: np.ndarray, split: Round, own: bool = False
) -> Scores:
    """One attacker on one round; `own` as in `out_of_sample`."""
    with threadpool_limits(1), np.errstate(all="ignore"):
        converged = _fit(classifier, features[split.train], labels[split.train])
        tested = features[split.test]
        scores, able = _class_scores(classifier, tested)
        predicted = classifier.predict(tested)
        known = _class_scores(classifier, features[split.train])[0] if own else None
    return Scores(split, scores, predicted, converged and able, known)


def _fit(classifier: Any, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fit; False if it stopped at its iteration limit, which is counted, not printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(features, labels)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return len(others) == len(caught)


def _class_scores(classifier: Any, features: np.ndarray) -> tuple[np.ndarray, bool]:
    """(n, C) scores that rank users for each class and sum to 1, and whether it has some for all:
    who can't be scored, such as by a spread of zero, is as likely of every class.
    """
    if hasattr(classifier, "predict_proba"):
        scores = classifier.predict_proba(features)
    else:
        decision = classifier.decision_function(features)
        if decision.ndim == 1:
            decision = np.stack([-decision, decision], axis=1)
        scores = softmax(decision, axis=1)
    unknown = ~np.isfinite(scores).all(1)
    scores[unknown] = 1 / scores.shape[1]
    return scores, not unknown.any()
