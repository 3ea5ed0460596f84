"""Made-up evaluation output in lm-eval's layout, for tests of what reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results import LatentRecord, digest, write_json_atomic, write_jsonl_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = "ltm_gsm8k"
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
