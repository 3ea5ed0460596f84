"""The blocks of a sweep and of rethinking, read back for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs
from ltm_eval.system.errors import ResultsError
from tests.fake_runs import TASK, write_run

if TYPE_CHECKING:
    from pathlib import Path

DIFFERENCE = {
    "estimate": -0.4,
    "interval": {"low": -0.6, "high": -0.2},
    "p_value": 0.001,
    "n": 12,
    "discordant": 7,
    "against": "demos",
    "against_shots": 8,
}
CELL = {"condition": "demos", "shots": 8, "value": 0.75, "low": 0.5, "high": 0.9, "n": 12, "difference": None}
OTHER = {**CELL, "condition": "other<b>", "value": 0.35, "difference": DIFFERENCE}
EFFECT = {
    "reference": "demos",
    "tasks": {TASK: [{"metric": "exact_match", "filter": "strict-match", "cells": [CELL, OTHER]}]},
}
SPENT = {"fast_steps": 48, "fitted_tokens": 1536, "new_tokens": 1024}
BUDGET = {TASK: {"rethink": SPENT, "independent": {**SPENT, "new_tokens": 999}}}


def written(folder: Path, **extra: Any) -> Any:
    write_run(folder, model="ltm", kind="ltm", right=lambda i: i % 2 == 0, extra=extra)
    return build(find_runs([folder]))


def test_rows_and_verdicts(tmp_path: Path) -> None:
    data = written(tmp_path, effect=EFFECT)
    (table,) = data.tasks[0].effect
    reference, other = table.rows
    assert reference.difference is None and reference.note == ""
    assert (other.note, other.difference.verdict) == ("demos, 8 shots", "worse")
    page = render(data)
    assert "Effect of the demonstrations</h3>" in page and "other&lt;b&gt;" in page and "other<b>" not in page


@pytest.mark.parametrize(("low", "p", "verdict"), [(0.1, 0.01, "better"), (-0.1, 0.01, "open"), (0.1, 0.2, "open")])
def test_a_difference_is_clear_only_where_interval_and_p_value_agree(
    low: float, p: float, verdict: str, tmp_path: Path
) -> None:
    found = {**DIFFERENCE, "interval": {"low": low, "high": 0.5}, "p_value": p}
    table = {"metric": "exact_match", "filter": "none", "cells": [{**OTHER, "difference": found}]}
    data = written(tmp_path, effect={"reference": "demos", "tasks": {TASK: [table]}})
    assert data.tasks[0].effect[0].rows[0].difference.verdict == verdict


def test_compute_of_both_sides(tmp_path: Path) -> None:
    data = written(tmp_path, rethink_budget=BUDGET)
    assert data.tasks[0].budget == (
        {"label": "ltm", "side": "rethinking", **SPENT},
        {"label": "ltm", "side": "independent draws", **SPENT, "new_tokens": 999},
    )
    assert "Compute of rethinking" in render(data) and "our reading" in render(data)


@pytest.mark.parametrize(
    "extra",
    [
        {"effect": {"tasks": {TASK: [{"metric": "a"}]}}},
        {"effect": {"reference": "demos", "tasks": []}},
        {"rethink_budget": {TASK: {"rethink": {"fast_steps": 1}}}},
    ],
)
def test_edited_blocks_are_named(extra: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"results_.*ltm_eval\.(effect|rethink_budget)"):
        written(tmp_path, **extra)


def test_the_content_free_row_stands_under_every_share_it_fits(tmp_path: Path) -> None:
    share = {"value": 0.125, "low": 0.1, "high": 0.15, "kind": "Wilson", "n": 12}
    data = written(tmp_path, content_free={TASK: {"answers": ["4", "6"], "pass@1": share}})
    for table in data.tasks[0].tables:
        row = table.rows[-1]
        assert row.model == "Content-free: always the commonest training answer (4)"
        assert (row.value, row.low, row.high, row.status) == (0.125, 0.1, 0.15, "reference, no model ran")
    assert "Content-free" in render(data)
