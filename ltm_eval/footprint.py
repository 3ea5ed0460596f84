"""How much a run will leave on the disk, told before it begins: answers × bytes of one, in all files.

An estimate from above: an answer is taken to be as long as it may become, five bytes a token. What a line holds beside
texts was measured on the bundled pair: 1.1 kB of an answer in the journal, 0.85 kB of a sidecar line, 0.6 kB of a
sample and another 1 kB of a sample of a perplexity set. Of the documents whose tokens' costs are kept (`--token_nll`) a
letter is taken to be a token.
"""

from __future__ import annotations

import json
import shutil
import sys
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltm_eval.arguments import generation_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltm_eval.config import RunConfig

JOURNAL_BYTES, SIDECAR_BYTES, SAMPLE_BYTES, FIGURES_BYTES = 1_200, 900, 700, 1_000
TOKEN_BYTES = 5
COST_BYTES, COSTS_BYTES = 10, 450
"""What a token costs, and what stands beside that; in the sidecar and in the journal."""
PROMPT_SHARE = 1.3
"""A question in a prompt over the same as JSON: words of the template."""
FIXED_BYTES = 2**20
"""Results, manifest and the page without its samples."""
PAGE_LIMIT = 20 * 2**20
"""The page holds no more of the samples than this."""
LOOKED_AT = 64
"""Documents whose size is measured."""


def estimated_bytes(tasks: Sequence[Any], config: RunConfig) -> int:
    """Bytes that a run of these tasks leaves, all its models together."""
    per_model = sum(_task_bytes(task, config) for task in tasks)
    models = 1 + len(config.baselines)
    return int(models * (per_model + FIXED_BYTES) + min(PAGE_LIMIT, models * per_model))


def _task_bytes(task: Any, config: RunConfig) -> int:
    whole = len(task.eval_docs)
    documents: int = len(config.documents) or min(whole, config.limit or whole)
    size = fmean([len(json.dumps(doc, default=str)) for doc in islice(task.eval_docs, LOOKED_AT)] or [0])
    shots = int(task.config.num_fewshot or 0)
    answers, text, rows = _answers(task), 0, 1
    if task.OUTPUT_TYPE == "generate_until":
        text = TOKEN_BYTES * generation_config(dict(task.config.generation_kwargs or {})).max_new_tokens
        rows = max(1, len(task.config.filter_list or ()))
    prompt = PROMPT_SHARE * size * (1 + shots)
    figures = FIGURES_BYTES if task.OUTPUT_TYPE == "loglikelihood_rolling" else 0
    sample = rows * (SAMPLE_BYTES + figures + 2 * size + prompt + answers * text)
    costly = min(documents, config.token_nll) * 2 * (COSTS_BYTES + COST_BYTES * (text or size))
    return int(costly + documents * (answers * (JOURNAL_BYTES + SIDECAR_BYTES + text) + sample))


def _answers(task: Any) -> int:
    """Answers that a document gets."""
    if task.OUTPUT_TYPE == "multiple_choice":
        first = next(iter(task.eval_docs), None)
        return 1 if first is None else int(len(task.doc_to_choice(first)))
    if task.OUTPUT_TYPE != "generate_until":
        return 1
    asked = [one.answers for one in (getattr(task, "repeats", None), getattr(task, "rethinking", None)) if one]
    return int(task.config.repeats or 1) + sum(map(int, asked))


def say_if_short(tasks: Sequence[Any], config: RunConfig, output: Path, *, runs: int = 1) -> None:
    """One line on standard error where the disk may not hold what the run will leave.

    Args:
        tasks: of the run.
        config: its options.
        output: its folder; what an earlier start left there counts as done.
        runs: how many such runs go there.
    """
    needed = runs * estimated_bytes(tasks, config) - _held(output)
    free = shutil.disk_usage(output).free
    if free < needed:
        print(
            f"ltm-eval: output_path {output}: the run may need {_words(needed)}, {_words(free)} are free; a full disk "
            "ends it with code 4, and the same command goes on from there",
            file=sys.stderr,
        )


def _held(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def _words(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{max(0, number) / 1e6:.0f} MB"
