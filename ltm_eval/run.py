"""The main job: a checkpoint and its baselines answer tasks through lm-eval, and a page shows the results.

Everything that can be wrong is looked at before any model time is spent. Results have lm-eval 0.4.13's layout; they
are written by this module, not by lm-eval's tracker, because that one turns a failed save into a log line and exit
code 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import progress
from ltm_eval.config import RunConfig, check_kind
from ltm_eval.distributed import Job, current, join
from ltm_eval.errors import LtmEvalError, ResultsError, UsageError, nearest, printable, shown
from ltm_eval.evaluation import evaluate_subject, evaluate_task, folder_of, merged, show_notes
from ltm_eval.failures import Failure, allowed, listed
from ltm_eval.footprint import say_if_short
from ltm_eval.lock import holding
from ltm_eval.preflight import check_output, quiet_hosts, refuse_inside, settle
from ltm_eval.provenance import program
from ltm_eval.resume import check_program
from ltm_eval.stopping import stopping
from ltm_eval.subjects import baseline_subject, construct, ltm_arguments, ltm_subject
from ltm_eval.task_facts import mean_fast_steps
from ltm_eval.task_loading import data_caveats, tasks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.model import LatentThoughtModel


@dataclass(frozen=True)
class Outcome:
    """Where a run left its results."""

    results: tuple[Path, ...]
    """One `results_*.json` per model; none in a process that does not lead its job."""
    report: Path | None
    """The HTML page."""
    failed: str = ""
    """Which task has more failed documents than `max_failed` allows: the run is incomplete. Else empty."""


def run(config: RunConfig) -> Outcome:
    """Evaluate the model and its baselines, write results and the page.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    from ltm_eval.checkpoint import check_place

    job = join()
    config, notes = settle(quieted(config, job))
    allowed(config.max_failed, 1)
    refuse_inside(Path(config.output_path), (str(config.model), *config.baselines))
    output = check_output(Path(config.output_path))
    with stopping(), held(output, job):
        check_place(str(config.model))
        quiet_hosts()
        return _run(config, output, notes)


@contextmanager
def held(output: Path, job: Job) -> Iterator[None]:
    """Hold an output folder for all processes of a job, which wait for one another at both ends.

    Raises:
        RefusedError: another command works there, or the processes differ in program or options.
    """
    with holding(output) if job.leads else nullcontext():
        job.agree(program())
        yield
        job.wait()


def quieted(config: RunConfig, job: Job) -> RunConfig:
    """The options of a process that does not speak for its job, or as they are."""
    return config if job.leads else replace(config, quiet=True)


def _run(config: RunConfig, output: Path, notes: list[str]) -> Outcome:
    """`run` in a folder that is held."""
    tasks = tasks_of(config)
    if current().leads:
        say_if_short(tasks, config, output)
    subjects = [ltm_subject(config), *(baseline_subject(spec) for spec in config.baselines)]
    check_program([folder_of(subject, output) for subject in subjects], fresh=config.fresh)
    written: list[Path] = []
    for subject in subjects:
        lm = construct(subject, config)
        if not written:
            show_notes(notes)
        written.append(evaluate_subject(subject, lm, tasks, config, output, notes))
        del lm
    return outcome(written, config, output)


def outcome(written: list[Path], config: RunConfig, output: Path, *, counted: Sequence[Path] = ()) -> Outcome:
    """What a run leaves, its page written; nothing for a process that does not lead.

    Args:
        counted: further results files whose failed documents count.
    """
    if not current().leads:
        return Outcome((), None)
    page = write_page(written, output) if config.report else None
    return Outcome(tuple(written), page, beyond_allowed([*written, *counted], config))


def run_baselines(config: RunConfig, output: Path, notes: list[str]) -> list[Path]:
    """The baselines' results files."""
    tasks, written = tasks_of(config), []
    for subject in map(baseline_subject, config.baselines):
        written.append(evaluate_subject(subject, construct(subject, config), tasks, config, output, notes))
    return written


NOT_FOR_PYTHON = ("baselines", "output_path", "report", "command", "fresh", "max_failed", "token_nll")
"""Options of `run` that tell what it writes and does beside answering; `evaluate` has no use for them."""


def evaluate(
    model: LatentThoughtModel | str | Path,
    *,
    tasks: Sequence[str] | str,
    shots: int | None = None,
    tokenizer: str | Path | None = None,
    step: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model from Python; nothing is written.

    A live model is left as it is: what computes is a frozen copy, whose memory `LatentThoughtModel.as_read` tells (none
    where float32 is computed in, as on a CPU; 2 bytes a parameter of the matrices for bfloat16, the default on a GPU).
    The process is left as it was too, its random states included, and modes that the caller is in (`torch.no_grad`,
    `torch.inference_mode`, `torch.autocast`) change no figure. A model in half, bfloat16 or double is read as float32.

    Args:
        model: what `ltm_eval.load` returns (also in the middle of training), or a checkpoint's path or hub id.
        tasks: task names, one or several; the prefix `ltm_` may be left out.
        shots: demonstrations per prompt; None takes each task's own number.
        tokenizer: `gpt2` or a file of mergeable ranks; None takes the model's own (`model.tokenizer`), which one that
            came from no checkpoint lacks.
        step: training step of a live model, to be told in the results; None tells that of its checkpoint as long as
            the weights are the ones loaded.
        options: further fields of `RunConfig`, for example `limit=20, condition="demos", t_fast=16`.

    Returns:
        lm-eval's results: `results[task]["exact_match,strict-match"]` and so on, `samples[task]`, `config` with the
        digest of the weights; beside them `mean_fast_steps[task]`, `caveats[task]`, sentences on data that are not the
        published ones, and `floors[task]`, the reference rows of a perplexity set.

    Raises:
        UsageError: an argument is not known, of another kind, or out of range.
        LtmEvalError: checkpoint, tokenizer or data cannot be used, or a document could not be answered.
    """
    from ltm_eval.compiling import compiler_kept
    from ltm_eval.workers import undisturbed

    with undisturbed(), compiler_kept():
        name, live = _model(model)
        named = [one.strip() for one in tasks.split(",") if one.strip()] if isinstance(tasks, str) else tasks
        given = checked_options({"tasks": named, "shots": shots, "tokenizer": tokenizer, "step": step, **options})
        return _evaluated(live, settle(RunConfig(model=name, **given))[0], step)


def _model(model: Any) -> tuple[str, LatentThoughtModel | None]:
    """The name of what is evaluated, and the live model, if it is one.

    Raises:
        LtmEvalError: it is neither a model nor the name of a checkpoint.
    """
    from torch import nn

    from ltm_eval.checkpoint import check_place
    from ltm_eval.model import live_model

    if isinstance(model, (str, os.PathLike)):
        check_place(model)
        return str(model), None
    if isinstance(model, nn.Module):
        live = live_model(model)
        return str(getattr(live.info, "source", "live")), live
    raise UsageError(
        "model must be what ltm_eval.load returns, or a checkpoint: demo, a folder, a released ckpt_*.pt or a hub id; "
        f"got {shown(model)}"
    )


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `evaluate` as fields of `RunConfig`.

    Raises:
        UsageError: one is not known, does nothing here, or is of another kind.
    """
    names = {"shots" if one.name == "num_fewshot" else one.name: one.name for one in fields(RunConfig)}
    found = {}
    for name, value in given.items():
        if name in NOT_FOR_PYTHON:
            raise UsageError(
                f"evaluate has no use for {name!r}: it asks one model and writes nothing; `ltm-eval run` has"
            )
        if name == "step":
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UsageError(f"step must be a whole number from 0, or None, got {shown(value)}")
            continue
        if name not in names:
            hint = " Did you mean 'shots'?" if name == "num_fewshot" else nearest(name, {*names, "step"})
            raise UsageError(f"evaluate has no argument {name!r}.{hint}")
        plain = _plain(value)
        if isinstance(value, Mapping) and name in ("metadata", "fit"):
            plain = _json(name, value)
        check_kind(names[name], plain, name=name, given=value)
        found[names[name]] = plain
    return found


def _plain(value: Any) -> Any:
    """A value as the command line gives it: paths, dtypes and devices as text, NumPy's whole numbers as Python's."""
    import torch

    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, (os.PathLike, torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must hold plain values only, as JSON does ({error})") from error


def _evaluated(live: LatentThoughtModel | None, config: RunConfig, step: int | None) -> dict[str, Any]:
    """`evaluate` of checked options."""
    from ltm_eval.lm import LTM

    loaded = tasks_of(config)
    lm = LTM(config.model if live is None else live, **ltm_arguments(config))
    lm.progress = progress.silent
    parts = []
    for task in loaded:
        parts.append(evaluate_task(lm, task, config))
        del parts[-1]["failures"]
        parts[-1]["caveats"] = {task.task_name: data_caveats(task)}
        parts[-1]["mean_fast_steps"] = mean_fast_steps({task.task_name: [record.t_fast for record in lm.records]})
        lm.records.clear()
    info = lm.get_model_info()
    if step is not None:
        info["checkpoint"]["step"] = step
    return {**merged(parts), "config": {"model": "ltm", **info}}


def beyond_allowed(results: Sequence[Path], config: RunConfig) -> str:
    """Which task has more failed documents than `max_failed` allows, in words for an error; else nothing."""
    for path in results:
        for task, told in json.loads(path.read_text("utf-8"))["ltm_eval"]["failed"].items():
            failures = [Failure(task, one["doc_id"], one["reason"]) for one in told["failures"]]
            if len(failures) > allowed(config.max_failed, told["documents"]):
                return (
                    f"{task}: {len(failures)} of {told['documents']} documents failed ({listed(failures)}); the "
                    f"figures in {path} leave them out. --max_failed {len(failures)} allows it"
                )
    return ""


def write_page(results: list[Path], output: Path) -> Path:
    """Write the page of these results, what they are joined with, and the folder's probes.

    `report FOLDER` makes the same where no others lie.
    """
    from ltm_eval import report

    page = output / "report.html"
    try:
        runs, probes = report.gather([output])
    except ResultsError as unreadable:
        print(printable(f"ltm-eval: the page shows this run alone: {unreadable}"), file=sys.stderr)
        runs, probes = report.gather(results)
    wanted = {path.resolve() for path in results}
    own = [run for run in runs if wanted & {part.path.resolve() for part in run.parts or (run,)}]
    if len(own) < len(wanted):
        own = report.gather(results)[0]
    if others := len(runs) - len(own):
        words = f"{others} other run{'s' if others > 1 else ''} of this folder"
        print(printable(f"ltm-eval: 'ltm-eval report {output}' shows {words} beside it"), file=sys.stderr)
    report.write(report.render(report.build(own, probes)), page)
    return page


__all__ = ["LtmEvalError", "Outcome", "evaluate", "run"]
