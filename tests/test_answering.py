"""How questions were answered, curves of bounds, and what it cost: from results files to the page's records."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from ltm_eval.report.page import TaskSection, build, render
from ltm_eval.report.samples import SAMPLES_PER_TASK, rerun_command
from ltm_eval.results.diagnostics import attempts_lines, shots_lines, shots_pass_lines
from ltm_eval.results.files import find_runs, read_run
from ltm_eval.results.views import EffectTable, Figure, LinePoint
from ltm_eval.system.files import PACKAGE, reports_dir, write_jsonl_atomic
from ltm_eval.system.machine import Meter, flops_per_token, sizes_of
from tests.fake_runs import DATE, LATENT, TASK, write_run
from tests.rich_runs import write_rich

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskSection]:
    folder = tmp_path_factory.mktemp("rich")
    write_rich(folder)
    return {task.name: task for task in build(find_runs([folder])).tasks}


# Answers


def test_facts_of_answers(rich: dict[str, TaskSection]) -> None:
    ours, theirs = rich[TASK].answering
    assert (ours["documents"], ours["stops"], ours["new_tokens"]) == (8, (("stop_string", 8),), 12.0)
    assert (ours["demonstrations"], ours["dropped"], ours["prompts_cut"]) == (2.0, 0.0, (8, 8))
    assert (ours["prompt_tokens"], ours["fitted_tokens"], ours["windows"]) == (60.0, 40.0, 1.0)
    assert theirs["stops"] == (("stop_string", 3), ("end_of_text", 3), ("length", 2))
    assert (theirs["demonstrations"], theirs["dropped"], theirs["prompts_cut"]) == (2.0, 0.5, (4, 8))
    assert (theirs["new_tokens"], theirs["prompt_tokens"], theirs["read_tokens"]) == (13.5, 60.0, 50.0)
    assert (theirs["fitted_tokens"], theirs["windows"]) == (None, None)
    assert rich["ltm_ptb"].answering == ()


@pytest.mark.parametrize(
    ("condition", "read", "truncated", "cut"),
    [("prompt", 2, False, False), ("prompt", 1, False, True), ("demos", 0, False, False), ("demos", 0, True, True)],
)
def test_a_prompt_is_cut_where_less_is_read_than_should_be(
    tmp_path: Path, condition: str, read: int, truncated: bool, cut: bool
) -> None:
    path = write_run(tmp_path, model="m", right=lambda i: True, n=2, kind="ltm", latents=True)
    records = [
        replace(LATENT, doc_id=i, condition=condition, demonstrations_read=read, truncated=truncated) for i in range(2)
    ]
    write_jsonl_atomic(path.parent / f"latents_{TASK}_{DATE}.jsonl", records)
    (section,) = build(find_runs([path])).tasks
    assert section.answering[0]["prompts_cut"] == (2 * cut, 2)


def test_failed_extractions_are_counted_per_filter(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=lambda i: True, n=4)
    samples = path.parent / f"samples_{TASK}_{DATE}.jsonl"
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    rows[1]["filtered_resps"] = ["[invalid]"]
    rows[1]["resps"] = [["  \n"]]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (section,) = build(find_runs([path])).tasks
    (facts,) = section.answering
    assert facts["unanswered"] == [("strict-match", 1, 4), ("flexible-extract", 0, 4)]
    assert facts["empty"] == 1
    assert section.browser is not None
    assert dict(section.browser.counts) == {"ahead": 0, "behind": 0, "wrong": 0, "failed": 1}


def test_attempts_grow_with_k_beside_the_content_free_row(rich: dict[str, TaskSection]) -> None:
    lines = {line.label: line for line in rich[TASK].attempts}
    assert [(point.x, point.value) for point in lines["ltm-x pears"].points] == [(1, 0.2), (2, 0.4), (4, 0.8)]
    assert lines["content-free"].dashed and not lines["gpt2-x pears"].dashed
    assert attempts_lines(()) == ()


def test_accuracy_over_shots_needs_two_numbers_of_them() -> None:
    rows = tuple(Figure("t", "acc", "demos", 0.1 * shots, 0.0, 1.0, n_shot=shots) for shots in (8, 1, 4))
    (line,) = shots_lines([EffectTable("m", "exact_match", "none", rows)])
    assert line.label == "demos"
    assert line.points[0] == LinePoint(1, 0.1, 0.0, 1.0)
    assert [point.x for point in line.points] == [1, 4, 8]
    assert shots_lines([EffectTable("m", "exact_match", "none", rows[:1])]) == ()


def test_pass_at_the_largest_k_over_shots_where_a_sweep_tells_it() -> None:
    rows = tuple(Figure("t", "acc", "demos", 0.1 * shots, 0.0, 1.0, n_shot=shots) for shots in (8, 1))
    tables = [EffectTable("m", metric, "none", rows) for metric in ("pass@1", "exact_match", "pass@10", "pass@5")]
    k, (line,) = shots_pass_lines(tables)
    assert (k, [point.x for point in line.points]) == (10, [1, 8])
    assert len(shots_lines(tables)) == 1
    assert shots_pass_lines(tables[:2]) == (0, ()) and shots_pass_lines([]) == (0, ())


# Bounds


def test_the_fit_over_steps_is_summed_over_documents(rich: dict[str, TaskSection]) -> None:
    (curve,) = rich["ltm_ptb"].steps
    assert curve.nats_per_token == pytest.approx((200 / 40, 150 / 40, 120 / 40, 102.75 / 40))
    assert (curve.documents, curve.is_bound) == (8, True)
    assert curve.settled is not None
    bound = next(row for row in rich["ltm_ptb"].perplexity.rows if row.name == "bound")  # type: ignore[union-attr]
    assert math.exp(curve.settled) == pytest.approx(bound.lines[0].per_token.value)  # type: ignore[union-attr]


def test_the_bound_by_its_first_draws_is_what_those_draws_say(rich: dict[str, TaskSection]) -> None:
    """Draws lie 1, -1, 3 and -3 nats from each document's mean, twice over."""
    (line,) = rich["ltm_ptb"].draws
    bound = next(row for row in rich["ltm_ptb"].perplexity.rows if row.name == "bound")  # type: ignore[union-attr]
    figure = bound.lines[0].per_token
    assert figure is not None
    tokens = sum(30 + i for i in range(8)) / math.log(figure.value)
    assert [point.x for point in line.points] == [1, 2, 4, 8]
    assert line.points[-1].value == pytest.approx(figure.value)
    assert line.points[0].value == pytest.approx(figure.value * math.exp(8 * 1 / tokens))
    for point, variance, draws in zip(line.points, (40 / 7, 2, 20 / 3, 40 / 7), (1, 2, 4, 8), strict=True):
        seen = 8 if draws == 1 else draws  # eight documents of equal variance, each with seen - 1 degrees of freedom
        half = stats.t.ppf(0.975, 8 * (seen - 1)) * math.sqrt(8 * variance / draws) / tokens
        assert math.log(point.high / point.value) == pytest.approx(half)
        assert math.log(point.value / point.low) == pytest.approx(half)
    offsets = [round(tokens * math.log(value / figure.value) / 8) for _, value in line.dots]
    assert offsets == [1, -1, 3, -3] * 2


def test_without_the_draws_of_every_document_there_is_no_curve(tmp_path: Path) -> None:
    write_rich(tmp_path)
    (path,) = (tmp_path / "ltm-x").glob("latents_ltm_ptb_*")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    half = [{**row, "draws_nats": row["draws_nats"] if row["doc_id"] % 2 else []} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in half), encoding="utf-8")
    sections = {task.name: task for task in build(find_runs([tmp_path])).tasks}
    assert sections["ltm_ptb"].draws == ()
    old = [{key: value for key, value in row.items() if key not in {"draws_nats", "kl_steps_nats"}} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in old), encoding="utf-8")
    sections = {task.name: task for task in build(find_runs([tmp_path])).tasks}
    assert sections["ltm_ptb"].draws == () and sections["ltm_ptb"].steps
    assert [one.head for one in sections["ltm_ptb"].layers[0].maps] == ["Document", "Document"]


def test_steps_at_the_fits_own_noise_are_no_bound(tmp_path: Path) -> None:
    write_rich(tmp_path)
    path = tmp_path / "ltm-x" / f"results_{DATE}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["config"]["fit"]["noise"] = "fixed"
    path.write_text(json.dumps(content), encoding="utf-8")
    sections = {task.name: task for task in build(find_runs([tmp_path])).tasks}
    assert not sections["ltm_ptb"].steps[0].is_bound


# Documents


def test_documents_of_every_kind_are_kept_where_not_all_fit(tmp_path: Path) -> None:
    """Of 600 questions the first 590 are right for both, the last ten are what one looks for."""
    write_run(tmp_path, model="ltm-x", right=lambda i: i < 595, n=600, kind="ltm")
    write_run(tmp_path, model="gpt2-x", right=lambda i: i < 590 or i >= 598, n=600)
    runs = find_runs([tmp_path])
    (section,) = build(runs).tasks
    browser = section.browser
    assert browser is not None and len(browser.samples) == SAMPLES_PER_TASK
    ids = [sample.doc_id for sample in browser.samples]
    assert ids == sorted(ids) and ids[:100] == list(range(100)) and ids[-10:] == list(range(590, 600))
    assert dict(browser.counts) == {"ahead": 5, "behind": 2, "wrong": 3, "failed": 0}
    (whole,) = build(runs, full=True).tasks
    assert whole.browser is not None and len(whole.browser.samples) == 600


def test_a_document_names_the_command_that_scores_it_again(tmp_path: Path) -> None:
    command = "ltm-eval run --model ckpt.pt --tasks gsm8k,ptb -L 4 --output_path=out --baseline gpt2"
    run = read_run(write_run(tmp_path, model="m", right=bool, extra={"command": command}))
    assert rerun_command(run, TASK, 17) == (
        "ltm-eval run --model ckpt.pt --baseline gpt2 --task ltm_gsm8k --documents 17 --output_path rerun"
    )
    other = read_run(write_run(tmp_path, model="some model", right=bool))
    assert rerun_command(other, "sums", 3) == (
        "lm_eval --model hf --model_args 'pretrained=some model' --tasks sums --samples '{\"sums\": [3]}' "
        "--log_samples --output_path rerun"
    )


def test_shared_demonstrations_are_found_and_verdicts_stand_by_each_answer(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=lambda i: True, n=3)
    samples = path.parent / f"samples_{TASK}_{DATE}.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["resps"] = [[" a\n#### 2", " b\n#### 3", " c"]]
        row["filtered_resps"] = ["2", "3", "[invalid]"]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (section,) = build(find_runs([path])).tasks
    assert section.browser is not None
    assert len(section.browser.shared) == 2
    assert [sample.answers[0].verdicts for sample in section.browser.samples] == [
        ("right", "wrong", "wrong"),
        ("wrong", "right", "wrong"),
        ("wrong", "wrong", "wrong"),
    ]


# Cost


def test_cost_and_size_beside_the_first_model(tmp_path: Path) -> None:
    write_rich(tmp_path)
    data = build(find_runs([tmp_path]))
    ours, theirs = data.tasks[0].costs
    assert (ours["seconds"], ours["seconds_per_document"], ours["peak_memory_bytes"]) == (12.5, 12.5 / 8, 3 * 2**28)
    assert (ours["fit_share"], ours["t_fast"]) == (0.5 / 0.75, 4.0)
    assert ours["fitted_tokens_per_second"] == pytest.approx(4 * 40 / 0.5)
    assert ours["new_tokens_per_second"] == pytest.approx(12 / 0.25)
    assert ours["flops_per_token"] == flops_per_token(38_370_000, layers=3, width=512, t_fast=4)
    assert theirs["flops_per_token"] == flops_per_token(38_370_000, layers=3, width=512, t_fast=0)
    assert (theirs["fit_share"], theirs["t_fast"]) == (None, None)
    assert (ours["by_formula"], theirs["by_formula"]) == (True, False) and "by formula</span>" in render(data)
    first, second = data.sizes
    assert (first["size_ratio"], first["compute_ratio"], second["compute_ratio"]) == (1.0, 1.0, pytest.approx(1 / 5))
    assert first["same_compute_parameters"] == pytest.approx(first["flops_per_token"] / 6)


def test_a_task_that_several_processes_shared_costs_what_all_of_them_took(tmp_path: Path) -> None:
    shared = {"processes": 3, "working_seconds": 30.0, "total_memory_bytes": 2**31}
    write_rich(tmp_path)
    for path in tmp_path.rglob("results_*.json"):
        content = json.loads(path.read_text("utf-8"))
        for cost in content["ltm_eval"].get("cost", {}).values():
            cost.update(shared)
        path.write_text(json.dumps(content), encoding="utf-8")
    data = build(find_runs([tmp_path]))
    row = data.tasks[0].costs[0]
    assert (row["processes"], row["working_seconds"], row["peak_memory_bytes"]) == (3, 30.0, 2**31)
    assert "3 processes, 30.0 s of work</span>" in render(data)


def test_flops_give_the_published_figures() -> None:
    """Training GFLOPs per token of LTM-S, -M and -L, arXiv:2502.01567 Table 1."""
    sizes = ((38_370_000, 3, 16, 4.07), (51_010_000, 6, 16, 5.52), (76_280_000, 12, 64, 32.2))
    for parameters, layers, t_fast, published in sizes:
        found = flops_per_token(parameters, layers=layers, width=512, t_fast=t_fast) / 1e9
        assert found == pytest.approx(published, rel=0.005)


def test_training_compute_is_that_of_the_model_cards() -> None:
    for row in json.loads((reports_dir() / "training_compute.json").read_text(encoding="utf-8")):
        card = (PACKAGE.parent / row["source"].partition(", ")[2]).read_text(encoding="utf-8")
        assert f"{row['flops']:.1e}".replace("e+", "e") in card
        assert re.search(rf"{row['tokens'] / 1e6:g} million tokens", card)


def test_a_meter_tells_time_and_memory() -> None:
    cost = Meter("cpu").read()
    assert cost.seconds >= 0 and cost.memory_of == "process"
    assert cost.peak_memory_bytes is None or cost.peak_memory_bytes > 2**20
    assert sizes_of(object()) == {}
