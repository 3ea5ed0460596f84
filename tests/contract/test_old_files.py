"""Files of version 0.1.0 (tests/data): every command that reads results reads them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.commands import ROOT, json_of, lines_of, only

if TYPE_CHECKING:
    from tests.contract.commands import Commands

OLD = ROOT / "tests/data/results_0.1.0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_report(cli: Commands, old: Path, tmp_path: Path) -> None:
    cli.done("report", old, "--format", "json,html,csv", "-o", tmp_path / "page")
    page = json_of(tmp_path / "page.json")
    found = {
        (one["task"], one["filter"]): (one["value"], one["documents"])
        for one in page["figures"]
        if one["status"] == "evaluated"
    }
    assert found == {("ltm_gsm8k", "strict-match"): (0.0, 2), ("ltm_gsm8k", "flexible-extract"): (0.0, 2)}
    html = (tmp_path / "page.html").read_text("utf-8")
    for sample in lines_of(only(old, "samples_*")):
        assert str(sample["doc"]["question"])[:30] in html
    with (tmp_path / "page.csv").open(newline="", encoding="utf-8") as file:
        assert {row["task"] for row in csv.DictReader(file)} == {"ltm_gsm8k"}


def test_compare_with_itself(cli: Commands, old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "again")
    cli.done("compare", old, tmp_path / "again", "-o", tmp_path / "found.json")
    first, *_ = json_of(tmp_path / "found.json")["comparisons"]
    assert (first["difference"], first["p"], first["documents"], first["differ"]) == (0.0, 1.0, 2, 0)


def test_rescore_asks_for_the_data_of_the_run(cli: Commands, old: Path, tmp_path: Path) -> None:
    """The run was on a folder `data` that is not there; its file stays as it is."""
    before = only(old, "results_*.json").read_bytes()
    ended = cli.run("rescore", old, cwd=tmp_path)
    assert ended.code == 3 and "DIR/gsm8k/" in ended.error
    assert only(old, "results_*.json").read_bytes() == before


def test_index_and_history(cli: Commands, old: Path, tmp_path: Path) -> None:
    cli.done("index", old, "-o", tmp_path / "index.json")
    (run,) = json_of(tmp_path / "index.json")["runs"]
    assert run["tasks"] == ["ltm_gsm8k"] and run["kind"] == "ltm"
    cli.done("history", old, "-o", tmp_path / "history.json")
    history = json_of(tmp_path / "history.json")
    assert len(history["points"]) == 2 or len(history["without_step"]) == 1


def test_status_says_that_nothing_is_at_work(cli: Commands, old: Path) -> None:
    """Results alone are no journal: one line, no traceback."""
    ended = cli.run("status", old)
    assert ended.code == 3 and ended.error


def test_a_released_checkpoint_runs(cli: Commands, tmp_path: Path) -> None:
    """tests/data/released_b holds a file in the form of the released training code."""
    released = ROOT / "tests/data/released_b/ckpt_1000.pt"
    cli.done("convert", released, tmp_path / "folder")
    config = json_of(tmp_path / "folder/config.json")
    assert config["format"] == "ltm_eval/1" and config["step"] is not None
    assert config["model"]["n_layers"] >= 1 and len(config["weights_sha256"]) == 64
    assert (tmp_path / "folder/model.safetensors").stat().st_size > 1000
