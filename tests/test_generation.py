from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs
from ltm_eval.results.generation import HUMAN, METRICS
from ltm_eval.system.files import write_json_atomic
from ltm_eval.tasks.mauve import METRICS as TASK_METRICS
from tests.fake_runs import DATE, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.report.page import TaskSection
    from ltm_eval.results.views import GenerationSection

TASK = "ltm_mauve"
CURVE = [[1.0, 0.0], [0.9, 0.5], [0.5, 0.9], [0.0, 1.0]]
FACTS: dict[str, Any] = {
    "options": {"texts": "webtext", "prompt_tokens": 50, "sampling": "multinomial", "buckets": None},
    "scores": [[0.5, 0.6], [0.7, 0.8], [0.6, 0.7]],
    "ceiling": [0.94, 0.96],
    "buckets": 100,
    "ceiling_buckets": 50,
    "n_human": 1_000,
    "n_generated": 5_000,
    "curve": CURVE,
    "ceiling_curve": CURVE,
    "generated": {
        "empty": 3,
        "words": 41.5,
        "words_sd": 2.5,
        "distinct": {"1": 0.1, "2": 0.4, "3": 0.7},
        "repeated": {"2": 0.03, "3": 0.02, "4": 0.01},
    },
    "human": {
        "empty": 0,
        "words": 42.5,
        "words_sd": 1.5,
        "distinct": {"1": 0.2, "2": 0.5, "3": 0.8},
        "repeated": {"2": 0.06, "3": 0.05, "4": 0.04},
    },
    "copies": 0.25,
    "copies_human": 0.0,
    "sd_kmeans": 0.07,
    "sd_generation": 0.09,
}
FIGURES = {
    "mauve": 0.65,
    "mauve_sd": 0.1,
    "mauve_ceiling": 0.95,
    "mauve_ceiling_sd": 0.01,
    "words": 41.5,
    "words_human": 42.5,
    "distinct_2": 0.4,
    "distinct_2_human": 0.5,
    "rep_3": 0.02,
    "rep_3_human": 0.05,
}


def write(
    folder: Path, model: str, *, facts: dict[str, Any] | None = FACTS, kind: str = "hf", **figures: float
) -> None:
    """A results file of the task, as `run` writes it, or without the block as lm-eval does."""
    content: dict[str, Any] = {
        "results": {TASK: {f"{name},none": value for name, value in {**FIGURES, **figures}.items()}},
        "configs": {TASK: {"task": TASK}},
        "versions": {TASK: 1.0},
        "n-shot": {TASK: 0},
        "higher_is_better": {TASK: {"mauve": True}},
        "config": {"model": kind, "model_args": {"pretrained": model}},
        "model_name": model,
    }
    if facts is not None:
        content["generation"] = {TASK: facts}
    write_json_atomic(folder / model / f"results_{DATE}.json", content)


def task_of(folder: Path) -> TaskSection:
    (task,) = build(find_runs([folder])).tasks
    return task


def section_of(folder: Path) -> GenerationSection:
    section = task_of(folder).generation
    assert section is not None
    return section


def test_the_table_shows_what_the_task_reports() -> None:
    assert frozenset(TASK_METRICS) == METRICS == frozenset(FIGURES)


def test_figures_of_models_and_of_human_texts(tmp_path: Path) -> None:
    write(tmp_path, "ltm-x", kind="ltm")
    write(tmp_path, "gpt2-x", mauve=0.4)
    task = task_of(tmp_path)
    assert task.tables == () and task.generation is not None  # nothing is shown twice
    ours, theirs, human = task.generation.lines
    assert (ours.figure.model, ours.figure.value, ours.figure.sd, ours.seeds, ours.texts) == (
        "ltm-x",
        0.65,
        0.1,
        "3 × 2",
        "5,000 with 1,000",
    )
    assert (ours.sd_kmeans, ours.sd_generation, ours.buckets, ours.empty, ours.copies) == (0.07, 0.09, 100, 3, 0.25)
    assert (ours.distinct, ours.repeated) == ((0.1, 0.4, 0.7), (0.03, 0.02, 0.01))
    assert (theirs.figure.model, theirs.figure.value) == ("gpt2-x", 0.4)
    assert (human.figure.model, human.figure.value, human.figure.sd, human.seeds, human.texts, human.words) == (
        HUMAN,
        0.95,
        0.01,
        "2",
        "500 with 500",
        42.5,
    )
    assert "|texts:webtext|prompt:50|sampling:multinomial|n:5000|human:1000|buckets:100" in ours.figure.signature
    assert [(one.label, one.series) for one in task.generation.curves] == [(HUMAN, 0), ("ltm-x", 1), ("gpt2-x", 2)]


def test_results_of_plain_lm_eval_have_fewer_figures_and_no_curve(tmp_path: Path) -> None:
    write(tmp_path, "gpt2-x", facts=None)
    section = section_of(tmp_path)
    line, human = section.lines
    assert (line.figure.value, line.figure.sd, line.words, line.distinct[1], line.repeated[1]) == (
        0.65,
        0.1,
        41.5,
        0.4,
        0.02,
    )
    assert (line.seeds, line.texts, line.buckets, line.copies) == ("", "", None, None)
    assert (human.figure.value, human.words) == (0.95, 42.5)
    assert section.curves == () and section.options == ()
    assert "0.650 ± 0.100" in render(build(find_runs([tmp_path])))


@pytest.mark.parametrize(
    "broken", [{}, {"curve": "x", "scores": 3}, {"curve": [[1, None]], "generated": [], "n_human": -1}]
)
def test_a_block_of_another_shape_is_passed_over(tmp_path: Path, broken: dict[str, Any]) -> None:
    write(tmp_path, "gpt2-x", facts=broken)
    section = section_of(tmp_path)
    assert section.curves == () and section.lines[0].figure.value == 0.65 and section.n_human is None
    render(build(find_runs([tmp_path])))


def test_the_page(tmp_path: Path) -> None:
    write(tmp_path, "ltm-<b>x", kind="ltm")
    write(tmp_path, "gpt2-x")
    html = render(build(find_runs([tmp_path])))
    assert "<b>x" not in html and html.count("<script>") == 1
    part = html[html.index("<h3>Generation") : html.index("<h3>Published")]
    assert "0.650 ± 0.100" in part and "0.950 ± 0.010" in part and "3 empty" in part and "25.0&nbsp;%" in part
    assert part.count("<svg") == 1 and "stroke-dasharray" in part
    published = html[html.index("Published, not re-run") :]
    for value in ("0.974", "0.955", "0.802", "0.957"):
        assert f">{value}<" in published
    assert re.search(r"other human texts, feature extraction", published)


def test_other_settings_and_few_texts_are_said_above_everything(tmp_path: Path) -> None:
    write(tmp_path, "ltm-x", kind="ltm")
    write(tmp_path, "gpt2-x", facts={**FACTS, "n_human": 60, "options": {**FACTS["options"], "sampling": "nucleus"}})
    banners = [banner.text for banner in build(find_runs([tmp_path])).banners]
    assert any("Different settings of ltm_mauve: sampling: multinomial, nucleus" in text for text in banners)
    assert any("rests on 60 human texts" in text for text in banners)
    assert len(section_of(tmp_path).lines) == 4  # each run's own human texts


def test_other_tasks_have_no_such_section(tmp_path: Path) -> None:
    write_run(tmp_path, model="gpt2-x", right=lambda i: i % 2 == 0)
    assert task_of(tmp_path).generation is None
