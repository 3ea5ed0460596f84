"""LaTeX output, set by pdfLaTeX where there is one: `apt-get install --no-install-recommends texlive-latex-base`."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ltm_eval.report.page import build, document
from ltm_eval.report.tables import RENDERERS, TALL, Column, Document, Part, Table, summary_texts
from ltm_eval.report.tables import Cell as DocumentCell
from ltm_eval.results.files import find_runs
from ltm_eval.system.text import latex
from tests.hostile import GROUPS
from tests.rich_runs import write_rich

if TYPE_CHECKING:
    from pathlib import Path

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
HEAD = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"


def typeset(folder: Path, body: str) -> str:
    """pdfLaTeX's log; fails where it stops at anything."""
    folder.mkdir(exist_ok=True)
    (folder / "a.tex").write_text(f"{HEAD}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "a.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = (folder / "a.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, [line for line in log.splitlines() if line.startswith("!")]
    return log


def tables_of(folder: Path, word: str) -> tuple[str, str]:
    """Those of the file, and the one that the page offers to copy."""
    write_rich(folder, word=word, n=4)
    data = build(find_runs([folder]))
    return RENDERERS["latex"](document(data)), dict(summary_texts(data.summary))["LaTeX"]


@needs_latex
def test_the_tables_of_a_report_are_set_and_fit_their_pages(tmp_path: Path) -> None:
    log = typeset(tmp_path / "tex", tables_of(tmp_path / "runs", "pears")[0])
    assert "Float too large" not in log
    wide = [line for line in log.splitlines() if line.startswith("Overfull")]
    assert not [line for line in wide if float(line.partition("(")[2].partition("pt")[0]) > 30], wide


@needs_latex
def test_hostile_text_is_set_and_runs_nothing(tmp_path: Path) -> None:
    words = [" ".join(group)[:2_000] for group in GROUPS]
    typeset(
        tmp_path / "tex",
        "\n".join(body for at, word in enumerate(words) for body in tables_of(tmp_path / str(at), word)),
    )
    assert {path.suffix for path in (tmp_path / "tex").iterdir()} == {".aux", ".log", ".pdf", ".tex"}


@needs_latex
def test_every_letter_that_is_kept_can_be_set(tmp_path: Path) -> None:
    shown = [latex(chr(code)) for code in range(0x20, 0x3000) if not 0xD800 <= code < 0xE000]
    typeset(tmp_path, "\n\n".join(" ".join(shown[at : at + 40]) for at in range(0, len(shown), 40)))


def test_a_long_table_is_cut_and_a_wide_one_made_smaller() -> None:
    def made(rows: list[tuple[DocumentCell, ...]], columns: int) -> str:
        table = Table("t", tuple(Column(f"c{i}") for i in range(columns)), tuple(rows), caption="All of it.")
        part = Part("p", tables=(table,))
        return RENDERERS["latex"](Document("report", "d", "l", (), (part,), (), {}))

    short = made([(DocumentCell("a"), DocumentCell("b"))] * TALL, 2)
    assert (short.count(r"\begin{table}"), short.count("resizebox")) == (1, 0)
    long = made([(DocumentCell("a"), DocumentCell("word " * 20))] * TALL, 2)
    assert long.count(r"\begin{table}") == 5 == 1 + long.count("p: t (continued).")
    assert long.count(r"\toprule") == 5 and long.count("a & word") == TALL
    assert made([tuple(DocumentCell("x" * 20) for _ in range(5))], 5).count("resizebox") == 1
