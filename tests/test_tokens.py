"""What tokens cost: terms of sums that are reported anyway, the same bits wherever and however they are made."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance

from ltm_eval.harness.answering import Generating
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run
from ltm_eval.inference.batching import Batch
from ltm_eval.inference.bounds import RowOptions, score_documents, score_texts
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.elbo import IGNORED, projected_nll_nats, projected_token_nll_nats, token_nll_nats
from ltm_eval.results.files import TokenRecord, find_runs, read_samples, read_tokens
from ltm_eval.runs.journal import Journal
from ltm_eval.runs.worklist import Worklist, first_documents
from ltm_eval.system import progress
from ltm_eval.system.errors import ResultsError, UsageError
from tests.fake_runs import DATE, TASK, write_run
from tests.tiny import TINY, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("Red, green and blue.", "Ça coûte 5 € à Łódź. 語 👩‍🚀" * 2, "x" * 500, "", "One<|endoftext|>two\n")
"""Characters of several tokens, a text of several windows, one without tokens, one with a token without text."""


def model(folder: Path, token_nll: int, **options: Any) -> LTM:
    made = LTM(str(folder), **{"t_fast": 2, "rows": "bound", "device": "cpu", **options})
    made.progress, made.token_nll = progress.silent, token_nll
    return made


def rolling(texts: tuple[str, ...] = TEXTS) -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("t", i, 1)) for i, text in enumerate(texts)]


def generating(number: int, options: dict[str, Any]) -> list[Instance]:
    prompts = [f"Question: {n} plus two?\nAnswer:" for n in range(number)]
    return [
        Instance("generate_until", {}, (prompt, options), 0, metadata=("t", i, 1)) for i, prompt in enumerate(prompts)
    ]


# Terms of a sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_are_the_terms_of_the_sum_bit_for_bit(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(3, 40, 8, generator=draw), torch.randn(60, 8, generator=draw).to(dtype)
    targets = torch.randint(0, 60, (3, 40), generator=draw)
    targets[1, 5:9] = targets[2] = IGNORED
    found = projected_token_nll_nats(hidden, weight, targets)
    assert torch.equal(found.sum(1), projected_nll_nats(hidden, weight, targets))
    naive = token_nll_nats(hidden.to(dtype).float() @ weight.float().T, targets)
    assert float((found - naive).abs().max()) <= (1e-5 if dtype == torch.float32 else 0.2)
    assert not found[targets == IGNORED].any()


def test_costs_of_tokens_leave_every_row_as_it_is() -> None:
    """The bound and its parts are bit for bit those of a run that keeps no token; the terms add up to `nll_given_z`."""
    ltm, fit = tiny_model(), fit_config("bound", t_fast=3)
    documents = [Document((Window(tuple(range(n)), tuple(range(1, n + 1))),)) for n in (5, 40, 23)]
    posterior = fit_documents(ltm, documents, fit, seed=1)
    options = RowOptions(iwae=4, prior=4, as_released=False)
    plain = score_documents(ltm, documents, fit, options=options, seed=1, posterior=posterior)
    kept = score_documents(ltm, documents, fit, options=options, seed=1, posterior=posterior, by_token={0, 2})
    assert [replace(one, token_nats=()) for one in kept] == plain
    costs = {place: one.token_nats for place, one in enumerate(kept) if one.token_nats}
    assert sorted(costs) == [0, 2]
    for place, nats in costs.items():
        assert len(nats) == len(documents[place].windows[0].tokens)
        assert math.fsum(nats) == pytest.approx(plain[place].nll_given_z.nats, rel=1e-6)
        z = posterior.row(place).mu
        assert Batch.of(ltm, [documents[place]]).nll_nats(z).item() > 0


# Through the adapter


def checked(record: TokenRecord, text: str) -> None:
    assert sum(record.piece_characters) == len(text)
    assert math.fsum(record.piece_nats) == pytest.approx(record.nats, rel=1e-4)


def test_texts_are_covered_and_add_up(folder: Path) -> None:
    lm = model(folder, 9)
    scores = lm.loglikelihood_rolling(rolling())
    assert [one.doc_id for one in lm.token_records] == [0, 1, 2, 4]
    for one in lm.token_records:
        checked(one, TEXTS[one.doc_id])
        rows = scores[one.doc_id].rows  # type: ignore[attr-defined]
        assert (one.nats, one.kl_nats, one.draws, one.part) == (rows["nll_given_z"], rows["kl"], 8, "text")
    euro = lm.token_records[1]
    assert len(euro.piece_nats) == len(TEXTS[1]) < len(TEXTS[1].encode())  # a byte a token, a character a piece
    assert scores == model(folder, 0).loglikelihood_rolling(rolling())


def test_the_first_documents_of_every_task_in_any_order(folder: Path) -> None:
    requests = rolling()
    requests += [replace(one, metadata=("other", 9 - i, 1)) for i, one in enumerate(rolling(TEXTS[:2]))]
    assert first_documents(requests, 1) == {("t", 0), ("other", 8)}
    assert first_documents(requests, 0) == frozenset()
    lm = model(folder, 2)
    lm.loglikelihood_rolling(requests)
    assert {(one.task, one.doc_id) for one in lm.token_records} == {("t", 0), ("t", 1), ("other", 8), ("other", 9)}


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7}])
def test_the_same_bits_for_any_batch_size_order_and_company(folder: Path, options: dict[str, Any]) -> None:
    whole = model(folder, 9, batch_size=3)
    whole.loglikelihood_rolling(rolling())
    whole.generate_until(generating(5, {"max_gen_toks": 6, "until": []}))
    other = model(folder, 9, **options)
    other.generate_until(generating(5, {"max_gen_toks": 6, "until": []})[::-1])
    other.loglikelihood_rolling(rolling()[::-1])
    assert len(whole.token_records) == 4 + 5

    def ordered(lm: LTM) -> list[TokenRecord]:
        return sorted(lm.token_records, key=lambda one: (one.part, one.doc_id))

    assert ordered(other) == ordered(whole)
    alone = model(folder, 9, **options)
    alone.loglikelihood_rolling(rolling()[1:2])
    assert alone.token_records == [one for one in whole.token_records if (one.part, one.doc_id) == ("text", 1)]


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}])
def test_an_answers_tokens_cost_what_its_text_costs(folder: Path, options: dict[str, Any]) -> None:
    """The costs noted while decoding are those of one pass over prompt and answer under the same z."""
    lm = model(folder, 2)
    requests = generating(3, {"max_gen_toks": 12, "until": ["q"], **options})
    jobs = [lm._generation_request(i, (request, 0), {("t", i)}) for i, request in enumerate(requests)]
    fits = lm._fits(jobs)
    answering = Generating(fits, lm.encoding, lm._recorder, batch_size=1)
    for job, fitted in fits.of(jobs):
        prompt = answering._prompt(job, fitted)
        (made,) = answering._decode([prompt], job.config, 1)
        read = torch.tensor([[*prompt.tokens, *made.tokens]])
        log_p = lm.model(read[:, :-1], prompt.z.unsqueeze(0)).log_softmax(-1)[0, len(prompt.tokens) - 1 :]
        truth = -log_p.gather(1, torch.tensor(made.tokens).unsqueeze(1)).squeeze(1)
        assert (job.by_token, made.token_nats) == (True, pytest.approx(truth.tolist(), abs=1e-4))
    answers = lm.generate_until(requests)
    assert answers == model(folder, 0).generate_until(requests)
    assert [one.doc_id for one in lm.token_records] == [0, 1]
    for one in lm.token_records:
        checked(one, answers[one.doc_id])
        assert (one.part, one.draws, one.kl_nats) == ("answer", 0, None)


def test_the_wanted_answers_tokens_cost_what_scoring_says(folder: Path) -> None:
    """Under z = mu, after the prompt as it is read; what stands before the answer is none of its characters."""
    lm = model(folder, 2)
    requests = generating(3, {"max_gen_toks": 6, "until": []})
    for place, request in enumerate(requests):
        request.reference = " two €"[: 9 - place]  # type: ignore[attr-defined]
    answers = lm.generate_until(requests)
    kept = [one for one in lm.token_records if one.part == "target"]
    assert [one.doc_id for one in kept] == [0, 1]
    for one in kept:
        request = requests[one.doc_id]
        (job,) = [lm._generation_request(0, (request, 0))]
        ((_, fitted),) = lm._fits([job]).of([job])
        wanted = lm.tok_encode(request.reference)  # type: ignore[attr-defined]
        read = torch.tensor([[*job.context.read, *wanted]])
        log_p = lm.model(read[:, :-1], fitted.z(None).unsqueeze(0)).log_softmax(-1)[0, len(job.context.read) - 1 :]
        truth = -log_p.gather(1, torch.tensor(wanted).unsqueeze(1)).squeeze(1)
        assert one.nats == pytest.approx(float(truth.sum()), rel=1e-5)
        checked(one, "two €")
        assert one.piece_nats[0] == pytest.approx(float(truth[:2].sum()), abs=1e-3)
    assert answers == model(folder, 0).generate_until(generating(3, {"max_gen_toks": 6, "until": []}))
    long = generating(1, {"max_gen_toks": 6, "until": []})
    long[0].reference = "x" * 300  # type: ignore[attr-defined]
    lm.token_records.clear()
    lm.generate_until(long)
    assert [one.part for one in lm.token_records] == ["answer"]


def test_a_resumed_run_has_what_was_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers come from the journal with their tokens; one that was made without does not stand for one with."""
    first = model(folder, 3)
    first.worklist = Worklist(journal := Journal(tmp_path, first.settings))
    first.loglikelihood_rolling(rolling())
    journal.close()
    scored: list[int] = []

    def counting(ltm: Any, texts: Any, *args: Any, **options: Any) -> Any:
        scored.append(len(texts))
        return score_texts(ltm, texts, *args, **options)

    monkeypatch.setattr("ltm_eval.harness.ltm.score_texts", counting)
    again, more = model(folder, 3), model(folder, 5)
    for lm in (again, more):
        lm.worklist = Worklist(Journal(tmp_path, lm.settings))
        lm.loglikelihood_rolling(rolling())
    assert scored == [0, 2]
    assert again.token_records == first.token_records and len(first.token_records) == 3
    assert [one.doc_id for one in more.token_records] == [0, 1, 2, 4]
    assert more.token_records[:3] == first.token_records


# Through a run


def test_a_run_stores_them_for_its_first_documents(tmp_path: Path) -> None:
    wide = tiny_folder(tmp_path / "wide", tiny_model(replace(TINY, max_seq_len=768)))

    def config(place: str, token_nll: int) -> RunConfig:
        return RunConfig(
            model=str(wide), data="sample", tasks=("gsm8k",), num_fewshot=1, limit=4, t_fast=1, quiet=True,
            gen_kwargs="max_gen_toks=6", output_path=str(tmp_path / place), report=False, token_nll=token_nll,
        )  # fmt: skip

    runs = {number: find_runs([run(config(str(number), number)).results[0]])[0] for number in (0, 2, 9)}
    assert read_tokens(runs[0], "ltm_gsm8k") == () and runs[0].tasks["ltm_gsm8k"].tokens_path is None
    kept = read_tokens(runs[9], "ltm_gsm8k")
    assert [(one.doc_id, one.part) for one in kept] == [(i, part) for i in range(4) for part in ("answer", "target")]
    assert read_tokens(runs[2], "ltm_gsm8k") == kept[:4]
    samples = {one.doc_id: one for one in read_samples(runs[9], "ltm_gsm8k")}
    for one in kept:
        sample = samples[one.doc_id]
        checked(one, sample.responses[0] if one.part == "answer" else sample.target)
        assert one.prompt_hash == samples[one.doc_id].prompt_hash
    assert runs[0].tasks["ltm_gsm8k"].scores == runs[2].tasks["ltm_gsm8k"].scores == runs[9].tasks["ltm_gsm8k"].scores
    assert read_samples(runs[0], "ltm_gsm8k") == read_samples(runs[9], "ltm_gsm8k")
    with pytest.raises(UsageError, match="token_nll"):
        config("x", -1)


# Records

RECORD = TokenRecord("t", 0, 0, 0, "0" * 64, "text", "gpt2", 8, 3.5, 1.25, (2, 3), (1.5, 2.0))


def test_a_damaged_sidecar_names_its_line(tmp_path: Path) -> None:
    path = write_run(tmp_path, model="m", right=bool, n=2)
    sidecar = path.parent / f"tokens_{TASK}_{DATE}.jsonl"
    sidecar.write_text(json.dumps({**RECORD.to_json(), "task": TASK}) + "\n" + '{"task": "x"')
    (found,) = find_runs([path])
    with pytest.raises(ResultsError, match=rf"{sidecar.name}:2: not JSON"):
        read_tokens(found, TASK)


def test_a_record_comes_back_from_json() -> None:
    row = json.loads(json.dumps(RECORD.to_json()))
    assert TokenRecord.from_json(row, where="x:1") == RECORD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part": "letter"}, "text, answer, target"),
        ({"piece_nats": [1.0]}, "2 and 1"),
        ({"piece_characters": [2, -1]}, "whole number"),
        ({"piece_characters": "2,3"}, "a list, each item a whole number"),
        ({"nats": None}, "a number"),
        ({"drawz": 1}, "'drawz'"),
    ],
)
def test_a_damaged_record_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultsError, match="x:7") as told:
        TokenRecord.from_json({**RECORD.to_json(), **change}, where="x:7")
    assert words in str(told.value)
