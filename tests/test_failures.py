"""Documents that fail: told, counted, left out of the figures, and without any effect on their neighbours."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval.harness import sweep as grid
from ltm_eval.harness.evaluation import Failure, allowed, failed_answers, listed, without
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import GridConfig, RunConfig
from ltm_eval.harness.run import run
from ltm_eval.inference import decode, posterior
from ltm_eval.inference import posterior as steps
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import DIVERGED_NATS, fit_documents, fit_together, why_unusable
from ltm_eval.inference.windows import Document, Posterior, Trace, Window
from ltm_eval.results.files import find_runs
from ltm_eval.runs.journal import files_of
from ltm_eval.system.errors import IncompleteError, UsageError
from tests.failing import arm
from tests.gang import Gang
from tests.gang import command as run_command
from tests.tiny import tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def fitted(nll: list[float], *, mu: float = 0.0) -> Posterior:
    """A posterior of one document with this trace."""
    values = torch.tensor(nll).unsqueeze(1)
    return Posterior(torch.full((1, 2, 2, 8), mu), torch.zeros(1, 2, 2, 8), Trace(values, torch.zeros_like(values)))


def test_a_fit_that_went_astray_is_told() -> None:
    assert why_unusable(fitted([9.0, 8.0]), tokens=2) is None
    assert why_unusable(fitted([]), tokens=2) is None
    assert why_unusable(fitted([9.0, math.nan, 7.0]), tokens=2) is None  # a gap in the trace of a shorter fit
    assert "from fast step 1 on (objective nan)" in str(why_unusable(fitted([9.0, math.nan, math.nan]), tokens=2))
    assert "from fast step 2 on (objective inf)" in str(why_unusable(fitted([9.0, 8.0, math.inf]), tokens=2))
    assert "not finite" in str(why_unusable(fitted([9.0, 8.0], mu=math.nan), tokens=2))
    assert "diverged" in str(why_unusable(fitted([9.0, 2.1 * DIVERGED_NATS]), tokens=2))


@pytest.mark.parametrize(
    ("limit", "documents", "number"),
    [("0", 300, 0), ("7", 300, 7), ("1%", 300, 3), ("1%", 99, 0), ("0.5%", 1000, 5), ("100%", 8, 8)],
)
def test_how_many_may_fail(limit: str, documents: int, number: int) -> None:
    assert allowed(limit, documents) == number


@pytest.mark.parametrize("limit", ["-1", "1.5", "", "%", "101%", "-1%", "nan", "all", "1e3", "9" * 20])
def test_what_is_no_such_number_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="max_failed"):
        allowed(limit, 10)


def test_only_the_first_failures_are_listed() -> None:
    failures = [Failure("t", i, "nan") for i in range(9)]
    assert listed(failures) == "document 0: nan; document 1: nan; document 2: nan …"


def test_answers_that_are_no_numbers_are_found() -> None:
    rows = [
        {"doc_id": 0, "resps": [[(-1.0, True)]]},
        {"doc_id": 1, "resps": [[(math.nan, False)], [(-2.0, True)]]},
        {"doc_id": 2, "resps": [[-math.inf]]},  # what a model holds impossible is a number
        {"doc_id": 3, "resps": [["nan"]]},
    ]
    assert failed_answers("t", rows) == [Failure("t", 1, "the model answered nan")]


def test_figures_without_a_document_are_those_of_the_others() -> None:
    rows = [
        {"doc_id": i, "filter": "none", "metrics": ["acc"], "acc": float(i < 2), "doc": {}, "resps": []}
        for i in range(4)
    ]
    part = {
        "results": {"t": {"alias": "t", "sample_len": 4, "acc,none": 0.5, "acc_stderr,none": 0.3}},
        "n-samples": {"t": {"original": 9, "effective": 4}},
        "samples": {"t": rows},
    }
    task = SimpleNamespace(task_name="t", aggregation=lambda: {"acc": lambda items: sum(items) / len(items)})
    found = without(part, task, [Failure("t", 3, "nan")], bootstrap_iters=100)
    assert found["results"]["t"]["acc,none"] == pytest.approx(2 / 3)
    assert found["results"]["t"]["alias"] == "t"
    assert found["n-samples"]["t"] == {"original": 9, "effective": 3}
    assert found["samples"]["t"][:3] == rows[:3]
    assert found["samples"]["t"][3] == {
        "doc_id": 3,
        "filter": "none",
        "metrics": [],
        "failed": "nan",
        "doc": {},
        "resps": [],
    }
    nothing = without(part, task, [Failure("t", i, "nan") for i in range(4)], bootstrap_iters=100)
    assert math.isnan(nothing["results"]["t"]["acc,none"])


def documents() -> list[Document]:
    """Three texts of one padded length."""
    texts = ([1, 2, 3, 4], [9, 9, 9, 9], [5, 6, 7, 8])
    return [Document((Window(tuple(text), tuple(text)),)) for text in texts]


def breaking(monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    """The noise of the document `key` is NaN from step 1 on."""
    honest = posterior.document_noise

    def noise(model: Any, members: Any, config: Any, seed: int) -> Any:
        draw = honest(model, members, config, seed)
        bad = [i for i, document in enumerate(members) if document.key == key]

        def spoilt(step: int) -> torch.Tensor:
            own = draw(step).clone()
            if step >= 1 and bad:
                own[:, bad] = torch.nan
            return own

        return spoilt

    monkeypatch.setattr(posterior, "document_noise", noise)


@pytest.mark.parametrize("together", [False, True], ids=["each alone", "in one batch"])
def test_neighbours_of_a_failed_document_keep_their_bits(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, members, config = tiny_model(), documents(), fit_config("bound", t_fast=3)
    fit = fit_together if together else fit_documents
    whole = fit(model, members, config, seed=1)
    breaking(monkeypatch, members[1].key)
    hurt = fit(model, members, config, seed=1)
    assert why_unusable(hurt.row(1), tokens=4) is not None
    for i in (0, 2):
        assert why_unusable(hurt.row(i), tokens=4) is None
        assert torch.equal(hurt.mu[i], whole.mu[i]) and torch.equal(hurt.log_var[i], whole.log_var[i])
        assert torch.equal(hurt.trace.nll_nats[:, i], whole.trace.nll_nats[:, i])


def test_logits_that_are_no_numbers_end_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    prompts = [decode.Prompt((256, 65 + i), torch.zeros(2, 2, 8)) for i in range(3)]
    config = GenerationConfig(max_new_tokens=4)
    whole = {c.index: c.tokens for c in decode.generate(model, prompts, config)}
    honest = decode._Stepper.place

    def place(self: Any, slot: int, prompt: Any) -> None:
        honest(self, slot, prompt)
        if prompt.tokens[1] == 66:
            self.logits[slot, 3] = torch.nan

    monkeypatch.setattr(decode._Stepper, "place", place)
    found = {c.index: c for c in decode.generate(model, prompts, config)}
    assert (found[1].stop_reason, found[1].tokens) == ("not_finite", ())
    assert [found[i].tokens for i in (0, 2)] == [whole[i] for i in (0, 2)]


def test_training_mode_changes_nothing() -> None:
    model, config = tiny_model(), fit_config("bound", t_fast=2)
    whole = fit_documents(model, documents(), config, seed=1)
    model.train()
    assert torch.equal(whole.mu, fit_documents(model, documents(), config, seed=1).mu)
    for parameter in model.parameters():
        parameter.requires_grad_()
    again = fit_documents(model, documents(), config, seed=1)
    torch.testing.assert_close(whole.mu, again.mu)  # other kernels
    assert not again.mu.requires_grad and all(parameter.grad is None for parameter in model.parameters())


def test_a_host_that_does_not_count_failures_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.instance import Instance

    monkeypatch.setattr(steps, "learning_rate", lambda config, step: 1e20)
    lm = LTM(str(folder), t_fast=2)
    kinds: dict[str, tuple[Any, ...]] = {
        "generate_until": ("abc def", {"max_gen_toks": 3}),
        "loglikelihood": ("abc", " d"),
        "loglikelihood_rolling": ("abcdef",),
    }
    for kind, wanted in kinds.items():
        request = Instance(kind, {}, wanted, 0, metadata=("t", 4, 1))
        lm.failures.clear()
        with pytest.raises(IncompleteError, match=r"t, document 4: .*--max_failed"):
            getattr(lm, kind)([request])
        lm.keeps_failures = True
        (answer,) = getattr(lm, kind)([request])
        assert answer == "" or math.isnan(answer if isinstance(answer, float) else answer[0])
        lm.keeps_failures = False


def test_a_perplexity_without_the_failed_document(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of a run with a failed document are those of a run without that document; the page is written."""
    texts = ["one two three", "four five six seven", "eight nine ten"]

    def evaluated(name: str, lines: list[str]) -> tuple[dict[str, Any], Path]:
        data = tmp_path / name
        data.mkdir()
        (data / "ptb.valid.txt").write_text("\n".join(lines) + "\n")
        options = '{"protocol": "documents", "block_tokenizer": "' + str(folder / "tokenizer.tiktoken") + '"}'
        outcome = run(
            RunConfig(
                model=str(folder),
                tasks=("ptb",),
                data=str(data),
                metadata=options,
                t_fast=2,
                rows="bound",
                output_path=str(tmp_path / f"{name}-out"),
                quiet=True,
            )
        )
        content = json.loads(outcome.results[0].read_text())
        assert outcome.report is not None
        return content, outcome.report

    whole, _ = evaluated("whole", [texts[0], texts[2]])
    honest = posterior.document_noise
    marked = tuple(b"five")

    def noise(model: Any, members: Any, config: Any, seed: int) -> Any:
        draw, tokens = honest(model, members, config, seed), members[0].windows[0].tokens
        hit = any(tokens[i : i + len(marked)] == marked for i in range(len(tokens)))
        return lambda step: draw(step) * (torch.nan if hit else 1.0)

    monkeypatch.setattr(posterior, "document_noise", noise)
    hurt, page = evaluated("hurt", texts)
    keys = {key for key in whole["results"]["ltm_ptb"] if "," in key}
    assert len(keys) > 8
    assert {key: hurt["results"]["ltm_ptb"][key] for key in keys} == {
        key: whole["results"]["ltm_ptb"][key] for key in keys
    }
    assert hurt["n-samples"]["ltm_ptb"] == {"original": 3, "effective": 2}
    assert [one["doc_id"] for one in hurt["ltm_eval"]["failed"]["ltm_ptb"]["failures"]] == [1]
    assert "1 of 3 documents failed" in page.read_text("utf-8")
    (found,) = find_runs([tmp_path / "hurt-out"])
    assert any("left out" in warning for warning in found.extra.warnings)


# A failed document is a finished answer -------------------------------------------------------------------------------


def marked(folder: Path, data: Path) -> dict[str, Any]:
    """Options of a run on four problems, of which document 2 is marked."""
    for split, count in (("train", 3), ("test", 4)):
        lines = [{"question": f"{i} and {i}?" + " five" * (i == 2), "answer": f"#### {2 * i}"} for i in range(count)]
        path = data / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen: dict[str, Any] = {
        "model": str(folder),
        "tasks": ("gsm8k",),
        "num_fewshot": 0,
        "data": str(data),
        "t_fast": 2,
    }
    return chosen | {"gen_kwargs": "max_gen_toks=4", "report": False, "quiet": True, "condition": "prompt"}


def spoil(change: Any) -> None:
    """Fits of texts with the mark are NaN from the first step on."""
    honest, mark = posterior.document_noise, tuple(b"five")

    def noise(model: Any, members: Any, config: Any, seed: int) -> Any:
        draw = honest(model, members, config, seed)
        texts = [document.windows[0].tokens for document in members]
        hit = [i for i, own in enumerate(texts) if any(own[at : at + 4] == mark for at in range(len(own)))]

        def spoilt(step: int) -> torch.Tensor:
            own = draw(step).clone()
            own[:, hit] = torch.nan
            return own

        return spoilt

    change(posterior, "document_noise", noise)


def left(output: Path) -> dict[str, Any]:
    """Figures, samples, sidecar lines and failures of the one run in a folder, times left out."""
    (path,) = output.rglob("results_*.json")
    content = json.loads(path.read_text())
    found = {"results": content["results"], "failed": content["ltm_eval"]["failed"]}
    for kind in ("samples", "latents"):
        (file,) = path.parent.glob(f"{kind}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[kind] = [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]
        found[kind].sort(key=lambda row: (row["doc_id"], row.get("filter", "")))
    return found


def answers(output: Path) -> dict[str, bytes]:
    """The answers in a run's journals by key."""
    files = [file for place in output.glob("*/journal") for file in files_of(place.parent)]
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    return {row["key"]: line for line in lines if "key" in (row := json.loads(line.partition(b" ")[2]))}


def test_a_failed_document_is_a_finished_answer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found again although its fit would end well now; a run that was cut off ends with the same bits."""
    chosen = marked(folder, tmp_path / "data")
    with monkeypatch.context() as change:
        spoil(change.setattr)
        first = run(RunConfig(**chosen, output_path=str(tmp_path / "a")))
        with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
            arm("journal.written:5:int", cut.setattr)  # head, plan, three answers
            run(RunConfig(**chosen, output_path=str(tmp_path / "b")))
        assert len(answers(tmp_path / "b")) == 3
        resumed = run(RunConfig(**chosen, output_path=str(tmp_path / "b")))
    truth, kept = left(tmp_path / "a"), answers(tmp_path / "a")
    assert "1 of 4 documents failed (document 2: the fit is not finite from fast step 0 on" in first.failed
    assert [row["doc_id"] for row in truth["samples"] if "failed" in row] == [2, 2]  # one line per filter
    assert len(kept) == 4 and sum(b'"failed":' in line for line in kept.values()) == 1
    assert left(tmp_path / "b") == truth
    assert resumed.failed.replace("/b/", "/a/").replace(resumed.results[0].name, first.results[0].name) == first.failed
    again = run(RunConfig(**chosen, output_path=str(tmp_path / "a")))
    assert again.failed == first.failed and left(tmp_path / "a") == truth
    allowed_now = run(RunConfig(**chosen, output_path=str(tmp_path / "a"), max_failed="1"))
    assert allowed_now.failed == "" and left(tmp_path / "a") == truth
    assert answers(tmp_path / "a") == kept


def spoilt_command(argv: list[str]) -> int:
    """The command in a process of its own, marked texts spoilt."""
    spoil(setattr)
    return run_command(argv)


def test_a_failed_document_is_told_once_whatever_the_number_of_processes(folder: Path, tmp_path: Path) -> None:
    chosen = marked(folder, tmp_path / "data")
    argv = ["run", "--model", str(folder), "--data", chosen["data"], "--shots", "0", "--condition", "prompt"]
    argv += ["--t_fast", "2", "--gen_kwargs", chosen["gen_kwargs"], "--no_report", "--device", "cpu"]
    with Gang() as gang:
        for world in (1, 3):
            output = tmp_path / str(world)
            job = gang.start(world, "tests.test_failures:spoilt_command", [*argv, "--output_path", str(output)])
            assert job.wait() == [5] * world, [job.err(rank) for rank in range(world)]
            assert job.said(0).count("error[5]") == 1
            assert [job.said(rank) for rank in range(1, world)] == [""] * (world - 1)
            assert len(answers(output)) == 4
    assert left(tmp_path / "1") == left(tmp_path / "3")
    assert [one["doc_id"] for one in left(tmp_path / "3")["failed"]["ltm_gsm8k"]["failures"]] == [2]


def test_a_cell_with_failed_documents_is_not_complete(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch.setattr)
    for limit, state in (("0", "failed"), ("1", "complete")):
        base = RunConfig(**marked(folder, tmp_path / "data"), output_path=str(tmp_path / "out"), max_failed=limit)
        swept = grid.run_grid(GridConfig(base, (str(folder),), (2,), (0,), ("prompt",), (1,)))
        assert [one.state for one in swept.done] == [state]
        assert ("1 of 4 documents failed" in swept.done[0].line) == (state == "failed")
    grid.check(swept)
