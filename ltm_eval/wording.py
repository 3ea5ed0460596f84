"""Text and figures as readers see them: hostile characters visible, long fields cut, numbers in few digits."""

from __future__ import annotations

import math
import re

FIELD_BYTES = 4096
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\ufdd0-\ufdef\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """`text` with control, bidirectional and invisible characters and lone surrogates shown by a symbol or number."""
    return _INVISIBLE.sub(_symbol, text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟦U+{code:04X}⟧"


def cut(text: str) -> str:
    """At most 4 KB of `text`, with a note of what is missing."""
    if len(text) <= FIELD_BYTES // 4:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= FIELD_BYTES:
        return text
    kept = data[:FIELD_BYTES].decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(data):,} bytes in all, the whole text is in the samples file]"


def signed(value: float) -> str:
    """A difference with its sign, to three significant digits or one decimal."""
    text = f"{abs(value):.1f}" if abs(value) >= 1 or value == 0 else f"{abs(value):.2g}"
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def signed_bits(value: float) -> str:
    """A difference in bits per byte with its sign, to three decimals."""
    text = "∞" if math.isinf(value) else f"{abs(value):.3f}"
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def number(value: float) -> str:
    """A figure to four significant digits, never in exponent form between 0.001 and 10 million."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}".replace("-", "−")
    digits = max(0, 3 - len(str(int(abs(value)))) + (abs(value) >= 1)) if abs(value) >= 1 else 4
    return f"{value:,.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """A figure to two decimals, for lists of many."""
    return f"{round(value, 2) + 0.0:,.2f}".replace("-", "−")  # + 0.0: no minus before a zero


def percent(value: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.1f}"


VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "not distinguishable",
    "unproven": "not proven",
    "": "differs",
}
"""What a difference's verdict is called."""


def p_value(value: float) -> str:
    """`0.012` or `< 0.001`, as it stands in a table."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def p_words(value: float) -> str:
    """`= 0.012` or `< 0.001`, as it follows a p in a sentence."""
    shown = p_value(value)
    return shown if shown.startswith("<") else f"= {shown}"


def p_both(value: float, holm: float | None) -> str:
    """A p value as it stands in a table, with its Holm-corrected one where it has one."""
    return p_value(value) if holm is None else f"{p_value(value)} (Holm {p_value(holm)})"


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def operations(value: float) -> str:
    """Floating-point operations with their prefix: 4.07 G."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g}\u00a0{prefix}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes as a reader says them, in powers of 1,024."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.3g}\u00a0{unit}"
    return f"{value:,.0f}\u00a0bytes"
