"""The command that scores one document again, from what a run says of itself."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltm_eval.result_records import Run

PLACE = "rerun"
"""Folder of its results: beside the run's own they would be taken for newer ones of all documents."""
_VALUE = r"""(?:=|\s+)(?:"[^"]*"|'[^']*'|\S+)"""
_DROPPED = re.compile(rf"\s(?:--(?:limit|documents|tasks?|output[_-]path)|-[Lto])(?:{_VALUE})", re.IGNORECASE)


def rerun_command(run: Run, task: str, doc_id: int | str) -> str:
    """Our own command with the document named, lm-eval's for results of others; empty where neither is known."""
    run = run.of(task)
    if run.extra.command:
        kept = _DROPPED.sub("", run.extra.command)
        return f"{kept} --task {task} --documents {doc_id} --output_path {PLACE}"
    arguments = run.config.get("model_args")
    if not run.model_kind or not arguments:
        return ""
    told = arguments if isinstance(arguments, str) else ",".join(f"{key}={value}" for key, value in arguments.items())
    samples = json.dumps({task: [doc_id]}).replace(f'"{doc_id}"', str(doc_id))
    words = ["--model", run.model_kind, "--model_args", told, "--tasks", task, "--samples", samples]
    return f"lm_eval {' '.join(map(shlex.quote, words))} --log_samples --output_path {PLACE}"
