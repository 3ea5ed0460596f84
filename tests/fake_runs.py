"""Made-up evaluation output in lm-eval's layout, for tests of what reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results.files import LatentRecord
from ltm_eval.results.signature import GPT2_DIGEST
from ltm_eval.results.statistics import bits, bits_stderr, block_mean_ppl, block_mean_ppl_stderr, mc_se, ppl, ppl_stderr
from ltm_eval.results.statistics import rate as nats_per_token
from ltm_eval.results.statistics import rate_stderr as nats_per_token_stderr
from ltm_eval.system.files import digest, write_json_atomic, write_jsonl_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = "ltm_gsm8k"
PPL_TASK = "ltm_ptb"
LTM_ROWS = {
    "ppl_per_token_as_released": 0.5,
    "ppl_per_token_as_released_block_mean": 0.5,
    "nll_per_token_given_z": 0.75,
    "kl_per_token": 0.25,
    "ppl_per_token_prior": 1.5,
    "ppl_per_token_iwae": 0.9,
    "ppl_per_token_causal": 1.1,
}
"""Rows beside the bound, as shares of the bound's nats."""
AUDIT = {
    "preset": "bound",
    "deficit_nats_per_block": -51.4,
    "stderr_nats": 1.5,
    "caught": False,
    "is_bound": True,
    "t_fast": 64,
    "figure": "bound",
    "blocks": 2,
    "length": 128,
    "vocab": 512,
    "seed": 1234,
}
FLOORS = [
    {
        "name": name,
        "what": what,
        "tokenizer": "gpt2",
        "n_vocab": 50_257,
        "documents": 12,
        "nats": nats,
        "tokens": 186,
        "words": 162,
        "bytes": 546,
        "figures": {
            "ppl_per_token": value,
            "ppl_per_token_stderr": 0.0,
            "bits_per_byte": bits_per_byte,
            "bits_per_byte_stderr": 0.25,
        },
    }
    for name, what, nats, value, bits_per_byte in (
        ("uniform", "all 50,257 tokens equally likely", 2013.5, 50_257.0, 5.32),
        ("unigram", "learnt from what comes before", 1200.0, 633.5, 3.17),
    )
]
"""Reference rows of `write_ppl_run` with 12 documents; figures of words and bytes left out."""
FACTS = {"source": "folder", "split": "validation", "protocol": "mdlm", "block_tokens": 1024, "rows": 3370}
DATE = "2026-01-02T03-04-05.000006"
FILTERS = ("strict-match", "flexible-extract")
LATENT = LatentRecord(
    task=TASK,
    doc_id=0,
    idx=0,
    repeat=0,
    prompt_hash="0" * 64,
    condition="prompt",
    preset="bound",
    t_fast=4,
    demonstrations=2,
    demonstrations_read=2,
    demonstrations_fitted=1,
    prompt_tokens=60,
    read_tokens=60,
    fitted_tokens=40,
    fitted_windows=1,
    truncated=True,
    nll_nats=90.5,
    kl_nats=12.25,
    objective_nats=(200.0, 150.0, 120.0, 102.75),
    kl_per_layer_nats=(8.25, 4.0),
    mean_log_var_per_layer=(-0.5, -0.25),
    share_at_prior=0.5,
    new_tokens=12,
    stop_reason="stop_string",
    fit_seconds=0.5,
    decode_seconds=0.25,
)


def document(index: int, *, word: str = "apples") -> dict[str, str]:
    """A made-up problem whose answer is index + 2."""
    return {
        "question": f"Mia has {index} {word} and picks 2 more. How many {word} has she now?",
        "answer": f"She has {index} + 2 = <<{index}+2={index + 2}>>{index + 2} {word}.\n#### {index + 2}",
    }


def prompt_of(index: int, *, shots: int, word: str = "apples") -> str:
    """A few-shot prompt for `document(index)`."""
    shown = [document(100 + shot) for shot in range(shots)]
    parts = [f"Question: {doc['question']}\nAnswer: {doc['answer']}\n\n" for doc in shown]
    return "".join(parts) + f"Question: {document(index, word=word)['question']}\nAnswer:"


def write_run(
    folder: Path,
    *,
    model: str,
    right: Callable[[int], bool],
    n: int = 12,
    shots: int = 2,
    kind: str = "hf",
    latents: bool = False,
    word: str = "apples",
    extra: dict[str, Any] | None = None,
    change: dict[str, Any] | None = None,
) -> Path:
    """Write one run of `n` documents and return its results file.

    Args:
        right: which documents the model answers, under both filters.
        word: stands in every text that a model or a data set can bring in.
        extra: the block `ltm_eval` of the results.
        change: keys of the results file to replace.
    """
    target = folder / model.replace("/", "__")[:40]
    accuracy = sum(right(index) for index in range(n)) / n
    stderr = (accuracy * (1 - accuracy) / max(n - 1, 1)) ** 0.5
    scores: dict[str, Any] = {}
    for name in FILTERS:
        scores |= {f"exact_match,{name}": accuracy, f"exact_match_stderr,{name}": stderr}
    content = {
        "results": {TASK: {"alias": TASK, **scores}},
        "configs": {TASK: {"task": TASK, "description": word, "generation_kwargs": {"do_sample": False}}},
        "versions": {TASK: 1.0},
        "n-shot": {TASK: shots},
        "higher_is_better": {TASK: {"exact_match": True}},
        "n-samples": {TASK: {"original": n, "effective": n}},
        "config": {"model": kind, "model_args": {"pretrained": model}, "model_num_parameters": 1234, "limit": None},
        "date": 1767323045.0,
        "lm_eval_version": "0.4.13",
        "model_name": model,
        "total_evaluation_time_seconds": "61.5",
    }
    if extra is not None:
        content["ltm_eval"] = extra
    path = target / f"results_{DATE}.json"
    write_json_atomic(path, content | (change or {}))
    rows = [_row(index, name, right=right(index), shots=shots, word=word) for name in FILTERS for index in range(n)]
    write_jsonl_atomic(target / f"samples_{TASK}_{DATE}.jsonl", rows)
    if latents:
        records = [
            replace(LATENT, doc_id=index, prompt_hash=digest(prompt_of(index, shots=shots))) for index in range(n)
        ]
        write_jsonl_atomic(target / f"latents_{TASK}_{DATE}.jsonl", records)
    return path


def _row(index: int, name: str, *, right: bool, shots: int, word: str) -> dict[str, Any]:
    doc, prompt = document(index, word=word), prompt_of(index, shots=shots, word=word)
    said = index + 2 if right else index + 3
    return {
        "doc_id": index,
        "doc": doc,
        "target": doc["answer"],
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Question:"]}}},
        "resps": [[f" She has {said} {word}.\n#### {said}"]],
        "filtered_resps": [f"{said}" if word == "apples" else f"{said} {word}"],
        "filter": name,
        "metrics": ["exact_match"],
        "doc_hash": digest(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": digest(prompt),
        "target_hash": digest(doc["answer"]),
        "exact_match": float(right),
    }


def write_ppl_run(
    folder: Path,
    *,
    model: str,
    nats: Callable[[int], float],
    n: int = 8,
    kind: str = "hf",
    task: str = PPL_TASK,
    word: str = "apples",
    extra: dict[str, Any] | None = None,
    change: dict[str, Any] | None = None,
    samples: bool = True,
) -> Path:
    """Write one run of a perplexity set, its figures aggregated as the tasks do; return its results file.

    Document `index` has 10 + index tokens, 8 + index words and 40 + index bytes.

    Args:
        nats: of each document: its bound for an LTM (the other rows are shares of it), else its exact NLL.
    """
    target = folder / model.replace("/", "__")[:40]
    rows = [_ppl_row(index, nats=nats(index), ltm=kind == "ltm", word=word) for index in range(n)]
    scores: dict[str, Any] = {"alias": task}
    for metric in rows[0]["metrics"]:
        figure, spread = AGGREGATIONS.get(metric, (mc_se, None) if metric.endswith("mc_se") else (ppl, ppl_stderr))
        items = [tuple(row[metric]) for row in rows]
        scores[f"{metric},none"] = figure(items)
        if spread is not None:
            scores[f"{metric}_stderr,none"] = spread(items)
    content = {
        "results": {task: scores},
        "configs": {task: {"task": task, "dataset_kwargs": {"text_set_name": "ptb"}, "metadata": {"version": 1.0}}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(rows[0]["metrics"], False)},
        "n-samples": {task: {"original": n, "effective": n}},
        "config": {
            "model": kind,
            "model_args": {"pretrained": model},
            "limit": None,
            "tokenizer": {"name": "gpt2", "sha256": GPT2_DIGEST},
        },
        "lm_eval_version": "0.4.13",
        "model_name": model,
    }
    if extra is not None:
        content["ltm_eval"] = extra
    path = target / f"results_{DATE}.json"
    write_json_atomic(path, content | (change or {}))
    if samples:
        write_jsonl_atomic(target / f"samples_{task}_{DATE}.jsonl", rows)
    return path


AGGREGATIONS: dict[str, Any] = {
    "bits_per_byte": (bits, bits_stderr),
    "bits_per_byte_bound": (bits, bits_stderr),
    "nll_per_token_given_z": (nats_per_token, nats_per_token_stderr),
    "kl_per_token": (nats_per_token, nats_per_token_stderr),
    "ppl_per_token_as_released_block_mean": (block_mean_ppl, block_mean_ppl_stderr),
}


def _ppl_row(index: int, *, nats: float, ltm: bool, word: str) -> dict[str, Any]:
    text = f"Text {index} of {word}."
    sizes = {"ppl_per_token": 10 + index, "ppl_per_word": 8 + index, "ppl_per_byte": 40 + index}
    sizes["bits_per_byte"] = sizes["ppl_per_byte"]
    metrics: dict[str, list[float]] = {f"{unit}{'_bound' * ltm}": [nats, size] for unit, size in sizes.items()}
    if ltm:
        metrics |= {name: [share * nats, sizes["ppl_per_token"]] for name, share in LTM_ROWS.items()}
        metrics["ppl_per_token_bound_mc_se"] = [nats, sizes["ppl_per_token"], 0.5]
    return {
        "doc_id": index,
        "doc": {"text": text, "index": index},
        "target": text,
        "arguments": {"gen_args_0": {"arg_0": text}},
        "resps": [[f"{-nats}"]],
        "filtered_resps": [f"{-nats}"],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": digest(text),
        "prompt_hash": digest(text),
        "target_hash": digest(text),
        **metrics,
    }
