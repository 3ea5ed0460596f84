"""The main job: a checkpoint and its baselines answer tasks through lm-eval, and a page shows the results.

Everything that can be wrong is looked at before any model time is spent. Results have lm-eval 0.4.13's layout; they
are written by this module, not by lm-eval's tracker, because that one turns a failed save into a log line and exit
code 0.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import progress
from ltm_eval.config import RunConfig
from ltm_eval.distributed import Job, current, join
from ltm_eval.errors import LtmEvalError, ResultsError, printable
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


def evaluate(
    model: LatentThoughtModel | str,
    *,
    tasks: list[str],
    shots: int | None = None,
    tokenizer: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model from Python; nothing is written.

    Args:
        model: what `ltm_eval.load` returns (also in the middle of training), or a checkpoint's path.
        tasks: task names; the prefix `ltm_` may be left out.
        shots: demonstrations per prompt; None takes each task's own number.
        tokenizer: `gpt2` or a file of mergeable ranks; needed for a live model that came from no checkpoint.
        options: further fields of `RunConfig`, for example `limit=20, condition="demos", t_fast=16`.

    Returns:
        lm-eval's results: `results[task]["exact_match,strict-match"]` and so on, `samples[task]`; beside them
        `mean_fast_steps[task]`, `caveats[task]`, sentences on data that are not the published ones, and
        `floors[task]`, the reference rows of a perplexity set.
    """
    from ltm_eval.lm import LTM

    name = model if isinstance(model, str) else getattr(model.info, "source", "live")
    config, _ = settle(RunConfig(model=name, tasks=tuple(tasks), num_fewshot=shots, tokenizer=tokenizer, **options))
    loaded = tasks_of(config)
    lm = LTM(model if not isinstance(model, str) else config.model, **ltm_arguments(config))
    lm.progress = progress.silent
    parts = []
    for task in loaded:
        parts.append(evaluate_task(lm, task, config))
        del parts[-1]["failures"]
        parts[-1]["caveats"] = {task.task_name: data_caveats(task)}
        parts[-1]["mean_fast_steps"] = mean_fast_steps({task.task_name: [record.t_fast for record in lm.records]})
        lm.records.clear()
    return merged(parts)


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
