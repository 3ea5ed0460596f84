"""Format text and numbers for readers: escape hostile characters, cut long fields, round numbers.

Model text and names of runs are not trusted. `markdown`, `latex`, `csv_text` and `terminal` escape a text for their
target; each returns one line in which control, bidirectional and invisible characters are visible. For HTML see
`report.layout`, for JSON `files.strict_json`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from io import StringIO
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FIELD_BYTES = 4096
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\ufdd0-\ufdef\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Replace control, bidirectional and invisible characters and lone surrogates by symbols or numbers."""
    return _INVISIBLE.sub(_symbol, text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟦U+{code:04X}⟧"


def cut(text: str) -> str:
    """Return at most 4 KB of `text`, with a note on the rest."""
    if len(text) <= FIELD_BYTES // 4:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= FIELD_BYTES:
        return text
    kept = data[:FIELD_BYTES].decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(data):,} bytes in all, the whole text is in the samples file]"


def signed(value: float) -> str:
    """Format a difference with its sign: one decimal from 1 on, else two significant digits."""
    text = f"{abs(value):.1f}" if abs(value) >= 1 or value == 0 else f"{abs(value):.2g}"
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def signed_bits(value: float) -> str:
    """Format a difference in bits per byte with its sign, to three decimals."""
    text = "∞" if math.isinf(value) else f"{abs(value):.3f}"
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def number(value: float) -> str:
    """Format a figure to four significant digits, never in exponent form between 0.001 and 10 million."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}".replace("-", "−")
    digits = max(0, 3 - len(str(int(abs(value)))) + (abs(value) >= 1)) if abs(value) >= 1 else 4
    return f"{value:,.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """Format a figure to two decimals."""
    return f"{round(value, 2) + 0.0:,.2f}".replace("-", "−")  # + 0.0: no minus before a zero


def percent(value: float) -> str:
    """Format a share in percent, without the sign."""
    return f"{100 * value:.1f}"


VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "not distinguishable",
    "unproven": "not proven",
    "": "differs",
}


def p_value(value: float) -> str:
    """Format a p value for a table: `0.012`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def p_words(value: float) -> str:
    """Format a p value for a sentence: `= 0.012`, `< 0.001`."""
    shown = p_value(value)
    return shown if shown.startswith("<") else f"= {shown}"


def p_both(value: float, holm: float | None) -> str:
    """Format a p value with its Holm-corrected one, if it has one."""
    return p_value(value) if holm is None else f"{p_value(value)} (Holm {p_value(holm)})"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def operations(value: float) -> str:
    """Format a number of operations with its prefix: 4.07 G."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g}\u00a0{prefix}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Format bytes in powers of 1,024: 1.5 GiB."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.3g}\u00a0{unit}"
    return f"{value:,.0f}\u00a0bytes"


# Escapes

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
    """Return at most 1,000 characters of `text` on one line, with invisible characters made visible."""
    shown = visible(re.sub(r"\s*[\r\n\t]\s*", " ", text))
    return shown if len(shown) <= CELL_LIMIT else shown[: CELL_LIMIT - 1] + "…"


def markdown(text: str) -> str:
    """Escape text for a GitHub-flavoured Markdown cell or sentence: no mark-up, HTML or column separators."""
    # Numbered lists are escaped before the dot.
    shown = _MARKDOWN.sub(
        lambda found: f"{found.group()}\\" if found.group().isdigit() else f"\\{found.group()}", one_line(text).strip()
    )
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(text: str) -> str:
    """Escape text for a LaTeX cell (pdfLaTeX, UTF-8): no commands, comments or column separators.

    Characters that pdfLaTeX cannot set would stop it, so they are shown by number.
    """
    return "".join(_LATEX.get(c) or (c if _is_set(c) else f"[U+{_code(c):04X}]") for c in one_line(text))


def _is_set(character: str) -> bool:
    """Return whether pdfLaTeX can set a character: ASCII, Latin letters with one accent up to U+017E."""
    if " " <= character <= "~" or character in _LETTERS:
        return True
    apart = unicodedata.normalize("NFD", character)
    return character <= "\u017e" and len(apart) == 2 and apart[0].isascii() and apart[1] in _ACCENTS


def _code(character: str) -> int:
    """Return the code point, or that of the control character that a symbol stands for."""
    if "\u2400" <= character <= "\u2420":
        return ord(character) - 0x2400
    return 0x7F if character == "\u2421" else ord(character)


def csv_text(text: str) -> str:
    """Escape text for a spreadsheet cell: an apostrophe before anything that looks like a formula."""
    shown = one_line(text)
    return f"'{shown}" if shown.lstrip()[:1] and shown.lstrip()[0] in _FORMULA else shown


def terminal(text: str) -> str:
    """Escape text for a terminal: no colour, title, cursor or bidirectional control."""
    return printable(one_line(text))


def aligned(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[bool] = (), rule: bool = False
) -> str:
    """Return aligned columns for a terminal of any width; cells must be escaped already, see `terminal`.

    Args:
        header: names of the columns.
        rows: one cell per column.
        numeric: whether to align each column to the right; none by default.
        rule: draw a line under the header.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    look: dict[str, Any] = (
        {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)} if rule else {"box": None, "padding": (0, 2, 0, 0)}
    )
    table = Table(show_edge=False, pad_edge=False, **look)
    for name, right in zip_longest(header, numeric, fillvalue=False):
        table.add_column(Text(str(name)), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out = StringIO()
    Console(file=out, width=1_000_000, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
