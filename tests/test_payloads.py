"""Texts that have broken pages before, in every field of a report: its structure stays that of a harmless one."""

from __future__ import annotations

import html
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.hostile import DRAWING, MARKUP, Structure
from tests.test_report import page_with

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults

TAGS = ("script", "img", "svg", "iframe", "object", "embed", "link", "style", "base", "form", "meta", "math", "details")
HANDLERS = ("onerror", "onload", "onfocus autofocus", "ontoggle open", "onmouseover", "onanimationstart")
CLOSERS = ("</pre>", "</td></tr></table>", "</style>", "</script>", "</title>", "</details>", "-->", "]]>", "</main>")
SCHEMES = ("javascript:alert(1)", "data:text/html,<b>x", "vbscript:x", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)")
TEMPLATES = ("{{7*7}}", "{% raw %}", "{#", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{config.items()}}", "{%include 'x'%}")
ODD = ("\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\x00", "\x1b]8;;http://x\x07", "\r", "\x85", "\ud800", "\x7f")
SPREADSHEET = ("=cmd()", "+1+1", "-1+1", "@SUM(1)", "\t=1", "|a|b|", "\\input{x}", "$x$", "# h1", "```")
CSS = ("expression(alert(1))", "url(javascript:x)", "@import 'x'", "*{display:none}", "x:hover{}")

PAYLOADS = (
    *MARKUP,
    *(f"<{tag} {handler}=alert(1)>" for tag, handler in product(TAGS, HANDLERS)),
    *(f"{closer}<h1>{tag}</h1>" for closer, tag in product(CLOSERS, ("x", "script"))),
    *(f"<a href={quote}{scheme}{quote}>" for quote, scheme in product(("", '"', "'"), SCHEMES)),
    *(f"{quote} {handler}=alert(1) {quote}" for quote, handler in product(('"', "'", "`"), HANDLERS)),
    *TEMPLATES,
    *(f"a{character}b" for character in ODD),
    *SPREADSHEET,
    *CSS,
    *(html.escape(tag) for tag in ("<b>", "<script>", "&amp;")),
    *(f"&#{code};" for code in ("60", "x3c", "0", "x202e", "x1F600")),
    *("<" * 50, "<!--" * 9, "<![CDATA[", "<?php", "%3Cscript%3E", "\\u003cscript\\u003e", "&lt", "<b" * 9, "<a/href"),
    *(f"<{tag}" for tag in TAGS),
    *(f"</{tag}>" for tag in TAGS),
)
PARTS = [PAYLOADS[start : start + 75] for start in range(0, len(PAYLOADS), 75)]


def test_there_are_enough() -> None:
    assert len(set(PAYLOADS)) >= 200


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    return page_with(tmp_path_factory.mktemp("harmless"), "pears")


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_payloads_are_inert_in_every_field(part: int, tmp_path: Path, harmless: Structure) -> None:
    words = " ".join(PARTS[part]).replace(",", ";")  # a comma in a metric's name is lm-eval's own mark-up
    hostile = page_with(tmp_path, words)
    assert hostile.elements == harmless.elements
    assert {tag for tag, *_ in hostile.drawn} <= DRAWING
    assert hostile.drawn == harmless.drawn
    assert hostile.open == hostile.others == []
