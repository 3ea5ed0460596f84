"""A results folder at a glance: every run, links that work, nothing incomparable in one table, hostile names inert."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from fake_runs import AUDIT, write_ppl_run, write_run
from hostile import HOSTILE, Structure, assert_inert

from ltm_eval import cli
from ltm_eval.report.index import document, index, link
from ltm_eval.report.tables import RENDERERS
from ltm_eval.results.columns import told_digest
from ltm_eval.system.errors import ResultsError

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.report.tables import Document


def fill(folder: Path) -> None:
    config = {"model": "ltm", "model_sha": "ab" * 32, "fit": {"preset": "bound", "t_fast": 16}, "condition": "demos"}
    write_run(folder, model="ltm-x", right=lambda i: i < 6, kind="ltm", change={"config": config})
    write_run(folder / "b", model="gpt2-x", right=lambda i: i < 3, extra={"warnings": ["3 prompts were cut"]})
    write_run(folder / "c", model="zero", right=lambda i: i < 3, shots=0)
    write_ppl_run(folder / "d", model="ltm-x", nats=lambda _: 20.0, kind="ltm")
    write_ppl_run(folder / "e", model="gpt2-x", nats=lambda _: 25.0)


def of(folder: Path, base: Path | None = None) -> Document:
    return document(index(folder), base=base or folder)


def table(made: Document, title: str, number: int = 0) -> list[dict[str, str]]:
    part = next(part for part in made.parts if part.title == title)
    heads = [column.name for column in part.tables[number].columns]
    return [{head: cell.text for head, cell in zip(heads, row, strict=True)} for row in part.tables[number].rows]


def test_every_run_is_listed_with_its_facts(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = {row["model"]: row for row in table(of(tmp_path), "Runs")}
    assert len(rows) == 5
    ltm = next(row for row in rows.values() if row["tasks"] == "ltm_gsm8k" and row["model"].startswith("ltm-x"))
    assert ltm["digest or revision"] == "abababababab"
    assert ltm["settings"] == "preset bound, t_fast 16, condition demos"
    assert any(row["warnings"] == "3 prompts were cut" for row in rows.values())


def test_figures_under_other_settings_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path)
    part = next(part for part in of(tmp_path).parts if part.title == "ltm_gsm8k")
    assert sorted(one.title for one in part.tables) == ["only shots 0", "only shots 2"]
    assert part.sentences == ("Figures under other settings are not comparable and stand in tables of their own.",)
    values = {row["model"]: row["bits per byte ↓"] for row in table(of(tmp_path), "ltm_ptb")}
    assert sorted(value.startswith("≤ ") for value in values.values()) == [False, True]


def test_an_audit_that_failed_is_a_warning_and_its_bound_none(tmp_path: Path) -> None:
    extra = {"audit": {**AUDIT, "is_bound": False, "caught": True, "deficit_nats_per_block": 60.0}}
    write_ppl_run(tmp_path, model="x", nats=lambda _: 20.0, kind="ltm", extra=extra)
    assert "not a bound" in table(of(tmp_path), "Runs")[0]["warnings"]
    assert not table(of(tmp_path), "ltm_ptb")[0]["bits per byte ↓"].startswith("≤")


def test_links_are_relative_and_lead_to_the_files(tmp_path: Path) -> None:
    fill(tmp_path / "results")
    (tmp_path / "results" / "b" / "report.html").write_text("")
    for base in (tmp_path / "results", tmp_path, tmp_path / "elsewhere" / "deep"):
        base.mkdir(parents=True, exist_ok=True)
        made = of(tmp_path / "results", base)
        hrefs = [
            cell.href for part in made.parts for one in part.tables for row in one.rows for cell in row if cell.href
        ]
        assert len(hrefs) == 6
        assert all((base / unquote(href)).is_file() for href in hrefs)
        assert all(not href.startswith("/") for href in hrefs)


@pytest.mark.parametrize("name", ["javascript:alert(1)", 'a"b<c>', "a b#c?d%20", "ü\u202ex"])
def test_a_folders_name_cannot_become_another_address(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write_run(folder, model="m", right=lambda _: True)
    found = index(tmp_path).runs[0].run.path
    address = link(found, tmp_path)
    assert not set(address) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%/._-~")
    assert (tmp_path / unquote(address)).is_file()


def test_a_damaged_file_is_listed_and_hides_no_other(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "results_broken.json").write_text("{nope")
    made = of(tmp_path)
    assert len(table(made, "Runs")) == 5
    (row,) = table(made, "Unreadable")
    assert "not JSON" in row["why"]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results_"):
        index(tmp_path)
    with pytest.raises(ResultsError, match="no such folder"):
        index(tmp_path / "none")


def test_json_and_csv(tmp_path: Path) -> None:
    fill(tmp_path)
    found = json.loads(RENDERERS["json"](of(tmp_path)), parse_constant=pytest.fail)
    assert (found["schema"], len(found["runs"])) == ("ltm_eval/index@1", 5)
    assert all((tmp_path / unquote(run["results"])).is_file() for run in found["runs"])
    assert len(RENDERERS["csv"](of(tmp_path)).splitlines()) == 1 + sum(len(run["figures"]) for run in found["runs"])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_not_change_the_page(tmp_path: Path, name: str) -> None:
    def page(folder: Path, word: str) -> Structure:
        config: dict[str, Any] = {"model": word, "model_sha": word, "condition": word, "fit": {"preset": word}}
        path = write_run(folder, model="m", right=lambda _: True, extra={"warnings": [word]}, change={"config": config})
        content = json.loads(path.read_text("utf-8"))
        content |= {"model_name": word, "versions": {"ltm_gsm8k": word}}
        content["results"][word] = {"acc,none": 0.5, f"{word[:20]},{word[:20]}": 0.5}
        path.write_text(json.dumps(content), "utf-8")
        (folder / "results_x.json").write_text(json.dumps({"results": {}, "ltm_eval": word}), "utf-8")
        made = RENDERERS["html"](of(folder))
        shutil.rmtree(folder)
        return Structure(made)

    harmless = "".join(c if c.isspace() else "a" for c in HOSTILE[name])
    assert_inert(page(tmp_path / "r", HOSTILE[name]), page(tmp_path / "r", harmless), name=name)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    assert cli.main(["index", str(tmp_path)]) == 0
    assert b'id="filter"' in (tmp_path / "index.html").read_bytes()
    capsys.readouterr()
    assert cli.main(["index", str(tmp_path), "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("model,date,digest,task")
    assert cli.main(["index", str(tmp_path / "none")]) == 3


def test_a_branch_is_no_digest() -> None:
    assert told_digest({"model_sha": "", "model_revision": "main"}) == ""
    assert told_digest({"model_sha": "6d61d0447183", "model_revision": "main"}) == "6d61d0447183"
    assert told_digest({"model_revision": "0123abcd"}) == "0123abcd"
