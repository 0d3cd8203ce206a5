"""Figure 2 from the records: what each alpha hides and what it costs, on the same seeds."""

from typing import NamedTuple

from utils.reproduction.results import POST_TRAINING, RC25, Results, Setting, on_common_seeds

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
        runs[method, regularizer, alpha] = results.attacked(found, protocol, attacker)
    runs = on_common_seeds(runs)
    if len({alpha for *_, alpha in runs.keys() - {ORIGINAL}}) < 3:
        return None
    points, seeds = {}, 0
    for key, found in runs.items():
        ndcg = results.recommendation(found, "NDCG@10")
        auc = results.attack(found, protocol, attacker, "auc")
        if not ndcg or not auc:  # no seed in common
            return None
        points[key], seeds = (ndcg.mean, auc.mean), ndcg.n
    return TradeOff(seeds, points)
