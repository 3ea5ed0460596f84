"""The options of commands that evaluate, each once: which there are, their defaults, and the `RunConfig` they make.

A command names its options; its signature, which typer reads, is made of them. Their help, ranges and environment
variables stand in `options`, their defaults in `config`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ltm_eval import options as declared
from ltm_eval.calls import Call
from ltm_eval.config import RunConfig, conditions_of
from ltm_eval.options import checked_device, filled

F = TypeVar("F", bound=Callable[..., int])

RUN: Mapping[str, Any] = {
    "model": declared.Model,
    "tasks": declared.Tasks,
    "num_fewshot": declared.Shots,
    "baselines": declared.Baselines,
    "data": declared.Data,
    "metadata": declared.Metadata,
    "limit": declared.Limit,
    "documents": declared.Documents,
    "gen_kwargs": declared.GenKwargs,
    "n": declared.Samples,
    "k": declared.PassAt,
    "tokenizer": declared.Tokenizer,
    "revision": declared.Revision,
    "condition": declared.Condition,
    "preset": declared.Preset,
    "fit": declared.FitOptions,
    "t_fast": declared.FastSteps,
    "fit_window": declared.FitWindow,
    "rethink": declared.Rethink,
    "rows": declared.Rows,
    "causal_chunk": declared.CausalChunk,
    "causal_t_fast": declared.CausalFastSteps,
    "seed": declared.Seed,
    "device": declared.Device,
    "dtype": declared.Dtype,
    "compile": declared.Compile,
    "batch_size": declared.BatchSize,
    "output_path": declared.OutputPath,
    "max_failed": declared.MaxFailed,
    "token_nll": declared.TokenNll,
    "report": declared.WriteReport,
    "log_samples": declared.LogSamples,
    "quiet": declared.Quiet,
    "fresh": declared.Fresh,
}
"""By field of `RunConfig`."""
SWEPT = {"model": declared.Models, "t_fast": declared.SweptSteps, "seed": declared.Seeds}
"""What takes several values where combinations are run."""
SWEEP: Mapping[str, Any] = {
    **{name: SWEPT.get(name, kind) for name, kind in RUN.items() if name not in ("baselines", "report")},
    "ray_address": declared.RayAddress,
    "cell_cpus": declared.CellCpus,
}
"""All of a run's but baselines, which are no cells, and the page, which `report` makes of their folders."""
TEXTS = ("model", "data", "output_path", "fit", "gen_kwargs", "tokenizer", "revision")
"""Where an empty value is a forgotten variable."""


def takes(kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> Callable[[F], F]:
    """Give a command that takes `**given` the signature of these options.

    Args:
        kinds: name to annotation.
        defaults: of those that are no fields of `RunConfig`, or have another default here.
    """

    def mark(command: F) -> F:
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, keyword, default=defaults.get(name, _default(name)), annotation=kind)
            for name, kind in kinds.items()
        ]
        command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {**kinds, "return": int}
        return command

    return mark


def _default(name: str) -> Any:
    """As the parser takes it: what is given as several words is None or a list, a number that may be a word is text."""
    if name in ("documents", "k"):
        return None
    default = getattr(RunConfig, name, None)
    if name in ("tasks", "baselines"):
        return list(default or ())
    return str(default) if name == "batch_size" else default


def run_config(given: Mapping[str, Any], **more: Any) -> RunConfig:
    """The options of a run.

    Of several conditions and numbers of demonstrations it has the first.

    Args:
        given: what the parser found, by name.
        more: fields that stand for what was given.

    Raises:
        UsageError: a value cannot be used.
    """
    known = {one.name for one in fields(RunConfig)}
    values = {name: value for name, value in given.items() if name in known and name not in more}
    for name in values.keys() & set(TEXTS):
        values[name] = filled(name, values[name]) or getattr(RunConfig, name)
    for name, settle in SETTLED.items():
        if name in values:
            values[name] = settle(values[name])
    if values.get("k") and values.get("n") == RunConfig.n:
        values["n"] = max(values["k"])
    return RunConfig(**values, **more, command=Call.command())


def names_in(words: list[str]) -> tuple[str, ...]:
    """Comma-separated names, given in one word or several."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


SETTLED: Mapping[str, Callable[[Any], Any]] = {
    "tasks": names_in,
    "baselines": tuple,
    "documents": lambda found: found or (),
    "k": lambda found: found or (),
    "num_fewshot": lambda found: None if found is None else found[0],
    "condition": lambda found: conditions_of(found)[0],
    "batch_size": lambda found: "auto" if found == "auto" else int(found),
    "device": checked_device,
}
"""From what the parser found to the field."""
