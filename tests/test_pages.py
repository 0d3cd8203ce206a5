"""Pages: what the parts become in Markdown and in HTML, and that nothing in them is code."""

import html.parser
from pathlib import Path

import pytest

from utils.pages.parts import Banner, Drawing, Grid, Picture, Section, literal
from utils.pages.render import html_page, markdown

EVIL = '<script>alert(1)</script> a|b `x<y` **bold** `*.py` and `*.md` "&amp;" [x](javascript:y)'


class Page(html.parser.HTMLParser):
    """A page's elements in order, each with its attributes and the text right in it."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def texts(self, tag, **attrs):
        return ["".join(text) for found, having, text in self.found
                if found == tag and attrs.items() <= having.items()]  # fmt: skip

    def attributes(self, tag):
        return [having for found, having, _ in self.found if found == tag]


def page_of(*parts, title="T", folder=Path()):
    return html_page([Section(title, parts)], folder)


def test_pages_escape_what_they_show():
    parts = [EVIL, Grid(["h|"], [[EVIL]], [["good"]]), Banner("ok", EVIL, EVIL)]
    text = html_page([Section(EVIL, parts), Section(EVIL, [])])
    page = Page(text)
    assert text.count("<script") == 1 and "javascript:y" in text and 'href="javascript' not in text
    assert "<code>x&lt;y</code>" in text and "<strong>bold</strong>" in text
    assert "<code>*.py</code> and <code>*.md</code>" in text
    assert page.texts("title") == [
        '<script>alert(1)</script> a|b x<y bold *.py and *.md "&" [x](javascript:y)'
    ]
    rows = [line for line in markdown([Section("S", parts)]).splitlines() if line[:1] == "|"]
    assert rows[0] == "| h\\| |" and rows[2].count("\\|") == 1


@pytest.mark.parametrize("text", [EVIL, "a_b_c *d* ~e~", "C:\\new\\*", "![x](y)", "&lt;", "`|`"])
def test_a_literal_text_is_shown_as_it_stands(text):
    assert Page(page_of(literal(text))).texts("p") == [text]


def test_a_page_is_whole_and_loads_nothing(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(b"bytes")
    parts = [Picture("figures/a.png", "What `it` shows"), Drawing("<svg></svg>", "Two")]
    page = Page(page_of(*parts, folder=tmp_path))
    assert page.attributes("html") == [{"lang": "en"}] and page.texts("title") == ["T"]
    metas = {meta.get("name") or meta.get("http-equiv"): meta for meta in page.attributes("meta")}
    assert "width=device-width" in metas["viewport"]["content"]
    assert metas["Content-Security-Policy"]["content"].startswith("default-src 'none';")
    (picture,) = page.attributes("img")
    assert picture == {"src": "data:image/png;base64,Ynl0ZXM=", "alt": "What it shows"}
    for _, attributes, _ in page.found:
        assert all(attributes.get(key, "data:").startswith("data:") for key in ("src", "href"))
    (style,) = page.texts("style")
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert markdown([Section("T", parts)]) == ("# T\n\n![What `it` shows](figures/a.png)\n\nTwo\n")
    with pytest.raises(FileNotFoundError):
        page_of(*parts, folder=tmp_path / "figures")


def test_headings_have_the_anchors_that_github_gives_them():
    titles = ["T", "Table 3: under `cv`, RC25's", "Again", "Again", "Again"]
    page = Page(html_page([Section(title, []) for title in titles]))
    anchors = [heading["id"] for heading in page.attributes("h2")]
    assert anchors == ["table-3-under-cv-rc25s", "again", "again-1", "again-2"]
    links = [link["href"].lstrip("#") for link in page.attributes("a")]
    assert links[:4] == anchors and sorted(links) == sorted(2 * anchors)
    assert page.texts("h1") == ["T"] and len(page.texts("nav")) == 1
    assert not Page(page_of("One section needs no list of them.")).texts("nav")


def test_a_table_s_cells_have_lines_and_colours():
    rows = [["ML-1M\n(batch)", "1"], ["", "2 ± 1\n3"], ["x" * 61, ""]]
    text = page_of(Grid(["**a**", ""], rows, [["", "good"], ["", "bad"], ["", ""]]))
    page = Page(text)
    assert [one.get("class") for one in page.attributes("td")] == [
        None, "good", None, "bad", "prose", None,
    ]  # fmt: skip
    above = '<td><span class="above">ML-1M<br><small>(batch)</small></span></td>'
    assert above in text  # shown when rows are sorted
    assert page.texts("small") == ["(batch)", "(batch)", "3"]
    assert page.texts("td", **{"class": "bad"}) == ["2 ± 1"]
    assert [one["scope"] for one in page.attributes("th")] == ["col", "col"]
    lines = markdown([Section("T", [Grid(["a", "b"], rows)])]).splitlines()
    assert lines[4:6] == ["| ML-1M<br>(batch) | 1 |", "|  | 2 ± 1<br>3 |"]


@pytest.mark.parametrize("kind", ["ok", "leaks", "unknown"])
def test_a_banner_says_its_verdict(kind):
    banner = Banner(kind, "A & B", "read by `xgb`")
    page = Page(page_of(banner))
    assert {"class": f"banner {kind}"} in page.attributes("div")
    assert f".banner.{kind}" in page.texts("style")[0]
    assert "A & B" in page.texts("strong") and "xgb" in page.texts("code")
    assert markdown([Section("T", [banner])]) == "# T\n\n> **A & B**\n>\n> read by `xgb`\n"
    assert markdown([Section("T", [Banner(kind, "A")])]) == "# T\n\n> **A**\n"


def test_a_drawing_is_part_of_the_page():
    svg = '<svg viewBox="0 0 2 2"><path stroke="currentColor" d="M0 0L2 2"/></svg>'
    text = page_of(Drawing(svg, "A *line*"))
    assert svg in text and "<figcaption>A <em>line</em></figcaption>" in text
    (frame,) = Page(text).attributes("div")
    assert frame == {"class": "drawing", "role": "img", "aria-label": "A line"}
