"""Text in Markdown, LaTeX, spreadsheets and terminals: shown, never obeyed."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hostile import HOSTILE, INVISIBLE, MARKUP
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.system.text import csv_text, latex, markdown, one_line, terminal

TEXTS = (*MARKUP, *INVISIBLE, *HOSTILE.values(), "a\nb\r\nc\td", "\\end{table}\\input{/etc/passwd}%", "=1+1", "a|b|c")
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@pytest.mark.parametrize("escape", [markdown, latex, csv_text, terminal])
@pytest.mark.parametrize("text", TEXTS)
def test_one_line_without_what_cannot_be_seen(escape: type, text: str) -> None:
    assert not UNSEEN.search(escape(text))
    escape(text).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", "a_b"),
        ("_a_ *b*", "\\_a\\_ \\*b\\*"),
        ("a|b", "a\\|b"),
        ("[x](javascript:alert(1))", "\\[x\\](javascript:alert(1))"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("# head", "\\# head"),
        ("1. item", "1\\. item"),
        ("2.463", "2.463"),
        ("−0.5", "−0.5"),
        ("$x$ `c`", "\\$x\\$ \\`c\\`"),
    ],
)
def test_markdown(text: str, expected: str) -> None:
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ltm_gsm8k 5 % & more #1", r"ltm\_gsm8k 5 \% \& more \#1"),
        ("≤ 2.5 ±", r"$\le$ 2.5 $\pm$"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a^b~c$d", r"a\textasciicircum{}b\textasciitilde{}c\$d"),
        ("\x00\x7f\u202e", "[U+0000][U+007F][U+202E]"),
        ("Åse Žižek 漢 e\u0301 \ufffd", "Åse Žižek [U+6F22] e[U+0301] [U+FFFD]"),
    ],
)
def test_latex(text: str, expected: str) -> None:
    assert latex(text) == expected


@given(st.text(max_size=60))
def test_latex_has_no_free_special_character(text: str) -> None:
    rest = re.sub(r"\\char\d+\{\}|\\[a-zA-Z]+(\{\})?|\\[{}$&#_%]|\$\\[a-z]+\$|\$-\$", "", latex(text))
    assert not set("\\{}$&#_%^") & set(rest)


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@SUM(A1)", "  =1", "\t=1", "＝1"])
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert csv_text(text).startswith("'")


@given(st.text(max_size=60))
def test_csv_comes_back_as_one_cell(text: str) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([csv_text(text), "end"])
    assert [row[1] for row in csv.reader(io.StringIO(file.getvalue()))] == ["end"]


@given(st.text(max_size=60))
def test_terminal_text_is_printable(text: str) -> None:
    assert terminal(text).isprintable()


def test_long_text_is_cut() -> None:
    assert len(one_line("x" * 5_000)) == 1_000
