"""What each method and dial hides, and what that costs: which points are beaten by none."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from methods import METHODS
from utils.pages.parts import Grid, Section
from utils.reproduction.results import block_title

SAID = (
    "A dial is one of a method's settings, turned away from its default: rows by `python -m "
    "benchmarks.frontier`, which runs and audits configs/frontier.json, all else as above. **Over "
    "chance**: |AUC - 0.5| of the worst attacker at the worst place, less what the worst finds by "
    "chance (95 %), mean over the seeds (least to most); at 0 or below nothing is found. A star: "
    "no other point hides more and keeps more of NDCG@10 at once. Means over so few seeds, of the "
    "same users, make no exact order, and no default was changed by them."
)


class Point(NamedTuple):
    """One method, scope and dial; means over the block's seeds.

    Attributes:
        method: its title.
        scope: what was edited.
        dial: the settings other than the defaults; empty for none.
        over: leakage less the null's 95 %, a seed a value.
        leaks: in how many of the seeds.
        kept: share of the original's NDCG@10.
        seconds: of the edit.
    """

    method: str
    scope: str
    dial: str
    over: tuple[float, ...]
    leaks: int
    kept: float
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.over) / len(self.over)

    def beats(self, other: "Point") -> bool:
        """As good in both, and better in one."""
        better = self.mean < other.mean or self.kept > other.kept
        return self.mean <= other.mean and self.kept >= other.kept and better


def frontier_sections(audits: pd.DataFrame) -> Iterator[Section]:
    """A section a dataset, model and attribute on which a dial was turned.

    Args:
        audits: rows of all places together, with columns dial, scope, seconds beside the record's.
    """
    for (dataset, model, attribute), block in audits.groupby(["dataset", "model", "attribute"]):
        if not block["dial"].any():
            continue
        seeds, points = points_of(block)
        title = f"Frontier: {block_title(dataset, model)}, {attribute}"
        yield Section(title, [SAID, f"Seeds {', '.join(seeds)}.", _grid(points)])


def points_of(block: pd.DataFrame) -> tuple[list[str], list[Point]]:
    """The seeds that are common to all, and the points, those that hide most first.

    What was run on one seed alone, where a dial was run on more, is left out.
    """
    edited = block[block["kept"].notna()]
    by_point = dict(list(edited.groupby(["method", "scope", "dial"])))
    some = 1 if max(len(group) for group in by_point.values()) == 1 else 2
    by_point = {which: group for which, group in by_point.items() if len(group) >= some}
    seeds = set.intersection(*(set(group["seed"]) for group in by_point.values()))
    points = []
    for (method, scope, dial), group in by_point.items():
        own = group[group["seed"].isin(seeds)]
        points.append(
            Point(
                METHODS[method].title,
                scope,
                dial,
                tuple(own["leakage"] - own["null_95"]),
                int(own["leaks"].sum()),
                float(own["kept"].mean()),
                float(own["seconds"].mean()),
            )
        )
    return sorted(seeds, key=int), sorted(points, key=lambda point: point.mean)


def _grid(points: list[Point]) -> Grid:
    header = ["", "Method", "scope", "Dial", "Over chance", "Leaks", "NDCG@10", "Seconds"]
    rows = [
        [
            "" if any(other.beats(point) for other in points) else "★",
            point.method,
            point.scope,
            f"`{point.dial}`" if point.dial else "",
            f"{point.mean:.3f} ({min(point.over):.3f} to {max(point.over):.3f})",
            f"{point.leaks} of {len(point.over)}",
            f"{point.kept:.1%}",
            f"{point.seconds:.1f}",
        ]
        for point in points
    ]
    return Grid(header, rows)
