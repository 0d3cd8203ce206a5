"""What each method and dial hides, and what that costs: which points are beaten by none."""

from collections.abc import Iterator
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from methods import METHODS
from utils.audit.baselines import LISTS
from utils.pages.parts import Grid, Section
from utils.reproduction.results import block_title
from utils.runs.records import ALL_PLACES

SAID = (
    "A dial is one of a method's settings, turned away from its default. The rows: "
    "frontier/audits.csv beside this page, by `python -m benchmarks.frontier`, which runs and "
    "audits configs/frontier.json, every point of a seed from the same original. **Over chance**: "
    "|AUC - 0.5| of the worst attacker at a place, less what the worst finds there by chance "
    "(95 %), the largest of the places but the lists; mean over the seeds (least to most). At 0 or "
    "below nothing is found; each place has its own chance, so that of several one is beyond it "
    "more often than in 5 of 100 cases. **Lists**: the same of the top-20 lists, which tell of the "
    "history whatever the vectors are. **By the original**: over chance too, where coordinates are "
    "the model's own, and by attackers who were trained on the original's vectors "
    "(`audit_trained_on=original`), as of an earlier copy. A star: no other point hides more of "
    "what vectors and scores tell and keeps more of NDCG@10 at once. Means over so few seeds, of "
    "the same users, make no exact order. Seconds: one thread beside other work.",
    "Calibrated's first defaults were `calibrated_band=0 calibrated_views=scaled`: the drawn "
    "difference of the classes' means, turned as a whole towards the old one, is longer than by "
    "chance in few and wide directions, and shorter in all others. NMF's users have two tables, "
    "and who reads the `mlp` one alone is then wrong too often. With `calibrated_band=1` it is as "
    "long as by chance in every principal direction, and takes the old one's sign there "
    "([partition.py](../../methods/partition.py)). This was seen in ridges on an original of "
    "another batch size, and in whole audits of five seeds on ML-100K of another processor's "
    "originals. Then `calibrated_band=1 calibrated_views=both` was the default, and since audits "
    "of other halves of ML-100K's users (`attack_seed=50`) it is `calibrated_views=all`.",
    "ML-100K: Intel Xeon with AVX-512, whose originals are not those above for NMF, and the same "
    "to the digit for LightGCN, whose rows are partly of an AMD EPYC with AVX-512; of NMF's, "
    "D2D-R's other `au_trade_off`s and Calibrated's other bands and first defaults have no rows "
    "yet. ML-1M, "
    "LightGCN: D2D-R, LEACE and the barycentre are rows of the tables above, from the same "
    "originals, of an H200; the points of Calibrated's later defaults, and audits by the "
    "original's attackers, have not been run there. With `batch_size=8192` an original takes 12 to "
    "30 minutes of a core, and has 94 % of the published batch's NDCG@10 (Intel Xeon with "
    "AVX-512). ML-1M, NMF: the same processor; of seed 2 Calibrated's default has no rows, and a "
    "table is of the seeds that all its points have.",
)


GLANCE = (
    "Means over the seeds of vectors and scores: |AUC - 0.5| of the worst of ten attackers, less "
    "what the worst finds by chance (95 %), at the worst place; the share of NDCG@10 that is kept; "
    "seconds of the edit. At 0 or below nothing is found. All edit what is served "
    "(`scope=served`); D2D-R is the published method, by the published settings. What these are "
    "means of, the lists, and who knew the original: [below](#frontiers)."
)
AT_A_GLANCE = (("d2d", ""), ("leace", ""), ("calibrated", ""))
"""Methods and dials that are compared at a glance."""


class Point(NamedTuple):
    """One method, scope and dial, over the block's seeds.

    Attributes:
        method: its title.
        scope: what was edited.
        dial: the settings other than the defaults; empty for none.
        over: leakage less the null's 95 % at the worst place but the lists, a seed a value.
        leaks: in how many of the seeds one of these places leaks.
        lists: leakage less the null's 95 % of the lists, mean.
        by_original: as `over`, by attackers who were trained on the original; none if not asked.
        kept: share of the original's NDCG@10, a seed a value.
        seconds: of the edit, mean.
    """

    method: str
    scope: str
    dial: str
    over: tuple[float, ...]
    leaks: int
    lists: float
    by_original: tuple[float, ...]
    kept: tuple[float, ...]
    seconds: float

    @property
    def at(self) -> tuple[float, float]:
        """What is found, and what is lost: both the less the better."""
        return fmean(self.over), -fmean(self.kept)

    def beats(self, other: "Point") -> bool:
        """As good in both, and better in one."""
        pairs = list(zip(self.at, other.at, strict=True))
        return all(own <= its for own, its in pairs) and any(own < its for own, its in pairs)


def at_a_glance(audits: pd.DataFrame) -> Iterator[Section]:
    """The published method and calibrated, a row a frontier that has the latter by its defaults;
    nothing without audits. As `frontier_sections`.
    """
    if audits.empty:
        return
    named = [(METHODS[method].title, dial) for method, dial in AT_A_GLANCE]
    header = ["", *(f"{title}, `{dial}`" if dial else title for title, dial in named)]
    rows = []
    for title, seeds, points in _blocks(audits):
        found = {(one.method, one.dial): one for one in points if one.scope == "served"}
        if (METHODS["calibrated"].title, "") not in found:
            continue
        rows.append([f"{title} ({len(seeds)} seeds)", *(_briefly(found.get(one)) for one in named)])
    if rows:
        yield Section("At a glance", [GLANCE, Grid(header, rows)])


def _briefly(point: Point | None) -> str:
    if point is None:
        return "–"
    return f"{fmean(point.over):.3f}, {fmean(point.kept):.1%}, {point.seconds:.1f} s"


def frontier_sections(audits: pd.DataFrame) -> Iterator[Section]:
    """What is common to all, and a section a dataset, model, what its original was told, and
    attribute; none without audits.

    Args:
        audits: a row a place, with columns dial, scope, original and seconds beside the record's.
    """
    if not audits.empty:
        yield Section("Frontiers", list(SAID))
    for title, seeds, points in _blocks(audits):
        yield Section(f"Frontier: {title}", [f"Seeds {', '.join(seeds)}.", _grid(points)])


def _blocks(audits: pd.DataFrame) -> Iterator[tuple[str, list[str], list[Point]]]:
    """A dataset's, model's, original's and attribute's title, seeds and points."""
    of_block = ["dataset", "model", "original", "attribute"]
    for (dataset, model, trained, attribute), block in audits.groupby(of_block):
        original = block_title(dataset, model) + (f", `{trained}`" if trained else "")
        yield f"{original}, {attribute}", *points_of(block)


def points_of(block: pd.DataFrame) -> tuple[list[str], list[Point]]:
    """The seeds that are common to all, and the points, those that hide most first."""
    block = block[block["kept"].notna() & (block["place"] != ALL_PLACES)]
    earlier = block[block["trained_on"] == "original"]
    block = block[block["trained_on"] == "audited"]
    by_point = list(block.groupby(["method", "scope", "dial"]))
    seeds = set.intersection(*(set(group["seed"]) for _, group in by_point))
    points = []
    for (method, scope, dial), group in by_point:
        group = group[group["seed"].isin(seeds)].sort_values("seed")
        over = group["leakage"] - group["null_95"]
        vectors = group["place"] != LISTS
        runs = group.groupby("seed")
        known = earlier[earlier["run"].isin(group["run"])].sort_values("seed")
        points.append(
            Point(
                METHODS[method].title,
                scope,
                dial,
                tuple(over[vectors].groupby(group["seed"]).max()),
                int(group["leaks"][vectors].groupby(group["seed"]).any().sum()),
                float(over[~vectors].mean()),
                tuple((known["leakage"] - known["null_95"]).groupby(known["seed"]).max()),
                tuple(runs["kept"].first()),
                float(runs["seconds"].first().mean()),
            )
        )
    return sorted(seeds, key=int), sorted(points, key=lambda point: point.at)


def _grid(points: list[Point]) -> Grid:
    header = ["", "Method", "scope", "Dial", "Over chance", "Leaks", "Lists", "By the original"]
    header += ["NDCG@10", "Seconds"]
    rows = [
        [
            "" if any(other.beats(point) for other in points) else "★",
            point.method,
            point.scope,
            f"`{point.dial}`" if point.dial else "",
            _over(point.over),
            f"{point.leaks} of {len(point.over)}",
            f"{point.lists:.3f}",
            _over(point.by_original) if len(point.by_original) == len(point.over) else "–",
            f"{fmean(point.kept):.1%} ({min(point.kept):.1%} to {max(point.kept):.1%})",
            f"{point.seconds:.1f}",
        ]
        for point in points
    ]
    return Grid(header, rows)


def _over(seeds: tuple[float, ...]) -> str:
    return f"{fmean(seeds):.3f} ({min(seeds):.3f} to {max(seeds):.3f})"
