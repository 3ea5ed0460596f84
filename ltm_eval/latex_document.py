"""A document's tables for papers: LaTeX that pdfLaTeX sets without a word, on pages as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ltm_eval.escapes import latex
from ltm_eval.table_text import latex_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.document import Cell, Document, Part, Table

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
