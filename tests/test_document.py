"""Documents in every format: hostile text stays text wherever it stands, and the same document gives the same bytes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from hashlib import sha256

import pytest
from hostile import HOSTILE, Structure, assert_inert

from ltm_eval.report.tables import (
    RENDERERS,
    Banner,
    Cell,
    Column,
    Document,
    Part,
    Table,
    as_html,
    as_latex,
    as_markdown,
    as_terminal,
)


def document(word: str) -> Document:
    """A document that has `word` in every place for text."""
    cell = Cell(word, note=word)
    table = Table(
        word, (Column(word), Column(word, numeric=True)), ((cell, cell), (Cell(word, href="a%20b"), cell)), word
    )
    return Document(
        kind="compare",
        title=word,
        lead=word,
        banners=(Banner("alarm", word), Banner("note", word)),
        parts=(Part(word, (word, word), (table,)), Part(word)),
        records=({"name": word, "value": 0.5, "flag": True, "none": None},),
        data={"name": word, word: [word, float("nan")]},
        glossary=((word, word),),
        filtered=True,
    )


def harmless(text: str) -> str:
    """As long as `text`, word for word."""
    return re.sub(r"\S", "a", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_does_not_change_the_page(name: str) -> None:
    found = Structure(as_html(document(HOSTILE[name])))
    assert_inert(found, Structure(as_html(document(harmless(HOSTILE[name])))), name=name)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_one_cell_in_every_other_format(name: str) -> None:
    word = HOSTILE[name]
    ours, plain = as_markdown(document(word)), as_markdown(document("a"))
    assert len(ours.splitlines()) == len(plain.splitlines())
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in ours.splitlines()]
    assert bars == [len(re.findall(r"(?<!\\)\|", line)) for line in plain.splitlines()]
    assert "<script" not in ours
    # As long as the word: tables of long texts are cut into pages.
    shown, harmless = as_latex(document(word)), as_latex(document("a" * len(word)))
    assert [line.count(r"\begin") for line in shown.splitlines()] == [
        line.count(r"\begin") for line in harmless.splitlines()
    ]
    terminal = as_terminal(document(word))
    assert all(line.isprintable() for line in terminal.splitlines())
    assert len(terminal.split("\n")) == len(as_terminal(document("a")).split("\n"))
    rows = list(csv.reader(io.StringIO(RENDERERS["csv"](document(word)))))
    assert [len(row) for row in rows] == [4, 4]
    assert rows[1][1:] == ["0.5", "true", ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_json_is_strict_and_keeps_the_text(name: str) -> None:
    text = RENDERERS["json"](document(HOSTILE[name]))
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["schema"] == "ltm_eval/compare@1"
    assert found["name"] == re.sub("[\ud800-\udfff]", "\ufffd", HOSTILE[name])
    assert "NaN" in found["replaced"].values()


def test_the_page_admits_its_own_style_and_script_only() -> None:
    page = as_html(document("a"))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert base64.b64encode(sha256(text.encode()).digest()).decode() in policy.replace("&#43;", "+")
    assert "default-src &#39;none&#39;" in policy
    assert not re.search(r"https?://|@import|url\(", page)


@pytest.mark.parametrize("name", RENDERERS)
def test_same_document_same_bytes(name: str) -> None:
    assert RENDERERS[name](document("x")) == RENDERERS[name](document("x"))


def test_a_document_without_records_is_an_empty_csv() -> None:
    assert RENDERERS["csv"](Document("index", "t", "", (), (), (), {})) == ""
