"""The report as Markdown, CSV and one HTML page, from the same blocks."""

import html
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from utils.reproduction.cells import VERDICTS, Measured
from utils.reproduction.claims import FAILS, HOLDS, OPEN, PARTLY, Claim
from utils.reproduction.deviations import DEVIATIONS, worth
from utils.reproduction.results import DATASETS, METHODS, MODELS, Results
from utils.reproduction.tables import Cell, Table


@dataclass(frozen=True)
class Grid:
    """A table: texts in Markdown's inline syntax, a cell's lines ended by a newline; a row's
    verdicts colour its cells in HTML.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    verdicts: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Picture:
    """A picture by its path relative to the page."""

    path: str
    caption: str


Part = str | Grid | Picture
"""A paragraph (Markdown's inline syntax), a table or a picture."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]


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


def table_section(table: Table) -> Section:
    """A table in the paper's layout: a block a model, in it the datasets, then the methods."""
    if len(table.columns) == 1:
        return Section(table.title, [table.note, _by_method(table)])
    parts: list[Part] = [table.note]
    header = ["", "", *table.columns.values()]
    for model in MODELS:
        rows, verdicts = [], []
        for dataset, of, block in table.blocks():
            if of != model:
                continue
            name = _name(table, dataset, model)
            for method, cells in block.items():
                in_order = [cells.get(column) for column in table.columns]
                rows.append(
                    [name, METHODS[method], *(cell_text(cell, table.digits) for cell in in_order)]
                )
                verdicts.append(["", "", *(cell.verdict if cell else "" for cell in in_order)])
                name = ""
        if rows:
            parts.append(Grid([f"**{MODELS[model]}**", *header[1:]], rows, verdicts))
    return Section(table.title, parts)


def _by_method(table: Table) -> Grid:
    """A table of one figure: a row a dataset and model, a column a method."""
    rows, verdicts = [], []
    for model in MODELS:
        for dataset, of, block in table.blocks():
            if of == model:
                cells = [next(iter(block.get(method, {}).values()), None) for method in METHODS]
                row = [cell_text(cell, table.digits) for cell in cells]
                rows.append([_name(table, dataset, model), MODELS[model], *row])
                verdicts.append(["", "", *(cell.verdict if cell else "" for cell in cells)])
    return Grid([", ".join(table.columns.values()), "", *METHODS.values()], rows, verdicts)


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
    rows, verdicts = [], []
    for claim in claims:
        figures = "; ".join(
            f"{'✓' if finding.holds else '✗'} {finding.where}: {finding.figures}"
            for finding in claim.findings
        )
        rows.append([claim.sentence, claim.source, claim.verdict, figures])
        colour = {HOLDS: "=", PARTLY: "~", FAILS: "x", OPEN: ""}[claim.verdict]
        verdicts.append(["", "", colour, ""])
    summary = "; ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)
    grid = Grid(["claim", "source", "verdict", "figures"], rows, verdicts)
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


def markdown(sections: Sequence[Section]) -> str:
    """The sections as a Markdown page; the first is its title."""

    def part_lines(part: Part) -> Iterator[str]:
        if isinstance(part, Grid):
            for row in (part.header, ["---"] * len(part.header), *part.rows):
                cells = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in row)
                yield "| " + " | ".join(cells) + " |"
        elif isinstance(part, Picture):
            yield f"![{part.caption}]({part.path})"
        else:
            yield part

    lines = []
    for number, section in enumerate(sections):
        lines += [f"{'##' if number else '#'} {section.title}", ""]
        for part in section.parts:
            lines += [*part_lines(part), ""]
    return "\n".join(lines).rstrip() + "\n"


STYLE = """
:root { --line: #ddd; --faint: #666; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; margin: 0 auto; max-width: 76rem;
       padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; } h2 { margin-top: 3rem; }
p { max-width: 48rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th { text-align: left; border-bottom: 2px solid #333; padding: .3rem .6rem; }
td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; vertical-align: top; }
td.same { background: #e3f2e6; } td.order { background: #fdf4d7; }
td.against { background: #fbe0dd; }
small { color: var(--faint); white-space: nowrap; }
code { background: #f2f2f2; padding: 0 .2em; border-radius: 3px; }
figure { margin: 1.5rem 0; } img { max-width: 100%; }
figcaption { color: var(--faint); font-size: .9rem; max-width: 48rem; }
"""

COLOURS = {"=": "same", "~": "order", "x": "against"}


def html_page(sections: Sequence[Section]) -> str:
    """The sections as one page without scripts; the first is its title."""

    def part_html(part: Part) -> str:
        if isinstance(part, Picture):
            caption = _inline(part.caption)
            return (
                f'<figure><img src="{html.escape(part.path)}" alt="{html.escape(part.caption)}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        if isinstance(part, str):
            return f"<p>{_inline(part)}</p>"
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in part.header)
        rows = []
        for number, row in enumerate(part.rows):
            verdicts = part.verdicts[number] if part.verdicts else [""] * len(row)
            cells = "".join(
                f'<td class="{COLOURS[verdict]}">{_lines(cell)}</td>'
                if verdict
                else f"<td>{_lines(cell)}</td>"
                for cell, verdict in zip(row, verdicts, strict=True)
            )
            rows.append(f"<tr>{cells}</tr>")
        body = "\n".join(rows)
        return (
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>"
        )

    title, *rest = sections
    links = "".join(
        f'<a href="#s{number}">{_inline(section.title)}</a> ' for number, section in enumerate(rest)
    )
    out = io.StringIO()
    out.write('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n')
    out.write('<meta name="viewport" content="width=device-width, initial-scale=1">\n')
    out.write(f"<title>{html.escape(title.title)}</title>\n<style>{STYLE}</style></head><body>\n")
    out.write(f"<h1>{_inline(title.title)}</h1>\n")
    out.write("\n".join(map(part_html, title.parts)))
    out.write(f"\n<nav>{links}</nav>\n")
    for number, section in enumerate(rest):
        out.write(f'<h2 id="s{number}">{_inline(section.title)}</h2>\n')
        out.write("\n".join(map(part_html, section.parts)) + "\n")
    out.write("</body></html>\n")
    return out.getvalue()


def _lines(text: str) -> str:
    """A cell: its first line, and small below it the others."""
    first, *rest = map(_inline, text.split("\n"))
    return "<br>".join([first, *(f"<small>{line}</small>" for line in rest)])


def _inline(text: str) -> str:
    """Markdown's `code`, **strong**, *emphasis* and [text](address) as HTML."""
    parts = html.escape(text, quote=False).split("`")
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"<code>{part}</code>"
            continue
        part = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", part)
        part = re.sub(r"\*([^*\s][^*]*)\*", r"<em>\1</em>", part)
        parts[number] = re.sub(r"\[([^\]]*)\]\(([^)\s\"]*)\)", r'<a href="\2">\1</a>', part)
    return "".join(parts)


def cells_csv(tables: Sequence[Table]) -> str:
    """Every cell of every table, a line each."""
    return pd.DataFrame([row for table in tables for row in table.rows()]).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )


def relative(path: Path, page: Path) -> str:
    """A picture's path as the page names it."""
    return Path(os.path.relpath(path, page.parent)).as_posix()
