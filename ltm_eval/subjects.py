"""The models of a run, a checkpoint and its baselines: what each is built from, and building it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import paths, progress
from ltm_eval.commits import agree_on, agreed
from ltm_eval.config import DEMO_BASELINE, RunConfig
from ltm_eval.errors import CheckpointError, DataError, MachineError, UsageError, shown
from ltm_eval.hub import REFUSALS, is_cached, is_repository_name
from ltm_eval.launch import unlaunched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lm_eval.api.model import LM


LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Subject:
    """One model to be evaluated."""

    name: str
    """As in the results file and its folder."""
    kind: str
    """`ltm` or `hf`."""
    arguments: dict[str, Any]
    """What lm-eval would take as model_args."""


def ltm_arguments(config: RunConfig) -> dict[str, Any]:
    return {
        "t_fast": config.t_fast,
        "preset": config.preset,
        "condition": config.condition,
        "fit_window": config.fit_window,
        "rethink": config.rethink or None,
        "rows": config.rows,
        "causal_chunk": config.causal_chunk,
        "causal_t_fast": config.causal_t_fast,
        "dtype": config.dtype,
        "compile": config.compile or None,
        "fit": config.fit,
        "seed": config.seed,
        "tokenizer": config.tokenizer,
        "revision": config.revision,
        "batch_size": config.batch_size,
        "device": config.device,
    }


def ltm_subject(config: RunConfig) -> Subject:
    given = {name: value for name, value in ltm_arguments(config).items() if value is not None}
    return Subject(str(config.model), "ltm", {"pretrained": str(config.model), **given})


def baseline_subject(spec: str) -> Subject:
    """A causal language model for lm-eval's `hf`: a folder, a hub id, a .gguf file, or `gpt2-demo`, the bundled one."""
    from importlib.util import find_spec

    if find_spec("transformers") is None or find_spec("accelerate") is None:
        raise MachineError("a baseline needs extra packages: pip install 'ltm-eval[hf]'")
    if spec == DEMO_BASELINE:
        return Subject(spec, "hf", {"pretrained": str(paths.assets_dir() / DEMO_BASELINE)})
    path = Path(spec)
    if path.is_file() and path.suffix == ".gguf":
        return Subject(spec, "hf", {"pretrained": str(path.parent), "gguf_file": path.name})
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"baseline {spec!r}: expected a transformers folder with config.json, weights and tokenizer; found none"
        )
    if not path.exists() and not is_repository_name(spec):
        several = "; give --baseline once for each model" if "," in spec else ""
        raise UsageError(f"baseline {spec!r}: no such folder or .gguf file, and not a hub id (owner/name){several}")
    if path.is_file():
        raise UsageError(
            f"baseline {spec}: a file; expected a transformers folder, a .gguf file or a hub id (owner/name)"
        )
    if path.exists():
        _check_layers(path / "config.json")
    commit = None if path.exists() else _commit_of(spec)
    return Subject(spec, "hf", {"pretrained": spec, **({"revision": commit} if commit else {})})


def _check_layers(path: Path) -> None:
    """Raise CheckpointError where a config asks for more layers than any model has: they would be built for ever."""
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # transformers says what is wrong with it
    for name in LAYERS if isinstance(told, dict) else ():
        if isinstance(told.get(name), (int, float)) and told[name] > MOST_LAYERS:
            raise CheckpointError(f"{path}: {name} must be at most {MOST_LAYERS:,}, got {shown(told[name])}")


def _commit_of(spec: str) -> str | None:
    """The commit of a baseline of the hub; None where only the cache has it.

    Raises:
        CheckpointError: the hub refuses it.
        MachineError: it can be had neither there nor from the cache.
    """
    asked = agreed(spec, None)
    if asked.silent and not is_cached(spec):
        if asked.silent in REFUSALS:
            raise CheckpointError(f"baseline {spec}: {REFUSALS[asked.silent]} ({asked.silent})")
        raise MachineError(
            f"baseline {spec}: not in the cache, and the hub was not reached ({asked.silent}). Download it where there "
            "is a network and pass the folder"
        )
    return asked.commit


def construct(subject: Subject, config: RunConfig) -> LM:
    """Load a model.

    Raises:
        LtmEvalError: it cannot be loaded.
    """
    if subject.kind == "ltm":
        from ltm_eval.lm import LTM

        agree_on(subject.arguments["pretrained"], subject.arguments.get("revision"))
        lm = LTM(**subject.arguments)
        lm.keeps_failures = True
        lm.token_nll = config.token_nll
        lm.progress = progress.silent if config.quiet else progress.for_terminal()
        return lm
    from lm_eval.api.registry import get_model

    from ltm_eval.arguments import resolve_device
    from ltm_eval.baselines import is_hosts, keep_answers

    device = str(resolve_device(config.device))
    host = {"batch_size": config.batch_size if config.batch_size != "auto" or device != "cpu" else 8, "device": device}
    if not os.environ.get("LTM_EVAL_DEBUG"):
        from transformers.utils import logging as host_logging

        host_logging.disable_progress_bar()
    shown = progress.silent if config.quiet else progress.for_terminal()
    try:
        with unlaunched(), loading_told() as told:
            lm = get_model("hf").create_from_arg_obj(subject.arguments, host)
        if told.missing:
            raise CheckpointError(
                f"baseline {subject.name}: {len(told.missing)} weights that its config asks for are not in its files "
                f"({told.missing[0]} …), and transformers filled them with random numbers; complete the files"
            )
        kept = keep_answers(lm, seed=config.seed, progress=shown, token_nll=config.token_nll)
    except BaseException as error:
        if not is_hosts(error):
            raise
        cause = [*str(error).strip().splitlines(), ""][0]
        raise DataError(
            f"baseline {subject.name}: transformers could not load it ({type(error).__name__}: {cause})"
        ) from error
    kept.unused_weights = told.unused
    return kept


@dataclass(frozen=True)
class Loading:
    """What transformers found of a model's weights in its files."""

    missing: list[str]
    """Weights of the model that no file holds, by name."""
    unused: list[str]
    """Weights of the files that the model does not have."""


@contextmanager
def loading_told() -> Iterator[Loading]:
    """Note what transformers says of weights while a model is loaded, which it logs and else keeps to itself."""
    from transformers import modeling_utils

    told, name = Loading([], []), "log_state_dict_report"
    report = getattr(modeling_utils, name, None)  # an inner function: where it is gone, nothing is noted

    def noted(*args: Any, **kwargs: Any) -> Any:
        for one in (*args, *kwargs.values()):
            told.missing.extend(sorted(getattr(one, "missing_keys", ())))
            told.unused.extend(sorted(getattr(one, "unexpected_keys", ())))
        return report(*args, **kwargs) if report is not None else None

    if report is not None:
        setattr(modeling_utils, name, noted)
    try:
        yield told
    finally:
        if report is not None:
            setattr(modeling_utils, name, report)
