"""Two runs whose page has every section and control, with a word in every place that a stranger can write to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results.files import AnswerRecord, TokenRecord
from ltm_eval.system.files import digest, write_jsonl_atomic
from tests.fake_runs import (
    AUDIT,
    DATE,
    FACTS,
    FLOORS,
    LATENT,
    PPL_TASK,
    TASK,
    prompt_of,
    write_ppl_run,
    write_run,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAUVE = "ltm_mauve"
CURVE = [[1.0, 0.0], [0.9, 0.5], [0.5, 0.9], [0.0, 1.0]]
TEXTS = {
    "empty": 3,
    "words": 41.5,
    "words_sd": 2.5,
    "distinct": {"1": 0.1, "2": 0.4, "3": 0.7},
    "repeated": {"2": 0.03, "3": 0.02, "4": 0.01},
}


def write_rich(folder: Path, *, word: str = "pears", n: int = 8) -> None:
    """An LTM and a baseline on three tasks: questions, a perplexity set, generated texts.

    Args:
        word: stands in texts, settings, names and warnings.
    """
    for model, kind in (("ltm-x", "ltm"), ("gpt2-x", "hf")):
        _write_one(folder, model, kind, word=word, n=n)


def _write_one(folder: Path, model: str, kind: str, *, word: str, n: int) -> None:
    ltm = kind == "ltm"
    extra = _block(word, n=n) if ltm else {"warnings": [word], "cost": _cost(), "command": word}
    first = write_run(
        folder,
        model=model,
        right=lambda i: i % (2 if ltm else 3) == 0,
        n=n,
        kind=kind,
        latents=ltm,
        word=word,
        extra=extra,
    )
    asked = json.loads(first.read_text(encoding="utf-8"))
    path = write_ppl_run(
        folder, model=model, nats=lambda i: 30.0 + (i if ltm else 2 * i % 5), n=n, kind=kind, word=word, extra=extra
    )
    scored = json.loads(path.read_text(encoding="utf-8"))
    content = _joined(asked, scored)
    content["config"] = _config(model, kind, word)
    content["model_name"] = f"{model} {word[:300]}"
    content["configs"][PPL_TASK]["metadata"] = {"block_tokens": f"{model} {word}", f"m {word}": [word]}
    content["results"][TASK] |= {f"pass@{k},sampled": 0.2 * k for k in (1, 2, 4)}
    content["results"][TASK] |= {f"pass@{k}_stderr,sampled": 0.05 for k in (1, 2, 4)}
    named = f"acc {word}".replace(",", ";")  # lm-eval's keys are `<metric>,<filter>`
    content["results"][TASK] |= {f"{named},none": 0.5, f"{named}_stderr,none": 0.1}
    content |= {"generation": {MAUVE: _generation(word)}}
    content["results"][MAUVE] = {"mauve,none": 0.65, "mauve_sd,none": 0.1, "words,none": 41.5}
    for key, value in (("configs", {"task": MAUVE, f"c {word}": word}), ("versions", 1.0), ("n-shot", 0)):
        content[key][MAUVE] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    _tokens(path.parent, ltm=ltm, word=word, n=n)
    if ltm:
        _sidecars(path.parent, word=word, n=n)
    else:
        _answers(path.parent, word=word, n=n)


def _block(word: str, *, n: int) -> dict[str, Any]:
    shown = {"value": 0.75, "low": 0.5, "high": 0.9, "n": n, "difference": None}
    gap = {
        "estimate": -0.4,
        "interval": {"low": -0.6, "high": -0.2},
        "p_value": 0.001,
        "n": n,
        "discordant": 7,
        "against": word,
        "against_shots": 8,
    }
    cells = [{**shown, "condition": word, "shots": shots} for shots in (8, 4, 1)]
    cells.append({**shown, "condition": f"other {word}", "shots": 8, "difference": gap})
    return {
        "warnings": [word, f"two {word}"],
        "demo_model": True,
        "command": f"ltm-eval run --limit 4 --model {word}",
        "data": {
            "choice": word,
            "sets": {PPL_TASK: {word: {**FACTS, f"k {word}": word, "source": word, "split": word}}},
        },
        "provenance": {f"x {word}": word, "commit": word},
        "settings": {f"s {word}": word},
        "audit": {**AUDIT, "preset": word, "is_bound": False, "caught": True},
        "floors": {PPL_TASK: [{**floor, "what": word, "tokenizer": word} for floor in FLOORS]},
        "content_free": {TASK: {"answers": [word, "2"], "pass@1": {"value": 0.1, "low": 0.0, "high": 0.3, "n": n}}},
        "effect": {
            "reference": word,
            "tasks": {TASK: [{"metric": "exact_match", "filter": f"f {word}", "cells": cells}]},
        },
        "cost": _cost(),
    }


def _cost() -> dict[str, Any]:
    one = {"seconds": 12.5, "peak_memory_bytes": 3 * 2**28, "memory_of": "process"}
    return {TASK: one, PPL_TASK: one, MAUVE: one}


def _config(model: str, kind: str, word: str) -> dict[str, Any]:
    return {
        "model": kind,
        "model_args": {"pretrained": model, f"a {word}": word},
        "model_num_parameters": 38_370_000,
        "model_sha": word,
        "sizes": {"n_layers": 3, "dim": 512, "max_z_len": 24},
        "checkpoint": {"step": 60_000},
        "fit": {"preset": word, "t_fast": 3, "noise": "fresh"},
        "rows": {"draws": 8},
        "limit": None,
        f"k {word}": word,
    }


def _generation(word: str) -> dict[str, Any]:
    return {
        "options": {"texts": word, f"o {word}": word},
        "scores": [[0.5, 0.6], [0.7, 0.8]],
        "buckets": 100,
        "n_human": 1_000,
        "n_generated": 5_000,
        "curve": CURVE,
        "ceiling": [0.94, 0.96],
        "ceiling_curve": CURVE,
        "generated": TEXTS,
        "human": TEXTS,
        "copies": 0.25,
        "sd_kmeans": 0.07,
        "sd_generation": 0.09,
    }


def _sidecars(folder: Path, *, word: str, n: int) -> None:
    for task in (TASK, PPL_TASK):
        records = [
            replace(
                LATENT, task=task, doc_id=i, prompt_hash=digest(prompt_of(i, shots=2)), condition=word, preset=word,
                stop_reason="stop_string" if task == TASK else "",
                draws_nats=() if task == TASK else tuple(30.0 + i + side for side in (1.0, -1.0, 3.0, -3.0) * 2),
                kl_steps_nats=((0.0, 0.0), (4.5, 1.0), (9.0, 5.0), (8.25, 4.0)),
            )
            for i in range(n)
        ]  # fmt: skip
        write_jsonl_atomic(folder / f"latents_{task}_{DATE}.jsonl", records)


def _tokens(folder: Path, *, ltm: bool, word: str, n: int) -> None:
    """What tokens cost, of all documents but the last two; each model cuts the texts at other places."""
    for task, part in ((TASK, "answer"), (TASK, "target"), (PPL_TASK, "text")):
        path, records = folder / f"tokens_{task}_{DATE}.jsonl", []
        for row in read_rows(folder / f"samples_{task}_{DATE}.jsonl")[: n - 2]:
            text = {"answer": row["resps"][0][0], "target": row["target"], "text": row["target"]}[part]
            characters = (4, 2, 3) if ltm else (6, 3)
            nats = (1.5, 0.25, 0.5, 7.0) if ltm else (4.25, 0.75, 3.0)
            records.append(
                TokenRecord(
                    task=task, doc_id=row["doc_id"], idx=0, repeat=0, prompt_hash=row["prompt_hash"], part=part,
                    tokenizer=word[:99], draws=8 if ltm and part == "text" else 0, nats=sum(nats),
                    kl_nats=12.5 if ltm and part == "text" else None, piece_nats=nats,
                    piece_characters=(*characters, len(text) - sum(characters)),
                )
            )  # fmt: skip
        before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        write_jsonl_atomic(path, [*map(json.loads, before), *records])


def _answers(folder: Path, *, word: str, n: int) -> None:
    records = [
        AnswerRecord(
            task=TASK, doc_id=i, idx=0, repeat=0, prompt_hash=digest(prompt_of(i, shots=2, word=word)),
            demonstrations=2, demonstrations_read=1 + i % 2, prompt_tokens=60, read_tokens=40 + 20 * (i % 2),
            truncated=i % 2 == 0, new_tokens=10 + i, stop_reason=("stop_string", "end_of_text", "length")[i % 3],
        )
        for i in range(n)
    ]  # fmt: skip
    write_jsonl_atomic(folder / f"answers_{TASK}_{DATE}.jsonl", records)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a samples file, one for each document."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({row["doc_id"]: row for row in rows}.values())


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {**first.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in {**first, **second}.items()
    }
