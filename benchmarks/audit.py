"""What the audit's p-values and its power are worth: `python -m benchmarks.audit`.

Calibration: users drawn at random with labels that belong to none of them. A p-value is right where
it is at most .05 in one draw of twenty. Beside the audit's halves stand the cheap nulls that are
wrong: the tested labels of every fold (cv) or draw (shadow) permuted, the attackers not retrained.

Power: what is planted is known to the best possible attacker at a stated AUC. How often do the
halves find it? "erased" has nothing planted: class means made equal on the whole sample, which an
attacker who trains on one half reads on the other from below 0.5.

Writes exp_results/tables/benchmarks-audit.md; takes half an hour on two cores.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import f, kstest, norm

from utils.audit.attackers import ATTACKERS
from utils.audit.halves import attack_places, halves, worst
from utils.audit.protocols import Protocol
from utils.audit.scores import Scores, out_of_sample
from utils.audit.statistics import class_aucs, p_value
from utils.messages import table
from utils.pages.parts import Grid, Section
from utils.pages.render import markdown
from utils.runtime import available_cores
from utils.seeds import numpy_generator

QUICK = ("logistic", "qda", "knn", "svm")
"""Attackers that cost next to nothing, so that many draws can be made."""
STRONG = tuple(ATTACKERS)
PERMUTATIONS = 199
DIMENSIONS = 16
FEMALE = 0.29
AUCS = (0.55, 0.6, 0.75)


def nobodys(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, 16), and labels that they don't tell."""
    return rng.normal(size=(n, DIMENSIONS)), (rng.random(n) < FEMALE).astype(np.int64)


def p_of_halves(attackers: tuple[str, ...], x: np.ndarray, labels: np.ndarray, draw: int) -> float:
    """The audit's."""
    split = halves(labels, draw)
    found = attack_places({"x": x}, labels, attackers, split, draw, quiet=True)
    return worst(found, labels, PERMUTATIONS, draw)[None].p


def p_without_retraining(
    protocol: str, attackers: tuple[str, ...], x: np.ndarray, labels: np.ndarray, draw: int
) -> float:
    """Of a protocol whose rounds share users: mean leakage over rounds, tested labels permuted."""
    rounds = Protocol(protocol, 0.1, 10, 5, 1, draw)
    found = out_of_sample(x, labels, attackers, rounds, quiet=True)
    rng = numpy_generator(draw, "permutations")

    def mean_auc(rows: list[Scores], truth: np.ndarray) -> float:
        return float(np.mean([class_aucs(one.scores, truth[one.split.test])[0] for one in rows]))

    def worst_of(truth: np.ndarray) -> float:
        return max(abs(mean_auc(rows, truth) - 0.5) for rows in found.values())

    users = np.unique(np.concatenate([one.split.test for one in next(iter(found.values()))]))
    null = []
    for _ in range(PERMUTATIONS):
        drawn = labels.copy()
        drawn[users] = rng.permutation(labels[users])
        null.append(worst_of(drawn))
    return p_value(worst_of(labels), np.array(null))


def planted(
    kind: str, auc: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose best possible attacker has this AUC, and labels."""
    x, labels = nobodys(n, rng)
    positive = labels == 1
    if kind == "location":
        x[positive, 0] += 2**0.5 * norm.ppf(auc)
    elif kind == "scale":
        x[positive] *= f.ppf(auc, DIMENSIONS, DIMENSIONS) ** 0.5
    elif kind == "rotated xor":
        as_label = rng.random(n) < auc  # the sign of a product is the label with this probability
        sign = np.where(as_label == positive, 1, -1)
        x[:, 1] = sign * np.sign(x[:, 0]) * np.abs(x[:, 1])
        x[:, :2] *= 1.5
        x = x @ np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    else:
        x = rng.normal(size=(n, 4 * DIMENSIONS))
        for c in (0, 1):
            x[labels == c] -= x[labels == c].mean(0)
    return x, labels


def power_of(kind: str, auc: float, n: int, draw: int) -> tuple[bool, float]:
    """Whether the strong battery's worst leaks, and its AUC as an attacker has it who may flip."""
    x, labels = planted(kind, auc, n, numpy_generator(draw, kind, n))
    split = halves(labels, draw)
    found = attack_places({"x": x}, labels, STRONG, split, draw, quiet=True)
    one = worst(found, labels, PERMUTATIONS, draw)[None]
    return one.leaks, 0.5 + one.leakage


def over(work: Iterable[tuple[Callable, tuple]], jobs: int) -> list:
    """The works' results, in processes."""
    return Parallel(n_jobs=jobs)(delayed(function)(*arguments) for function, arguments in work)


def calibration(draws: int, strong_draws: int, jobs: int) -> list[list[str]]:
    """A row a null."""
    cases: list[tuple[str, int, int, Callable, tuple]] = [
        ("halves, 4 attackers", 546, draws, p_of_halves, (QUICK,)),
        ("halves, 4 attackers", 3418, draws, p_of_halves, (QUICK,)),
        ("halves, all 10", 546, strong_draws, p_of_halves, (STRONG,)),
        ("cv, not retrained", 546, draws, p_without_retraining, ("cv", QUICK)),
        ("shadow, not retrained", 546, draws, p_without_retraining, ("shadow", QUICK)),
    ]
    rows = []
    for name, n, count, function, first in cases:
        users = [nobodys(n, numpy_generator(draw, "nobody", n)) for draw in range(count)]
        work = ((function, (*first, *users[draw], draw)) for draw in range(count))
        p = np.array(over(work, jobs))
        uniform = kstest(p, "uniform").pvalue
        rows.append([name, str(n), str(count), f"{(p <= 0.05).mean():.3f}", f"{uniform:.2g}"])
    return rows


def power(draws: int, jobs: int) -> list[list[str]]:
    """A row a kind and AUC, two columns a number of users."""
    rows = []
    for kind, auc in [
        (kind, auc) for kind in ("location", "scale", "rotated xor") for auc in AUCS
    ] + [("erased", 0.5)]:
        row = [kind, f"{auc:g}"]
        for n in (546, 3418):
            found = over(((power_of, (kind, auc, n, draw)) for draw in range(draws)), jobs)
            row += [f"{np.mean([leaks for leaks, _ in found]):.2f}"]
            row += [f"{np.mean([at for _, at in found]):.3f}"]
        rows.append(row)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of calibration")
    parser.add_argument("--strong-draws", type=int, default=100, help="of it, with all attackers")
    parser.add_argument("--power-draws", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--tables", type=Path, default=Path("exp_results/tables"))
    options = parser.parse_args()
    start = time.perf_counter()
    first = calibration(options.draws, options.strong_draws, options.jobs)
    second = power(options.power_draws, options.jobs)
    header = ["Null", "Users", "Draws", "p at most .05", "Uniform (KS p)"]
    columns = ["Planted", "Best AUC", "Found, 546 users", "AUC", "Found, 3418 users", "AUC"]
    command = (
        f"`python -m benchmarks.audit --draws {options.draws} --strong-draws "
        f"{options.strong_draws} --power-draws {options.power_draws}`, "
        f"{time.perf_counter() - start:.0f} s"
    )
    calibrated = "Labels that belong to no vector: how often p is at most .05."
    found = (
        f"Planted signals, {options.power_draws} draws each: how often the verdict is a leak, and "
        "the mean AUC of the worst of ten attackers, turned round where it is below 0.5 (above "
        "0.5 by luck alone: it is the worst)."
    )
    parts = [command, calibrated, Grid(header, first), found, Grid(columns, second)]
    text = markdown([Section("What the audit's verdict is worth", parts)])
    options.tables.mkdir(parents=True, exist_ok=True)
    (options.tables / "benchmarks-audit.md").write_text(text)
    print(table(header, first), table(columns, second), sep="\n\n")


if __name__ == "__main__":
    main()
