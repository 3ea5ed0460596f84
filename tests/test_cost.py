"""What a run says it cost: each fit once however many answers share it, and all starts of a run that was cut off."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.harness import answering as fits
from ltm_eval.harness import answering as generating
from ltm_eval.harness import sweep as sweeping
from ltm_eval.harness.evaluation import folder_name
from ltm_eval.harness.options import RunConfig, SweepConfig
from ltm_eval.harness.run import run
from ltm_eval.inference import rethink
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.report.page import build, render
from ltm_eval.results.files import LatentRecord, find_runs, fits_of, read_latents
from ltm_eval.runs import journal
from ltm_eval.system.files import sample_data_dir, write_jsonl_atomic
from ltm_eval.system.machine import flops_per_token
from tests.failing import arm
from tests.tiny import run_config, tiny_gpt2, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

TASK, QUESTIONS, SAMPLES, STEPS, PAUSE = "ltm_gsm8k", 20, 5, 4, 0.02


def config(folder: Path, output: Path, **changes: Any) -> RunConfig:
    given = {"num_fewshot": 0, "limit": QUESTIONS, "n": SAMPLES, "t_fast": STEPS, "gen_kwargs": "max_gen_toks=3"}
    return run_config(folder, output, **{**given, **changes})


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer of an LTM takes at least a pause."""
    answered = generating.Generating._generated

    def paused(*given: Any) -> Any:
        time.sleep(PAUSE)
        return answered(*given)

    monkeypatch.setattr(generating.Generating, "_generated", paused)


def cost_in(place: Path, task: str = TASK) -> dict[str, Any]:
    (path,) = place.glob("results_*.json")
    cost: dict[str, Any] = json.loads(path.read_text())["ltm_eval"]["cost"][task]
    return cost


def killed(work: Any, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    """Cut off after so many lines of the journal; the first two are a head and a plan."""
    with monkeypatch.context() as patch:
        arm(f"journal.written:{lines}:int", patch.setattr)
        with pytest.raises(KeyboardInterrupt):
            work()


def test_twenty_questions_of_five_samples_are_twenty_fits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def counting(model: Any, documents: Any, *rest: Any, **options: Any) -> Any:
        fitted.extend(sum(len(window.tokens) for window in document.windows) for document in documents)
        return fit_documents(model, documents, *rest, **options)

    monkeypatch.setattr(fits, "fit_documents", counting)
    run(config(folder, tmp_path))
    cost = cost_in(tmp_path / folder_name(str(folder)))
    records = read_latents(find_runs([tmp_path])[0], TASK)
    assert len(records) == QUESTIONS * (1 + SAMPLES) and len(fitted) == QUESTIONS
    assert (cost["fits"], cost["starts"]) == (QUESTIONS, 1)
    assert cost["fitted_token_steps"] == STEPS * sum(fitted)
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    per_token = flops_per_token(parameters, layers=2, width=8, t_fast=0)
    answers = sum(record.answer_token_passes for record in records)
    assert answers >= sum(record.read_tokens + record.new_tokens for record in records)  # and right answers that fit
    assert cost["token_passes"] == sum(fitted) + answers  # each fit is evaluated once after its last step
    assert cost["flops"] == pytest.approx(per_token * (STEPS * sum(fitted) + cost["token_passes"]))

    data = build(find_runs([tmp_path]))
    assert f'<p class="caption">{QUESTIONS} fits, by KL' in render(data)
    (row,) = data.tasks[0].costs
    seconds = sum(record.fit_seconds for record in records)
    assert row["fitted_tokens_per_second"] == pytest.approx(STEPS * sum(fitted) / seconds)
    assert "resumed" not in render(data).split('id="cost"')[1]

    old = [replace(record, fit="") for record in records]  # as 0.1.0 wrote them
    assert len(fits_of(old)) == QUESTIONS
    (path,) = tmp_path.rglob("latents_*.jsonl")
    write_jsonl_atomic(path, old)
    (same,) = build(find_runs([tmp_path])).tasks[0].costs
    assert same["fitted_tokens_per_second"] == pytest.approx(row["fitted_tokens_per_second"])


def test_a_question_that_occurs_twice_is_fitted_once(folder: Path, tmp_path: Path) -> None:
    lines = (sample_data_dir() / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()[:3]
    place = tmp_path / "data" / "gsm8k"
    place.mkdir(parents=True)
    (place / "test.jsonl").write_text("".join(f"{line}\n" for line in [*lines, *lines]), encoding="utf-8")
    (place / "train.jsonl").write_bytes((sample_data_dir() / "gsm8k" / "train.jsonl").read_bytes())
    run(config(folder, tmp_path / "out", data=str(tmp_path / "data"), limit=6, n=2))
    cost = cost_in(tmp_path / "out" / folder_name(str(folder)))
    records = read_latents(find_runs([tmp_path / "out"])[0], TASK)
    assert len(records) == 6 * 3 and cost["fits"] == len(fits_of(records)) == 3
    assert cost["new_tokens"] == sum(record.new_tokens for record in records) / 2
    (row,) = build(find_runs([tmp_path / "out"])).tasks[0].costs
    half = [record for record in records if record.doc_id < 3]
    steps = sum(record.t_fast * record.fitted_tokens for record in half if not record.idx)
    assert row["fitted_tokens_per_second"] == pytest.approx(steps / sum(record.fit_seconds for record in half))


def test_the_cost_of_a_killed_and_resumed_run_is_that_of_both_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: None
) -> None:
    """Every answer takes at least a pause: 15 of 60 in the first start, the rest in the second, none in a third."""
    own = config(folder, tmp_path, limit=10)
    place = tmp_path / folder_name(str(folder))
    begun = time.monotonic()
    killed(lambda: run(own), monkeypatch, 2 + 15)
    assert len(journal.read(place).answers) == 15
    run(own)
    both = time.monotonic() - begun
    first = cost_in(place)
    assert first["starts"] == 2 and 60 * PAUSE <= first["seconds"] <= both
    assert 60 * PAUSE <= first["working_seconds"] <= first["seconds"]
    assert 10 <= first["fits"] <= 11  # the question that was cut off in the middle was fitted in both
    begun = time.monotonic()
    run(own)
    again = cost_in(place)
    assert (again["starts"], again["fits"], again["flops"]) == (2, first["fits"], first["flops"])
    assert 60 * PAUSE <= again["seconds"] <= first["seconds"] + time.monotonic() - begun
    assert again["peak_memory_bytes"] >= first["peak_memory_bytes"]
    (path,) = place.glob("results_*.json")
    assert float(json.loads(path.read_text())["total_evaluation_time_seconds"]) >= again["seconds"]
    page = render(build(find_runs([tmp_path])))
    assert '<span class="note">resumed: 2 starts</span>' in page and "where a run was resumed" in page


def test_more_documents_later_bring_the_time_of_the_first_along(folder: Path, tmp_path: Path, slow: None) -> None:
    """A finished run of 8 questions, one of 10, which reuses its answers, and one of 4, which uses half of them."""
    took, wall = {}, {}
    place = tmp_path / folder_name(str(folder))
    for limit in (8, 10, 4):
        begun = time.monotonic()
        run(config(folder, tmp_path, limit=limit, n=1))
        wall[limit] = time.monotonic() - begun
        took[limit] = json.loads(max(place.glob("results_*.json")).read_text())["ltm_eval"]["cost"][TASK]
    rows = [journal.decode(line) for line in lines_of(place)]
    half = sum(row["spent_seconds"] for row in rows if row["records"][0]["doc_id"] < 4)
    assert [took[limit]["starts"] for limit in (8, 10, 4)] == [1, 2, 1]
    assert took[10]["working_seconds"] >= 10 * PAUSE and took[8]["working_seconds"] >= 8 * PAUSE
    assert 4 * PAUSE <= half - 1e-5 <= took[4]["working_seconds"] <= half + wall[4]
    assert [took[limit]["fits"] for limit in (8, 10, 4)] == [8, 10, 4]


def test_a_condition_that_was_done_before_keeps_its_cost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: None
) -> None:
    """Killed in the second condition: the first one's time does not shrink to that of looking its answers up."""
    sweep = SweepConfig(config(folder, tmp_path, limit=6, n=1, num_fewshot=1), ("demos", "prior"))
    killed(lambda: sweeping.run(sweep), monkeypatch, 2 + 6 + 2 + 3)
    place = tmp_path / folder_name(str(folder))
    before = cost_in(place)
    begun = time.monotonic()
    sweeping.run(sweep)
    after, wall = cost_in(place), time.monotonic() - begun
    spent = sum(journal.decode(line)["spent_seconds"] for line in lines_of(place) if b'"task":"ltm_gsm8k"' in line)
    assert after["starts"] == 1 and 6 * PAUSE <= spent - 1e-5 <= after["working_seconds"]
    assert after["working_seconds"] <= before["working_seconds"] + wall
    second = cost_in(place / "prior")
    assert second["starts"] == 2 and second["working_seconds"] >= 6 * PAUSE and second["fits"] == 0


def test_the_cost_of_a_resumed_baseline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = tiny_gpt2(tmp_path / "gpt2")
    monkeypatch.setattr("ltm_eval.harness.baseline.CHUNK", 2)
    both = config(folder, tmp_path / "out", limit=4, n=1, baselines=(str(gpt2),), batch_size=2)
    killed(lambda: run(both), monkeypatch, 2 + 4 + 2 + 2)
    place = tmp_path / "out" / folder_name(str(gpt2))
    spent = [journal.decode(line)["spent_seconds"] for line in lines_of(place)]
    assert len(spent) == 2 and sum(spent) > 0
    run(both)
    cost = cost_in(place)
    rows = [journal.decode(line)["spent_seconds"] for line in lines_of(place)]
    assert cost["starts"] == 2 and len(rows) == 4
    assert cost["working_seconds"] >= sum(rows) - 1e-5 and cost["fits"] is None
    assert cost_in(tmp_path / "out" / folder_name(str(folder)))["starts"] == 1


def lines_of(place: Path) -> list[bytes]:
    """The answers in a journal."""
    lines = [line for path in journal.files_of(place) for line in path.read_bytes().splitlines()]
    return [line for line in lines if b'{"key"' in line]


def test_the_fits_of_rethinking_are_each_counted_with_their_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each question, and one of each trace that is not empty: 2 rounds and as many independent draws."""
    refitted: list[int] = []

    def counting(model: Any, documents: Any, *rest: Any, **options: Any) -> Any:
        refitted.append(len(documents))
        return fit_documents(model, documents, *rest, **options)

    monkeypatch.setattr(rethink, "fit_documents", counting)
    run(config(folder, tmp_path, limit=3, n=1, rethink=2))
    records: list[LatentRecord] = read_latents(find_runs([tmp_path])[0], TASK)
    assert 0 < sum(refitted) <= 3 * 4
    assert cost_in(tmp_path / folder_name(str(folder)))["fits"] == len(fits_of(records)) == 3 + sum(refitted)
    assert all(record.fit_seconds > 0 for record in records if record.fit)
