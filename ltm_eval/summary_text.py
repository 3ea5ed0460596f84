"""The summary as rows of text, in the forms that papers and spreadsheets take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_eval.escapes import latex, markdown
from ltm_eval.table_text import comma_separated, latex_table, markdown_table
from ltm_eval.wording import number, p_value, percent, signed, signed_bits

if TYPE_CHECKING:
    from ltm_eval.page import Difference
    from ltm_eval.summary import Summary, SummaryCell, SummaryRow

ARROWS = {True: " ↑", False: " ↓", None: ""}


def summary_texts(summary: Summary) -> tuple[tuple[str, str], ...]:
    """(name of the form, the table in it): Markdown and LaTeX as printed, CSV with plain numbers."""
    header = ["Task", "Metric", *summary.labels]
    for label in summary.labels[1:]:
        header += [f"{summary.labels[0]} − {label}", "95 % interval", "p"]
    printed = [header, *(_printed(row) for row in summary.rows)]
    head, *rows = ([markdown(text) for text in row] for row in printed)
    tex_head, *tex_rows = ([latex(text) for text in row] for row in printed)
    numeric = [place > 1 for place in range(len(header))]
    columns = "".join("r" if one else "l" for one in numeric)
    return (
        ("Markdown", markdown_table(head, rows, numeric=numeric) + "\n"),
        ("LaTeX", latex_table(tex_head, tex_rows, columns=columns) + "\n"),
        ("CSV", comma_separated([_plain_header(summary), *map(_plain, summary.rows)])),
    )


def _printed(row: SummaryRow) -> list[str]:
    cells = [row.task, row.metric + ARROWS[row.higher_is_better], *(_figure(cell, row) for cell in row.cells)]
    for gap in row.gaps:
        cells += _gap(gap.difference, row)
    return cells


def _figure(cell: SummaryCell, row: SummaryRow) -> str:
    if cell.value is None:
        return "–"
    return f"{'≤ ' if cell.bound else ''}{f'{percent(cell.value)} %' if row.share else number(cell.value)}"


def _gap(difference: Difference | None, row: SummaryRow) -> list[str]:
    if difference is None:
        return ["–", "–", "–"]
    scale = 100 if row.share else 1
    write = signed_bits if row.bits else signed
    estimate, low, high = (write(scale * value) for value in (difference.estimate, difference.low, difference.high))
    return [estimate, f"{low} to {high}" if difference.n > 1 else "–", p_value(difference.p_value)]


def _plain_header(summary: Summary) -> list[str]:
    header = ["task", "metric", "higher_is_better", "n"]
    for label in summary.labels:
        header += [f"{label} {part}" for part in ("value", "low", "high", "is_upper_bound")]
    for label in summary.labels[1:]:
        header += [f"{summary.labels[0]} minus {label} {part}" for part in ("estimate", "low", "high", "p", "n")]
    return header


def _plain(row: SummaryRow) -> list[Any]:
    cells: list[Any] = [row.task, row.metric, row.higher_is_better, row.n]
    for cell in row.cells:
        cells += [*map(_rounded, (cell.value, cell.low, cell.high)), cell.bound]
    for gap in row.gaps:
        found = gap.difference
        figures = (found.estimate, found.low, found.high, found.p_value) if found else (None,) * 4
        cells += [*map(_rounded, figures), found.n if found else None]
    return cells


def _rounded(value: float | None) -> float | None:
    """To ten digits: more depend on the machine."""
    return None if value is None else float(f"{value:.10g}")
