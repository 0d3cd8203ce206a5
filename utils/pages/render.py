"""Sections as Markdown, or as one HTML page that loads nothing: style, script, pictures within."""

import base64
import mimetypes
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from utils.pages.parts import Banner, Drawing, Grid, Part, Picture, Section

_MARKDOWN = MarkdownIt("commonmark", {"html": False})


def markdown(sections: Sequence[Section]) -> str:
    """The sections as a Markdown page; the first is its title."""
    lines = []
    for number, section in enumerate(sections):
        lines += [f"{'##' if number else '#'} {section.title}", ""]
        for part in section.parts:
            lines += [*_part_lines(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def _part_lines(part: Part) -> Iterator[str]:
    match part:
        case str():
            yield part
        case Grid():
            for row in (part.header, ["---"] * len(part.header), *part.rows):
                cells = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in row)
                yield "| " + " | ".join(cells) + " |"
        case Picture():
            yield f"![{part.caption}]({part.path})"
        case Drawing():
            yield part.caption
        case Banner():
            yield f"> **{part.verdict}**"
            if part.text:
                yield f">\n> {part.text}"


def html_page(sections: Sequence[Section], folder: Path = Path()) -> str:
    """The sections as one HTML page; the first is its title.

    Args:
        sections: at least one.
        folder: where the page will lie, from which the pictures' paths lead.

    Raises:
        OSError: a picture can't be read.
    """
    title, *rest = sections

    def embedded(path: str) -> str:
        content = base64.b64encode((folder / path).read_bytes()).decode()
        return f"data:{mimetypes.guess_type(path)[0]};base64,{content}"

    page = _environment().get_template("page.html")
    anchors = _anchors(section.title for section in rest)
    return page.render(title=title, sections=list(zip(anchors, rest, strict=True)), embed=embedded)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(inline=_inline, plain=_plain)
    for part in (Grid, Picture, Drawing, Banner):
        environment.tests[part.__name__.lower()] = lambda value, part=part: isinstance(value, part)
    return environment


def _inline(text: str) -> Markup:
    """Markdown's inline syntax as HTML, everything else escaped."""
    return Markup(_MARKDOWN.renderInline(text))


def _plain(text: str) -> str:
    """What is left of a text without its marks, for places that have none."""
    return _inline(text).striptags()


def _anchors(titles: Iterator[str]) -> Iterator[str]:
    """A name a heading, the one that GitHub gives it in the Markdown page."""
    seen: dict[str, int] = {}
    for title in titles:
        name = re.sub(r"[^\w\- ]", "", _plain(title).lower()).replace(" ", "-")
        seen[name] = seen.get(name, -1) + 1
        yield f"{name}-{seen[name]}" if seen[name] else name
