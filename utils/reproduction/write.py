"""Write the report's files from the records."""

import os
from collections.abc import Iterator
from pathlib import Path

from utils import figures
from utils.figures import TradeOffPoint
from utils.pages.parts import Part, Picture, Section
from utils.pages.render import html_page, markdown
from utils.reproduction.cells import VERDICTS
from utils.reproduction.claims import claims
from utils.reproduction.erasers import erasers_page
from utils.reproduction.results import BLOCKS, METHODS, Results, block_title
from utils.reproduction.sections import (
    claims_section,
    deviations_page,
    overview,
    runs_section,
    table_section,
)
from utils.reproduction.tables import Table, cells_csv, tables
from utils.reproduction.trade_off import ORIGINAL, trade_off
from utils.runs.files import replace_file

INTRODUCTION = (
    "Every published cell of *Making Users Indistinguishable* (ACM MM 2023, MM23) and of its "
    "reproducibility companion (2025, RC25) that we have runs for, beside ours. A cell reads "
    "**ours ± standard deviation over seeds (number of seeds)**, below it the published value, the "
    "difference and a verdict.",
    "Our runs: `runs.csv` and `attacks.csv` beside this page, a row a run or attack, each written "
    "by `python main.py --config configs/reproduce_*.json` and "
    "`python attack.py --config configs/reproduce_attack_*.json`; this page by "
    "`python -m utils.reproduction`.",
    "The verdict's rule. The standard error of one of our cells counts the spread over seeds and "
    "the sampling error of the number of test users (ranking metrics) or tested users (attack), "
    "SE² = s²/n + q² (one seed has no s, so that its error comes out too small); q is binomial for "
    "shares, Hanley and McNeil's for the AUC, and for NDCG the least that is possible beside the "
    "hit ratio. The published cells' own error is not known "
    "and not counted. "
    + "; ".join(f"`{verdict}` {meaning}" for verdict, meaning in VERDICTS.items())
    + ".",
)

FIGURE_2 = (
    "Figure 2, {where}: AUC (`shadow`) against NDCG@10 for alpha from 1e-6 to 1e-2, mean over "
    "the same {seeds} seeds. The best place is on the dashed line of chance, as far to the right "
    "as the original."
)
PICTURES = {
    "tsne": "Figure 3: t-SNE of the embeddings, coloured by the true class and by what each "
    "attacker says ({name}).",
    "histogram": "Figure 4, the most telling dimension ({name}).",
    "histograms": "Figure 4: the most telling dimensions of the embeddings, by class ({name}).",
}
"""How the notebook's pictures end -> their caption."""


def write_report(folder: Path) -> list[Path]:
    """reproduction.md, .html and .csv and deviations.md from a folder's runs.csv and attacks.csv.

    Args:
        folder: holds the records; findings.md in it, if there, is what people have to say, and
            becomes a section. Pictures lie in figures/ beside it, where Figure 2 is drawn too.

    Returns:
        The files written.

    Raises:
        UserError: a record is damaged.
    """
    results = Results.read(folder)
    compared = tables(results)
    shown = compared if results.whole else [table.measured() for table in compared]
    sections = [
        Section("The papers' tables, reproduced", [*INTRODUCTION, overview(shown)]),
        *([] if results.whole else [runs_section(results)]),
        *_findings(folder / "findings.md"),
        claims_section(list(claims(results))),
        *(table_section(table) for table in shown if _has_runs(table)),
        *_pictures(results, folder.parent / "figures", folder),
    ]
    texts = {
        folder / "reproduction.html": html_page(sections, folder),
        folder / "reproduction.md": markdown(sections),
        folder / "reproduction.csv": cells_csv(compared),
        folder / "deviations.md": markdown(deviations_page(results)),
    }
    if page := erasers_page(folder):
        texts[folder / "erasers.md"] = markdown(page)
    for path, text in texts.items():
        with replace_file(path) as file:
            file.write(text.encode())
    return list(texts)


def _has_runs(table: Table) -> bool:
    return any(cell.ours for cell in table.cells)


def _findings(path: Path) -> Iterator[Section]:
    if path.exists():
        paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n")
        parts: list[Part] = [" ".join(one.split("\n")) for one in paragraphs if one[0] != "#"]
        yield Section("Findings", parts)


def _pictures(results: Results, folder: Path, beside: Path) -> Iterator[Section]:
    parts: list[Part] = []
    for dataset, model in BLOCKS:
        if picture := figure_2(results, dataset, model, folder, beside):
            parts.append(picture)
    for kind, caption in PICTURES.items():
        for path in sorted(folder.glob(f"*-{kind}.png")):
            name = path.stem.removesuffix(f"-{kind}")
            parts.append(Picture(_relative(path, beside), caption.format(name=name)))
    if parts:
        yield Section("Figures", parts)


def figure_2(
    results: Results, dataset: str, model: str, folder: Path, beside: Path
) -> Picture | None:
    """Draw Figure 2 from the records into a folder; None where too few alphas were run."""
    found = {name: trade_off(results, dataset, model, name) for name in ("mlp", "xgb")}
    points = [
        TradeOffPoint(METHODS[method], regularizer, alpha, attacker, auc, ndcg)
        for attacker, one in found.items()
        if one
        for (method, regularizer, alpha), (ndcg, auc) in one.points.items()
    ]
    if not points:
        return None
    original = METHODS[ORIGINAL[0]]
    drawing = figures.trade_off(
        [point for point in points if point.method != original],
        [point for point in points if point.method == original],
    )
    path = figures.save(drawing, folder / f"{model}-{dataset}-trade-off.png")
    seeds = min(one.seeds for one in found.values() if one)
    return Picture(
        _relative(path, beside), FIGURE_2.format(where=block_title(dataset, model), seeds=seeds)
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
