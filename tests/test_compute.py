"""The passes that a run reports, against a count of every call of the decoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.report.page import build
from ltm_eval.results.files import find_runs, read_latents, read_samples
from ltm_eval.runs.journal import Journal
from ltm_eval.system.machine import flops_per_token
from tests.tiny import TINY, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path


class Passes:
    """Tokens through the decoder so far, with a gradient of z and without."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.others: list[int] = []
        hidden = LatentThoughtModel.hidden

        def counted(model: Any, prelude: Any, z: Any) -> Any:
            if model.config == TINY:  # not the untrained one that the preset is audited on
                (self.steps if z.requires_grad else self.others).append(z.shape[0] * prelude.states.shape[1])
            return hidden(model, prelude, z)

        patch.setattr(LatentThoughtModel, "hidden", counted)
        for name in ("inference.windows", "inference.draws", "inference.decode", "harness.answering"):
            patch.setattr(f"ltm_eval.{name}.padded_length", lambda tokens: tokens)  # padding is no cost of a text
        patch.setattr("ltm_eval.inference.draws._CPU_TOKENS_IN_FLIGHT", 2**20)  # nor are draws that fill a pass
        patch.setattr("ltm_eval.inference.batching.is_small", lambda model: False)  # no trials of shared passes


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


def cost_of(tmp_path: Path, task: str, **changes: Any) -> tuple[dict[str, Any], Any]:
    """What a run says that a task cost, and its records."""
    given = {
        "model": changes.get("model") or str(tiny_folder(tmp_path / "tiny")),
        "data": "sample",
        "limit": 2,
        "t_fast": 3,
    }
    given |= {"output_path": str(tmp_path / "out"), "report": False, "quiet": True, "batch_size": 1, "token_nll": 0}
    (path,) = run(RunConfig(**{**given, "tasks": (task,), **changes})).results
    cost = json.loads(path.read_text())["ltm_eval"]["cost"][f"ltm_{task}"]
    return cost, read_latents(find_runs([path])[0], f"ltm_{task}")


@pytest.mark.parametrize("rows", ["bound", "bound+as_released", "bound+causal", "bound+iwae+prior", "all"])
@pytest.mark.parametrize("preset", ["bound", "released"])
def test_texts_by_row(rows: str, preset: str, tmp_path: Path, passes: Passes) -> None:
    """Windows of a long text, refits of `as_released` and `causal`, and every draw."""
    told = {"protocol": "documents", "block_tokenizer": "demo"}
    cost, _ = cost_of(
        tmp_path, "wikitext", rows=rows, preset=preset, metadata=json.dumps(told), causal_chunk=64, causal_t_fast=2
    )  # fmt: skip
    assert (cost["fitted_token_steps"], cost["token_passes"]) == (sum(passes.steps), sum(passes.others))
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    each = flops_per_token(parameters, layers=2, width=8, t_fast=0)
    assert cost["flops"] == pytest.approx(each * (sum(passes.steps) + sum(passes.others)))


@pytest.mark.parametrize(
    "changes", [{}, {"n": 3}, {"rethink": 2}, {"token_nll": 2}, {"condition": "prior"}], ids=str
)  # fmt: skip
def test_generation(changes: dict[str, Any], tmp_path: Path, passes: Passes) -> None:
    """Answers that share a fit, rethinking with its second fit of the prompt; a generated token counts once."""
    more = {"num_fewshot": 1, "gen_kwargs": "max_gen_toks=4", "limit": 1}
    cost, records = cost_of(tmp_path, "gsm8k", **more, **changes)
    assert cost["fitted_token_steps"] == sum(passes.steps)
    assert cost["token_passes"] == sum(passes.others) + sum(record.new_tokens for record in records)


def test_rethinking_of_which_nothing_comes(tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every trace is empty, and so none is fitted, the prompt's second fit counts all the same."""
    monkeypatch.setattr("ltm_eval.inference.rethink.trace_document", lambda *_: None)
    cost, records = cost_of(tmp_path, "gsm8k", num_fewshot=1, gen_kwargs="max_gen_toks=4", limit=1, rethink=2)
    assert cost["fitted_token_steps"] == sum(passes.steps) > 0
    assert cost["token_passes"] == sum(passes.others) + sum(record.new_tokens for record in records)


def test_a_resumed_run_counts_the_passes_of_all_its_starts(
    tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def cut_off(self: Journal, *args: Any, **options: Any) -> None:
        append(self, *args, **options)
        raise KeyboardInterrupt

    options: dict[str, Any] = {"num_fewshot": 1, "gen_kwargs": "max_gen_toks=4", "limit": 3}
    options["model"] = str(tiny_folder(tmp_path / "tiny"))
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "append", cut_off)
            cost_of(tmp_path, "gsm8k", **options)
    before = sum(passes.steps)
    cost, records = cost_of(tmp_path, "gsm8k", **options)
    assert cost["starts"] == 3 and 0 < before < sum(passes.steps)
    assert cost["fitted_token_steps"] == sum(passes.steps)
    assert cost["token_passes"] == sum(passes.others) + sum(record.new_tokens for record in records)


def test_the_page_divides_the_passes_by_the_tokens_of_the_texts(tmp_path: Path, passes: Passes) -> None:
    """And a file without them has the papers' formula."""
    told = {"protocol": "documents", "block_tokenizer": "demo"}
    cost, records = cost_of(tmp_path, "wikitext", rows="all", metadata=json.dumps(told), causal_chunk=64)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    content = json.loads(path.read_text())
    texts = [sample.metrics["ppl_per_token_bound"][1] for sample in read_samples(find_runs([path])[0], "ltm_wikitext")]
    (row,) = build(find_runs([path])).tasks[0].costs
    assert row["flops_per_token"] == pytest.approx(cost["flops"] / sum(texts)) and not row["by_formula"]
    del content["ltm_eval"]["cost"]["ltm_wikitext"]["flops"]
    path.write_text(json.dumps(content))
    (row,) = build(find_runs([path])).tasks[0].costs
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert row["flops_per_token"] == flops_per_token(parameters, layers=2, width=8, t_fast=3) and row["by_formula"]
    assert cost["flops"] / sum(texts) > 2 * row["flops_per_token"] and len(records) == 2


def test_scored_continuations(tmp_path: Path, passes: Passes) -> None:
    cost, _ = cost_of(tmp_path, "lambada_last_word")
    assert (cost["fitted_token_steps"], cost["token_passes"]) == (sum(passes.steps), sum(passes.others))
