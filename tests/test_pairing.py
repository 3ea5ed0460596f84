"""What of two runs may be set against each other, on records made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.results.compare import BLOCK_MEAN, BOUND, EXACT, MEAN, PART, RELEASED, UNSOUND, mismatches, series_of
from ltm_eval.results.files import Run, RunExtra, Sample, Score, TaskResult
from ltm_eval.results.scores import Entry
from ltm_eval.system.records import AuditResult

if TYPE_CHECKING:
    from ltm_eval.results.compare import Series

TASK = "t"


def entry(*values: dict[str, Any], kind: str = "hf", extra: RunExtra | None = None, **scores: Any) -> Entry:
    """A run of documents with these metrics; `scores` are its figures, (value, direction) or none."""
    known = {name: scores.get(name, (None, None)) for row in values for name in row}
    found = tuple(Score(name, "none", value, None, direction) for name, (value, direction) in known.items())
    task = TaskResult(TASK, "1", 0, None, len(values) or None, "", {}, found, None, None, None, None, {})
    run = Run(Path("r.json"), "", "m", kind, {}, {TASK: task}, {}, None, extra or RunExtra())
    samples = {(str(i), 0): Sample(i, "none", "", "", (), (), row, str(i), "", {}) for i, row in enumerate(values)}
    return Entry(label="m", series=1, run=run, samples={"none": samples})


def with_causal_row(**told: Any) -> Entry:
    one = entry({"ppl_per_token_causal": [4.0, 2]}, kind="ltm")
    return replace(one, run=replace(one.run, config={"rows": {"causal": {"chunk": 64, **told}}}))


def test_a_causal_row_of_windows_is_not_like_for_like_with_one_of_whole_texts() -> None:
    older, newer, baseline = with_causal_row(), with_causal_row(scope="text"), entry({"ppl_per_token": [4.0, 2]})
    assert mismatches(TASK, older, newer) == ["causal row of each window against text"]
    assert mismatches(TASK, newer, newer) == mismatches(TASK, newer, baseline) == []


def only(made: Entry) -> Series:
    ((one,), left_out) = series_of(made, TASK)
    assert not left_out
    return one


@pytest.mark.parametrize(
    "odd",
    [[math.nan, 3], [math.inf, 3], [True, 3], [2.0, True], [2.0, -1], [2.0], ["2", 3], math.nan, math.inf, "1", None],
)
def test_a_document_without_a_finite_figure_is_left_out(odd: Any) -> None:
    whole = only(entry({"word_perplexity": [-2.0, 3]}, {"word_perplexity": odd}))
    assert dict(whole.values) == {("0", 0): (2.0, 3.0)}
    assert series_of(entry({"word_perplexity": odd}), TASK) == ([], ["word_perplexity: no figure by document"])


def test_a_document_without_units_counts_with_others_and_not_alone() -> None:
    found = only(entry({"ppl_per_token": [0.0, 0]}, {"ppl_per_token": [4.0, 2]}))
    assert dict(found.values) == {("0", 0): (0.0, 0.0), ("1", 0): (4.0, 2.0)}
    assert series_of(entry({"ppl_per_token": [0.0, 0]}), TASK) == ([], ["ppl_per_token: no units to divide by"])


@pytest.mark.parametrize(
    ("name", "told", "direction"),
    [("exact_match", None, True), ("exact_match", False, False), ("length", None, None), ("length", False, False)],
)
def test_a_share_is_better_when_higher_unless_the_file_says_otherwise(
    name: str, told: bool | None, direction: bool | None
) -> None:
    found = only(entry({name: 1.0}, {name: 0.0}, **{name: (0.5, told)}))
    assert (found.higher_is_better, found.kind, found.scale) == (direction, MEAN, MEAN)


def test_a_figure_that_is_no_mean_of_its_documents_is_left_out() -> None:
    _, left_out = series_of(entry({"f1": 1.0}, {"f1": 0.0}, f1=(0.7, None)), TASK)
    assert left_out == ["f1: no mean of its documents, or results and samples disagree"]


def test_a_mean_of_blocks_is_no_bound_whatever_its_size() -> None:
    found = only(entry({BLOCK_MEAN.metric: [2.0, 1]}, {BLOCK_MEAN.metric: [800.0, 1]}, {BLOCK_MEAN.metric: [1.0, 0]}))
    assert found.kind == RELEASED
    assert dict(found.values) == {("0", 0): (pytest.approx(math.exp(2)), 1.0), ("1", 0): (math.inf, 1.0)}


AUDIT = AuditResult(
    "p", 60.0, 1.0, caught=True, is_bound=False, t_fast=1, figure=BOUND, blocks=1, length=2, vocab=3, seed=4
)


@pytest.mark.parametrize(
    ("name", "kind", "audit", "found"),
    [
        ("ppl_per_token_bound", "ltm", None, BOUND),
        ("word_perplexity", "ltm", None, BOUND),
        ("word_perplexity", "hf", None, EXACT),
        ("kl_per_token", "ltm", AUDIT, PART),
        ("ppl_per_token_bound", "ltm", AUDIT, UNSOUND),
        ("ppl_per_token", "hf", AUDIT, EXACT),
        ("ppl_per_token_bound", "ltm", AuditResult(**{**AUDIT.__dict__, "figure": "as_released"}), BOUND),
        ("ppl_per_token_bound", "ltm", AuditResult(**{**AUDIT.__dict__, "is_bound": True}), BOUND),
    ],
)
def test_what_a_figure_may_be_called(name: str, kind: str, audit: AuditResult | None, found: str) -> None:
    assert only(entry({name: [2.0, 1]}, kind=kind, extra=RunExtra(audit=audit))).kind == found


def test_rows_by_token_are_also_given_in_bytes_where_those_are_known() -> None:
    row = {"bits_per_byte_bound": [2.0, 8], "ppl_per_token_iwae": [1.5, 4]}
    without = {"bits_per_byte_bound": None, "ppl_per_token_iwae": [9.0, 3]}
    made, _ = series_of(entry(row, without, kind="ltm"), TASK)
    assert [one.metric for one in made] == ["bits_per_byte_bound", "ppl_per_token_iwae", "bits_per_byte_iwae"]
    assert dict(made[-1].values) == {("0", 0): (1.5, 8)} and (made[-1].scale, made[-1].unit) == ("bits", "byte")
    alone, _ = series_of(entry({"ppl_per_token_iwae": [1.5, 4]}, kind="ltm"), TASK)
    assert [one.metric for one in alone] == ["ppl_per_token_iwae"]


def test_limits_matter_only_where_the_documents_are_not_counted() -> None:
    ten, all_ = RunExtra(limit=10), RunExtra()
    counted = mismatches(TASK, entry({"f1": 1.0}, extra=ten), entry({"f1": 1.0}, extra=all_))
    assert not [one for one in counted if "limit" in one]
    unknown = mismatches(TASK, entry({"f1": 1.0}, extra=ten), entry(extra=all_))
    assert [one for one in unknown if "limit" in one]
