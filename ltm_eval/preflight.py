"""What is settled and looked at before a run spends any model time."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_eval.config import DEMO_MODEL, RunConfig
from ltm_eval.disk import cause, remedy
from ltm_eval.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


NEEDED_BYTES = 50 * 2**20
NAME_ROOM = 350
"""Bytes of a path that folders of models and conditions and the names of files below the output folder may take."""


NOT_GSM8K = "demo model, sample data: not GSM8K"


NOT_PUBLISHED = "demo model, sample data: not the published sets"


def settle(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Fill in what was left open, and the sentences that every output must carry."""
    demo = config.model in (None, DEMO_MODEL)
    data = "sample" if config.model is None and config.data == "auto" else config.data
    notes = []
    if demo and data == "sample":
        notes.append(NOT_GSM8K if any("gsm8k" in task for task in config.tasks) else NOT_PUBLISHED)
    elif demo:
        notes.append("demo model: made to try the program, its scores mean nothing")
    elif data == "sample":
        notes.append("sample data: written for this project, not the published sets")
    if config.limit is not None:
        notes.append(f"only the first {config.limit} documents of each task (limit)")
    if config.documents:
        notes.append(f"only documents {', '.join(map(str, config.documents))} of each task")
    return replace(config, model=config.model or DEMO_MODEL, data=data), notes


def check_output(folder: Path) -> Path:
    """Make the folder and try to write there.

    Raises:
        UsageError: the path is taken by something else, or so long that files below it would have no name.
        MachineError: it cannot be written, or the disk is nearly full.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_path {folder}: exists and is not a folder; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free, longest = shutil.disk_usage(folder).free, os.pathconf(folder, "PC_PATH_MAX")
    except OSError as error:
        raise MachineError(
            f"output_path {folder}: cannot be written ({cause(error, folder)}); {remedy(error, folder)}, or choose "
            "another with --output_path"
        ) from error
    length = len(os.fsencode(folder.resolve()))
    if length + NAME_ROOM > longest:
        raise UsageError(
            f"output_path …{str(folder)[-60:]}: {length} bytes long, which leaves too little of the {longest} that a "
            "path may have for files below it; name a shorter one"
        )
    if free < NEEDED_BYTES:
        raise MachineError(
            f"output_path {folder}: only {free // 2**20} MiB are free, at least {NEEDED_BYTES // 2**20} are needed; "
            "free some space"
        )
    return folder.resolve()


def refuse_inside(output: Path, models: Sequence[str]) -> None:
    """Raise UsageError where results would be written into the folder of a model.

    Args:
        output: the folder of results.
        models: checkpoints and baselines as given; those that are no folders cannot hold it.
    """
    for spec in models:
        place = Path(spec)
        holds = place.is_dir() and place.resolve() in (output.resolve(), *output.resolve().parents)
        if holds and (place / "config.json").is_file():
            raise UsageError(f"output_path {output}: lies inside the model {spec}; name a folder elsewhere")


def quiet_hosts() -> None:
    """Keep other libraries' bars and warnings from burying ours; LTM_EVAL_DEBUG=1 shows them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LTM_EVAL_DEBUG"):
        return
    for name in ("lm_eval", "transformers", "datasets", "accelerate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import lm_eval.api.task as host

    host.tqdm = partial(host.tqdm, disable=True)  # a bar for building prompts, which takes no time
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
