"""Tables with their sentences and figures, as HTML, Markdown, LaTeX, CSV, JSON or plain text.

One record for every page that is not the report: `compare`, `history`, `index`, and the report's own tables in the
other formats. Rendering returns text; `outputs` writes it. Texts are data until a renderer escapes them for its target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.escapes import markdown, terminal
from ltm_eval.latex_document import as_latex
from ltm_eval.layout import assets, environment, markup
from ltm_eval.strict_files import strict_json
from ltm_eval.table_text import comma_separated, markdown_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ltm_eval.page import Banner

LONG_WORD = 28


@dataclass(frozen=True)
class Column:
    """A column's head."""

    name: str
    """What it holds."""
    numeric: bool = False
    """Whether it holds figures, which stand at the right."""
    roomy: bool = False
    """Whether it holds sentences, which need room."""


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    """What it says."""
    note: str = ""
    """What must be known beside it, smaller."""
    href: str = ""
    """Where it leads, a relative address of our own making; empty for none."""
    kind: str = ""
    """better, worse or empty."""

    @property
    def long(self) -> bool:
        """Whether it holds a word that must be broken to fit."""
        return any(len(word) > LONG_WORD for word in self.text.split())


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str
    """Its title; empty where the part's is enough."""
    columns: tuple[Column, ...]
    """Heads."""
    rows: tuple[tuple[Cell, ...], ...]
    """One cell a column."""
    caption: str = ""
    """How to read it."""


@dataclass(frozen=True)
class Drawing:
    """One figure."""

    svg: str
    """SVG of our own making for inline use."""
    caption: str
    """What it shows."""


@dataclass(frozen=True)
class Part:
    """A section: sentences, tables, figures."""

    title: str
    """Its title."""
    sentences: tuple[str, ...] = ()
    """What to know first."""
    tables: tuple[Table, ...] = ()
    """Tables."""
    drawings: tuple[Drawing, ...] = ()
    """Figures; HTML alone shows them."""


@dataclass(frozen=True)
class Document:
    """Everything that one command says."""

    kind: str
    """compare, history, index or report."""
    title: str
    """Title."""
    lead: str
    """What this is, in a sentence or two."""
    banners: tuple[Banner, ...]
    """What must be known before any number."""
    parts: tuple[Part, ...]
    """Sections."""
    records: tuple[Mapping[str, Any], ...]
    """Rows of the CSV: the same keys in every row, figures as numbers in full precision."""
    data: Mapping[str, Any]
    """What the JSON holds beside `schema` and `version`."""
    glossary: tuple[tuple[str, str], ...] = ()
    """Words and what they mean; HTML alone shows them."""
    filtered: bool = False
    """Whether the page offers to filter the rows of its tables."""


def as_html(document: Document) -> str:
    """One self-contained page; same document, same bytes."""
    template = environment().get_template("document.html.jinja2")
    return template.render(document=document, svg=markup, version=__version__, **assets("report.css", "document"))


def as_json(document: Document) -> str:
    """Strict JSON: `schema` names the form, a number that JSON cannot hold is null and named under `replaced`."""
    return strict_json({"schema": f"ltm_eval/{document.kind}@1", "version": __version__, **document.data})


def as_csv(document: Document) -> str:
    """One line per record under one line of names; RFC 4180 but for line ends, which are LF."""
    names = [list(document.records[0])] if document.records else []
    return comma_separated([*names, *(list(record.values()) for record in document.records)])


def as_markdown(document: Document) -> str:
    """GitHub-flavoured Markdown."""
    blocks = [f"# {markdown(document.title)}", markdown(document.lead)]
    if document.banners:
        blocks.append("\n".join(f"> **{markdown(banner.text)}**\n>" for banner in document.banners).rstrip(">\n"))
    for part in document.parts:
        blocks.append(f"## {markdown(part.title)}")
        blocks += [markdown(sentence) for sentence in part.sentences]
        blocks += [block for table in part.tables for block in _markdown_table(table)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _markdown_table(table: Table) -> list[str]:
    grid = markdown_table(
        [markdown(column.name) for column in table.columns],
        [[_markdown_cell(cell) for cell in row] for row in table.rows],
        numeric=[column.numeric for column in table.columns],
    )
    title = f"### {markdown(table.title)}" if table.title else ""
    return [title, grid, markdown(table.caption)]


def _markdown_cell(cell: Cell) -> str:
    text = f"[{markdown(cell.text)}](<{cell.href}>)" if cell.href else markdown(cell.text)
    text = f"**{text}**" if cell.kind else text
    return f"{text} ({markdown(cell.note)})" if cell.note else text


def as_terminal(document: Document) -> str:
    """Plain text for a terminal: nothing of it can move the cursor or change a colour."""
    blocks = [terminal(document.title), *(f"! {terminal(banner.text)}" for banner in document.banners)]
    for part in document.parts:
        blocks.append("\n".join([terminal(part.title), *(f"  {terminal(text)}" for text in part.sentences)]))
        blocks += [_terminal_table(table, part=part) for table in part.tables]
    return "\n\n".join(blocks) + "\n"


def _terminal_table(table: Table, *, part: Part) -> str:
    rows = [
        [terminal(column.name) for column in table.columns],
        *([_plain(cell) for cell in row] for row in table.rows),
    ]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    lines = [f"  {_aligned(row, table.columns, widths)}".rstrip() for row in rows]
    lines.insert(1, "  " + "  ".join("-" * width for width in widths))
    title = [f"  {terminal(table.title)}"] if table.title and table.title != part.title else []
    return "\n".join([*title, *lines, *([f"  {terminal(table.caption)}"] if table.caption else [])])


def _plain(cell: Cell) -> str:
    return terminal(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _aligned(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    cells = zip(row, columns, widths, strict=True)
    return "  ".join(text.rjust(width) if column.numeric else text.ljust(width) for text, column, width in cells)


RENDERERS: dict[str, Callable[[Document], str]] = {
    "html": as_html,
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
    "json": as_json,
}
"""By the name of the format."""
