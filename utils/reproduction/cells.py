"""One cell of a published table beside ours, and the rule by which they are judged.

    SE^2 = s^2 / n + q^2

is the squared standard error of one of our cells: s the standard deviation over n seeds, q the
sampling error of a figure over so many users (which more seeds don't reduce: they share the users).
The published cells' own errors are unknown and not counted, which makes the rule strict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

SAME, ORDER, CONTRADICTS = "=", "~", "x"

VERDICTS = {
    SAME: "within two standard errors of the published value",
    ORDER: "further off; no other method is on the wrong side of it",
    CONTRADICTS: "contradicts: another method is on the other side of it than published, "
    "by more than two standard errors in both",
}


@dataclass(frozen=True)
class Measured:
    """Our figure for a cell.

    Attributes:
        mean: over seeds.
        std: over seeds, with n - 1; 0 for a single seed.
        n: seeds.
        sampling: standard error due to the number of users, the same in every seed.
    """

    mean: float
    std: float
    n: int
    sampling: float

    @property
    def error(self) -> float:
        """Standard error."""
        return math.hypot(self.std / math.sqrt(self.n), self.sampling)

    def folded(self) -> "Measured":
        """The same of who may flip every answer: not below a half."""
        return replace(self, mean=max(self.mean, 1 - self.mean))


def measured(values: Sequence[float], sampling: float) -> Measured:
    """From a value a seed, at least one."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Measured(float(np.mean(values)), std, len(values), sampling)


def share_error(share: float, users: float) -> float:
    """Standard error of a share of `users` users, such as a hit ratio or an accuracy."""
    return math.sqrt(share * (1 - share) / users) if users else 0.0


def ndcg_error(ndcg: float, hit_ratio: float, users: int) -> float:
    """Least standard error that a mean NDCG@k can have beside this hit ratio.

    A user's NDCG is 0 without a hit; its mean square is least if all hits weigh the same, so its
    variance is at least ndcg^2 / hit_ratio - ndcg^2.
    """
    return math.sqrt(ndcg**2 * (1 / hit_ratio - 1) / users) if hit_ratio else 0.0


def auc_error(auc: float, users: int) -> float:
    """Standard error of an AUC over `users` users, half of either class.

    Hanley and McNeil, Radiology 1982; for an AUC below 0.5 that of its mirror image.
    """
    half, a = users / 2, max(auc, 1 - auc)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (half - 1) * (q1 + q2 - 2 * a * a)) / half**2
    return math.sqrt(max(variance, 0.0))


def verdicts(ours: Mapping[str, Measured], published: Mapping[str, float]) -> dict[str, str]:
    """A verdict a method, for one column of one block of a table.

    Args:
        ours: our cell a method.
        published: the published cell a method; methods that only one side has are left out.

    Returns:
        Method -> "=", "~" or "x"; see VERDICTS.
    """
    both = [method for method in published if method in ours]
    reversed_pairs = [{a, b} for a, b in combinations(both, 2) if _reversed(a, b, ours, published)]
    result = {}
    for method in both:
        off = abs(ours[method].mean - published[method])
        if off <= 2 * ours[method].error:
            result[method] = SAME
        else:
            wrong = any(method in pair for pair in reversed_pairs)
            result[method] = CONTRADICTS if wrong else ORDER
    return result


def _reversed(a: str, b: str, ours: Mapping[str, Measured], published: Mapping[str, float]) -> bool:
    noise = 2 * math.hypot(ours[a].error, ours[b].error)
    here, there = ours[a].mean - ours[b].mean, published[a] - published[b]
    return min(abs(here), abs(there)) > noise and (here > 0) != (there > 0)


def order_verdicts(ours: Mapping[str, Measured], published: Mapping[str, float]) -> dict[str, str]:
    """The same where only the order can be compared, such as seconds on different machines."""
    return {
        method: ORDER if verdict == SAME else verdict
        for method, verdict in verdicts(ours, published).items()
    }
