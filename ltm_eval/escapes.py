"""Text that is not trusted, made harmless for each target: Markdown, LaTeX, spreadsheets and terminals.

Every function gives one line. Control, bidirectional and invisible characters become visible first. For HTML, see
`layout`; for JSON, `results.strict_json`.
"""

from __future__ import annotations

import re
import unicodedata

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
    '"': r"\char34{}",
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


_LETTERS = frozenset("¡¿ßÆæŒœØøŁłı§¶†‡•")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")


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
    """Text of a LaTeX table cell for pdfLaTeX with UTF-8 input: no command, no comment, no new column.

    Characters that pdfLaTeX has no letter for stop it, so they are given by number.
    """
    return "".join(_LATEX.get(c) or (c if _is_set(c) else f"[U+{_code(c):04X}]") for c in one_line(text))


def _is_set(character: str) -> bool:
    """Whether pdfLaTeX sets it in its old font encoding: ASCII, and Latin letters with one accent up to U+017E."""
    if " " <= character <= "~" or character in _LETTERS:
        return True
    apart = unicodedata.normalize("NFD", character)
    return character <= "\u017e" and len(apart) == 2 and apart[0].isascii() and apart[1] in _ACCENTS


def _code(character: str) -> int:
    """Its number; of the symbol for a control character that one's."""
    if "\u2400" <= character <= "\u2420":
        return ord(character) - 0x2400
    return 0x7F if character == "\u2421" else ord(character)


def csv_text(text: str) -> str:
    """Text of a spreadsheet cell: what a spreadsheet would take for a formula gets an apostrophe before it."""
    shown = one_line(text)
    return f"'{shown}" if shown.lstrip()[:1] and shown.lstrip()[0] in _FORMULA else shown


def terminal(text: str) -> str:
    """Text of one terminal line: no colour, title, cursor or bidirectional control."""
    return printable(one_line(text))
