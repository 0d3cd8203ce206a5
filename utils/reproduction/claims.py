"""The papers' claims as sentences that our records can be asked."""

from collections.abc import Callable, Iterator
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


@dataclass(frozen=True)
class Block:
    """Our figures of one dataset and recommender in one setting.

    A claim compares methods, and seeds differ too; so only seeds count that every method has of
    which there are runs at all.
    """

    results: Results
    setting: Setting
    dataset: str
    model: str

    @property
    def name(self) -> str:
        """Where its figures are from; a dataset that stands in is named."""
        return block_title(self.dataset, self.model, self.setting)

    def ranking(self, method: str, metric: str) -> Measured | None:
        """A ranking metric of a method."""
        return self.results.recommendation(self._runs(method), metric)

    def seconds(self, method: str) -> Measured | None:
        """Seconds of a method."""
        return self.results.seconds(self._runs(method))

    def auc(self, method: str, attacker: str, protocol: str = "cv") -> Measured | None:
        """AUC of an attacker on a method's embedding."""
        return self.results.attack(self._runs(method), protocol, attacker, "auc")

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


Test = Callable[[Block], tuple[bool, str] | None]
"""A block -> whether the claim holds there, and the figures; None where something is missing."""


def _known(*values: Measured | None) -> list[float] | None:
    means = [value.mean for value in values if value is not None]
    return means if len(means) == len(values) else None


def _leaks(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.auc("original", "mlp"), block.auc("original", "xgb"))):
        return None
    return min(found) > 0.6, f"AUC of MLP {found[0]:.3f}, XGB {found[1]:.3f}"


def _d2d_recommends_better(block: Block) -> tuple[bool, str] | None:
    d2d, u2u = (block.ranking(method, "NDCG@10") for method in ("d2d", "u2u"))
    if not (found := _known(d2d, u2u)):
        return None
    return found[0] > found[1], f"NDCG@10 {found[0]:.4f} against {found[1]:.4f}"


def _best(block: Block, method: str) -> tuple[float, str] | None:
    """The AUC of the attacker that finds most, flipped where it lies below 0.5."""
    found = {name: block.auc(method, name) for name in ("mlp", "xgb")}
    known = {name: max(one.mean, 1 - one.mean) for name, one in found.items() if one}
    if len(known) < len(found):
        return None
    worst = max(known, key=lambda name: known[name])
    return known[worst], worst.upper()


def _d2d_hides_better(block: Block) -> tuple[bool, str] | None:
    d2d, u2u = _best(block, "d2d"), _best(block, "u2u")
    if not d2d or not u2u:
        return None
    return d2d[0] < u2u[0], (
        f"the better attacker, sign free, reads D2D-R at {d2d[0]:.3f} ({d2d[1]}), "
        f"U2U-R at {u2u[0]:.3f} ({u2u[1]})"
    )


def _u2u_collapses(block: Block) -> tuple[bool, str] | None:
    found = _known(
        block.auc("u2u", "xgb"), block.ranking("u2u", "HR@10"), block.ranking("original", "HR@10")
    )
    if not found:
        return None
    auc, here, there = found
    return auc >= 0.99 and here < there, f"XGB {auc:.4f}; HR@10 {here:.4f} from {there:.4f}"


def _d2d_keeps_hr(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.ranking("d2d", "HR@10"), block.ranking("original", "HR@10"))):
        return None
    change = found[0] / found[1] - 1
    return change >= -0.015, f"{found[0]:.4f} from {found[1]:.4f} ({100 * change:+.1f} %)"


def _d2d_gains(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.ranking("d2d", "NDCG@10"), block.ranking("original", "NDCG@10"))):
        return None
    change = found[0] / found[1] - 1
    return change > 0, f"NDCG@10 {found[0]:.4f} from {found[1]:.4f} ({100 * change:+.1f} %)"


def _d2d_below_chance(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.auc("d2d", "mlp"), block.auc("d2d", "xgb"))):
        return None
    return max(found) < 0.5, f"AUC of MLP {found[0]:.3f}, XGB {found[1]:.3f}"


def _no_leak_left(block: Block) -> tuple[bool, str] | None:
    d2d, before = block.auc("d2d", "mlp-scaled"), block.auc("original", "mlp-scaled")
    if not (found := _known(d2d, before)):
        return None
    free = [max(auc, 1 - auc) for auc in found]
    return free[0] < free[1], (
        f"an MLP on standardised features, sign free: {free[0]:.3f}, original {free[1]:.3f}"
    )


def _faster(block: Block) -> tuple[bool, str] | None:
    slow, fast = block.seconds("retrain"), block.seconds("d2d")
    if not (found := _known(slow, fast)):
        return None
    ratio = found[0] / found[1]
    return ratio > 10, f"Retrain {found[0]:.0f} s, D2D-R {found[1]:.1f} s: {ratio:.0f} times"


def _d2d_faster_than_u2u(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.seconds("d2d"), block.seconds("u2u"))):
        return None
    return found[0] < found[1], f"D2D-R {found[0]:.2f} s, U2U-R {found[1]:.2f} s"


def _retrain_faster_than_adv(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.seconds("retrain"), block.seconds("adv"))):
        return None
    return found[0] < found[1], f"Retrain {found[0]:.0f} s, Adv-InT {found[1]:.0f} s"


def _retrain_hides(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.auc("retrain", "mlp"), block.auc("retrain", "xgb"))):
        return None
    return max(found) < 0.55, f"AUC of MLP {found[0]:.3f}, XGB {found[1]:.3f}"


def _adv_leaks(block: Block) -> tuple[bool, str] | None:
    if not (found := _known(block.auc("adv", "mlp"), block.auc("adv", "xgb"))):
        return None
    return min(found) > 0.6, f"AUC of MLP {found[0]:.3f}, XGB {found[1]:.3f}"


def _in_training_keeps_hr(block: Block) -> tuple[bool, str] | None:
    three = [block.ranking(method, "HR@10") for method in ("retrain", "adv", "original")]
    if not (found := _known(*three)):
        return None
    worst = min(found[:2]) / found[2] - 1
    return worst >= -0.02, (
        f"Retrain {found[0]:.4f}, Adv-InT {found[1]:.4f}, Original {found[2]:.4f} "
        f"({100 * worst:+.1f} % at worst)"
    )


CLAIMS: tuple[tuple[str, str, Setting, Test], ...] = (
    (
        "The original embedding gives the gender away (both attackers above AUC 0.6)",
        "MM23 4.2.1; RC25 Table 3",
        RC25,
        _leaks,
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
        "U2U-R collapses: XGB reads the gender at AUC 0.99 or more, and HR@10 falls",
        "MM23 4.2.1, 4.2.5; RC25 Table 3",
        RC25,
        _u2u_collapses,
    ),
    (
        "D2D-R keeps HR@10 within 1.5 % of the original's",
        "RC25 Table 1 (0.4 % to 4.7 % there)",
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
        "MM23 4.2.2 (6.28 % on average)",
        RC25,
        _d2d_gains,
    ),
    (
        "D2D-R sends both attackers below AUC 0.5",
        "RC25 Table 3",
        RC25,
        _d2d_below_chance,
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
        _d2d_faster_than_u2u,
    ),
    (
        "Retrain takes less time than Adv-InT",
        "MM23 4.2.3; RC25 Table 2",
        TIMES,
        _retrain_faster_than_adv,
    ),
    (
        "Retrain hides the gender (both attackers below AUC 0.55)",
        "RC25 Table 3",
        RC25,
        _retrain_hides,
    ),
    (
        "Adv-InT leaves the gender readable (both attackers above AUC 0.6)",
        "RC25 Table 3 (ML-100K, and LightGCN on ML-1M; not NMF on ML-1M)",
        RC25,
        _adv_leaks,
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
    def block(setting: Setting, dataset: str, model: str) -> Block:
        return Block(results, setting, dataset, model)

    for sentence, source, setting, test in CLAIMS:
        findings = []
        for dataset, model in BLOCKS:
            asked = block(setting, dataset, model)
            if outcome := test(asked):
                findings.append(Finding(asked.name, *outcome))
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
