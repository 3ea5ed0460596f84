"""Text that is not trusted, made harmless for each target: Markdown, LaTeX, spreadsheets and terminals.

Every function gives one line. Control, bidirectional and invisible characters become visible first. For HTML, see
`layout`; for JSON, `results.strict_json`.
"""

from __future__ import annotations

import re

from ltm_eval.errors import printable
from ltm_eval.wording import visible

CELL_LIMIT = 1_000
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^(?:#|[+-](?![0-9.]))|^\d+(?=[.)](?:\s|$))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": "'",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "–": "--",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "⟦": "[",
    "⟧": "]",
    "\u00a0": "~",
}


def one_line(text: str) -> str:
    """At most 1,000 characters of `text` on one line, with what cannot be seen made visible."""
    shown = visible(re.sub(r"\s*[\r\n\t]\s*", " ", text))
    return shown if len(shown) <= CELL_LIMIT else shown[: CELL_LIMIT - 1] + "…"


def markdown(text: str) -> str:
    """Text of a GitHub-flavoured Markdown table cell or sentence: no mark-up, no HTML, no column of its own."""
    shown = _MARKDOWN.sub(_backslashed, one_line(text).strip())
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _backslashed(found: re.Match[str]) -> str:
    """A backslash before the character; before the dot of what would start a numbered list."""
    return f"{found.group()}\\" if found.group().isdigit() else f"\\{found.group()}"


def latex(text: str) -> str:
    """Text of a LaTeX table cell for pdfLaTeX with UTF-8 input: no command, no comment, no new column."""
    shown = re.sub("[\u2400-\u2421]", lambda found: f"[U+{_code(found.group()):04X}]", one_line(text))
    return "".join(_LATEX.get(c, c) for c in shown)


def _code(symbol: str) -> int:
    """The control character that a symbol stands for."""
    return 0x7F if symbol == "\u2421" else ord(symbol) - 0x2400


def csv_text(text: str) -> str:
    """Text of a spreadsheet cell: what a spreadsheet would take for a formula gets an apostrophe before it."""
    shown = one_line(text)
    return f"'{shown}" if shown.lstrip()[:1] and shown.lstrip()[0] in _FORMULA else shown


def terminal(text: str) -> str:
    """Text of one terminal line: no colour, title, cursor or bidirectional control."""
    return printable(one_line(text))
