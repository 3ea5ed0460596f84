"""A table of texts as Markdown, LaTeX and CSV, for papers and spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≤": r"$\leq$",
    "−": "$-$",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "\u00a0": "~",
    "∞": r"$\infty$",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: int = 1) -> str:
    """A GitHub table; columns from the `numeric`-th on are aligned to the right."""
    marks = ["---" if index < numeric else "---:" for index in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines) + "\n"


def _markdown_cell(text: str) -> str:
    """One line, without what Markdown would read as mark-up of its own."""
    flat = " ".join(text.split())
    for mark in "\\`|<*":
        flat = flat.replace(mark, "&lt;" if mark == "<" else f"\\{mark}")
    return flat


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: int = 1) -> str:
    """A `tabular` with booktabs' rules."""
    columns = "".join("l" if index < numeric else "r" for index in range(len(header)))
    body = [" & ".join(map(_latex_cell, line)) + r" \\" for line in (header, *rows)]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _latex_cell(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in " ".join(text.split(" ")).replace("\n", " "))


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """CSV (RFC 4180, but LF); a cell of words that a spreadsheet would run as a formula gets an apostrophe."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(map(_csv_cell, line)) for line in (header, *rows)])
    return out.getvalue()


def _csv_cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
