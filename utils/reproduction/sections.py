"""The report's sections, made of the parts that pages have."""

from collections.abc import Sequence

import pandas as pd

from utils.pages.parts import Grid, Part, Section, Tone
from utils.reproduction.cells import CONTRADICTS, ORDER, SAME, VERDICTS, Measured
from utils.reproduction.claims import FAILS, HOLDS, OPEN, PARTLY, Claim
from utils.reproduction.deviations import DEVIATIONS, worth
from utils.reproduction.results import DATASETS, METHODS, MODELS, Results
from utils.reproduction.tables import Cell, Table

TONES: dict[str, Tone] = {
    **{SAME: "good", ORDER: "fair", CONTRADICTS: "bad"},
    **{HOLDS: "good", PARTLY: "fair", FAILS: "bad"},
}
"""Verdict of a cell or a claim -> its colour."""


def cell_text(cell: Cell | None, digits: int) -> str:
    """Ours ± std (seeds); below it the published value, the difference, the verdict."""
    if cell is None:
        return ""
    ours = spread(cell.ours, digits)
    if cell.published is None:
        return ours
    there = f"{ours}\n{cell.published:.{digits}f}"
    if cell.ours is None:
        return there
    return f"{there} {cell.ours.mean - cell.published:+.{digits}f} {cell.verdict}".rstrip()


def spread(ours: Measured | None, digits: int = 4) -> str:
    """Mean ± std (seeds); one seed has no std."""
    if ours is None:
        return "–"
    std = f" ± {ours.std:.{digits}f}" if ours.n > 1 else ""
    return f"{ours.mean:.{digits}f}{std} ({ours.n})"


def _tone(cell: Cell | None) -> Tone:
    return TONES.get(cell.verdict, "") if cell else ""


def table_section(table: Table) -> Section:
    """A table in the paper's layout: a block a model, in it the datasets, then the methods."""
    if len(table.columns) == 1:
        return Section(table.title, [table.note, _by_method(table)])
    parts: list[Part] = [table.note]
    header = ["", "", *table.columns.values()]
    for model in MODELS:
        rows, tones = [], []
        for dataset, of, block in table.blocks():
            if of != model:
                continue
            name = _name(table, dataset, model)
            for method, cells in block.items():
                in_order = [cells.get(column) for column in table.columns]
                rows.append(
                    [name, METHODS[method], *(cell_text(cell, table.digits) for cell in in_order)]
                )
                tones.append(["", "", *map(_tone, in_order)])
                name = ""
        if rows:
            parts.append(Grid([f"**{MODELS[model]}**", *header[1:]], rows, tones))
    return Section(table.title, parts)


def _by_method(table: Table) -> Grid:
    """A table of one figure: a row a dataset and model, a column a method."""
    rows, tones = [], []
    for model in MODELS:
        for dataset, of, block in table.blocks():
            if of == model:
                cells = [next(iter(block.get(method, {}).values()), None) for method in METHODS]
                row = [cell_text(cell, table.digits) for cell in cells]
                rows.append([_name(table, dataset, model), MODELS[model], *row])
                tones.append(["", "", *map(_tone, cells)])
    return Grid([", ".join(table.columns.values()), "", *METHODS.values()], rows, tones)


def _name(table: Table, dataset: str, model: str) -> str:
    """The dataset, and what our runs on it have other than the defaults."""
    settings = table.settings.get((dataset, model))
    return DATASETS[dataset] + (f"\n({settings})" if settings else "")


def overview(tables: Sequence[Table]) -> Grid:
    """How many cells of each table have each verdict."""
    rows = []
    for table in tables:
        counts = table.counts()
        if set(counts) - {""}:
            rows.append(
                [table.title, *(str(counts.get(verdict, 0)) for verdict in (*VERDICTS, ""))]
            )
    return Grid(["table", *VERDICTS, "not run"], rows)


def claims_section(claims: Sequence[Claim]) -> Section:
    """Each claim, its verdict, and the figures that it rests on."""
    counts = {
        verdict: sum(claim.verdict == verdict for claim in claims)
        for verdict in (HOLDS, PARTLY, FAILS, OPEN)
    }
    rows, tones = [], []
    for claim in claims:
        figures = "; ".join(
            f"{'✓' if finding.holds else '✗'} {finding.where}: {finding.figures}"
            for finding in claim.findings
        )
        rows.append([claim.sentence, claim.source, claim.verdict, figures])
        tones.append(["", "", TONES.get(claim.verdict, ""), ""])
    summary = "; ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)
    grid = Grid(["claim", "source", "verdict", "figures"], rows, tones)
    return Section("Claims", [f"{len(claims)} claims of the papers. {summary.capitalize()}.", grid])


def deviations_page(results: Results) -> list[Section]:
    """What each disagreement is worth."""
    sections = [
        Section(
            "Where paper, companion and artefact disagree: what each choice is worth",
            [
                "ML-100K unless stated; mean ± std (seeds), a choice's seeds the same as those "
                "beside it. One standard error of HR@10 over ML-100K's 943 users is 0.016, of an "
                "AUC over 546 about 0.02. AUC under `cv` unless stated. A difference between two "
                "choices is paired: the same seeds, and the same users wherever the split is the "
                "same."
            ],
        )
    ]
    for deviation in DEVIATIONS:
        found = list(worth(results, deviation))
        parts: list[Part] = [deviation.text]
        if found:
            heads = list(found[0].figures)
            rows = [
                [one.method, one.choice, *(spread(one.figures[head]) for head in heads)]
                for one in found
            ]
            parts.append(Grid([MODELS[deviation.model], "choice", *heads], rows))
        else:
            parts.append("Not measured yet.")
        sections.append(Section(deviation.title, parts))
    return sections


def cells_csv(tables: Sequence[Table]) -> str:
    """Every cell of every table, a line each."""
    return pd.DataFrame([row for table in tables for row in table.rows()]).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )
