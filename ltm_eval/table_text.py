"""A table as Markdown, LaTeX or CSV, for papers and spreadsheets, from cells that `escapes` has made harmless."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from ltm_eval.escapes import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
