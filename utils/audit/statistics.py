"""How sure an attack's figures are: AUCs by ranks, their errors, and what permuted labels give.

A class's AUC is the share of pairs of one of its users and another user that its score puts in the
right order, ties by half. Over classes c = 0 .. C-1 (for two classes class 1 alone: the other is
its mirror image)

    AUC = mean AUC_c,      leakage = mean |AUC_c - 1/2|

where the second is two-sided class by class: an attacker may flip a class's sign.
"""

import math

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve


def auc_standard_error(auc: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC over so many test users (Hanley and McNeil, Radiology 1982).

    With A the AUC, Q1 = A / (2 - A) and Q2 = 2 A² / (1 + A),

        se² = (A (1 - A) + (n_p - 1) (Q1 - A²) + (n_n - 1) (Q2 - A²)) / (n_p n_n).
    """
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (first - auc**2) + (n_negative - 1) * (second - auc**2)
    )
    return math.sqrt(variance / (n_positive * n_negative))


def judged(scores: np.ndarray) -> np.ndarray:
    """The columns of scores (n, C) that classes are judged by: all, or class 1 alone of two."""
    return scores[:, 1:] if scores.shape[1] == 2 else scores


def membership(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n, C) bool, or (n, 1) of class 1 alone of two: who is in the classes that are judged."""
    return judged(labels[:, None] == np.arange(classes))


def class_aucs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C,) AUC of each judged class; a class that nobody is in, or everybody, has NaN.

    Args:
        scores: (n, C), higher where a class is likelier.
        labels: (n,) int64, classes 0 .. C-1.
    """
    members = membership(labels, scores.shape[1])
    return _aucs(_ranks(scores).T, members.T[None])[0]


def leakage(aucs: np.ndarray) -> float:
    """Mean |AUC_c - 1/2| of the classes that have an AUC."""
    return float(np.nanmean(np.abs(aucs - 0.5)))


def auc_interval(
    scores: np.ndarray, labels: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Where the attacker's mean AUC on all such users lies, from these ones, by chance `level`.

    The AUC's error is that of a mean of the users' influences (DeLong, DeLong and Clarke-Pearson,
    Biometrics 1988): with F_c and G_c the distributions of a score inside and outside class c,

        ψ_i = (G_c(s_i) - AUC_c) / p_c  inside,   (1 - F_c(s_i) - AUC_c) / (1 - p_c)  outside,

    averaged over classes; se² = Σ ψ_i² / n². The interval is symmetric on the logit scale.
    """
    members = membership(labels, scores.shape[1])
    n, (inside, outside) = len(labels), (members.sum(0), (~members).sum(0))
    both = (inside > 0) & (outside > 0)
    members, inside, outside = members[:, both], inside[both], outside[both]
    values = class_aucs(scores, labels)[both]
    of_all = _ranks(scores)[:, both]
    influence = np.empty_like(of_all)
    for c, column in enumerate(members.T):
        for side, sign, others in ((column, 1, outside[c]), (~column, -1, inside[c])):
            below = (of_all[side, c] - rankdata(of_all[side, c])) / others
            placed = below if sign > 0 else 1 - below
            influence[side, c] = (placed - values[c]) * n / side.sum()
    error = math.sqrt(float((influence.mean(1) ** 2).sum())) / n
    mean = float(values.mean())
    if not 0 < mean < 1:  # all in order: at least one of n might not have been
        edge = 1 - (1 - level) ** (1 / min(*inside, *outside))
        return (1 - edge, 1.0) if mean else (0.0, edge)
    half = norm.ppf((1 + level) / 2) * error / (mean * (1 - mean))
    logit = math.log(mean / (1 - mean))
    return _logistic(logit - half), _logistic(logit + half)


def permuted_leakages(
    scores: np.ndarray, labels: np.ndarray, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """(B, m) leakage of m attackers under B permutations of the tested users' labels, the same for
    all attackers.

    Args:
        scores: (m, n, C).
        labels: (n,) int64, classes 0 .. C-1.
        permutations: B.
        rng: draws them.
    """
    classes = scores.shape[2]
    ranks = np.stack([_ranks(one) for one in scores])  # (m, n, judged)
    found = []
    for _ in range(permutations):
        members = membership(rng.permutation(labels), classes)
        positives = members.sum(0)
        sums = np.einsum("mnc,nc->mc", ranks, members)
        aucs = _from_sums(sums, positives, len(labels))
        found.append(np.nanmean(np.abs(aucs - 0.5), axis=1))
    return np.stack(found)


def tpr_at(scores: np.ndarray, positive: np.ndarray, fpr: float) -> dict[str, float | int]:
    """The share of the class that is found when at most so large a share of the others is accused.

    Args:
        scores: (n,), higher where the class is likelier.
        positive: (n,) bool.
        fpr: the most of the others, as a share.

    Returns:
        {"tpr", "fpr" as realised, "found", "accused"}: the largest such share, of users whose
        scores are at or above one threshold.
    """
    order = np.argsort(-scores, kind="stable")
    right, ordered = positive[order], scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # whole ties only
    found, accused = np.cumsum(right)[last], np.cumsum(~right)[last]
    allowed = np.flatnonzero(accused <= fpr * (~positive).sum())
    if not len(allowed):
        return {"tpr": 0.0, "fpr": 0.0, "found": 0, "accused": 0}
    tp, fp = int(found[allowed[-1]]), int(accused[allowed[-1]])
    return {
        "tpr": tp / int(positive.sum()),
        "fpr": fp / int((~positive).sum()),
        "found": tp,
        "accused": fp,
    }


FPR_GRID = np.linspace(0, 1, 51)
"""False positive rates at which a ROC curve is kept."""


def roc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """(51,) true positive rates at FPR_GRID, between thresholds by the straight line.

    Args:
        scores: (n,), higher where the class is likelier.
        positive: (n,) bool.
    """
    false, true, _ = roc_curve(positive, scores)
    return np.interp(FPR_GRID, false, true)


def p_value(observed: float, null: np.ndarray) -> float:
    """(1 + #{null >= observed}) / (B + 1) (Phipson and Smyth, 2010)."""
    return (1 + int((null >= observed).sum())) / (len(null) + 1)


MOST_LEAKAGE = 0.5
LEVEL = 0.05
"""Of the verdict: how often a leak is called where there is none, at most."""


def upper_bound(null: np.ndarray) -> float:
    """What is above it has a p of at most LEVEL: the ⌈0.95 (B + 1)⌉-th smallest of the null, or the
    largest.
    """
    number = math.ceil(round((1 - LEVEL) * (len(null) + 1), 9))
    return float(np.sort(null)[min(number, len(null)) - 1])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """(n, judged) ranks from 1, ties in their middle."""
    return rankdata(judged(scores), axis=0)


def _aucs(ranks: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(B, judged) AUCs from ranks (judged, n) and members (B, judged, n)."""
    sums = (ranks * members).sum(-1)
    return _from_sums(sums, members.sum(-1), ranks.shape[-1])


def _from_sums(sums: np.ndarray, positives: np.ndarray, n: int) -> np.ndarray:
    """Mann and Whitney's U over the number of pairs."""
    with np.errstate(invalid="ignore"):
        return (sums - positives * (positives + 1) / 2) / (positives * (n - positives))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
