"""What pages are made of. Texts are in Markdown's inline syntax; see `literal` for others'."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "fair", "bad"]
Kind = Literal["ok", "leaks", "unknown"]


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        header: a text a column.
        rows: a text a cell, its lines ended by a newline. An empty first cell stands for the one
            above it; HTML shows that one there as soon as a reader has sorted the table.
        tones: a row's cells' colours in HTML; empty where no cell has one.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    tones: Sequence[Sequence[Tone]] = ()


@dataclass(frozen=True)
class Picture:
    """A picture by its path relative to the page; HTML holds the file itself."""

    path: str
    caption: str


@dataclass(frozen=True)
class Drawing:
    """An SVG picture, which Markdown leaves out but for its caption.

    Attributes:
        svg: from `<svg` on; it becomes part of the page as it is, so others' text in it must be
            escaped. With `currentColor`, or style.css's variables such as `var(--faint)`, it
            follows a dark page. Ids are shared by all of a page's drawings.
        caption: what it shows.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Banner:
    """A verdict in large type, and what else is to be said of it."""

    kind: Kind
    verdict: str
    text: str = ""


Part = str | Grid | Picture | Drawing | Banner
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]


def literal(text: str) -> str:
    """A text that may hold anything, such as a label of a user's file, as it stands."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>&~])", r"\\\1", text)
