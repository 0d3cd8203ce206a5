"""What the worst of several attackers finds where there is nothing to find.

The worst of ten attackers on 500 users stands some way from chance by luck alone. The null says how
far: the labels are permuted among the users that have one, and the whole attack is repeated on
them: users drawn and balanced, attackers trained, the worst two-sided leakage taken. Labels that
belong to no user's vector are the exact null of "the vectors tell nothing", for both protocols.
Permuting only the test users' labels would be cheaper, and wrong wherever rounds share users.

The p-value of B permutations is (1 + #{null >= observed}) / (B + 1) (Phipson and Smyth, 2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from utils.audit.leakage import auc, two_sided
from utils.audit.protocols import Protocol
from utils.audit.scores import out_of_sample
from utils.audit.statistics import LEVEL, MOST_LEAKAGE, p_value, upper_bound
from utils.seeds import derive, numpy_generator


@dataclass(frozen=True)
class Worst:
    """The attacker that finds most.

    Attributes:
        attacker: its name.
        auc: its mean AUC.
        leakage: |AUC - 0.5|.
    """

    attacker: str
    auc: float
    leakage: float

    @classmethod
    def of(cls, attackers: Mapping[str, Any]) -> "Worst":
        """Of the attackers' figures (see `utils.audit.leakage.summarise`)."""
        name = max(attackers, key=lambda one: attackers[one]["leakage"])
        return cls(name, attackers[name]["auc"]["mean"], attackers[name]["leakage"])


@dataclass(frozen=True)
class Judged(Worst):
    """It beside what the worst finds under permuted labels.

    Attributes:
        null: (B,) leakage of the worst of the same attackers and places, a permutation each.
        place: where it is, of several.
    """

    null: np.ndarray
    place: str = ""

    @property
    def p(self) -> float:
        """How often chance finds as much."""
        return p_value(self.leakage, self.null)

    @property
    def bound(self) -> float:
        """What is above it has a p of at most .05."""
        return upper_bound(self.null)

    @property
    def can_tell(self) -> bool:
        """Whether anything that could be found would be beyond chance; not with a few users."""
        return self.bound < MOST_LEAKAGE

    @property
    def leaks(self) -> bool:
        """Whether more is found than the worst finds by chance in 95 of 100 cases."""
        return self.p <= LEVEL


def null_of_the_worst(
    embedding: np.ndarray,
    labels: np.ndarray,
    attackers: Sequence[str],
    protocol: Protocol,
    permutations: int,
    jobs: int,
) -> list[float]:
    """The worst leakage under each permutation of the labels.

    Args:
        embedding: (n, d).
        labels: (n,) int64, classes 0 .. C-1, -1 where unknown: these stay where they are.
        attackers: names in ATTACKERS.
        protocol: as of the attack; each permutation has draws and attackers of its own.
        permutations: how many.
        jobs: processes; changes the speed alone.
    """
    work = (
        delayed(_permuted)(embedding, labels, attackers, protocol, number)
        for number in range(permutations)
    )
    done = Parallel(n_jobs=jobs, return_as="generator")(work)
    return list(tqdm(done, total=permutations, desc="null", unit="permutation", leave=False))


def _permuted(
    embedding: np.ndarray,
    labels: np.ndarray,
    attackers: Sequence[str],
    protocol: Protocol,
    number: int,
) -> float:
    rng = numpy_generator(protocol.seed, "null", number)
    shuffled, known = labels.copy(), np.flatnonzero(labels >= 0)
    shuffled[known] = labels[rng.permutation(known)]
    own = replace(protocol, seed=derive(protocol.seed, "null", number) % 2**31)
    found = out_of_sample(embedding, shuffled, attackers, own, quiet=True)
    return max(two_sided([auc(one, shuffled) for one in rows]) for rows in found.values())


def verdict(attackers: Mapping[str, Any], null: Sequence[float]) -> dict[str, Any]:
    """What attack.json says of the worst attacker beside its null.

    Returns:
        {"worst", "auc", "leakage", "null": {"mean", "95", "values"}, "p", "leaks"}; leaks where
        the leakage is above the null's 95th percentile.
    """
    worst = Worst.of(attackers)
    found = Judged(worst.attacker, worst.auc, worst.leakage, np.array(null))
    return {
        "worst": found.attacker,
        "auc": found.auc,
        "leakage": found.leakage,
        "null": {"mean": float(found.null.mean()), "95": found.bound, "values": list(null)},
        "p": found.p,
        "leaks": found.leaks,
        "can_tell": found.can_tell,
    }


def gate(result: Mapping[str, Any], fail_above: float | str) -> str:
    """The worst attacker against a leakage, or against its null: "passed" or "failed".

    Args:
        result: of an attack, with its verdict for "null-95".
        fail_above: a number, or "null-95".
    """
    leakage = Worst.of(result["attackers"]).leakage
    return audit_gate({"leakage": leakage} | result.get("verdict", {}), fail_above)


def audit_gate(verdict: Mapping[str, Any], fail_above: float | str) -> str:
    """The same of an audit's verdict; where too few users can't tell, "null-95" fails."""
    if fail_above == "null-95":
        failed = verdict["leaks"] or not verdict["can_tell"]
    else:
        failed = verdict["leakage"] > float(fail_above)
    return "failed" if failed else "passed"
