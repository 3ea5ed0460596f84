"""The summary table: which figures stand in it, what is marked, and its forms for papers and spreadsheets."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ltm_eval.report.page import MOST_PUBLISHED, _best, _published_perplexity, build, document, render
from ltm_eval.report.tables import (
    RENDERERS,
    Cell,
    Column,
    Summary,
    SummaryRow,
    Table,
    comma_separated,
    latex_table,
    markdown_table,
    summary_texts,
    terminal_table,
)
from ltm_eval.results.files import find_runs
from ltm_eval.results.views import Difference, Figure, Published
from tests.fake_runs import AUDIT, write_ppl_run, write_run

if TYPE_CHECKING:
    from pathlib import Path

WON = Difference(0.25, 0.1, 0.4, 0.001, 40, 10, "better")


def summary(folder: Path) -> Summary:
    return build(find_runs([folder])).summary


def test_answers_and_bounds_stand_in_one_table(tmp_path: Path) -> None:
    for model, kind, every in (("ltm-x", "ltm", 2), ("gpt2-x", "hf", 4)):
        write_run(tmp_path / "a", model=model, right=lambda i, every=every: i % every == 0, n=40, kind=kind)
        extra = {"audit": AUDIT} if kind == "ltm" else None
        write_ppl_run(tmp_path / "b", model=model, nats=lambda i: 30.0 + i, kind=kind, extra=extra)
    (first, *_) = summary(tmp_path / "a").rows
    assert (first.task, first.metric, first.share, first.n) == (
        "ltm_gsm8k",
        "exact_match, strict-match = flexible-extract",
        True,
        40,
    )
    assert [cell and cell.value for cell in first.cells] == [0.5, 0.25]
    assert first.best == 0
    assert first.gaps[0] is not None and first.gaps[0].estimate == 0.25
    rows = {row.metric: row for row in summary(tmp_path / "b").rows}
    bits = rows["bits per byte"]
    assert [cell and cell.bound for cell in bits.cells] == [True, False]
    assert bits.gaps[0] is not None and bits.gaps[0].caveat.startswith("Bound against exact")
    assert bits.best is None
    assert [cell and cell.bound for cell in rows["bits per byte, next token"].cells] == [False, False]
    released = rows["perplexity per token, as_released: not a bound"]
    assert released.cells[0] is not None and not released.cells[0].bound and released.cells[1] is None
    assert {one.model.split("-")[0] for one in released.published} == {"LTM"}
    assert all(one.model.startswith("GPT-2") for one in rows["perplexity per token"].published)


@pytest.mark.parametrize(
    ("verdicts", "marked"),
    [
        (["better", "better"], 0),
        (["better", "open"], None),
        (["worse", "worse"], None),
        (["worse"], 1),
    ],
)
def test_only_what_the_differences_tell_is_marked(verdicts: list[str], marked: int | None) -> None:
    cells = [Figure("t", "acc", str(i), 0.5, 0.4, 0.6) for i in range(len(verdicts) + 1)]
    gaps = [replace(WON, verdict=verdict) for verdict in verdicts]
    assert _best(cells, gaps) == marked
    assert _best(cells, [replace(gap, caveat="a bound") for gap in gaps]) is None


def test_published_figures_are_few_and_of_the_same_quantity() -> None:
    def row(model: str, metric: str = "zero-shot perplexity") -> Published:
        return Published(model, "", "PTB", metric, 1.0, False, None, "", "", "somewhere")

    rows = [row("GPT-2 small"), row("LTM-Small"), row("Mamba"), row("GPT-2 xl", "zero-shot perplexity (words)")]
    rows += [row(f"GPT-2 {size}") for size in ("small", "medium", "large", "xl")] + [row("GPT-2 (medium)")]
    assert [one.model for one in _published_perplexity(rows, released=True)] == ["LTM-Small"]
    found = [one.model for one in _published_perplexity(rows, released=False)]
    assert found == ["GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 xl"]
    assert len(found) == MOST_PUBLISHED


def test_the_forms_hold_the_figures() -> None:
    cells = (Figure("t", "acc", "a", 0.5, 0.4, 0.6, share=True), None)
    row = SummaryRow("t", 1, "acc, x", True, cells, (WON,), (), 40, share=True)
    forms = dict(summary_texts(Summary(("a", "b_1"), (row,))))
    assert (
        forms["Markdown"].splitlines()[2]
        == "| t | acc, x ↑ | 40 | 50.0 % (40.0 to 60.0) | – | +25.0 | +10.0 to +40.0 | 0.001 |"
    )
    assert (
        r"t & acc, x $\uparrow$ & 40 & 50.0 \% (40.0 to 60.0) & -- & +25.0" in forms["LaTeX"]
        and r"b\_1" in forms["LaTeX"]
    )
    (head, values) = csv.reader(io.StringIO(forms["CSV"]))
    read = dict(zip(head, values, strict=True))
    assert (read["a value"], read["b_1 value"], read["a minus b_1 estimate"], read["n"]) == ("0.5", "", "0.25", "40")


def test_cells_cannot_break_out_of_their_form() -> None:
    """Names of tasks and models, in the forms that the page offers to copy."""
    hostile = ["a|b`<c>\n*d*\\", "50% & $x$ #1_2 ^{~}", '=HYPERLINK("x")', "[2pt]"]
    rows = tuple(
        SummaryRow(word, 1, word, True, (Figure(word, word, word, 0.5, share=True),), (), (), 4, share=True)
        for word in hostile
    )
    forms = dict(summary_texts(Summary(tuple(hostile[:1]), rows)))
    assert len(forms["Markdown"].splitlines()) == 2 + len(hostile)
    assert r"| a\|b\`&lt;c&gt; \*d\*\\ |" in forms["Markdown"]
    assert r"50\% \& \$x\$ \#1\_2 \textasciicircum{}\{\textasciitilde{}\}" in forms["LaTeX"]
    assert "\n{}[2pt] &" in forms["LaTeX"]
    cells = list(csv.reader(io.StringIO(forms["CSV"])))
    assert [row[0] for row in cells[1:]][2] == "'" + hostile[2]
    assert {len(row) for row in cells} == {9}


def test_numbers_stay_numbers_and_words_stay_words() -> None:
    assert comma_separated([["-cmd|x", -1.5, None, True, "=1"]]) == "'-cmd|x,-1.5,,true,'=1\n"
    table = Table("", (Column("a"), Column("b", numeric=True)), ((Cell("*a"), Cell("d", note="e")),))
    assert markdown_table(table) == "| a | b |\n| --- | ---: |\n| \\*a | d (e) |"
    assert r"{}*a & d (e) \\" in latex_table(table)
    assert terminal_table(table) == "a       b\n─────────\n*a  d (e)"


def test_the_page_names_each_source_once(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda i: 30.0, kind="ltm")
    data = build(find_runs([tmp_path]))
    sources = [one.source for one in data.summary.sources]
    assert sources and len(sources) == len(set(sources))
    page = render(data)
    assert page.count('<li id="source-') == len(sources)


def test_mauve_stands_with_its_deviation_and_without_an_interval() -> None:
    cells = (Figure("m", "mauve", "a", 0.85, sd=0.012),)
    row = SummaryRow("m", 1, "MAUVE, mean ± standard deviation over seeds", True, cells, (), (), 40)
    forms = dict(summary_texts(Summary(("a",), (row,))))
    assert "| 0.8500 ± 0.0120 |" in forms["Markdown"] and " to " not in forms["Markdown"]
    (head, values) = csv.reader(io.StringIO(forms["CSV"]))
    read = dict(zip(head, values, strict=True))
    assert (read["a value"], read["a sd"], read["a low"], read["a high"]) == ("0.85", "0.012", "", "")


def test_page_and_export_have_one_summary(tmp_path: Path) -> None:
    for model, kind, every in (("ltm-x", "ltm", 2), ("gpt2-x", "hf", 4)):
        write_run(tmp_path, model=model, right=lambda i, every=every: i % every == 0, n=40, kind=kind)
        write_ppl_run(tmp_path / "p", model=model, nats=lambda i, every=every: 30.0 + every * i, kind=kind)
    data = build(find_runs([tmp_path]))
    (table,) = document(data).parts[0].tables
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    assert len(rows) == len(table.rows) == len(data.summary.rows)
    for row in data.summary.rows:
        shown = rows[row.task, row.metric + {True: " ↑", False: " ↓", None: ""}[row.higher_is_better]]
        for cell, own in zip(row.cells, shown[3 : 3 + len(row.cells)], strict=True):
            assert bool(own.note) == (cell is not None and cell.low is not None)
    markdown = dict(summary_texts(data.summary))["Markdown"]
    assert markdown.strip() in RENDERERS["md"](document(data))
