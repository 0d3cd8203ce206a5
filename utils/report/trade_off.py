"""Figure 2 from the records: what each alpha hides and what it costs, on the same seeds."""

from typing import NamedTuple

from utils.report.results import POST_TRAINING, RC25, Results, Setting

ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""MM23 4.2.4."""
ORIGINAL = ("original", "", 0.0)


class TradeOff(NamedTuple):
    """Means over seeds.

    Attributes:
        seeds: how many.
        points: method, regulariser and alpha, or `ORIGINAL` -> NDCG@10 and AUC.
    """

    seeds: int
    points: dict[tuple[str, str, float], tuple[float, float]]


def trade_off(
    results: Results, dataset: str, model: str, attacker: str, protocol: str = "shadow"
) -> TradeOff | None:
    """NDCG@10 and one attacker's AUC of the original and of every alpha that was run.

    Only seeds that all of them have count: seeds differ by more than neighbouring alphas do.
    None where fewer than three alphas have a seed in common.
    """
    wanted = [ORIGINAL] + [
        (method, regularizer, alpha)
        for method in POST_TRAINING
        for regularizer in ("frobenius", "ranking")
        for alpha in ALPHAS
    ]
    runs = {}
    for method, regularizer, alpha in wanted:
        setting = Setting(regularizer, alpha, RC25.fits)
        found = results.of(setting, dataset, model, method)
        found = results.attacked(found, protocol, attacker)
        if len(found):
            runs[method, regularizer, alpha] = found
    if len({alpha for *_, alpha in runs.keys() - {ORIGINAL}}) < 3:
        return None
    seeds = set.intersection(*(set(found["seed"]) for found in runs.values()))
    if not seeds:
        return None
    points = {}
    for key, found in runs.items():
        found = found[found["seed"].isin(seeds)]
        ndcg = results.recommendation(found, "NDCG@10")
        auc = results.attack(found, protocol, attacker, "auc")
        assert ndcg and auc  # each of these runs was attacked
        points[key] = (ndcg.mean, auc.mean)
    return TradeOff(len(seeds), points)
