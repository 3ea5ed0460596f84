"""The report in every format, and its figures as files."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from fake_runs import FLOORS, PPL_TASK, TASK, write_ppl_run, write_run
from hostile import HOSTILE

from ltm_eval import cli
from ltm_eval.report import comparison as compare_page
from ltm_eval.report.page import build, document, export
from ltm_eval.report.tables import RENDERERS
from ltm_eval.results.compare import compare
from ltm_eval.results.files import find_runs

if TYPE_CHECKING:
    from pathlib import Path

PARTS = (
    "low",
    "high",
    "minus_this_low",
    "minus_this_high",
    "second_metric",
    "second_kind",
    "second_relation",
    "second_value",
)
"""Endings that the documentation names once."""


def fill(folder: Path, *, word: str = "apples", shots: int = 2) -> None:
    write_run(folder, model="ltm-x", right=lambda i: i < 6, kind="ltm", latents=True, word=word)
    write_run(folder, model="gpt2-x", right=lambda i: i < 3, shots=shots, word=word)
    floors = {"floors": {PPL_TASK: FLOORS}}
    write_ppl_run(folder / "p", model="ltm-x", nats=lambda i: 30.0 + i % 3, n=12, kind="ltm", word=word, extra=floors)
    write_ppl_run(folder / "p", model="gpt2-x", nats=lambda i: 20.0 + i % 2, n=12, word=word)


def figures(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(RENDERERS["csv"](document(build(find_runs([folder])))))))


def test_csv_has_every_figure_of_the_page_in_full(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = figures(tmp_path)
    (accuracy,) = [r for r in rows if r["filter"] == "strict-match" and r["model"].startswith("ltm-x")]
    assert (float(accuracy["value"]), accuracy["documents"], accuracy["shots"]) == (0.5, "12", "2")
    (theirs,) = [r for r in rows if r["filter"] == "strict-match" and r["model"].startswith("gpt2-x")]
    assert (float(theirs["first_minus_this"]), theirs["paired_documents"]) == (0.25, "12")
    bits = [r for r in rows if r["metric"] == "bound, bits per byte"]
    assert {r["relation"] for r in bits} == {"≤"}
    # Document i of twelve has 40 + i bytes.
    assert float(bits[0]["value"]) == pytest.approx(sum(30.0 + i % 3 for i in range(12)) / 546 / 0.6931471805599453)
    assert {r["relation"] for r in rows if r["metric"].startswith(("as_released", "exact", "causal"))} == {""}


def test_a_bound_above_an_exact_figure_is_not_called_worse(tmp_path: Path) -> None:
    fill(tmp_path)
    (exact,) = [r for r in figures(tmp_path / "p") if r["metric"] == "exact, bits per byte"]
    assert float(exact["first_minus_this_low"]) > 0
    assert exact["first_is"] == "unproven"
    assert "LTM worse is not" in exact["note"]


def test_published_rows_and_reference_rows_are_marked(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = figures(tmp_path)
    published = [r for r in rows if r["status"] == "published, not re-run"]
    assert len(published) > 20
    assert all(r["source"] for r in published)
    assert {r["model"] for r in rows if r["status"] == "reference, no model ran"} == {"uniform, gpt2", "unigram, gpt2"}
    for name in ("md", "latex"):
        assert "published, not re-run" in RENDERERS[name](document(build(find_runs([tmp_path]))))


def test_summary_puts_no_incomparable_figures_in_one_row(tmp_path: Path) -> None:
    fill(tmp_path, shots=0)
    made = document(build(find_runs([tmp_path])))
    rows = [row for row in made.parts[0].tables[0].rows if row[0].text == TASK]
    assert [row[1].note for row in rows] == ["only shots 2", "only shots 0"]
    assert all(sum(cell.text != "–" for cell in row[3:]) == 1 for row in rows)
    task = next(part for part in made.parts if part.title.startswith(TASK))
    assert [table.title for table in task.tables][:2] == ["only shots 2", "only shots 0"]


def test_json_comes_back(tmp_path: Path) -> None:
    fill(tmp_path)
    data = build(find_runs([tmp_path]))
    found = json.loads(RENDERERS["json"](document(data)), parse_constant=pytest.fail)
    assert (found["schema"], found["subject"]) == ("ltm_eval/report@1", data.subject)
    assert [model["label"] for model in found["models"]] == [model.label for model in data.models]
    assert [verdict["text"] for verdict in found["verdicts"]] == [row.sentence for row in data.findings]
    assert len(found["figures"]) == len(figures(tmp_path))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_in_every_format(tmp_path: Path, name: str) -> None:
    fill(tmp_path, word=HOSTILE[name])
    for file in tmp_path.rglob("results_*"):
        content = json.loads(file.read_text("utf-8"))
        content["model_name"] = f"=cmd|{HOSTILE[name]}"
        file.write_text(json.dumps(content), "utf-8")
    made = document(build(find_runs([tmp_path])))
    assert all(row["model"].startswith("'=cmd|") for row in figures(tmp_path) if row["status"] == "evaluated")
    assert "<script" not in RENDERERS["md"](made)
    assert r"\input" not in RENDERERS["latex"](made)
    json.loads(RENDERERS["json"](made))


def test_figures_are_files_with_the_same_bytes_twice(tmp_path: Path) -> None:
    fill(tmp_path / "r")
    data = build(find_runs([tmp_path / "r"]))
    first = export(data, {"md": tmp_path / "1.md"}, plots_dir=tmp_path / "a")
    export(data, {"md": tmp_path / "2.md"}, plots_dir=tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert f"{TASK}-scores.pdf" in names
    assert f"{PPL_TASK}-nats-per-token.svg" in names
    assert len(names) == len(first) - 1 == 3 * len({name.rpartition(".")[0] for name in names})
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    heads = {path.suffix: path.read_bytes()[:5] for path in (tmp_path / "a").iterdir()}
    assert heads == {".png": b"\x89PNG\r", ".pdf": b"%PDF-", ".svg": b"<?xml"}
    for suffix in ("svg", "pdf"):
        text = (tmp_path / "a" / f"{TASK}-scores.{suffix}").read_bytes()
        assert b"CreationDate" not in text
        assert b"dc:date" not in text


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "r")
    source = str(tmp_path / "r")
    assert cli.main(["report", source]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'r' / 'report.html'}\n"
    args = ["report", source, "--format", "html,md,csv,latex,json", "-o", str(tmp_path / "out/")]
    assert cli.main([*args, "--plots_dir", str(tmp_path / "figures")]) == 0
    assert sorted(path.name for path in tmp_path.glob("out.*")) == [
        "out.csv",
        "out.html",
        "out.json",
        "out.md",
        "out.tex",
    ]
    assert (tmp_path / "out.html").read_bytes() == (tmp_path / "r" / "report.html").read_bytes()
    assert len(list((tmp_path / "figures").iterdir())) >= 9
    assert cli.main(["report", source, "-o", str(tmp_path / "one.tex")]) == 0
    assert (tmp_path / "one.tex").read_text("utf-8").startswith("% needs")
    assert cli.main(["report", source, "--format", "docx"]) == 2


def test_every_key_is_documented(root: Path, tmp_path: Path) -> None:
    fill(tmp_path)
    text = (root / "docs" / "FORMATS.md").read_text("utf-8")
    made = document(build(find_runs([tmp_path])))
    paths = [path for path in sorted(tmp_path.rglob("results_*")) if "/p/" in path.as_posix()]
    compared = compare_page.document(compare(find_runs(sorted(paths, reverse=True))))
    for one in (made, compared):
        told = [*one.data, *one.records[0]]
        short = [key.removeprefix("first_").removeprefix("difference_").removeprefix("ratio_") for key in told]
        assert [key for key, end in zip(told, short, strict=True) if f"`{key}`" not in text and end not in PARTS] == []
