"""The papers' claims as sentences that our records can be asked."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property

import pandas as pd

from utils.reproduction.cells import Measured
from utils.reproduction.results import (
    BLOCKS,
    METHODS,
    RC25,
    RC25_FROBENIUS,
    TIMES,
    Results,
    Setting,
    block_title,
    on_common_seeds,
)
from utils.reproduction.trade_off import trade_off

HOLDS, PARTLY, FAILS, OPEN = "holds", "holds in part", "does not hold", "not measured"


@dataclass(frozen=True)
class Finding:
    """What one block (a dataset and a recommender) says of a claim.

    Attributes:
        where: the block.
        holds: whether it does there.
        figures: in words.
    """

    where: str
    holds: bool
    figures: str


@dataclass(frozen=True)
class Claim:
    """A claim and where it stands.

    Attributes:
        sentence: as one that is true or not.
        source: the paper's place.
        findings: a block each.
    """

    sentence: str
    source: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """In all blocks measured, in some, in none."""
        held = [finding.holds for finding in self.findings]
        if not held:
            return OPEN
        return HOLDS if all(held) else PARTLY if any(held) else FAILS


class Unmeasured(Exception):
    """A claim needs a figure that we have no run for."""


@dataclass(frozen=True)
class Block:
    """Our figures of one dataset and recommender in one setting, means over seeds.

    A claim compares methods, and seeds differ too; so only seeds count that every method has of
    which there are runs at all. Where a figure is missing, `Unmeasured` is raised.
    """

    results: Results
    setting: Setting
    dataset: str
    model: str

    @property
    def name(self) -> str:
        """Where its figures are from; a dataset that stands in is named."""
        return block_title(self.dataset, self.model, self.setting)

    def ranking(self, metric: str, *methods: str) -> list[float]:
        """A ranking metric of each method."""
        return [_mean(self.results.recommendation(self._runs(one), metric)) for one in methods]

    def seconds(self, *methods: str) -> list[float]:
        """Seconds of each method."""
        return [_mean(self.results.seconds(self._runs(method))) for method in methods]

    def auc(self, method: str, *attackers: str) -> list[float]:
        """AUC under `cv` of each attacker on a method's embedding."""
        runs = self._runs(method)
        return [_mean(self.results.attack(runs, "cv", one, "auc")) for one in attackers]

    @cached_property
    def _of_method(self) -> dict[str, pd.DataFrame]:
        return on_common_seeds(
            {
                method: self.results.of(self.setting, self.dataset, self.model, method)
                for method in METHODS
            }
        )

    def _runs(self, method: str) -> pd.DataFrame:
        return self._of_method.get(method, self.results.runs.iloc[:0])


def _mean(figure: Measured | None) -> float:
    if figure is None:
        raise Unmeasured
    return figure.mean


def _free(auc: float) -> float:
    """An AUC whose attacker may flip its answer."""
    return max(auc, 1 - auc)


Test = Callable[[Block], tuple[bool, str]]
"""A block -> whether the claim holds there, and the figures."""


def _both_attackers(method: str, find: Callable[[float], bool]) -> Test:
    def test(block: Block) -> tuple[bool, str]:
        mlp, xgb = block.auc(method, "mlp", "xgb")
        return find(mlp) and find(xgb), f"AUC of MLP {mlp:.3f}, XGB {xgb:.3f}"

    return test


def _d2d_recommends_better(block: Block) -> tuple[bool, str]:
    d2d, u2u = block.ranking("NDCG@10", "d2d", "u2u")
    return d2d > u2u, f"NDCG@10 {d2d:.4f} against {u2u:.4f}"


def _best(block: Block, method: str) -> tuple[float, str]:
    """The attacker that finds most, and in words."""
    mlp, xgb = map(_free, block.auc(method, "mlp", "xgb"))
    auc, name = (mlp, "MLP") if mlp >= xgb else (xgb, "XGB")
    return auc, f"{METHODS[method]} at {auc:.3f} ({name})"


def _d2d_hides_better(block: Block) -> tuple[bool, str]:
    (d2d, of_d2d), (u2u, of_u2u) = _best(block, "d2d"), _best(block, "u2u")
    return d2d < u2u, f"the better attacker, sign free, reads {of_d2d}, {of_u2u}"


OTHERS = ("u2u", "retrain", "adv")


def _d2d_hides_best(block: Block) -> tuple[bool, str]:
    d2d, words = _best(block, "d2d")
    least, of_least = min(_best(block, method) for method in OTHERS)
    return d2d < least, f"the better attacker, sign free, reads {words}, {of_least}"


def _d2d_recommends_best(block: Block) -> tuple[bool, str]:
    d2d, *others = block.ranking("NDCG@10", "d2d", *OTHERS)
    best, method = max(zip(others, OTHERS, strict=True))
    return d2d > best, f"D2D-R {d2d:.4f}, {METHODS[method]} {best:.4f}"


def _u2u_collapses(block: Block) -> tuple[bool, str]:
    (auc,), (here, there) = block.auc("u2u", "xgb"), block.ranking("HR@10", "u2u", "original")
    return auc >= 0.99 and here < there, f"XGB {auc:.4f}; HR@10 {here:.4f} from {there:.4f}"


def _u2u_fools(block: Block) -> tuple[bool, str]:
    (auc,) = block.auc("u2u", "mlp")
    return abs(auc - 0.5) <= 0.05, f"AUC of MLP {auc:.3f}"


def _change(here: float, there: float) -> str:
    return f"{here:.4f} from {there:.4f} ({100 * (here / there - 1):+.1f} %)"


def _d2d_keeps_hr(block: Block) -> tuple[bool, str]:
    d2d, original = block.ranking("HR@10", "d2d", "original")
    return d2d / original - 1 >= -0.015, _change(d2d, original)


def _d2d_gains(block: Block) -> tuple[bool, str]:
    d2d, original = block.ranking("NDCG@10", "d2d", "original")
    return d2d > original, f"NDCG@10 {_change(d2d, original)}"


def _no_leak_left(block: Block) -> tuple[bool, str]:
    d2d, original = (_free(*block.auc(method, "mlp-scaled")) for method in ("d2d", "original"))
    return d2d < original, (
        f"an MLP on standardised features, sign free: {d2d:.3f}, original {original:.3f}"
    )


def _faster(block: Block) -> tuple[bool, str]:
    slow, fast = block.seconds("retrain", "d2d")
    ratio = slow / fast
    return ratio > 10, f"Retrain {slow:.0f} s, D2D-R {fast:.1f} s: {ratio:.0f} times"


def _takes_less(fast: str, slow: str, digits: int) -> Test:
    def test(block: Block) -> tuple[bool, str]:
        less, more = block.seconds(fast, slow)
        return less < more, (
            f"{METHODS[fast]} {less:.{digits}f} s, {METHODS[slow]} {more:.{digits}f} s"
        )

    return test


def _in_training_keeps_hr(block: Block) -> tuple[bool, str]:
    retrain, adv, original = block.ranking("HR@10", "retrain", "adv", "original")
    worst = min(retrain, adv) / original - 1
    return worst >= -0.02, (
        f"Retrain {retrain:.4f}, Adv-InT {adv:.4f}, Original {original:.4f} "
        f"({100 * worst:+.1f} % at worst)"
    )


CLAIMS: tuple[tuple[str, str, Setting, Test], ...] = (
    (
        "The original embedding gives the gender away (both attackers above AUC 0.6)",
        "MM23 4.2.1; RC25 Table 3",
        RC25,
        _both_attackers("original", lambda auc: auc > 0.6),
    ),
    (
        "D2D-R beats U2U-R in recommendation (NDCG@10)",
        "MM23 4.2.2; RC25 Table 1",
        RC25,
        _d2d_recommends_better,
    ),
    (
        "D2D-R beats U2U-R in unlearning (the better of the two attackers finds less)",
        "MM23 4.2.1; RC25 Table 3",
        RC25,
        _d2d_hides_better,
    ),
    (
        "D2D-R outperforms all compared methods in unlearning (the better of the two attackers "
        "finds least)",
        "MM23 4.2.1 (sign free, Retrain hides better in all 6 blocks of RC25 Table 3)",
        RC25,
        _d2d_hides_best,
    ),
    (
        "D2D-R outperforms all compared methods in recommendation (NDCG@10)",
        "MM23 4.2.2",
        RC25,
        _d2d_recommends_best,
    ),
    (
        "U2U-R fools the MLP (AUC within 0.05 of a half)",
        "MM23 4.2.1 (in 1 of 6 blocks of RC25 Table 3)",
        RC25,
        _u2u_fools,
    ),
    (
        "U2U-R collapses: XGB reads the gender at AUC 0.99 or more, and HR@10 falls",
        "MM23 4.2.1, 4.2.5; RC25 Table 3",
        RC25,
        _u2u_collapses,
    ),
    (
        "D2D-R keeps HR@10 within 1.5 % of the original's",
        "RC25 Table 1 (0.3 % to 4.7 % there: in 3 of 6 blocks)",
        RC25,
        _d2d_keeps_hr,
    ),
    (
        "The same with the regulariser that the papers write",
        "MM23 eq. 11",
        RC25_FROBENIUS,
        _d2d_keeps_hr,
    ),
    (
        "D2D-R even improves NDCG@10",
        "MM23 4.2.2 (6.28 % on average; -0.5 % in its own Table 4)",
        RC25,
        _d2d_gains,
    ),
    (
        "D2D-R sends both attackers below AUC 0.5",
        "RC25 Table 3 (in 4 of 6 blocks there)",
        RC25,
        _both_attackers("d2d", lambda auc: auc < 0.5),
    ),
    (
        "After D2D-R less can be told than before, also by an attacker that standardises its "
        "features and may flip its answer",
        "not in the papers; see An AUC below 0.5 in the README",
        RC25,
        _no_leak_left,
    ),
    (
        "Post-training is over 10 times as fast as in-training (D2D-R against Retrain)",
        "MM23 4.2.3; RC25 Table 2 (29 to 2,900 times there)",
        TIMES,
        _faster,
    ),
    (
        "D2D-R takes less time than U2U-R",
        "MM23 Table 5; RC25 Table 2",
        TIMES,
        _takes_less("d2d", "u2u", 2),
    ),
    (
        "Retrain takes less time than Adv-InT",
        "MM23 4.2.3; RC25 Table 2",
        TIMES,
        _takes_less("retrain", "adv", 0),
    ),
    (
        "Retrain hides the gender (both attackers below AUC 0.55)",
        "RC25 Table 3",
        RC25,
        _both_attackers("retrain", lambda auc: auc < 0.55),
    ),
    (
        "Adv-InT leaves the gender readable (both attackers above AUC 0.6)",
        "RC25 Table 3 (ML-100K, and LightGCN on ML-1M; not NMF on ML-1M)",
        RC25,
        _both_attackers("adv", lambda auc: auc > 0.6),
    ),
    (
        "The in-training methods keep HR@10 within 2 % of the original's",
        "RC25 Table 1",
        RC25,
        _in_training_keeps_hr,
    ),
)


def claims(results: Results) -> Iterator[Claim]:
    """Every claim with what our records say of it."""

    @cache
    def blocks(setting: Setting) -> list[Block]:
        return [Block(results, setting, dataset, model) for dataset, model in BLOCKS]

    for sentence, source, setting, test in CLAIMS:
        findings = []
        for block in blocks(setting):
            with suppress(Unmeasured):
                findings.append(Finding(block.name, *test(block)))
        yield Claim(sentence, source, tuple(findings))
    yield Claim(
        "Both methods are robust to alpha (1e-6 to 1e-2): NDCG@10 and the AUC of MLP under "
        "`shadow` move by less than 0.05",
        "MM23 4.2.4, Figure 2",
        tuple(_robustness(results)),
    )


def _robustness(results: Results) -> Iterator[Finding]:
    for dataset, model in BLOCKS:
        found = trade_off(results, dataset, model, "mlp")
        series: dict[tuple[str, str], dict[float, tuple[float, float]]] = {}
        for (method, regularizer, alpha), point in found.points.items() if found else ():
            series.setdefault((method, regularizer), {})[alpha] = point
        for (method, regularizer), points in series.items():
            if len(points) < 3:
                continue
            ndcg, auc = zip(*points.values(), strict=True)
            moved = max(ndcg) - min(ndcg), max(auc) - min(auc)
            yield Finding(
                f"{METHODS[method]}, `{regularizer}`, {block_title(dataset, model)}",
                max(moved) < 0.05,
                f"alpha {min(points):g} to {max(points):g}: NDCG@10 moves by "
                f"{moved[0]:.4f}, AUC by {moved[1]:.3f}",
            )
