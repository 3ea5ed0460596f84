"""A page of results that stock lm-eval wrote for another model: nothing of this program had a hand in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs
from ltm_eval.system import files as paths
from tests.hostile import Structure

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.report.page import ReportData

TASKS = {
    "odd_or_even": {
        "output_type": "multiple_choice",
        "doc_to_text": "Is {{number}} odd or even? It is",
        "doc_to_target": "{{number % 2}}",
        "doc_to_choice": [" even", " odd"],
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "counting": {
        "output_type": "generate_until",
        "doc_to_text": "{{number}}, {{number + 1}},",
        "doc_to_target": " {{number + 2}}",
        "generation_kwargs": {"until": [","], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "sentences": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "The number of this sentence is {{number}}, as everybody knows.",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """gpt2-demo through lm-eval's `hf`, on three tasks, saved as `lm_eval --log_samples` saves."""
    pytest.importorskip("transformers")
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("foreign")
    documents = folder / "numbers.jsonl"
    documents.write_text("".join(f'{{"number": {index}}}\n' for index in range(5)), encoding="utf-8")
    tasks = [_task(name, documents) for name in TASKS]
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    arguments = {"pretrained": str(paths.assets_dir() / "gpt2-demo"), "dtype": "float32"}
    found = simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=tasks,
        device="cpu",
        batch_size=4,
        log_samples=True,
        bootstrap_iters=100,
        evaluation_tracker=tracker,
        task_manager=TaskManager(include_defaults=False),
    )
    assert found is not None
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name in TASKS:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    return build(find_runs([folder / "out"]))


def _task(name: str, documents: Path) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(documents)}},
        "test_split": "test",
        **TASKS[name],
    }


def test_every_task_has_its_section(data: ReportData) -> None:
    sections = {task.name: task for task in data.tasks}
    assert list(sections) == list(TASKS)
    assert [table.metric for table in sections["odd_or_even"].tables] == ["acc"]
    assert sections["counting"].answering[0]["documents"] == 5
    for section in sections.values():
        assert section.browser is not None and section.browser.documents == 5
        assert section.browser.command.startswith("lm_eval --model hf --model_args ")
    assert data.sizes[0]["parameters"] == 1_436_544
    (card,) = data.models
    assert (card.kind, card.audit) == ("hf", "")
    assert "odd_or_even: 5 documents" in card.sources


def test_its_page_stands(data: ReportData) -> None:
    page = Structure(render(data))
    text = " ".join("".join(page.text).split())
    assert page.open == []
    assert "word_perplexity ↓" in text and "Is 3 odd or even? It is" in text
    assert "≤" not in text.split("How to read this page")[0].split("Settings and provenance")[1]
