"""The effect of the demonstrations: one model, several conditions and numbers of demonstrations, one command.

The combination that the others are compared with (`demos` with most demonstrations) is the model's results file; each
further one has a folder of its own below the model's. The first file also holds the table (`ltm_eval.effect`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import run as runner
from ltm_eval.distributed import current, join
from ltm_eval.effect import Cell, effect, text_table
from ltm_eval.errors import UsageError
from ltm_eval.evaluation import evaluate_subject, folder_of, show_notes
from ltm_eval.failures import allowed
from ltm_eval.footprint import say_if_short
from ltm_eval.preflight import check_output, quiet_hosts, refuse_inside, settle
from ltm_eval.results import read_run
from ltm_eval.resume import check_program
from ltm_eval.stopping import stopping
from ltm_eval.strict_files import write_json_atomic
from ltm_eval.subjects import baseline_subject, construct, ltm_subject
from ltm_eval.task_loading import tasks_of

if TYPE_CHECKING:
    from ltm_eval.config import RunConfig, SweepConfig

NEEDS_TWO = "shuffled"
"""The condition that has nothing to exchange with a single demonstration."""


@dataclass(frozen=True)
class Combination:
    """One cell to run."""

    condition: str
    shots: int | None

    @property
    def folder(self) -> str:
        """Name below the model's folder."""
        return self.condition if self.shots is None else f"{self.condition}_{self.shots}-shot"

    @property
    def words(self) -> str:
        """As a line of progress."""
        return self.condition if self.shots is None else f"{self.condition}, {self.shots} shots"


def combinations(config: SweepConfig) -> list[Combination]:
    """What is run, each once, the reference with most demonstrations first.

    Without demonstrations all conditions that fit z on them are the prior, and `demos+prompt` is `prompt`. `shuffled`
    is left out with a single demonstration.
    """
    found = []
    for shots in config.shots:
        for condition in config.conditions:
            if shots == 0:
                condition = "prompt" if condition in ("prompt", "demos+prompt") else "prior"  # noqa: PLW2901
            if not (condition == NEEDS_TWO and shots == 1):
                found.append(Combination(condition, shots))
    distinct = list(dict.fromkeys(found))
    return sorted(distinct, key=lambda one: (one.condition != config.reference, -(one.shots or 0)))


def run(config: SweepConfig) -> runner.Outcome:
    """Evaluate every combination, then the baselines; write results, table and page.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    from ltm_eval.checkpoint import check_place

    job = join()
    base, notes = settle(runner.quieted(config.base, job))
    allowed(base.max_failed, 1)
    refuse_inside(Path(base.output_path), (str(base.model), *base.baselines))
    output = check_output(Path(base.output_path))
    with stopping(), runner.held(output, job):
        check_place(str(base.model))
        quiet_hosts()
        return _run(config, base, output, notes)


def _run(config: SweepConfig, base: RunConfig, output: Path, notes: list[str]) -> runner.Outcome:
    """`run` in a folder that is held."""
    wanted = combinations(config)
    prepared = [(one, replace(base, condition=one.condition, num_fewshot=one.shots)) for one in wanted]
    tasks = {one: _checked(tasks_of(own)) for one, own in prepared}
    if current().leads:
        say_if_short(tasks[wanted[0]], prepared[0][1], output, runs=len(wanted))
    subject = ltm_subject(base)
    folders = [folder_of(subject, output, one.folder if place else "") for place, one in enumerate(wanted)]
    folders += [folder_of(baseline_subject(spec), output) for spec in base.baselines]
    check_program(folders, fresh=base.fresh)
    lm: Any = construct(ltm_subject(prepared[0][1]), base)
    show_notes(notes)
    written = []
    for place, (one, own) in enumerate(prepared):
        lm.condition = one.condition
        if not base.quiet:
            print(f"ltm-eval: {one.words} ({place + 1} of {len(prepared)})", file=sys.stderr)
        cell = one.folder if place else ""
        subject = ltm_subject(own)
        written.append(evaluate_subject(subject, lm, tasks[one], own, output, notes, cell=cell))
        if current().leads:
            _store(written, wanted, config.reference)
    results = [written[0], *runner.run_baselines(prepared[0][1], output, notes)]
    return runner.outcome(results, base, output, counted=written[1:])


def _checked(tasks: list[Any]) -> list[Any]:
    """Refuse tasks that have no demonstrations.

    Raises:
        UsageError: there is one.
    """
    for task in tasks:
        if task.OUTPUT_TYPE != "generate_until" or task.fewshot_docs() is None:
            raise UsageError(
                f"task {task.task_name} asks for no answers, so its demonstrations have no effect to show; leave it "
                "out, or name one condition and one number of shots"
            )
    return tasks


def _store(written: list[Path], wanted: list[Combination], reference: str) -> None:
    """Put the table of what is finished into the first results file."""
    cells = [Cell(one.condition, read_run(path)) for one, path in zip(wanted, written, strict=False)]
    content = json.loads(written[0].read_text("utf-8"))
    content["ltm_eval"]["effect"] = effect(cells, reference=reference)
    write_json_atomic(written[0], content)


def table(results: Path) -> str:
    """The table of a sweep's results file, as text."""
    return text_table(json.loads(results.read_text("utf-8"))["ltm_eval"]["effect"])


__all__ = ["Combination", "combinations", "run", "table"]
