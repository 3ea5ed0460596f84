"""Every file that a run of the bundled pair leaves: names, keys and values."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.commands import TASKS, answers_of, journal_of, json_of, lines_of, only
from tests.contract.reference import check

if TYPE_CHECKING:
    from pathlib import Path

MODELS = ("demo", "gpt2-demo")
UNSTABLE = (
    r"/configs/.*/(custom_dataset|process_results|metric_list|config_source)|/config/(versions|batch_sizes)(/.*)?"
    r"|/date|/lm_eval_version|/transformers_version|/total_evaluation_time_seconds|/ltm_eval/(command|warnings)"
    r"|/ltm_eval/settings/(output_path|command)|/ltm_eval/provenance/.*|/.*/model_args/pretrained|/model_name"
    r"|/ltm_eval/content_free/.*/(low|high|kind)|/task_hashes/.*|/pretty_env_info|/git_hash|/.*/source"
    r"|/model_name_sanitized"
)
LEFT_OUT = r"/ltm_eval/(cost|audit)|/ltm_eval/provenance/git|/config/compiled"
SECONDS = r"/.*/(fit_seconds|decode_seconds|kl_steps_nats)"


@pytest.mark.parametrize("model", MODELS)
def test_files(pair: Path, model: str) -> None:
    names = {path.name for path in (pair / model).iterdir()}
    (date,) = {re.sub(r"results_|\.json", "", name) for name in names if name.startswith("results_")}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}", date)
    kinds = ("samples", "tokens", "latents") if model == "demo" else ("samples", "tokens", "answers")
    expected = {f"{kind}_{task}_{date}.jsonl" for kind in kinds for task in TASKS} - {
        f"answers_ltm_wikitext_{date}.jsonl"
    }
    assert names == {f"results_{date}.json", "journal", "run.json", *expected}
    assert (pair / "report.html").is_file()


@pytest.mark.parametrize("model", MODELS)
def test_results(pair: Path, model: str) -> None:
    results = json_of(only(pair / model, "results_*.json"))
    check(f"results_{model}", results, free=UNSTABLE, left_out=LEFT_OUT)
    assert results["ltm_eval"]["status"] == "complete"
    assert results["ltm_eval"]["command"].startswith("ltm-eval run --tasks rules,gsm8k,wikitext ")
    warnings = " ".join(results["ltm_eval"]["warnings"])
    assert "sample" in warnings and "limit" in warnings
    if model == "demo":
        assert results["ltm_eval"]["audit"]["is_bound"] is True and results["ltm_eval"]["audit"]["caught"] is False
    for cost in results["ltm_eval"]["cost"].values():
        assert 0 < cost["seconds"] < 600


def by_task(folder: Path, kind: str, tasks: tuple[str, ...] = TASKS) -> dict[str, list[dict[str, Any]]]:
    return {task: lines_of(only(folder, f"{kind}_{task}_*")) for task in tasks}


@pytest.mark.parametrize("model", MODELS)
def test_samples(pair: Path, model: str) -> None:
    check(f"samples_{model}", by_task(pair / model, "samples"))


def test_latents(pair: Path) -> None:
    check("latents_demo", by_task(pair / "demo", "latents"), free=SECONDS)


def test_answers_of_a_baseline(pair: Path) -> None:
    check("answers_gpt2-demo", by_task(pair / "gpt2-demo", "answers", TASKS[:2]))


@pytest.mark.parametrize("model", MODELS)
def test_tokens(pair: Path, model: str) -> None:
    check(f"tokens_{model}", by_task(pair / model, "tokens"), left_out=r"/.*/piece_(nats|characters)")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_pieces_add_up(pair: Path, model: str, task: str) -> None:
    records = lines_of(only(pair / model, f"tokens_{task}_*"))
    samples = {sample["doc_id"]: sample for sample in lines_of(only(pair / model, f"samples_{task}_*"))}
    for record in records:
        nats, lengths = record["piece_nats"], record["piece_characters"]
        assert len(nats) == len(lengths) > 0
        assert abs(sum(nats) - record["nats"]) <= 0.001 * len(nats)
        sample = samples[record["doc_id"]]
        answer = sample["resps"][0][0].split("Question:")[0]
        text = {"text": sample["target"], "target": " " + sample["target"], "answer": answer}[record["part"]]
        assert sum(lengths) in (len(text), len(text.strip()))


@pytest.mark.parametrize("task", TASKS)
def test_samples_latents_and_tokens_speak_of_the_same_prompts(pair: Path, task: str) -> None:
    hashes = [
        {(one["doc_id"], one["prompt_hash"]) for one in lines_of(only(pair / model, f"{kind}_{task}_*"))}
        for model, kind in (("demo", "samples"), ("demo", "latents"), ("gpt2-demo", "samples"), ("gpt2-demo", "tokens"))
    ]
    assert hashes == [hashes[0]] * 4 and len(hashes[0]) == 2


@pytest.mark.parametrize("model", MODELS)
def test_journal(pair: Path, model: str) -> None:
    """Every line carries its CRC-32; a head, a plan for each task, every answer once, with what sidecars hold."""
    for line in only(pair / model, "journal/*.jsonl").read_bytes().splitlines():
        digits, _, content = line.partition(b" ")
        assert digits.decode() == f"{zlib.crc32(content):08x}"
    head, *lines = journal_of(pair / model)
    assert head["journal"] == 1 and {"launch", "settings", "run"} <= head.keys()
    manifest = json_of(pair / model / "run.json")
    assert {name: head["run"][name] for name in manifest} == manifest
    plans = [line for line in lines if "plan" in line]
    assert [(line["task"], line["total"], line["left"]) for line in plans] == [(task, 2, 2) for task in TASKS]
    assert {line["launch"] for line in plans} == {head["launch"]}
    answers = answers_of(pair / model)
    assert len({answer["key"] for answer in answers}) == len(answers) == 6 == len(lines) - 3
    for task in TASKS:
        own = [answer for answer in answers if answer["task"] == task]
        tokens = [record for answer in own for record in answer["tokens"]]
        assert in_order(tokens) == in_order(lines_of(only(pair / model, f"tokens_{task}_*")))
        records = [record for answer in own for record in answer["records"]]
        sidecar = "latents" if model == "demo" else "answers"
        if records:
            assert in_order(records) == in_order(lines_of(only(pair / model, f"{sidecar}_{task}_*")))
        responses = {str(sample["resps"][0][0]) for sample in lines_of(only(pair / model, f"samples_{task}_*"))}
        assert responses == {told(answer["value"]) for answer in own}


def told(value: Any) -> str:
    """What of an answer in the journal is the response of its sample."""
    if isinstance(value, dict):
        if "texts" in value:
            return str(value["texts"][0])
        return str(-value["rows"]["bound"] if "rows" in value else value["log_likelihood"])
    return str(value)


def in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (record["doc_id"], record["idx"], record.get("part", "")))


def test_manifest(pair: Path) -> None:
    """`run.json`: what a run was asked for and what answers depend on."""
    manifest = json_of(pair / "demo" / "run.json")
    check("manifest_demo", manifest, free=UNSTABLE + "|/date_id|/settings/versions/.*|/version")


def test_the_figures_follow_from_the_samples(pair: Path) -> None:
    """The corpus figure is a ratio of sums over documents (arXiv:2502.01567 section 4), the share a mean."""
    import math

    for model, row in (("demo", "_bound"), ("gpt2-demo", "")):
        results = json_of(only(pair / model, "results_*.json"))["results"]
        samples = lines_of(only(pair / model, "samples_ltm_wikitext_*"))
        nats = -sum(float(sample["resps"][0][0]) for sample in samples)
        tokens, size = (sum(sample["doc"][name] for sample in samples) for name in ("n_tokens_block", "n_bytes"))
        found = results["ltm_wikitext"]
        assert math.isclose(found[f"ppl_per_token{row},none"], math.exp(nats / tokens), rel_tol=1e-9)
        assert math.isclose(found[f"bits_per_byte{row},none"], nats / math.log(2) / size, rel_tol=1e-9)
        for task in ("ltm_rules", "ltm_gsm8k"):
            strict = [
                one for one in lines_of(only(pair / model, f"samples_{task}_*")) if one["filter"] == "strict-match"
            ]
            mean = sum(one["exact_match"] for one in strict) / len(strict)
            assert results[task]["exact_match,strict-match"] == mean
