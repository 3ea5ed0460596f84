"""Tables, and the documents made of them, as HTML, Markdown, LaTeX, CSV, JSON or text for a terminal.

`compare`, `history`, `index` and every format of `report` but its page are a `Document`: sections of sentences, tables
and plots. Rendering returns text; `write_all` writes it. Cells hold text as it is, which may be a model's or a
stranger's; each renderer escapes it for its target with `system.text`, and Jinja for HTML.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import __version__
from ltm_eval.report.layout import assets, environment, markup
from ltm_eval.results.views import EVALUATED
from ltm_eval.system.errors import UsageError, nearest
from ltm_eval.system.files import check_target, strict_json, write_text_atomic
from ltm_eval.system.text import (
    aligned,
    csv_text,
    latex,
    markdown,
    number,
    p_both,
    percent,
    signed,
    signed_bits,
    terminal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ltm_eval.results.views import Difference, Figure, Published


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before any number."""

    kind: str
    text: str


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool = False  # aligned to the right
    roomy: bool = False  # holds sentences


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""  # stands beside the text, smaller
    href: str = ""  # a relative address of our own making
    kind: str = ""  # better, worse or empty; set in bold if not empty

    @property
    def long(self) -> bool:
        """Whether a word must be broken to fit."""
        return any(len(word) > 28 for word in self.text.split())

    @property
    def plain(self) -> str:
        """The text with its note in parentheses."""
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True)
class Table:
    title: str  # empty if that of its section is enough
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Drawing:
    svg: str  # of our own making, to stand in a page
    caption: str


@dataclass(frozen=True)
class Part:
    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()  # in HTML alone


@dataclass(frozen=True)
class Document:
    kind: str  # compare, history, index or report
    title: str
    lead: str
    banners: tuple[Banner, ...]
    parts: tuple[Part, ...]
    records: tuple[Mapping[str, Any], ...]  # rows of the CSV: the same keys in each, numbers in full
    data: Mapping[str, Any]  # what the JSON holds beside `schema` and `version`
    glossary: tuple[tuple[str, str], ...] = ()  # in HTML alone
    ending: str = ""  # after all else on a terminal, escaped already
    filtered: bool = False  # the page has a field that filters the rows of its tables


# HTML, JSON and CSV


def as_html(document: Document) -> str:
    """Return one self-contained page; same document, same bytes."""
    template = environment().get_template("document.html.jinja2")
    return template.render(document=document, svg=markup, version=__version__, **assets("report.css", "document"))


def as_json(document: Document) -> str:
    """Return strict JSON: `schema` names the form, a number that JSON cannot hold is null, listed under `replaced`."""
    return strict_json({"schema": f"ltm_eval/{document.kind}@1", "version": __version__, **document.data})


def as_csv(document: Document) -> str:
    """Return a line of names and a line for each record."""
    names = [list(document.records[0])] if document.records else []
    return comma_separated([*names, *(list(record.values()) for record in document.records)])


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
    """Return CSV (RFC 4180, but LF): numbers in full, None as nothing, words that no spreadsheet runs as a formula."""
    import pandas as pd

    def value(one: Any) -> Any:
        if isinstance(one, bool):
            return "true" if one else "false"
        return csv_text(one) if isinstance(one, str) else one

    frame = pd.DataFrame([[value(one) for one in row] for row in rows], dtype=object)
    text: str = frame.to_csv(header=False, index=False, lineterminator="\n")
    return text


# Text for a terminal


def as_terminal(document: Document) -> str:
    """Return plain text, of which nothing moves the cursor or changes a colour."""
    blocks = [terminal(document.title), *(f"! {terminal(banner.text)}" for banner in document.banners)]
    for part in document.parts:
        blocks.append("\n".join([terminal(part.title), *(f"  {terminal(text)}" for text in part.sentences)]))
        for table in part.tables:
            title = [terminal(table.title)] if table.title and table.title != part.title else []
            caption = [terminal(table.caption)] if table.caption else []
            lines = [*title, *terminal_table(table).splitlines(), *caption]
            blocks.append("\n".join(f"  {line}" for line in lines))
    blocks += [document.ending] if document.ending else []
    return "\n\n".join(blocks) + "\n"


def terminal_table(table: Table) -> str:
    """Return the columns and rows alone."""
    names = [terminal(column.name) for column in table.columns]
    rows = [[terminal(cell.plain) for cell in row] for row in table.rows]
    return aligned(names, rows, numeric=[column.numeric for column in table.columns], rule=True)


# Markdown


def as_markdown(document: Document) -> str:
    """Return GitHub-flavoured Markdown."""
    blocks = [f"# {markdown(document.title)}", markdown(document.lead)]
    if document.banners:
        blocks.append("\n>\n".join(f"> **{markdown(banner.text)}**" for banner in document.banners))
    for part in document.parts:
        blocks += [f"## {markdown(part.title)}", *map(markdown, part.sentences)]
        for table in part.tables:
            title = f"### {markdown(table.title)}" if table.title else ""
            blocks += [title, markdown_table(table), markdown(table.caption)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def markdown_table(table: Table) -> str:
    """Return the columns and rows alone."""

    def shown(cell: Cell) -> str:
        text = f"[{markdown(cell.text)}](<{cell.href}>)" if cell.href else markdown(cell.text)
        text = f"**{text}**" if cell.kind else text
        return f"{text} ({markdown(cell.note)})" if cell.note else text

    lines = [[markdown(column.name) for column in table.columns]]
    lines.append(["---:" if column.numeric else "---" for column in table.columns])
    lines += [[shown(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# LaTeX that pdfLaTeX sets without a word, on pages as they are

LONG_TEXT = 45  # letters from which a column is broken into lines
BROKEN = 28  # letters in a line of such a column, which is three tenths of a page wide
WIDE = 80  # letters in a row from which a table is made smaller to fit
TALL = 34  # lines that fit on a page beside the caption


def as_latex(document: Document) -> str:
    r"""Return one `table` for each table, or several if it is longer than a page; banners and captions are captions."""
    blocks = ["% needs \\usepackage{booktabs,graphicx}"]
    alarms = [banner.text for banner in document.banners if banner.kind == "alarm"]
    for part in document.parts:
        for table in part.tables:
            title = f"{part.title}: {table.title}" if table.title not in {"", part.title} else part.title
            texts = [text for text in (title, *alarms, table.caption) if text]
            caption = " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts)
            blocks += _latex_floats(table, caption, again=f"{title} (continued).")
        blocks.append("\\clearpage")  # LaTeX holds few tables that it has not placed yet
    return "\n\n".join(blocks) + "\n"


def _latex_floats(table: Table, caption: str, *, again: str) -> list[str]:
    texts = [[column.name for column in table.columns], *([cell.plain for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    long = [width > LONG_TEXT for width in widths]
    pages: list[list[tuple[Cell, ...]]] = [[]]
    used = 0
    for row, cells in zip(table.rows, texts[1:], strict=True):
        lines = max(1, *(math.ceil(len(text) / BROKEN) for text, broken in zip(cells, long, strict=True) if broken), 1)
        if used + lines > TALL and pages[-1]:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += lines
    kinds = ["r" if c.numeric else r"p{0.3\linewidth}" if b else "l" for c, b in zip(table.columns, long, strict=True)]
    small = sum((BROKEN if broken else width) + 2 for width, broken in zip(widths, long, strict=True)) > WIDE
    floats = []
    for index, rows in enumerate(pages):
        grid = latex_table(table, rows, kinds="".join(kinds))
        grid = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{grid}}}" if small else grid
        shown = latex(again if index else caption)
        floats.append("\n".join([r"\begin{table}", r"\centering", rf"\caption{{{shown}}}", grid, r"\end{table}"]))
    return floats


def latex_table(table: Table, rows: Sequence[Sequence[Cell]] | None = None, *, kinds: str = "") -> str:
    """Return a `tabular` with booktabs' rules.

    Args:
        table: its columns, and its rows unless `rows` are given.
        rows: some of its rows.
        kinds: of columns, as LaTeX takes them; by default each is as wide as its text.
    """

    def shown(cell: Cell) -> str:
        text = rf"\textbf{{{latex(cell.text)}}}" if cell.kind else latex(cell.text)
        return f"{text} ({latex(cell.note)})" if cell.note else text

    def line(cells: Iterable[str]) -> str:  # a cell that begins like an argument of the line end before it gets {}
        return " & ".join(f"{{}}{cell}" if cell.startswith(("[", "*")) else cell for cell in cells) + r" \\"

    kinds = kinds or "".join("r" if column.numeric else "l" for column in table.columns)
    body = [line(map(shown, row)) for row in (table.rows if rows is None else rows)]
    head = [r"\toprule", line(latex(column.name) for column in table.columns), r"\midrule"]
    return "\n".join([rf"\begin{{tabular}}{{{kinds}}}", *head, *body, r"\bottomrule", r"\end{tabular}"])


RENDERERS: dict[str, Callable[[Document], str]] = {
    "html": as_html,
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
    "json": as_json,
}


# Formats that a command writes, and where: `--format html,md` and `-o` as a file, a folder or a stem

SUFFIXES = {"html": ".html", "md": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}
FORMATS = tuple(SUFFIXES)
_OF_SUFFIX = {suffix: name for name, suffix in SUFFIXES.items()}


def formats_of(text: str | None) -> tuple[str, ...]:
    """Return the formats that `text` lists, each once; none for None.

    Raises:
        UsageError: a name is unknown, or none is given.
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
    """Return the format of a file's suffix, if it has one of ours."""
    name = _OF_SUFFIX.get(Path(output).suffix.lower()) if output else None
    return (name,) if name else ()


def targets(formats: Sequence[str], output: str | None, *, stem: Path) -> dict[str, Path]:
    """Return the file of each format.

    Args:
        formats: some of `FORMATS`.
        output: a file for one format; for several a folder, or a path whose suffix is replaced; None for `stem`.
        stem: folder and name without suffix, for what `output` leaves open.
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
    """Write every format to its file: complete or not at all.

    Raises:
        RefusedError: something else is there; nothing is written.
        MachineError: a file cannot be written.
    """
    texts = {path: renderers[name]() for name, path in places.items()}
    for path, text in texts.items():
        check_target(path, text.encode("utf-8", "replace"))
    for path, text in texts.items():
        write_text_atomic(path, text)


# The summary


@dataclass(frozen=True)
class SummaryRow:
    """One task and metric: every model's figure, the first model's differences, and what was published."""

    task: str
    number: int  # of the task on the page, from 1
    metric: str
    higher_is_better: bool | None
    cells: tuple[Figure | None, ...]
    gaps: tuple[Difference | None, ...]  # of all models but the first
    published: tuple[Published, ...]
    n: int | None
    share: bool = False
    bits: bool = False  # whether differences are in bits per byte, shown to three decimals
    best: int | None = None  # position of the model that is better than every other one
    only: str = ""  # settings that set these figures apart from those of another row


@dataclass(frozen=True)
class Summary:
    """The table above all tasks."""

    labels: tuple[str, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def sources(self) -> tuple[Published, ...]:
        """One published figure for each distinct source, in order of appearance: the notes below the table."""
        found: dict[str, Published] = {}
        for row in self.rows:
            for one in row.published:
                found.setdefault(one.source, one)
        return tuple(found.values())


ARROWS = {True: " ↑", False: " ↓", None: ""}
UNTOLD = "–"
CAPTION = (
    "In parentheses 95 % intervals. ≤ marks upper bounds. Differences are the first model minus the other, paired by "
    "document. p is not corrected; Holm’s correction is over the first figure of every task and model."
)
APART = " Figures under other settings are not comparable and stand in rows of their own."


def summary_table(summary: Summary) -> Table:
    """Return the rows of the page's summary."""
    columns = [Column("Task"), Column("Metric"), Column("n", numeric=True)]
    columns += [Column(label, numeric=True) for label in summary.labels]
    for label in summary.labels[1:]:
        names = (f"{summary.labels[0]} − {label}", "95 % interval", "p")
        columns += [Column(name, numeric=True) for name in names]
    apart = APART if any(row.only for row in summary.rows) else ""
    return Table("", tuple(columns), tuple(map(_cells, summary.rows)), CAPTION + apart)


def summary_texts(summary: Summary) -> tuple[tuple[str, str], ...]:
    """Return (name of the form, the table in it): Markdown and LaTeX as printed, CSV with plain numbers."""
    table = summary_table(summary)
    header = ["task", "metric", "higher_is_better", "n"]
    for label in summary.labels:
        header += [f"{label} {part}" for part in ("value", "low", "high", "sd", "is_upper_bound")]
    for label in summary.labels[1:]:
        parts = ("estimate", "low", "high", "p", "p_holm", "n")
        header += [f"{summary.labels[0]} minus {label} {part}" for part in parts]
    return (
        ("Markdown", markdown_table(table) + "\n"),
        ("LaTeX", latex_table(table) + "\n"),
        ("CSV", comma_separated([header, *map(_summary_numbers, summary.rows)])),
    )


def _summary_numbers(row: SummaryRow) -> list[Any]:
    def rounded(value: float | None) -> float | None:  # to ten digits: more depend on the machine
        return None if value is None else float(f"{value:.10g}")

    cells: list[Any] = [row.task, f"{row.metric} ({row.only})" if row.only else row.metric, row.higher_is_better, row.n]
    for cell in row.cells:
        numbers = (cell.value, cell.low, cell.high, cell.sd) if cell is not None else (None,) * 4
        cells += [*map(rounded, numbers), cell is not None and cell.bound]
    for found in row.gaps:
        ends = (found.low, found.high) if found is not None and found.known else (None, None)
        figures = (found.estimate, *ends, found.p_value, found.p_holm) if found else (None,) * 5
        cells += [*map(rounded, figures), found.n if found else None]
    return cells


def _cells(row: SummaryRow) -> tuple[Cell, ...]:
    head = (Cell(row.task), Cell(row.metric + ARROWS[row.higher_is_better], note=row.only))
    count = Cell(UNTOLD if row.n is None else f"{row.n:,}")
    gaps = (Cell(text) for gap in row.gaps for text in _gap(gap, row))
    return (*head, count, *map(_figure, row.cells), *gaps)


def _figure(cell: Figure | None) -> Cell:
    """Return the cell of the summary; a standard deviation over seeds takes the interval's place."""
    made = value_cell(cell)
    return made if cell is None or cell.sd is None else Cell(f"{made.text} ± {number(cell.sd)}")


def _gap(difference: Difference | None, row: SummaryRow) -> list[str]:
    if difference is None:
        return [UNTOLD, UNTOLD, UNTOLD]
    scale = 100 if row.share else 1
    write = signed_bits if row.bits else signed
    estimate, low, high = (write(scale * value) for value in (difference.estimate, difference.low, difference.high))
    return [
        estimate,
        f"{low} to {high}" if difference.known else UNTOLD,
        p_both(difference.p_value, difference.p_holm),
    ]


# Figures in the cells of tables


def value_text(figure: Figure) -> str:
    """Return the figure with its unit, and "≤" before a bound."""
    if figure.value is None:
        return UNTOLD
    sign = "≤ " if figure.bound else ""
    return f"{sign}{percent(figure.value)} %" if figure.share else f"{sign}{number(figure.value)}"


def value_cell(figure: Figure | None, *, best: bool = False) -> Cell:
    """Return the figure with its interval in small type; a dash without one."""
    if figure is None or figure.value is None:
        return Cell(UNTOLD)
    interval = interval_text(figure)
    return Cell(value_text(figure), note="" if interval == UNTOLD else interval, kind="better" if best else "")


def interval_text(figure: Figure) -> str:
    """Return both ends of the 95 % interval, in the figure's unit."""
    if figure.low is None or figure.high is None:
        return UNTOLD
    shown = percent if figure.share else number
    return f"{shown(figure.low)} to {shown(figure.high)}"


def metric_text(figure: Figure) -> str:
    """Return metric, filter and direction."""
    name = figure.metric if figure.filter == "none" else f"{figure.metric}, {figure.filter}"
    return f"{name} {arrow(figure)}".strip()


def arrow(figure: Figure) -> str:
    """Return ↑ if higher is better, ↓ if lower is."""
    return {True: "↑", False: "↓", None: ""}[figure.higher_is_better]


def status_note(figure: Figure) -> str:
    """Return its status, unless a run of ours gave it, and its own note."""
    told = [figure.status] if figure.status != EVALUATED else []
    return "; ".join(dict.fromkeys([*told, *([figure.note] if figure.note else [])]))
