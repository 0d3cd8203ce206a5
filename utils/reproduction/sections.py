"""The report's sections, made of the parts that pages have."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from methods import METHODS as ALL_METHODS
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
    if cell.difference is None:
        return there
    return f"{there} {cell.difference:+.{digits}f} {cell.verdict}".rstrip()


def spread(ours: Measured | None, digits: int = 4) -> str:
    """Mean ± std (seeds); one seed has no std."""
    if ours is None:
        return "–"
    std = f" ± {ours.std:.{digits}f}" if ours.n > 1 else ""
    return f"{ours.mean:.{digits}f}{std} ({ours.n})"


def table_section(table: Table) -> Section:
    """A table in the paper's layout."""
    grids = _by_figure(table) if len(table.columns) > 1 else [_by_method(table)]
    return Section(table.title, [table.note, *grids])


def _by_figure(table: Table) -> Iterator[Grid]:
    """A grid a model, in it the datasets, then the methods; a column a figure."""
    for model, blocks in groupby(table.blocks(), key=lambda block: block[1]):
        lines: list[Line] = []
        for dataset, _, block in blocks:
            name = _name(table, dataset, model)
            for method, cells in block.items():
                lines.append(([name, METHODS[method]], [*map(cells.get, table.columns)]))
                name = ""
        yield _grid([f"**{MODELS[model]}**", "", *table.columns.values()], lines, table.digits)


def _by_method(table: Table) -> Grid:
    """A table of one figure: a row a dataset and model, a column a method."""
    ((column, heading),) = table.columns.items()
    lines: list[Line] = [
        (
            [_name(table, dataset, model), MODELS[model]],
            [block.get(method, {}).get(column) for method in METHODS],
        )
        for dataset, model, block in table.blocks()
    ]
    return _grid([heading, "", *METHODS.values()], lines, table.digits)


Line = tuple[list[str], list[Cell | None]]
"""What a row is of, and its cells."""


def _grid(header: list[str], lines: list[Line], digits: int) -> Grid:
    rows = [[*names, *(cell_text(cell, digits) for cell in cells)] for names, cells in lines]
    tones = [
        [TONES.get(cell.verdict, "") if cell else "" for cell in [None] * len(names) + cells]
        for names, cells in lines
    ]
    return Grid(header, rows, tones)


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
            rows.append([table.title, *(str(counts[verdict]) for verdict in (*VERDICTS, ""))])
    return Grid(["table", *VERDICTS, "not run"], rows)


def runs_section(results: Results) -> Section:
    """What a record holds that isn't the reproduction: a row a method and settings, means over
    seeds, and what each attacker finds.
    """
    by = ["dataset", "model", "method", "attribute", "regularizer"]
    runs = results.runs.assign(said=results.runs["settings"].map(settings_text))
    rows = []
    for key, group in runs.groupby([*by, "said"], sort=False):
        of_group = results.attacks[results.attacks["run"].isin(group["run"])]
        several = of_group["attribute"].nunique() > 1  # an original may be attacked for each
        found = [
            f"{attacker} ({protocol}{f', {attribute}' * several}) {aucs.mean():.3f}"
            for (protocol, attacker, attribute), aucs in of_group.groupby(
                ["protocol", "attacker", "attribute"]
            )["auc"]
        ]
        dataset, model, method, *settings = key
        rows.append(
            [
                DATASETS.get(dataset, dataset),
                MODELS.get(model, model),
                ALL_METHODS[method].title,
                ", ".join(filter(None, settings)),
                str(group["seed"].nunique()),
                *(f"{group[name].mean():.4f}" for name in ("HR@10", "NDCG@10")),
                "; ".join(found) or "–",
            ]
        )
    header = ["dataset", "model", "method", "with", "seeds", "HR@10", "NDCG@10", "AUC"]
    text = "Means over seeds. An AUC below 0.5 tells as much as one above: the answer is flipped."
    return Section("The runs", [text, Grid(header, rows, [])])


def settings_text(settings: Mapping[str, Any]) -> str:
    """Keys with other values than the defaults."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def claims_section(claims: Sequence[Claim]) -> Section:
    """Each claim that could be asked, its verdict, and the figures that it rests on."""
    rows, tones = [], []
    for claim in claims:
        if claim.verdict == OPEN:
            continue
        figures = "; ".join(
            f"{'✓' if finding.holds else '✗'} {finding.where}: {finding.figures}"
            for finding in claim.findings
        )
        rows.append([claim.sentence, claim.source, claim.verdict, figures])
        tones.append(["", "", TONES.get(claim.verdict, ""), ""])
    counts = Counter(claim.verdict for claim in claims)
    order = (HOLDS, PARTLY, FAILS, OPEN)
    summary = "; ".join(f"{verdict}: {counts[verdict]}" for verdict in order if counts[verdict])
    grid = Grid(["claim", "source", "verdict", "figures"], rows, tones)
    return Section("Claims", [f"{len(claims)} claims of the papers. {summary.capitalize()}.", grid])


OTHERS = (
    "Not measured: the artefact counts the batches between two MMD terms of Retrain across "
    "epochs, we start anew with each. Its `ranking` keeps a user's top 20 among the items that the "
    "user doesn't have; ours are of all items, most of them training items. Its U2U lacks the "
    "factor 2 of eq. 9, which Adam doesn't see. What papers and artefact call MMD is its square, "
    "here too. MM23's Figures 3 and 4 are of LightGCN on ML-1M.",
    "Ratings below 3, or below 4, left out before the filter, as a dataset of one's own (seed 0): "
    "NMF's HR@10 is 0.598, or 0.525, instead of 0.594; that explains nothing of the published one.",
    "MM23's own experiments are out of reach by config: SGD, an 80/10/10 split, all parameters "
    "from N(0, 0.01²) and an L2 term, with a batch and a number of candidates that it doesn't "
    "state. `held_out=random`, `embedding_size=16` and the epochs are as near as it gets.",
)


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
        if not found and not results.whole:
            continue
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
    return [*sections, Section("Other differences", list(OTHERS))]
