"""Tables with their sentences and figures, as HTML, Markdown, LaTeX, CSV, JSON or plain text.

One record for every page that is not the report: `compare`, `history`, `index`, and the report's own tables in the
other formats. Rendering returns text; `outputs` writes it. Texts are data until a renderer escapes them for its target.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.report.layout import assets, environment, markup
from ltm_eval.results.figures import EVALUATED
from ltm_eval.system.errors import UsageError, nearest
from ltm_eval.system.files import strict_json, write_text_atomic
from ltm_eval.system.text import csv_text, latex, markdown, number, p_both, percent, signed, signed_bits, terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ltm_eval.results.figures import Figure
    from ltm_eval.results.views import Banner, Difference, Summary, SummaryCell, SummaryRow


# Formats that a command writes, and where: `--format html,md` and `-o` as a file, a folder or a stem.

SUFFIXES = {"html": ".html", "md": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}
FORMATS = tuple(SUFFIXES)
_OF_SUFFIX = {suffix: name for name, suffix in SUFFIXES.items()}


def formats_of(text: str | None) -> tuple[str, ...]:
    """The formats that `text` lists, each once; nothing for nothing.

    Raises:
        UsageError: a name is unknown.
    """
    names = tuple(dict.fromkeys(part.strip().lower() for part in (text or "").split(",") if part.strip()))
    for name in names:
        if name not in SUFFIXES:
            known = ", ".join(FORMATS)
            raise UsageError(f"--format must list some of {known}, got {name!r}.{nearest(name, FORMATS)}")
    if text is not None and not names:
        raise UsageError(f"--format must list some of {', '.join(FORMATS)}, got nothing")
    return names


def suffix_format(output: str | None) -> tuple[str, ...]:
    """The format that the suffix of a file tells."""
    name = _OF_SUFFIX.get(Path(output).suffix.lower()) if output else None
    return (name,) if name else ()


def targets(formats: Sequence[str], output: str | None, *, stem: Path) -> dict[str, Path]:
    """Where each format goes.

    Args:
        formats: some of `FORMATS`.
        output: a file for one format; for several a folder, or a path whose suffix is replaced; None for `stem`.
        stem: folder and name without suffix, for what `output` does not tell.
    """
    if output is None:
        return {name: stem.with_name(stem.name + SUFFIXES[name]) for name in formats}
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return {name: path / (stem.name + SUFFIXES[name]) for name in formats}
    if len(formats) == 1:
        return {formats[0]: path}
    base = path.with_suffix("") if path.suffix.lower() in _OF_SUFFIX else path
    return {name: base.with_name(base.name + SUFFIXES[name]) for name in formats}


def write_all(renderers: Mapping[str, Callable[[], str]], places: Mapping[str, Path]) -> None:
    """Write every format to its place: each complete or not at all.

    Raises:
        MachineError: a file cannot be written.
    """
    for name, path in places.items():
        write_text_atomic(path, renderers[name]())


# A table as Markdown, LaTeX or CSV, for papers and spreadsheets, from cells that `escapes` has made harmless.


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[bool]) -> str:
    """A GitHub table; a column that is `numeric` stands at the right."""
    marks = ["---:" if one else "---" for one in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, marks, *rows))


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, columns: str) -> str:
    """A `tabular` with booktabs' rules; `columns` as LaTeX takes them."""
    head, *body = (" & ".join(map(_no_argument, line)) + r" \\" for line in (header, *rows))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def _no_argument(cell: str) -> str:
    r"""A cell that begins like an argument of the `\\` before it."""
    return f"{{}}{cell}" if cell.startswith(("[", "*")) else cell


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
    """CSV (RFC 4180, but LF): numbers in full, None as nothing, words that a spreadsheet would run as words."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(map(_csv_value, row)) for row in rows])
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return csv_text(value) if isinstance(value, str) else value


# A document's tables for papers: LaTeX that pdfLaTeX sets without a word, on pages as they are.

LONG_TEXT = 45
"""Letters from which a column is broken into lines."""
BROKEN = 28
"""Letters in a line of such a column, which is three tenths of a page wide."""
WIDE = 80
"""Letters in a row from which a table is made smaller to fit."""
TALL = 34
"""Lines that fit on a page beside the caption."""


def as_latex(document: Document) -> str:
    r"""One `table` for each table, or several where it is longer than a page; sentences and banners are captions."""
    blocks = ["% needs \\usepackage{booktabs,graphicx}"]
    for part in document.parts:
        blocks += [block for table in part.tables for block in _tables(table, part=part, document=document)]
        blocks.append("\\clearpage")  # LaTeX holds few tables that it has not placed yet
    return "\n\n".join(blocks) + "\n"


def _tables(table: Table, *, part: Part, document: Document) -> Iterator[str]:
    titles = [part.title] if not table.title or table.title == part.title else [part.title, table.title]
    alarms = [banner.text for banner in document.banners if banner.kind == "alarm"]
    caption = " ".join(_sentence(text) for text in (": ".join(titles), *alarms, table.caption) if text)
    lines = [[column.name for column in table.columns], *map(_texts, table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for place, rows in enumerate(_pages(table.rows, widths)):
        shown = caption if place == 0 else f"{': '.join(titles)} (continued)."
        yield _one(table, rows, caption=shown, widths=widths)


def _texts(row: Sequence[Cell]) -> list[str]:
    return [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row]


def _pages(rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> list[list[Sequence[Cell]]]:
    """Rows that fit on one page together; at least one such part."""
    pages: list[list[Sequence[Cell]]] = [[]]
    used = 0
    for row in rows:
        broken = (
            math.ceil(len(text) / BROKEN) for text, width in zip(_texts(row), widths, strict=True) if width > LONG_TEXT
        )
        lines = max(1, *broken, 1)
        if used + lines > TALL and pages[-1]:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += lines
    return pages


def _one(table: Table, rows: Sequence[Sequence[Cell]], *, caption: str, widths: Sequence[int]) -> str:
    kinds = zip(table.columns, widths, strict=True)
    columns = "".join(
        "r" if column.numeric else r"p{0.3\linewidth}" if width > LONG_TEXT else "l" for column, width in kinds
    )
    grid = latex_table(
        [latex(column.name) for column in table.columns],
        [[_cell(cell) for cell in row] for row in rows],
        columns=columns,
    )
    if sum(min(width, BROKEN if width > LONG_TEXT else width) + 2 for width in widths) > WIDE:
        grid = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{grid}}}"
    return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{latex(caption)}}}", grid, r"\end{table}"])


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{latex(cell.text)}}}" if cell.kind else latex(cell.text)
    return f"{text} ({latex(cell.note)})" if cell.note else text


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


# The summary as a table, and in the forms that papers and spreadsheets take.

ARROWS = {True: " ↑", False: " ↓", None: ""}
NOTHING = "–"
CAPTION = (
    "In parentheses 95 % intervals. ≤ marks upper bounds. Differences are the first model minus the other, paired by "
    "document. p is not corrected; Holm’s correction is over the first figure of every task and model."
)
APART = " Figures under other settings are not comparable and stand in rows of their own."


def summary_table(summary: Summary) -> Table:
    """The rows of the page's summary."""
    columns = [Column("Task"), Column("Metric"), Column("n", numeric=True)]
    columns += [Column(label, numeric=True) for label in summary.labels]
    for label in summary.labels[1:]:
        names = (f"{summary.labels[0]} − {label}", "95 % interval", "p")
        columns += [Column(name, numeric=True) for name in names]
    apart = APART if any(row.only for row in summary.rows) else ""
    return Table("", tuple(columns), tuple(map(_cells, summary.rows)), CAPTION + apart)


def summary_texts(summary: Summary) -> tuple[tuple[str, str], ...]:
    """(name of the form, the table in it): Markdown and LaTeX as printed, CSV with plain numbers."""
    table = summary_table(summary)
    printed = [[column.name for column in table.columns]]
    printed += [[f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row] for row in table.rows]
    head, *rows = ([markdown(text) for text in row] for row in printed)
    tex_head, *tex_rows = ([latex(text) for text in row] for row in printed)
    numeric = [column.numeric for column in table.columns]
    columns = "".join("r" if one else "l" for one in numeric)
    return (
        ("Markdown", markdown_table(head, rows, numeric=numeric) + "\n"),
        ("LaTeX", latex_table(tex_head, tex_rows, columns=columns) + "\n"),
        ("CSV", comma_separated([_plain_header(summary), *map(_plain_summary_text, summary.rows)])),
    )


def _cells(row: SummaryRow) -> tuple[Cell, ...]:
    head = (Cell(row.task), Cell(row.metric + ARROWS[row.higher_is_better], note=row.only))
    count = Cell(NOTHING if row.n is None else f"{row.n:,}")
    gaps = (Cell(text) for gap in row.gaps for text in _gap(gap.difference, row))
    return (*head, count, *(_figure(cell, row) for cell in row.cells), *gaps)


def _figure(cell: SummaryCell, row: SummaryRow) -> Cell:
    if cell.value is None:
        return Cell(NOTHING)
    shown = percent if row.share else number
    text = f"{'≤ ' if cell.bound else ''}{shown(cell.value)}{' %' if row.share else ''}"
    if cell.sd is not None:
        return Cell(f"{text} ± {number(cell.sd)}")
    if cell.low is None or cell.high is None:
        return Cell(text)
    return Cell(text, note=f"{shown(cell.low)} to {shown(cell.high)}")


def _gap(difference: Difference | None, row: SummaryRow) -> list[str]:
    if difference is None:
        return [NOTHING, NOTHING, NOTHING]
    scale = 100 if row.share else 1
    write = signed_bits if row.bits else signed
    estimate, low, high = (write(scale * value) for value in (difference.estimate, difference.low, difference.high))
    return [
        estimate,
        f"{low} to {high}" if difference.known else NOTHING,
        p_both(difference.p_value, difference.p_holm),
    ]


def _plain_header(summary: Summary) -> list[str]:
    header = ["task", "metric", "higher_is_better", "n"]
    for label in summary.labels:
        header += [f"{label} {part}" for part in ("value", "low", "high", "sd", "is_upper_bound")]
    for label in summary.labels[1:]:
        parts = ("estimate", "low", "high", "p", "p_holm", "n")
        header += [f"{summary.labels[0]} minus {label} {part}" for part in parts]
    return header


def _plain_summary_text(row: SummaryRow) -> list[Any]:
    metric = f"{row.metric} ({row.only})" if row.only else row.metric
    cells: list[Any] = [row.task, metric, row.higher_is_better, row.n]
    for cell in row.cells:
        cells += [*map(_rounded, (cell.value, cell.low, cell.high, cell.sd)), cell.bound]
    for gap in row.gaps:
        found = gap.difference
        ends = (found.low, found.high) if found is not None and found.known else (None, None)
        figures = (found.estimate, *ends, found.p_value, found.p_holm) if found else (None,) * 5
        cells += [*map(_rounded, figures), found.n if found else None]
    return cells


def _rounded(value: float | None) -> float | None:
    """To ten digits: more depend on the machine."""
    return None if value is None else float(f"{value:.10g}")


# Figures in words for tables: values with their sign and unit, intervals, and one head for what may share a column.

UNTOLD = "–"


def value_text(figure: Figure) -> str:
    """The figure with its unit, and "≤" before a bound."""
    if figure.value is None:
        return UNTOLD
    sign = "≤ " if figure.bound else ""
    return f"{sign}{percent(figure.value)} %" if figure.share else f"{sign}{number(figure.value)}"


def interval_text(figure: Figure) -> str:
    """Both ends of the 95 % interval, in the figure's unit."""
    if figure.low is None or figure.high is None:
        return UNTOLD
    shown = percent if figure.share else number
    return f"{shown(figure.low)} to {shown(figure.high)}"


def metric_text(figure: Figure) -> str:
    """Metric, filter and direction."""
    name = figure.metric if figure.filter == "none" else f"{figure.metric}, {figure.filter}"
    return f"{name} {arrow(figure)}".strip()


def arrow(figure: Figure) -> str:
    """↑ where higher is better, ↓ where lower is."""
    return {True: "↑", False: "↓", None: ""}[figure.higher_is_better]


def status_note(figure: Figure) -> str:
    """What stands beside a figure that no run of ours gave, and its own note."""
    told = [figure.status] if figure.status != EVALUATED else []
    return "; ".join(dict.fromkeys([*told, *([figure.note] if figure.note else [])]))
