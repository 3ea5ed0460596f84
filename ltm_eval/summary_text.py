"""The summary as a table, and in the forms that papers and spreadsheets take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval.document import Cell, Column, Table
from ltm_eval.escapes import latex, markdown
from ltm_eval.table_text import comma_separated, latex_table, markdown_table
from ltm_eval.wording import number, p_both, percent, signed, signed_bits

if TYPE_CHECKING:
    from ltm_eval.page import Difference
    from ltm_eval.summary import Summary, SummaryCell, SummaryRow

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
        ("CSV", comma_separated([_plain_header(summary), *map(_plain, summary.rows)])),
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


def _plain(row: SummaryRow) -> list[Any]:
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
