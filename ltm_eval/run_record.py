"""A run's results in lm-eval's layout: the block about it, rows of samples, names of folders."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from ltm_eval.config import DEMO_BASELINE, DEMO_MODEL, RunConfig
from ltm_eval.errors import IncompleteError
from ltm_eval.paths import short_name
from ltm_eval.provenance import provenance, version
from ltm_eval.results import SCHEMA
from ltm_eval.task_facts import TaskFacts, mean_fast_steps
from ltm_eval.task_loading import data_facts, is_sample
from ltm_eval.telemetry import sizes_of

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.api.model import LM

    from ltm_eval.config import FitConfig
    from ltm_eval.subjects import Subject


BOOTSTRAP_ITERS = 100_000
"""lm-eval's default; 0 would leave out standard errors that need no bootstrap as well."""


AUDIT_BLOCKS = 2


def about(
    subject: Subject, lm: LM, tasks: list[Any], config: RunConfig, notes: list[str], facts: dict[str, TaskFacts]
) -> dict[str, Any]:
    """Model, settings and provenance, under lm-eval's keys and our own."""
    info = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
    sets = {task.task_name: data_facts(task) for task in tasks}
    return {
        "config": {
            "model": subject.kind,
            "model_args": subject.arguments,
            **info,
            **({"sizes": sizes_of(lm)} if "sizes" not in info else {}),
            **({"tokenizer": lm.own_tokens} if getattr(lm, "own_tokens", None) else {}),
            "batch_size": config.batch_size,
            "batch_sizes": list(getattr(lm, "batch_sizes", {}).values()),
            "device": str(lm.device),
            "use_cache": None,
            "limit": config.limit,
            "bootstrap_iters": BOOTSTRAP_ITERS,
            "gen_kwargs": config.gen_kwargs,
            "random_seed": config.seed,
            "fewshot_seed": config.seed,
        },
        "date": time.time(),
        "lm_eval_version": version("lm-eval"),
        "transformers_version": version("transformers"),
        "max_length": getattr(lm, "max_length", None),
        "model_source": subject.kind,
        "model_name": subject.name,
        "model_name_sanitized": folder_name(subject.name),
        "ltm_eval": {
            "schema": SCHEMA,
            "warnings": [*notes, *_warnings(subject, lm), *(note for own in facts.values() for note in own.notes)],
            "failed": {
                name: {"documents": own.documents, "failures": [asdict(one) for one in own.failures]}
                for name, own in facts.items()
                if own.failures
            },
            "demo_model": subject.name in (DEMO_MODEL, DEMO_BASELINE),
            "sample_data": config.data == "sample" or any(map(is_sample, sets.values())),
            "limit": config.limit,
            "data": {"choice": config.data, "sets": sets},
            "mean_fast_steps": mean_fast_steps({name: own.fast_steps for name, own in facts.items()}),
            "sampled": {name: own.sampled for name, own in facts.items() if own.sampled},
            "content_free": {name: own.content_free for name, own in facts.items() if own.content_free},
            "rethink_budget": {name: own.budget for name, own in facts.items() if own.budget},
            "audit": _audit(lm.fit_config) if subject.kind == "ltm" else None,
            "command": " ".join(config.command),
            "settings": asdict(config),
            "provenance": provenance(),
        },
    }


@cache
def _audit(fit: FitConfig) -> dict[str, Any]:
    """The random-token audit of the run's fit settings, on an untrained decoder: a property of the preset."""
    from ltm_eval.audit import audit, untrained_model

    return asdict(audit(untrained_model(), fit, blocks=AUDIT_BLOCKS))


def _warnings(subject: Subject, lm: LM) -> list[str]:
    """What a reader of the numbers must know."""
    if subject.kind != "ltm":
        unused = getattr(lm, "unused_weights", [])
        told = f"{subject.name}: its files hold {len(unused)} weights that the model does not have"
        return [f"{told} ({', '.join(unused[:3])}{' …' if len(unused) > 3 else ''})"] if unused else []
    dtype, fit, info = str(getattr(lm, "dtype", "")), getattr(lm, "fit_config", None), lm.model.info
    found = [f"checkpoint: {note}" for note in (info.notes if info else ())]
    if "bfloat16" in dtype:
        found.append(f"matrix products in {dtype.removeprefix('torch.')}")
    if subject.arguments.get("fit"):
        found.append(f"fit preset {subject.arguments.get('preset')} changed: {subject.arguments['fit']}")
    if fit is not None and fit.t_fast == 0 and not fit.adaptive:
        found.append("no fitting (t_fast 0): z is the prior, and a bound is one on texts that nothing was fitted to")
    return found


def folder_name(model: str) -> str:
    """lm-eval's folder name of a model, kept below the output folder and at most 100 bytes."""
    from lm_eval.utils import sanitize_model_name

    name = "".join(c if c.isprintable() else "_" for c in sanitize_model_name(model)).strip(".")
    return short_name(name or "model")


def sample_row(sample: dict[str, Any], stops: list[list[str]]) -> dict[str, Any]:
    """A logged sample in the form of lm-eval's samples file, with why each answer ended, where that is known."""
    from lm_eval.utils import sanitize_list

    arguments = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(args)}
        for i, args in enumerate(sample["arguments"])
    }
    return {
        **sample,
        "arguments": arguments,
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "target": str(sample["target"]),
        **({"stop_reasons": stops} if stops else {}),
    }


def task_hash(rows: list[dict[str, Any]]) -> str:
    """Equal where two runs saw the same documents, prompts and targets."""
    from lm_eval.utils import hash_string

    return str(hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)))


def verify(path: Path, tasks: list[Any]) -> None:
    """Read the results back; a run is done only when they are there."""
    from ltm_eval.results import find_runs, read_samples

    found = find_runs([path])[0]
    for task in tasks:
        if not read_samples(found, task.task_name):
            raise IncompleteError(f"{path}: no samples of task {task.task_name} were saved; run the same command again")
