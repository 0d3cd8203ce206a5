"""The papers' tables with our cells beside the published ones."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from utils.reproduction.cells import Measured, order_verdicts, verdicts
from utils.reproduction.results import (
    ATTACK,
    BLOCKS,
    EPOCHS,
    FOLDED,
    METHODS,
    MM23,
    MM23_ATTACK,
    RC25,
    RC25_FROBENIUS,
    RECOMMENDATION,
    TIMED_EPOCHS,
    TIMES,
    Results,
    Setting,
    batch_size,
    published,
)


@dataclass(frozen=True)
class Cell:
    """A published cell and ours; either may be missing."""

    dataset: str
    model: str
    method: str
    column: str
    ours: Measured | None
    published: float | None
    verdict: str

    @property
    def difference(self) -> float | None:
        """Ours minus the published one, where both are there."""
        if self.ours is None or self.published is None:
            return None
        return self.ours.mean - self.published


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: short, for the CSV file.
        title: what it shows and beside what.
        note: what a reader must know.
        columns: published column -> heading.
        digits: decimals.
        cells: all of them.
        settings: what our runs of a block have other than the defaults, and the dataset that
            stands in, (dataset, model) -> text.
    """

    name: str
    title: str
    note: str
    columns: dict[str, str]
    digits: int
    cells: tuple[Cell, ...]
    settings: dict[tuple[str, str], str]

    def measured(self) -> "Table":
        """The same without the blocks that nothing was run of."""
        ran = {(cell.dataset, cell.model) for cell in self.cells if cell.ours}
        kept = tuple(cell for cell in self.cells if (cell.dataset, cell.model) in ran)
        return replace(self, cells=kept)

    def counts(self) -> Counter[str]:
        """How many published cells have each verdict; "" = not run."""
        return Counter(cell.verdict for cell in self.cells if cell.published is not None)

    def blocks(self) -> Iterator[tuple[str, str, dict[str, dict[str, Cell]]]]:
        """Dataset, model, and method -> column -> cell, in the papers' order."""
        for dataset, model in BLOCKS:
            block: dict[str, dict[str, Cell]] = {}
            for cell in self.cells:
                if (cell.dataset, cell.model) == (dataset, model):
                    block.setdefault(cell.method, {})[cell.column] = cell
            if block:
                yield dataset, model, block

    def rows(self) -> list[dict[str, Any]]:
        """A dict a cell, for the CSV file."""
        return [
            {
                "table": self.name,
                **{
                    key: getattr(cell, key)
                    for key in ("dataset", "model", "method", "column", "published")
                },
                **(asdict(cell.ours) if cell.ours else {}),
                "standard_error": cell.ours.error if cell.ours else None,
                "difference": cell.difference,
                "verdict": cell.verdict,
            }
            for cell in self.cells
        ]


Measure = Callable[[pd.DataFrame, str], Measured | None]
"""Runs of a cell and the published column -> our figure."""


def compare(
    results: Results,
    setting: Setting,
    source: str,
    measure: Measure,
    *,
    name: str,
    title: str,
    note: str,
    columns: dict[str, str],
    digits: int = 4,
    judge: Callable = verdicts,
    missing: bool = False,
) -> Table:
    """One table.

    Args:
        results: our records.
        setting: which of our runs.
        source: stem of the file of published cells.
        measure: see `Measure`.
        name, title, note, columns, digits: see `Table`.
        judge: cells -> verdicts.
        missing: whether blocks that we have no run of are kept, as what is still to do.
    """
    there = published(source)
    cells, settings = [], {}
    for dataset, model in dict.fromkeys((d, m) for d, m, _ in there.index):
        runs = {method: results.of(setting, dataset, model, method) for method in METHODS}
        if not missing and not any(map(len, runs.values())):
            continue
        stand_in = [setting.stand_in[dataset]] if dataset in setting.stand_in else []
        settings[dataset, model] = ", ".join(stand_in + _settings(runs))
        for column in columns:
            ours = {method: one for method in METHODS if (one := measure(runs[method], column))}
            theirs = {
                method: float(there.loc[(dataset, model, method), column])
                for method in METHODS
                if (dataset, model, method) in there.index
            }
            judged = judge(ours, theirs)
            cells += [
                Cell(dataset, model, method, column, ours.get(method), theirs.get(method), verdict)
                for method in METHODS
                if method in ours or method in theirs
                for verdict in [judged.get(method, "")]
            ]
    return Table(name, title, note, columns, digits, tuple(cells), settings)


def _settings(runs: dict[str, pd.DataFrame]) -> list[str]:
    """What all runs have other than the defaults, and the batch sizes where they differ."""
    found = [one for frame in runs.values() for one in frame["settings"]]
    said = [
        f"{key} {value}"
        for key, value in (found or [{}])[0].items()
        if all(one.get(key) == value for one in found)
    ]
    sizes = sorted(set(map(batch_size, found)))
    return said + [f"batch_size {', '.join(map(str, sizes))}"] * (len(sizes) > 1)


def tables(results: Results) -> list[Table]:
    """All tables of the report."""

    def recommendation(setting: Setting, paper: str, **other: Any) -> Table:
        def measure(runs: pd.DataFrame, column: str) -> Measured | None:
            return results.recommendation(runs, RECOMMENDATION[column])

        source = f"{paper}_recommendation"
        return compare(results, setting, source, measure, columns=RECOMMENDATION, **other)

    def seconds(runs: pd.DataFrame, column: str) -> Measured | None:
        return results.seconds(runs)

    def attack(
        setting: Setting,
        paper: str,
        protocol: str,
        columns: Mapping[str, tuple[str, str, str]] = ATTACK,
        **other: Any,
    ) -> Table:
        def measure(runs: pd.DataFrame, column: str) -> Measured | None:
            _, attacker, score = columns[column]
            if score == FOLDED:
                accuracy = results.attack(runs, protocol, attacker, "accuracy")
                return accuracy and accuracy.folded()
            return results.attack(runs, protocol, attacker, score)

        headings = {column: heading for column, (heading, _, _) in columns.items()}
        return compare(results, setting, f"{paper}_attack", measure, columns=headings, **other)

    both = "U2U-R and D2D-R with the artefact's regulariser (`ranking`), alpha 1e-6"
    written = "U2U-R and D2D-R with the regulariser that the papers write (`frobenius`), alpha 1e-6"
    paper = (
        "K = 16, 50 epochs (NMF) or 400 (LightGCN), `frobenius`, alpha 1e-4, 5,000 steps of "
        "U2U-R and 1,000 of D2D-R"
    )
    hard = (
        "What MM23 calls AUC is no area: wherever its other three figures are those of one table "
        "of 82 to 342 users (30 of 60 rows), it is the balanced accuracy of the answers, or one "
        "minus that where it is below a half. Beside it stands our accuracy on balanced users, "
        "folded alike."
    )
    only = "the methods without a regulariser are as in the table before"
    return [
        recommendation(
            RC25,
            "companion2025",
            name="rc25-1",
            title="RC25 Table 1: recommendation",
            note=f"{both}.",
            missing=True,
        ),
        recommendation(
            RC25_FROBENIUS,
            "companion2025",
            name="rc25-1-frobenius",
            title="RC25 Table 1 with the written regulariser",
            note=f"{written}; {only}.",
        ),
        compare(
            results,
            TIMES,
            "companion2025_seconds",
            seconds,
            name="rc25-2",
            title="RC25 Table 2: seconds",
            note="Published on an RTX 4080, ours on two CPU cores: only the order can be judged, "
            f"so no cell is `=`. In-training: {EPOCHS} epochs, from runs of {TIMED_EPOCHS} on a "
            "quiet machine (`configs/reproduce_times.json`); post-training: 500 steps of the "
            "written regulariser. A larger batch than the published 256 is named. LFM-2B's place "
            "is taken by a synthetic set of its size (`python -m data.synthetic`).",
            columns={"seconds": "seconds"},
            digits=1,
            judge=order_verdicts,
            missing=True,
        ),
        attack(
            RC25,
            "companion2025",
            "cv",
            name="rc25-3",
            title="RC25 Table 3: attack under `cv`",
            note=f"5-fold cross-validation of balanced users, 3 repeats; {both}.",
            missing=True,
        ),
        attack(
            RC25_FROBENIUS,
            "companion2025",
            "cv",
            name="rc25-3-frobenius",
            title="RC25 Table 3 with the written regulariser",
            note=f"Protocol `cv`; {written}; {only}.",
        ),
        attack(
            RC25,
            "acmmm2023",
            "shadow",
            name="mm23-3-rc25",
            title="MM23 Table 3: attack under `shadow`, runs of RC25's setting",
            note="A tenth of the balanced users exposed, 10 draws; MM23's cells stem from K = 16 "
            f"and other splits; {both}. {hard}",
            columns=MM23_ATTACK,
        ),
        attack(
            MM23,
            "acmmm2023",
            "shadow",
            name="mm23-3",
            title="MM23 Table 3: attack under `shadow`, runs of MM23's setting",
            note=f"{paper}. {hard}",
            columns=MM23_ATTACK,
        ),
        recommendation(
            MM23,
            "acmmm2023",
            name="mm23-4",
            title="MM23 Table 4: recommendation (not comparable)",
            note=f"{paper}. MM23 splits 80/10/10 and ranks we don't know how many items; its HR "
            "falls as the cut-off grows, so it is no hit ratio: ours are the figures of the "
            "leave-one-out split, and no verdict is given. Its Table 5 (seconds) is left out: its "
            "batch is not stated.",
            judge=lambda ours, theirs: {},
        ),
    ]


def cells_csv(tables: Sequence[Table]) -> str:
    """Every cell of every table, a line each."""
    return pd.DataFrame([row for table in tables for row in table.rows()]).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )
