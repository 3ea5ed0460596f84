"""Sentences above the tables, on records made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltm_eval.report.findings import WORDS, Finding, audit_line, findings_text, run_banners
from ltm_eval.results.files import Run, RunExtra, Score, TaskResult
from ltm_eval.results.views import Difference
from ltm_eval.system.records import AuditResult

AUDIT = AuditResult(
    "p", 60.04, 1.5, caught=True, is_bound=False, t_fast=4_000, figure="bound", blocks=1, length=2, vocab=3, seed=4
)
HEAD = "Audit on random tokens: preset p, 4,000 fast steps: "


def run(metric: str = "ppl_per_token_bound", t_fast: int = 4_000, **extra: Any) -> Run:
    scores = (Score(metric, "none", 3.0, None, False),)
    task = TaskResult("t", "1", 0, 12, 12, "", {}, scores, None, None, None, None, {})
    config = {"fit": {"t_fast": t_fast}}
    return Run(Path("r.json"), "", "m", "ltm", config, {"t": task}, {}, None, RunExtra(**extra))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "bound lies 60.0 nats per block below T ln V (± 1.5): not a bound"),
        ({"deficit_nats_per_block": None}, "no finite figure: not a bound"),
        (
            {"deficit_nats_per_block": -51.2, "is_bound": True, "caught": False, "stderr_nats": None},
            "bound lies 51.2 nats per block above T ln V: passes",
        ),
        (
            {"deficit_nats_per_block": 0.5, "figure": "as_released", "caught": False},
            "figure as_released lies 0.5 nats per block below T ln V (± 1.5): not caught, but scored at the fit’s own "
            "noise: not a bound",
        ),
    ],
)
def test_the_audit_in_a_line(changed: dict[str, Any], line: str) -> None:
    assert audit_line(run(audit=replace(AUDIT, **changed))) == HEAD + line
    assert audit_line(run()) == ""


@pytest.mark.parametrize(
    ("metric", "kind", "shown"),
    [
        ("ppl_per_token_bound", "ltm", True),
        ("ppl_per_token_prior", "ltm", True),
        ("word_perplexity", "ltm", True),
        ("exact_match", "ltm", False),
        ("ppl_per_token_as_released", "ltm", False),
        ("mauve", "ltm", False),
    ],
)
def test_the_audit_is_told_where_something_is_meant_as_a_bound(metric: str, kind: str, shown: bool) -> None:
    made = replace(run(metric, audit=AUDIT), model_kind=kind)
    assert bool(audit_line(made)) == shown
    assert bool(alarms(("a", made))) == shown


def test_the_audit_says_that_the_run_made_fewer_steps() -> None:
    passed = replace(AUDIT, is_bound=True, caught=False, t_fast=64, preset="bound")
    head = "Audit on random tokens: preset bound, 64 fast steps (the run itself: 16): "
    assert audit_line(run(t_fast=16, audit=passed)).startswith(head)
    assert "itself" not in audit_line(run(t_fast=64, audit=passed))


def alarms(*named: tuple[str, Run]) -> list[str]:
    return [banner.text for banner in run_banners(named) if banner.kind == "alarm"]


def test_demo_model_and_sample_data_are_told_apart() -> None:
    demo, sample, both, real = (
        run(demo_model=True),
        run(sample_data=True),
        run(demo_model=True, sample_data=True),
        run(),
    )
    assert alarms(("d", demo)) == ["Demo model: d is bundled to try the program with."]
    assert alarms(("s", sample)) == ["Sample data: not benchmark results. The bundled samples are small and synthetic."]
    assert alarms(("b", both)) == ["Demo model, sample data: not benchmark results. Bundled model: b."]
    assert alarms(("s", sample), ("r", real))[-1] == "Different data: only s ran on the bundled sample data."
    assert alarms(("r", real)) == []


def test_a_failed_audit_says_what_is_no_bound() -> None:
    (failed,) = alarms(("a", run(audit=AUDIT)))
    assert failed.startswith("Not a bound: a. ") and failed.endswith("No figure of this run may be called a bound.")
    (noted,) = alarms(("a", run(audit=replace(AUDIT, figure="as_released"))))
    assert "every row as_released, is no bound; rows marked ≤ are scored with noise" in noted
    assert alarms(("a", run(audit=replace(AUDIT, is_bound=True)))) == []


def bits(ours: str, theirs: str, verdict: str, n: int = 5) -> Difference:
    estimate = 0.25 if ours == "bound" and verdict == "unproven" else -0.25
    low, high = (estimate - 0.25, estimate + 0.125) if n > 1 else (-math.inf, math.inf)
    return Difference(estimate, low, high, 0.01, n, n, verdict, ours=ours, theirs=theirs)


def row(one: Difference) -> Finding:
    return Finding(
        "ltm_ptb", 1, "bits per byte", "a", "b", None, None, one, False, True, WORDS[one.verdict], None, ("x",)
    )


@pytest.mark.parametrize(
    ("one", "words", "word"),
    [
        (bits("bound", "exact", "better"), "a is better than b on", "Better"),
        (bits("bound", "exact", "unproven"), "The bound of a is worse than the exact figure of b on", "Not proven"),
        (bits("exact", "bound", "unproven"), "The exact figure of a is better than the bound of b on", "Not proven"),
        (bits("exact", "bound", "worse"), "a is worse than b on", "Worse"),
        (bits("exact", "exact", "open"), "a and b are not distinguishable on", "Not proven"),
    ],
)
def test_a_bound_above_an_exact_figure_makes_no_model_worse(one: Difference, words: str, word: str) -> None:
    assert row(one).sentence.startswith(words) and row(one).word == word


def test_bits_in_words() -> None:
    assert row(bits("bound", "exact", "better")).sentence == (
        "a is better than b on ltm_ptb (bits per byte, bound minus exact): difference −0.250, 95 % interval −0.500 to "
        "−0.125, p = 0.010, 5 documents."
    )
    single = row(bits("bound", "exact", "open", n=1))
    assert "95 %" not in single.sentence and single.sentence.endswith(", 1 document.") and single.interval == "–"


def test_a_corrected_p_value_is_said_to_be_one() -> None:
    told = row(replace(bits("bound", "exact", "better"), p_holm=0.03))
    assert "p = 0.010 (after Holm’s correction 0.030), 5 documents" in told.sentence


def test_the_rows_for_a_terminal() -> None:
    lines = findings_text([row(bits("bound", "exact", "unproven"))], "8 shots").splitlines()
    assert lines[0] == "8 shots" and lines[-1] == "! x."
    assert lines[2].split("  ")[0] == "ltm_ptb" and lines[2].endswith("Not proven")
    assert "+0.250 bits per byte" in lines[2] and "0.000 to +0.375" in lines[2]
    assert findings_text([]) == ""
