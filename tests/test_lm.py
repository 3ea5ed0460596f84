from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from ltm_eval.harness import answering as fits
from ltm_eval.harness.answering import SCORE_DRAWS, TRACED_DOCUMENTS
from ltm_eval.harness.ltm import LTM
from ltm_eval.inference.bounds import windows_of
from ltm_eval.inference.draws import ROWS, RollingScore
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import generator, standard_normal
from ltm_eval.model.elbo import kl_nats
from ltm_eval.results.files import LatentRecord
from ltm_eval.system.device import resolve_device
from ltm_eval.system.errors import DataError, MachineError, UsageError
from ltm_eval.system.progress import silent
from ltm_eval.tasks.arguments import changed_decoding, generation_changes, generation_config
from tests.tiny import tiny_folder

if TYPE_CHECKING:
    from pathlib import Path

CONDITIONS = ["prompt", "demos", "demos+prompt", "prior"]
GREEDY = {"until": ["Question:"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
SAMPLED = {"until": ["zq"], "max_gen_toks": 16, "do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("lm") / "tiny")


def model(folder: Path, **options: Any) -> LTM:
    lm = LTM(str(folder), **{"t_fast": 3, "batch_size": 4, **options})
    lm.progress = silent
    return lm


def prompt(i: int) -> str:
    source = random.Random(i)
    shots = "".join(
        f"Question: {source.randrange(999)} {'x' * source.randrange(30)}\nAnswer: #### {k}\n\n"
        for k in range(source.randrange(5))
    )
    return f"{shots}Question: {i} and {source.randrange(10**6)}?\nAnswer:"


def instances(kind: str, arguments: list[tuple[Any, ...]], *, repeats: int = 1) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("ltm_test", i, repeats))  # type: ignore[arg-type]
        for i, a in enumerate(arguments)
        for _ in range(1)
    ]


def facts(lm: LTM) -> dict[tuple[int, int], dict[str, Any]]:
    """Records without times, by document and repeat."""
    return {(r.doc_id, r.repeat): {**asdict(r), "fit_seconds": 0, "decode_seconds": 0} for r in lm.records}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_batch_size_and_order_change_no_bit(condition: str, options: dict[str, Any], folder: Path) -> None:
    requests = instances("generate_until", [(prompt(i), options) for i in range(11)])
    results = []
    for batch_size, order in ((1, range(11)), (7, range(11)), (32, reversed(range(11)))):
        lm, places = model(folder, condition=condition, batch_size=batch_size), list(order)
        answers = lm.generate_until([requests[i] for i in places])
        results.append((dict(zip(places, answers, strict=True)), facts(lm)))
    assert results[0] == results[1] == results[2]


def test_scores_do_not_depend_on_batch_or_order(folder: Path) -> None:
    requests = instances("loglikelihood", [(prompt(i % 5), f" answer {i}") for i in range(12)])
    one = model(folder, batch_size=1).loglikelihood(requests)
    lm = model(folder, batch_size=32)
    assert lm.loglikelihood(requests[::-1])[::-1] == one


def test_contexts_share_one_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[bytes] = []

    def counting(model: Any, documents: Any, *rest: Any, **options: Any) -> Any:
        fitted.extend(document.key for document in documents)
        return fit_documents(model, documents, *rest, **options)

    monkeypatch.setattr(fits, "fit_documents", counting)
    lm = model(folder, batch_size=2)
    lm.loglikelihood(instances("loglikelihood", [(prompt(i % 3), f" {i}") for i in range(9)]))
    assert len(fitted) == len(set(fitted)) == 3
    fitted.clear()
    request = instances("generate_until", [(prompt(1), SAMPLED)])
    answers = lm.generate_until(request * 6)
    assert len(fitted) == 1 and len(set(answers)) > 1


def test_repeats_are_independent_and_reproducible(folder: Path) -> None:
    request = instances("generate_until", [(prompt(1), SAMPLED)])
    eight = model(folder).generate_until(request * 8)
    assert model(folder).generate_until(request * 3) == eight[:3]
    assert model(folder, seed=7).generate_until(request * 8) != eight
    with pytest.raises(UsageError, match="greedy"):
        model(folder).generate_until(instances("generate_until", [(prompt(1), GREEDY)]) * 2)


def test_score_is_the_mean_over_posterior_draws_of_the_context(folder: Path) -> None:
    lm = model(folder)
    text, continuation = prompt(3), " 42."
    ((found, _),) = lm.loglikelihood(instances("loglikelihood", [(text, continuation)]))
    context = lm._scoring_request(0, (instances("loglikelihood", [(text, continuation)])[0], 0)).context
    assert context.document is not None
    posterior = fit_documents(lm.model, [context.document], lm.fit_config, seed=1234)
    assert [t for w in context.document.windows for t in w.targets] == lm.tok_encode(text)
    tokens = torch.tensor([[lm.eot_token_id, *lm.tok_encode(text + continuation)]])
    n, stream, totals = len(continuation), generator(1234, "score", context.document.key), []
    for _ in range(SCORE_DRAWS):
        z = posterior.at(standard_normal(stream, posterior.mu.shape))
        log_probs = lm.model(tokens[:, :-1], z).log_softmax(-1)[0, -n:]
        totals.append(float(log_probs.gather(1, tokens[0, -n:, None]).sum()))
    assert found == pytest.approx(float(np.logaddexp.reduce(totals) - np.log(SCORE_DRAWS)), rel=1e-4)


def test_the_continuation_never_reaches_the_fit(folder: Path) -> None:
    traces = []
    for continuation in (" a", " quite another text"):
        lm = model(folder)
        lm.loglikelihood(instances("loglikelihood", [(prompt(3)[:60], continuation)]))
        traces.append(lm.records[0].objective_nats)
    assert traces[0] == traces[1]


def test_greedy_flag_tells_what_decoding_gives(folder: Path) -> None:
    lm = model(folder)
    answer = lm.generate_until(
        instances("generate_until", [(prompt(2), {**GREEDY, "until": ["\0never"], "max_gen_toks": 5})])
    )[0]
    if "\ufffd" in answer:
        pytest.skip("the tiny model's answer is not text")
    (_, greedy), (_, other) = lm.loglikelihood(
        instances("loglikelihood", [(prompt(2), answer), (prompt(2), answer[:-1] + "\x01")])
    )
    assert greedy and not other


def test_empty_texts(folder: Path) -> None:
    lm = model(folder)
    assert lm.loglikelihood(instances("loglikelihood", [("a context", "")])) == [(0.0, True)]
    ((value, _),) = lm.loglikelihood(instances("loglikelihood", [("", "abc")]))
    assert value < 0 and lm.records[-1].fitted_tokens == 0
    assert lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("",)])) == [0.0]
    assert len(lm.generate_until(instances("generate_until", [("", GREEDY)]))) == 1


def scores(lm: LTM, *pairs: tuple[str, str]) -> list[float]:
    return [value for value, _ in lm.loglikelihood(instances("loglikelihood", list(pairs)))]


SHOTS = "Question: 1\nAnswer: 2\n\nQuestion: 3 4\nAnswer: 5\n\nQuestion: 6?\nAnswer:"
PIECES = "one\n\ntwo two\n\nthree"


@pytest.mark.parametrize("condition", [*CONDITIONS, "shuffled"])
@pytest.mark.parametrize("context", [SHOTS, PIECES, "", "x" * 300], ids=["shots", "pieces", "empty", "long"])
def test_white_space_between_context_and_continuation_counts_once(condition: str, context: str, folder: Path) -> None:
    if condition == "shuffled" and context == PIECES:
        pytest.skip("demonstrations without the question's cue are refused")
    lm = model(folder, condition=condition, t_fast=1)
    spaces = (" ", "   ", "\n", "\n\n", "\t", " \n\t ", "\n\n\n ", "\u00a0")
    forms = [pair for space in spaces for pair in ((context + space, "seven"), (context, space + "seven"))]
    found = scores(lm, *forms)
    assert found[::2] == found[1::2] and len(set(found)) == len(spaces)
    told = [
        {**asdict(one), **dict.fromkeys(("doc_id", "prompt_hash", "fit_seconds"))}
        for one in sorted(lm.records, key=lambda record: record.doc_id)
    ]
    assert told[::2] == told[1::2] and {one["demonstrations"] for one in told} == {2 if "\n" in context else 0}


def test_a_pair_is_read_as_its_text_under_the_demos_own_tokens() -> None:
    """-4.585 was measured from outside for ("The boy went to the", " house") at t_fast 0; -10.50 read the blank twice.

    A continuation that goes on inside a word follows the context's own tokens: at t_fast 0 its cost is that of the
    tokens in that order, whether or not the tokenizer would join them.
    """
    lm = LTM("demo", t_fast=0)
    lm.progress = silent
    context = "The boy went to the"
    assert scores(lm, (f"{context} ", "house"), (context, " house")) == pytest.approx([-4.585, -4.585], abs=5e-4)
    forms = scores(lm, (f"<|endoftext|>{context}\n ", "house"), (context, "\n house"))
    assert forms[0] == forms[1]
    lm.condition = "prior"
    read, inside = lm.tok_encode(f"{context} hou"), lm.tok_encode("se")
    assert lm.tok_encode(f"{context} house")[: len(read)] != read
    ((found, greedy),) = lm.loglikelihood(instances("loglikelihood", [(f"{context} hou", "se")]))
    tokens = torch.tensor([[lm.eot_token_id, *read, *inside]])
    stream, totals = generator(1234, "score", b"prior"), []
    for _ in range(SCORE_DRAWS):
        z = standard_normal(stream, (1, *lm.model.config.latent_shape))
        log_p = lm.model(tokens[:, :-1], z).log_softmax(-1)[0, -len(inside) :]
        totals.append(float(log_p.gather(1, tokens[0, -len(inside) :, None]).sum()))
    assert found == pytest.approx(float(np.logaddexp.reduce(totals) - np.log(SCORE_DRAWS)), rel=1e-4) and not greedy


def test_a_continuation_beyond_the_context_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="200 tokens exceeds the context of 192"):
        model(folder).loglikelihood(instances("loglikelihood", [("a", "b" * 200)]))


def test_rolling_is_minus_the_bound_of_all_windows(folder: Path) -> None:
    lm = model(folder, rows="bound")
    text = "".join(random.Random(4).choices("abcdef \n", k=450))
    (found,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    documents = windows_of(text, lm.encoding, lm.max_length)
    assert sum(t != -1 for d in documents for t in d.windows[0].targets) == 450 and len(documents) == 3
    posterior = fit_documents(lm.model, documents, lm.fit_config, seed=1234)
    total = float(kl_nats(posterior.mu, posterior.log_var).sum())
    for i, document in enumerate(documents):
        stream, window = generator(1234, "bound", document.key), document.windows[0]
        nll = []
        for _ in range(8):
            z = posterior.row(i).at(standard_normal(stream, posterior.mu[:1].shape))
            logits, targets = lm.model(torch.tensor([window.tokens]), z)[0], torch.tensor(window.targets)
            nll.append(float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")))
        total += float(np.mean(nll))
    assert -found == pytest.approx(total, rel=1e-4)
    record = lm.records[0]
    assert (record.fitted_windows, record.fitted_tokens) == (3, sum(len(d.windows[0].tokens) for d in documents))


def test_all_rows_of_a_text_are_the_same_bits_in_any_batch_and_order(folder: Path) -> None:
    source = random.Random(5)
    texts = [("".join(source.choices("abcdef \n", k=k)),) for k in (20, 260, 90, 400, 1)]
    found = []
    for batch_size, order in ((1, [0, 1, 2, 3, 4]), (16, [3, 1, 4, 0, 2])):
        lm = model(folder, batch_size=batch_size, rows="all")
        scored = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [texts[i] for i in order]))
        assert all(isinstance(score, RollingScore) for score in scored)
        found.append({i: (dict(score.rows), score.tokens) for i, score in zip(order, scored, strict=True)})
    assert found[0] == found[1]
    rows, tokens = found[0][1]
    assert tokens == 260 and set(rows) == set(ROWS)
    assert rows["bound"] == pytest.approx(rows["nll_given_z"] + rows["kl"])


def test_adaptive_steps_end_by_themselves_and_do_not_depend_on_the_batch(folder: Path) -> None:
    requests = instances("generate_until", [(prompt(i), GREEDY) for i in range(5)])
    found = []
    for batch_size in (1, 5):
        lm = model(folder, t_fast="auto", batch_size=batch_size)
        found.append((lm.generate_until(requests), facts(lm)))
    assert found[0] == found[1]
    steps = [record["t_fast"] for record in found[0][1].values() if record["fitted_tokens"]]
    assert min(steps) >= 32 and len(set(steps)) > 1
    lm = model(folder, t_fast="auto", rows="bound")
    (score,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("some text " * 30,)]))
    assert score < 0 and lm.records[0].t_fast == len(lm.records[0].objective_nats) - 1 > 16


def test_chunk_and_budget_of_the_causal_row_are_options(folder: Path) -> None:
    text = [("some text that goes on for a while, " * 3,)]
    found = set()
    for options in ({}, {"causal_chunk": 16}, {"causal_chunk": 16.0, "causal_t_fast": 9}):
        (score,) = model(folder, rows="causal", **options).loglikelihood_rolling(
            instances("loglikelihood_rolling", text)
        )
        assert isinstance(score, RollingScore)
        found.add(score.rows["causal"])
    assert len(found) == 3
    with pytest.raises(UsageError, match="chunk"):
        model(folder, causal_chunk=0)


def test_a_literal_end_of_text_is_that_token(folder: Path) -> None:
    lm = model(folder)
    (document,) = windows_of("ab<|endoftext|>", lm.encoding, lm.max_length)
    assert document.windows[0].targets == (97, 98, lm.eot_token_id)
    with pytest.raises(UsageError, match="'causal'"):
        model(folder, rows="bound+casual")


def test_answers_end_before_the_stop_string(folder: Path) -> None:
    lm = model(folder)
    whole = lm.generate_until(instances("generate_until", [(prompt(5), {**GREEDY, "until": ["\0never"]})]))[0]
    stop = whole[6:8]
    cut = lm.generate_until(instances("generate_until", [(prompt(5), {**GREEDY, "until": [stop]})]))[0]
    assert cut == whole[: whole.index(stop)]
    assert lm.records[-1].stop_reason == "stop_string"


def test_records_tell_what_was_read_and_fitted(folder: Path) -> None:
    text = "".join(f"Question: {'y' * 20} {i}\nAnswer: #### {i}\n\n" for i in range(6)) + "Question: now?\nAnswer:"
    lm = model(folder, condition="demos+prompt")
    lm.generate_until(instances("generate_until", [(text, GREEDY)]))
    record = lm.records[0]
    assert (record.demonstrations, record.demonstrations_fitted) == (6, 6) and 0 < record.demonstrations_read < 6
    assert record.fitted_tokens == record.prompt_tokens == len(text)
    assert record.read_tokens <= 192 - 24 and record.fitted_windows > 1 and not record.truncated
    assert len(record.objective_nats) == 4 and record.kl_nats == pytest.approx(sum(record.kl_per_layer_nats), rel=1e-4)
    assert len(record.kl_steps_nats) == 4 and record.draws_nats == ()
    assert record.kl_steps_nats[-1] == pytest.approx(record.kl_per_layer_nats, rel=1e-3)


def test_records_of_whole_texts_hold_every_draw_and_the_first_ones_every_step(folder: Path) -> None:
    """A text in several windows: what a draw says, and KL at a step, are sums over them."""
    lm = model(folder)
    texts = [("z" * 300 + str(i),) for i in range(2)]
    requests = instances("loglikelihood_rolling", texts)
    requests[1].metadata = (requests[1].metadata[0], TRACED_DOCUMENTS, 1)
    requests[1].doc_id = TRACED_DOCUMENTS
    values = lm.loglikelihood_rolling(requests)
    first, second = sorted(lm.records, key=lambda record: record.doc_id)
    assert first.fitted_windows > 1 and len(first.draws_nats) == 8 and len(set(first.draws_nats)) == 8
    for record, value in zip((first, second), values, strict=True):
        assert float(np.mean(record.draws_nats)) == pytest.approx(-value, rel=1e-9)
    assert (len(first.kl_steps_nats), second.kl_steps_nats) == (len(first.objective_nats), ())
    assert first.kl_steps_nats[-1] == pytest.approx(first.kl_per_layer_nats, rel=1e-3)
    assert sum(first.kl_steps_nats[-1]) == pytest.approx(first.kl_nats, rel=1e-3)
    assert LatentRecord.from_json(json.loads(json.dumps(first.to_json())), where="x") == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"t_fsat": 3}, "'t_fast'"),
        ({"t_fast": "abc"}, "whole number"),
        ({"t_fast": 2.5}, "whole number"),
        ({"t_fast": float("inf")}, "whole number"),
        ({"t_fast": -1}, "t_fast"),
        ({"condition": "demo"}, "'demos'"),
        ({"dtype": "fp8"}, "dtype"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_batch_size": 0}, "max_batch_size must be a whole number of at least 1"),
        ({"pretrained": 7}, "quote"),
        ({"revision": 5e3}, "quote"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=words):
        LTM.create_from_arg_obj({"pretrained": str(folder), **arguments}, {"batch_size": 1, "device": "cuda:0"})


def test_lm_evals_own_way_of_calling(folder: Path) -> None:
    lm = LTM.create_from_arg_obj(
        {"pretrained": str(folder), "t_fast": 16.0, "tokenizer": "none", "lr": "0.2"},
        {"batch_size": "auto:4", "max_batch_size": None, "device": "cuda:0"},
    )
    assert (
        lm.fit_config.t_fast == 16
        and lm.fit_config.lr == 0.2
        and lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    )
    same = LTM.create_from_arg_string(f"pretrained={folder},t_fast=16,batch_size=3", {"batch_size": 1})
    assert same.batch_size == 3 and (same.rank, same.world_size) == (0, 1)
    info = same.get_model_info()
    assert info["fit"]["t_fast"] == 16 and len(info["model_sha"]) == 64 and info["checkpoint"]["step"] == 7


def test_lm_evals_cache_and_chat_templates_are_refused(folder: Path) -> None:
    lm = model(folder)
    with pytest.raises(UsageError, match="not keyed by the model"):
        lm.set_cache_hook(type("Hook", (), {"dbdict": {}})())
    with pytest.raises(UsageError, match="chat template"):
        lm.apply_chat_template([])
    with pytest.raises(UsageError, match="chat template"):
        lm.chat_template(True)


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood", "loglikelihood_rolling", "ours"])
def test_lm_evals_request_cache_is_refused(
    kind: str, refresh: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any task, ours and others': a cache that lm-eval wrote with another model before is never read."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    from ltm_eval.system.files import sample_data_dir, tasks_dir

    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    metrics = {"generate_until": "exact_match", "loglikelihood": "acc"}
    (tmp_path / "rows.jsonl").write_text('{"text": "one two"}\n{"text": "three"}\n')
    task: Any = {
        "task": "theirs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "" if kind == "loglikelihood_rolling" else "{{text}}",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": metrics.get(kind, "bits_per_byte")}],
    }
    metadata = {"data": str(sample_data_dir() / "gsm8k")}
    ours = TaskManager(include_defaults=False, include_path=str(tasks_dir()), metadata=metadata)
    given: dict[str, Any] = {"tasks": ["ltm_gsm8k" if kind == "ours" else task], "task_manager": ours, "limit": 2}
    if kind != "ours":
        assert evaluator.simple_evaluate(model="dummy", cache_requests=True, bootstrap_iters=0, **given)
        assert list(tmp_path.glob("requests-theirs*.pickle"))
    lm = model(folder)
    with pytest.raises(UsageError, match="--cache_requests is refused"):
        evaluator.simple_evaluate(model=lm, cache_requests=True, rewrite_requests_cache=refresh, **given)
    assert not lm.records


def test_a_live_model_is_welcome(folder: Path) -> None:
    loaded = model(folder)
    live = LTM(loaded.model, t_fast=3, batch_size=4)
    live.progress = silent
    requests = instances("generate_until", [(prompt(1), GREEDY)])
    assert live.generate_until(requests) == loaded.generate_until(requests)
    loaded.model.tokenizer = None
    with pytest.raises(UsageError, match="tokenizer="):
        LTM(loaded.model)


def test_devices_that_are_not_here_are_named() -> None:
    with pytest.raises(MachineError, match="found cpu"):
        resolve_device("cuda:97")
    with pytest.raises(UsageError, match="device must be"):
        resolve_device("gpu?")


def test_generation_options() -> None:
    config = generation_config({"until": "x", "max_new_tokens": 7, "temperature": 0.5})
    assert (config.until, config.max_new_tokens, config.do_sample, config.temperature) == (("x",), 7, True, 0.5)
    with pytest.raises(UsageError, match="'top_p'"):
        generation_config({"topp": 0.5})
    with pytest.raises(UsageError, match="temperature"):
        generation_config({"do_sample": True, "temperature": -1.0})


YAML = {"until": ["Q:"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 256}
ALL_TOKENS = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("max_new_tokens=5", {"max_gen_toks": 5}),
        ("do_sample=false,temperature=0,top_p=1,top_k=0", {}),
        ("temperature=0", {}),
        ("do_sample=0", {}),
        ("do_sample=true,temperature=0.7", {**ALL_TOKENS, "temperature": 0.7}),
        ("do_sample=true,temperature=none", ALL_TOKENS),
        ("do_sample=1, temperature=1 ,top_k=5.0", {**ALL_TOKENS, "top_k": 5}),
        ("do_sample=none,temperature=0.7", {**ALL_TOKENS, "temperature": 0.7}),
        ("until=none", {"until": None}),
        ("do_sample=true", "sample at temperature 0"),
        ("do_sample=true,temperature=0", "sample at temperature 0"),
        ("do_sample=true,temperature=0.0", "sample at temperature 0"),
        ("temperature=0.7", "temperature=0.7 has no effect"),
        ("do_sample=false,temperature=0.9", "temperature=0.9 has no effect"),
        ("top_p=0.9", "top_p=0.9 has no effect"),
        ("top_k=40", "top_k=40 has no effect"),
        ("temperature=-1", "at least 0"),
        ("temperature=true", "finite number"),
        ("temperature=", "must be a finite number"),
        ("temperature=0,temperature=0", "temperature twice"),
        ("max_gen_toks=3,max_tokens=4", "both set"),
        ("tempratur=1", "'temperature'"),
        ("num_beams=4", "not known"),
        ("rethink=2", "not known"),
        ("temperature", "name=value"),
        ("until=a,b", "name=value"),
    ],
)
def test_changed_decoding_says_what_is_done_or_why_not(told: str, expected: dict[str, Any] | str) -> None:
    """The record of a run holds what this returns, and an LTM does just that."""
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            changed_decoding(YAML, generation_changes(told), task="ltm_gsm8k")
        return
    found = changed_decoding(YAML, generation_changes(told), task="ltm_gsm8k")
    assert found == {name: value for name, value in {**YAML, **expected}.items() if value is not None}
    used, does = generation_config(found), found["do_sample"]
    assert (used.do_sample, used.max_new_tokens) == (does, found["max_gen_toks"])
    assert not does or (used.temperature, used.top_p, used.top_k) == tuple(found[name] for name in list(ALL_TOKENS)[1:])


@pytest.mark.parametrize("temperature", [0, 0.0, "0"])
def test_a_model_never_samples_at_another_temperature_than_told(temperature: Any) -> None:
    with pytest.raises(UsageError, match="temperature must be positive when sampling"):
        generation_config({"do_sample": True, "temperature": temperature})
    assert generation_config({"do_sample": True}).temperature == 1.0
    assert not generation_config({"temperature": temperature}).do_sample
    assert not generation_config({"do_sample": False, "temperature": 0.7}).do_sample  # as lm-eval's own models do


# Several samples beside a greedy answer -------------------------------------------------------------------------------


def mixed(documents: int, n: int) -> list[Instance]:
    """As a task with n samples asks: per document a greedy request, then a sampled one n times."""
    asked = []
    for i in range(documents):
        greedy, sampled = instances("generate_until", [(prompt(i), {**GREEDY, "until": ["zq"]}), (prompt(i), SAMPLED)])
        for request, idx in ((greedy, 0), (sampled, 1)):
            request.idx, request.doc_id = idx, i
        asked += [greedy, *[sampled] * n]
    return asked


@pytest.mark.parametrize("condition", ["prompt", "demos", "prior"])
def test_mixed_requests_give_the_same_bits_as_each_alone(condition: str, folder: Path) -> None:
    requests = mixed(4, 5)
    together = [model(folder, condition=condition, batch_size=size).generate_until(requests) for size in (1, 5, 32)]
    assert together[0] == together[1] == together[2]
    lm = model(folder, condition=condition)
    greedy = lm.generate_until([r for r in requests if r.idx == 0])
    sampled = lm.generate_until([r for r in requests if r.idx == 1])
    assert [answer for r, answer in zip(requests, together[0], strict=True) if r.idx == 0] == greedy
    assert [answer for r, answer in zip(requests, together[0], strict=True) if r.idx == 1] == sampled


def test_greedy_and_samples_of_a_prompt_share_one_fit_and_its_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[bytes] = []

    def counting(model: Any, documents: Any, *rest: Any, **options: Any) -> Any:
        fitted.extend(document.key for document in documents)
        return fit_documents(model, documents, *rest, **options)

    monkeypatch.setattr(fits, "fit_documents", counting)
    lm = model(folder, batch_size=2)
    requests = [replace_until(r, "zq") for r in mixed(3, 6)]
    lm.generate_until(requests)
    assert len(fitted) == len(set(fitted)) == 3
    assert len(lm.records) == 3 * 7
    assert {(r.doc_id, r.idx, r.repeat) for r in lm.records} == {
        (d, idx, k) for d in range(3) for idx, n in ((0, 1), (1, 6)) for k in range(n)
    }
    assert len({r.fit_seconds for r in lm.records if r.doc_id == 1}) == 1


def replace_until(request: Instance, stop: str) -> Instance:
    """The same request object with greedy and sampled limits alike, so that both can be decoded side by side."""
    text, options = request.arguments
    request.arguments = (text, {**options, "until": [stop], "max_gen_toks": 16})
    return request


def test_condition_other_needs_the_tasks_help(folder: Path) -> None:
    (request,) = instances("generate_until", [(prompt(1), GREEDY)])
    lm = model(folder, condition="other")
    with pytest.raises(UsageError, match="demonstrations of another question"):
        lm.generate_until([request])
    request.other_prompt = prompt(4)  # type: ignore[attr-defined]
    assert len(lm.generate_until([request])) == 1
    assert lm.records[0].condition == "other" and lm.records[0].demonstrations_read == 0


def test_windows_of_demonstrations_are_an_option(folder: Path) -> None:
    (request,) = instances("generate_until", [("Question: a\nAnswer: b\n\n" * 3 + "Question: c\nAnswer:", GREEDY)])
    windows = {}
    for given in (None, "each", 30, "60"):
        lm = model(folder, condition="demos", fit_window=given)
        lm.generate_until([request])
        windows[given] = lm.records[0].fitted_windows
        assert lm.get_model_info()["fit_window"] == (int(given) if given == "60" else given)
    assert windows == {None: 1, "each": 3, 30: 3, "60": 2}
    for wrong in (0, "many"):
        with pytest.raises(UsageError, match="fit_window"):
            model(folder, fit_window=wrong)


@pytest.mark.parametrize(
    ("options", "words", "more"),
    [
        ({"do_sample": False, "temperature": 0.7}, "temperature=0.7", "do_sample=true\n"),
        ({"do_sample": False, "top_p": 0.9}, "top_p=0.9", "do_sample=true,temperature=1\n"),
        ({"temperature": 0.0, "top_k": 40}, "top_k=40", "do_sample=true,temperature=1\n"),
        ({"top_p": 0.9, "top_k": 40}, "top_p=0.9, top_k=40", "do_sample=true,temperature=1\n"),
    ],
)
def test_sampling_options_that_greedy_decoding_leaves_unused_are_said_once_and_recorded(
    folder: Path, options: dict[str, Any], words: str, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = model(folder)
    asked = {"until": ["Question:"], "max_gen_toks": 4}
    found = lm.generate_until(instances("generate_until", [(prompt(i), {**asked, **options}) for i in range(3)]))
    said = capsys.readouterr().err
    told = f"ltm-eval: task ltm_test decodes greedily, which does not use {words}; to sample, add gen_kwargs="
    assert said == f"{told}'{more.strip()}'\n"
    unused = {name: value for name, value in options.items() if name not in {"do_sample"} and value}
    assert lm.get_model_info()["unused_generation_options"] == {"ltm_test": unused}
    plain = model(folder)
    assert found == plain.generate_until(instances("generate_until", [(prompt(i), asked) for i in range(3)]))
    assert not capsys.readouterr().err and "unused_generation_options" not in plain.get_model_info()
    assert plain.settings == lm.settings


def test_beams_and_penalties_of_another_authors_task() -> None:
    """`num_beams: 1` stands in eight of lm-eval's tasks; what would change an answer is refused."""
    neutral = {"num_beams": 1, "repetition_penalty": 1.0, "length_penalty": 1}
    assert generation_config({**GREEDY, **neutral}) == generation_config(GREEDY)
    for name, value in (("num_beams", 4), ("repetition_penalty", 1.1), ("min_p", 1), ("num_beams", True)):
        with pytest.raises(UsageError, match=f"generation option '{name}' is not known"):
            generation_config({**GREEDY, name: value})
