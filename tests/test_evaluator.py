"""Python's `Results`, `Evaluator`, `score` and `generate`: what the command shows, without a file that stays."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ltm_eval
from ltm_eval.harness.evaluator import Evaluator, Results
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.system.errors import RefusedError, UsageError

OPTIONS: dict[str, Any] = {"data": "sample", "limit": 2, "t_fast": 2, "rows": "bound"}
ANSWER = "max_gen_toks=4"


@pytest.fixture(scope="module")
def pair() -> Results:
    """Both bundled models on questions and texts."""
    tasks = ["rules", "ptb"]
    return ltm_eval.evaluate("demo", tasks=tasks, shots=2, baseline="gpt2-demo", gen_kwargs=ANSWER, **OPTIONS)


@pytest.fixture(scope="module")
def sweep() -> Results:
    options = {**OPTIONS, "t_fast": [1, 2], "condition": ["prior", "demos"]}
    return ltm_eval.evaluate("demo", tasks="rules", shots=[1, 2], gen_kwargs=ANSWER, **options)


def test_a_result_is_lm_evals_mapping(pair: Results) -> None:
    from lm_eval.utils import make_table

    found = pair["results"]["ltm_ptb"]
    assert math.isfinite(found["ppl_per_token_bound,none"]) and len(pair["samples"]["ltm_rules"]) == 2
    assert pair["config"]["model"] == "ltm" and pair["mean_fast_steps"]["ltm_ptb"] == 2
    plain = pair.to_dict()
    assert type(plain) is dict and plain["results"] == pair["results"]
    assert not {"mean_fast_steps", "caveats", "floors"} & plain.keys() and "exact_match" in make_table(plain)
    ltm, baseline = pair.runs
    assert ltm["results"] == pair["results"] and baseline["config"]["model"] == "hf"


def test_the_frame_has_the_figures_of_every_model(pair: Results) -> None:
    frame = pair.frame()
    assert list(frame)[:11] == [
        *("task", "metric", "filter", "model", "value", "low", "high", "n", "unit", "relation", "condition")
    ]
    own = frame[frame.status == "evaluated"]
    right = own[own.metric == "exact_match"].set_index("model")
    assert set(right.index) == {"demo", "gpt2-demo"} and set(right.unit) == {"share"} and set(right.n) == {2}
    for label, one in zip(("demo", "gpt2-demo"), pair.runs, strict=True):
        assert right.value[label] == one["results"]["ltm_rules"]["exact_match,strict-match"]
    (bound,) = own[(own.metric == "bound") & (own.unit == "perplexity per token")].to_dict("records")
    assert bound["value"] == pair["results"]["ltm_ptb"]["ppl_per_token_bound,none"] and bound["relation"] == "≤"
    assert bound["low"] < bound["value"] < bound["high"] and bound["t_fast"] == 2
    assert "preset:bound|t_fast:2" in bound["settings"]
    assert set(frame[frame.task == "ltm_ptb"].unit) >= {"bits per byte", "nats per token"}


def test_the_frame_and_samples_are_those_of_a_runs_folder(pair: Results, tmp_path: Path) -> None:
    config = RunConfig(
        model="demo",
        tasks=("rules", "ptb"),
        num_fewshot=2,
        baselines=("gpt2-demo",),
        gen_kwargs=ANSWER,
        output_path=str(tmp_path),
        report=False,
        quiet=True,
        **OPTIONS,
    )
    run(config)
    theirs, ours = ltm_eval.figures(tmp_path).frame(), pair.frame()
    for name in ("task", "filter", "model", "value", "low", "high", "relation", "status"):
        pd.testing.assert_series_equal(ours[name], theirs[name], check_dtype=False)
    assert list(ours.settings) == [one.partition("|")[2] for one in theirs.signature]
    there, here = ltm_eval.samples(tmp_path), pair.samples()
    pd.testing.assert_frame_equal(here, there[list(here)], check_dtype=False)
    assert list(here.columns[:8]) == [
        *("model", "task", "doc_id", "filter", "prompt", "target", "responses", "filtered")
    ]
    assert len(here) == 8 and set(here.exact_match.dropna()) <= {0.0, 1.0}


def test_tables_and_page(pair: Results, tmp_path: Path) -> None:
    markdown, table = pair._repr_markdown_(), pair._repr_html_()
    for text in (markdown, table):
        assert "Demo model" in text and "bits per byte ↓" in text and "demo − gpt2-demo" in text
    assert "<table" in table and "<html" not in table
    page = pair.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html" and "gpt2-demo" in page.read_text("utf-8")


def test_a_sweep_is_a_frame(sweep: Results) -> None:
    frame = sweep.frame()
    assert len(sweep.runs) == 8 and len(set(frame.model)) == 9  # with the content-free row
    own = frame[frame.status == "evaluated"]
    by_settings = own.set_index(["condition", "shots", "t_fast"]).value
    assert {*by_settings.index} == {(c, s, t) for c in ("prior", "demos") for s in (1, 2) for t in (1, 2)}
    assert len(sweep.samples()) == 16
    first = sweep.runs[0]
    assert first["config"]["condition"] == "demos" and sweep["results"] == first["results"]
    one = ltm_eval.evaluate("demo", tasks="rules", shots=1, condition="prior", gen_kwargs=ANSWER, **OPTIONS)
    assert one.frame().value[0] == by_settings["prior", 1, 2]


def test_two_results_are_compared(pair: Results, sweep: Results) -> None:
    other = ltm_eval.evaluate("demo", tasks="ptb", **{**OPTIONS, "t_fast": 4})
    found = other.compare(pair, tasks=["ptb"])
    lead = found.iloc[0]
    assert (lead.task, lead.first_metric, lead.documents) == ("ltm_ptb", "bits_per_byte_bound", 2)
    assert lead.difference == pytest.approx(lead.first_value - lead.second_value)
    assert lead.difference_low < lead.difference < lead.difference_high and lead.conclusion
    with pytest.raises(RefusedError, match="different tasks: .*ltm_ptb"):
        other.compare(pair)
    with pytest.raises(RefusedError, match="share no task"):
        sweep.compare(other)
    same = other.compare(copy.deepcopy(other))
    assert set(same.difference) == {0.0} and same.difference_low.isna().all() and same.difference_high.isna().all()


def test_results_travel(pair: Results) -> None:
    again = pickle.loads(pickle.dumps(pair))  # noqa: S301 - our own
    assert again == pair and again.frame().equals(pair.frame())
    folder = again._paths[0]
    assert folder.is_file()
    del again
    gc.collect()
    assert not folder.exists()


def test_an_evaluator_follows_the_model_and_prepares_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ltm_eval.load("demo")
    options = {**OPTIONS, "tasks": ["ptb", "rules"], "shots": 2, "gen_kwargs": ANSWER, "baseline": "gpt2-demo"}
    evaluator = Evaluator(model, **options)
    weights = [one.detach().clone() for one in model.parameters()]
    first = evaluator(step=3)
    assert first["config"]["checkpoint"]["step"] == 3
    monkeypatch.setattr("ltm_eval.harness.evaluator.tasks_of", None)
    monkeypatch.setattr("ltm_eval.harness.evaluator.construct", None)
    again = evaluator(step=3)
    assert again["results"] == first["results"] and again.runs[1] is first.runs[1]
    assert all(map(torch.equal, weights, model.parameters())) and model.training is False
    with torch.no_grad():
        model.layers[0].feed_forward.w2.weight.mul_(1.5)  # type: ignore[union-attr, operator]
    later = evaluator(step=4)
    monkeypatch.undo()
    alone = ltm_eval.evaluate(model, step=4, **{**options, "baseline": ()})
    assert later["results"] == alone["results"] != first["results"]
    assert later["config"] == alone["config"] and json.dumps(later["config"], default=str)
    assert later.frame().value.equals(ltm_eval.evaluate(model, step=4, **options).frame().value)


def test_texts_are_scored_without_a_task() -> None:
    texts = ["Pears are cheap today.", "", "The dog sleeps."]
    found = ltm_eval.score("demo", texts, rows="bound+causal", t_fast=2)
    assert list(found.bytes) == [22, 0, 15] and found.bound_nats.isna().tolist() == [False, True, False]
    row = found.iloc[0]
    assert row.bound_nats == pytest.approx(row.nll_given_z_nats + row.kl_nats)
    assert row.bits_per_byte_bound == pytest.approx(row.bound_nats / 22 / math.log(2))
    assert row.ppl_per_token_bound == pytest.approx(math.exp(row.bound_nats / row.tokens)) and row.causal_nats > 0
    alone = ltm_eval.score(ltm_eval.load("demo"), texts[2:], rows="bound+causal", t_fast=2)
    assert alone.iloc[0].to_dict() == found.iloc[2].to_dict()


def test_prompts_are_continued_without_a_task() -> None:
    prompts = ["Question: How many?\nAnswer:", "The"]
    found = ltm_eval.generate("demo", prompts, n=3, gen_kwargs={"max_gen_toks": 4}, t_fast=2)
    assert [len(own) for own in found] == [3, 3] and len({*found[0], *found[1]}) > 2
    assert ltm_eval.generate("demo", prompts[1:], n=3, gen_kwargs="max_gen_toks=4", t_fast=2) == found[1:]
    greedy = ltm_eval.generate("demo", prompts, gen_kwargs=ANSWER, t_fast=2)
    assert [len(own) for own in greedy] == [1, 1]
    assert ltm_eval.generate("demo", prompts, gen_kwargs=ANSWER, t_fast=2) == greedy


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ltm_eval.score("demo", "a text"), "expected a list of texts, got 'a text'"),
        (lambda: ltm_eval.score("demo", [3]), "expected a list of texts"),
        (lambda: ltm_eval.score("demo", ["a"], t_fst=3), "no argument 't_fst'. Did you mean 't_fast'"),
        (lambda: ltm_eval.score("demo", ["a"], rows="bond"), "rows must be"),
        (lambda: ltm_eval.generate("demo", ["a"], n=0), "n must be a whole number of at least 1, got 0"),
        (lambda: ltm_eval.generate("demo", ["a"], condition="nothing"), "condition must be one of"),
        (lambda: ltm_eval.evaluate("demo", tasks="ptb", data="sample", baseline="absent dir"), "no such folder"),
        (lambda: ltm_eval.evaluate("demo", tasks="rules", data="sample", shots=[]), "shots is an empty list"),
    ],
)
def test_wrong_arguments_are_named(call: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()


def test_the_walk_through_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/PYTHON.md, one after the other, in an empty folder."""
    text = (Path(ltm_eval.__file__).parents[1] / "docs/PYTHON.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in blocks:
        if '"results/"' in block:  # that an earlier command would have left
            shutil.copytree(space["results"]._paths[0].parents[2], "results")
        exec(compile(block, "PYTHON.md", "exec"), space)  # noqa: S102 - our own page
    assert len(blocks) >= 9 and (tmp_path / "report.html").is_file()
    assert space["found"]["config"]["checkpoint"]["step"] == 2000
