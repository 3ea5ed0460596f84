"""A sweep over checkpoints, tasks, conditions, demonstrations, fast steps and seeds: one cell after another in this
process, or as many at once as a Ray cluster has slots.

Ray is used for placing cells and for trying them again when a worker dies; what is finished, it is not asked. One cell
that fails does not stop the others.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.data.metadata import refuse_unread
from ltm_eval.harness import run as runner
from ltm_eval.harness.evaluation import evaluate_subject, folder_of, show_notes
from ltm_eval.harness.loading import (
    ELSEWHERE,
    heeding,
    known_tasks,
    metadata_for,
    task_manager,
    task_metadata,
    tasks_of,
)
from ltm_eval.harness.options import NOTHING, GridConfig, RunConfig, SweepConfig, changing
from ltm_eval.harness.run import (
    baseline_subject,
    check_output,
    construct,
    ltm_subject,
    say_if_short,
    settle,
)
from ltm_eval.results.effect import EffectCell, effect, text_table
from ltm_eval.results.files import read_run
from ltm_eval.runs.processes import current
from ltm_eval.runs.session import MANIFEST, check_program, differing
from ltm_eval.runs.worklist import say_on_stderr
from ltm_eval.system.errors import (
    IncompleteError,
    LtmEvalError,
    MachineError,
    RefusedError,
    UsageError,
    error_line,
    printable,
)
from ltm_eval.system.files import DEMO_MODEL, holder_of, holding, write_json_atomic
from ltm_eval.system.launch import read_launch
from ltm_eval.system.machine import program
from ltm_eval.system.text import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ltm_eval.tasks.prompts import Condition


# The effect of the demonstrations: one model, several conditions and numbers of demonstrations, one command.
#
# The combination that the others are compared with (`demos` with most demonstrations) is the model's results file; each
# further one has a folder of its own below the model's. The first file also holds the table (`ltm_eval.effect`).

NEEDS_TWO = "shuffled"  # The condition that has nothing to exchange with a single demonstration


@dataclass(frozen=True)
class Combination:
    """One cell to run."""

    condition: Condition
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
    with runner.begun(config.base) as (base, output, notes):
        return _run(config, base, output, notes)


def _run(config: SweepConfig, base: RunConfig, output: Path, notes: list[str]) -> runner.Outcome:
    """Run the combinations in a folder that is held."""
    wanted = combinations(config)
    prepared = [(one, replace(base, condition=one.condition, num_fewshot=one.shots)) for one in wanted]
    tasks = {one: _checked(tasks_of(own)) for one, own in prepared}
    if current().leads:
        say_if_short(tasks[wanted[0]], prepared[0][1], output, runs=len(wanted))
    subject = ltm_subject(base)
    baselines = [baseline_subject(spec) for spec in base.baselines]
    folders = [folder_of(subject, output, one.folder if index else "") for index, one in enumerate(wanted)]
    check_program([*folders, *(folder_of(own, output) for own in baselines)], fresh=base.fresh)
    lm: Any = construct(ltm_subject(prepared[0][1]), base)
    show_notes(notes)
    written = []
    for index, (one, own) in enumerate(prepared):
        lm.condition = one.condition
        if not base.quiet:
            print(f"ltm-eval: {one.words} ({index + 1} of {len(prepared)})", file=sys.stderr)
        cell = one.folder if index else ""
        written.append(evaluate_subject(ltm_subject(own), lm, tasks[one], own, output, notes, cell=cell))
        if current().leads:
            _store(written, wanted, config.reference)
    first = prepared[0][1]
    results = [written[0], *runner.run_baselines(baselines, tasks_of(first), first, output, notes)]
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
    cells = [EffectCell(one.condition, read_run(path)) for one, path in zip(wanted, written, strict=False)]
    content = json.loads(written[0].read_text("utf-8"))
    content["ltm_eval"]["effect"] = effect(cells, reference=reference)
    write_json_atomic(written[0], content)


def table(results: Path) -> str:
    """The table of a sweep's results file, as text."""
    return text_table(json.loads(results.read_text("utf-8"))["ltm_eval"]["effect"])


# The cells of a sweep: which there are, what of each is on disk, and how one is run.
#
#     <output>/cells/<name>/             a cell's own run: journal, results, lock
#     <output>/cells/<name>/cell.json    what became of it; `complete` is not run again
#
# Whether a cell is finished is read from disk and nowhere else. A cell that is tried anew while an earlier attempt
# still works on it waits for that one, so it is run once.

FOLDER, STATE_FILE = "cells", "cell.json"
COMPLETE, FAILED = "complete", "failed"
AXES = ("model", "task", "condition", "shots", "t_fast", "seed")
WAIT_SECONDS = 1.0
NAME_LENGTH = 80


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: RunConfig  # Its options; results go to its own folder

    @property
    def axes(self) -> dict[str, Any]:
        """What tells it from the others."""
        own = self.config
        values = (own.model or DEMO_MODEL, own.tasks[0], own.condition, own.num_fewshot, own.t_fast, own.seed)
        return dict(zip(AXES, values, strict=True))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(self.config.output_path)

    @property
    def fingerprint(self) -> str:
        """Names options and checkpoint files; another one is another run."""
        unnamed = changing(NOTHING)
        options = {name: value for name, value in asdict(self.config).items() if name not in unnamed}
        content = {"options": options, "files": _files_of(self.config.model)}
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _files_of(model: str | None) -> list[list[Any]]:
    """Names, sizes and times of a checkpoint's files; the run itself compares their content."""
    place = Path(model or "")
    files = sorted(place.iterdir()) if model and place.is_dir() else [place] if model and place.is_file() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@dataclass(frozen=True)
class Done:
    """What became of a cell."""

    axes: Mapping[str, Any]  # The cell's
    fingerprint: str  # The cell's
    state: str  # `complete` or `failed`
    seconds: float  # It took, in the last attempt
    results: str | None = None  # Its results file, seen from the cell's folder
    scores: tuple[Mapping[str, Any], ...] = ()  # Metric, filter, value, stderr
    line: str = ""  # Why it failed
    kept: bool = field(default=False, compare=False)  # Whether it was finished before
    # `provenance.program` that finished it; what another one finished is not used
    program: Mapping[str, str | None] = field(default_factory=dict)


def cells_of(config: GridConfig) -> list[Cell]:
    """Every distinct cell, in the order of the options."""
    found = {}
    pairs = combinations(SweepConfig(config.base, config.conditions, config.shots))
    axes = (config.models, config.base.tasks, pairs, config.t_fast, config.seeds)
    for model, task, pair, t_fast, seed in product(*axes):
        own = replace(
            config.base,
            model=model,
            tasks=(task,),
            condition=pair.condition,
            num_fewshot=pair.shots,
            t_fast=t_fast,
            seed=seed,
            report=False,
        )
        name = _name(Cell(own).axes)
        found[name] = Cell(replace(own, output_path=str(Path(config.base.output_path) / FOLDER / name)))
    return list(found.values())


def _name(axes: Mapping[str, Any]) -> str:
    """A folder's name that a reader understands, made distinct by a digest."""
    parts = [Path(str(axes["model"])).name, axes["task"], axes["condition"]]
    parts += [f"{axes[name]}-{name}" for name in AXES[3:] if axes[name] is not None]
    words = re.sub(r"[^A-Za-z0-9._+-]+", "_", "_".join(map(str, parts))).strip(".")[:NAME_LENGTH]
    return f"{words}-{sha256(json.dumps(axes).encode()).hexdigest()[:8]}"


def finished(cell: Cell) -> Done | None:
    """What an earlier command of this very program finished of these options; None where there is nothing of use."""
    done = finished_by_any(cell)
    return done if done is not None and done.program == program() else None


def finished_by_any(cell: Cell) -> Done | None:
    """The same, whatever version of the program it was."""
    try:
        row = json.loads((cell.folder / STATE_FILE).read_text("utf-8"))
        done = Done(**{**row, "scores": tuple(row["scores"]), "kept": True})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = done.state == COMPLETE and done.fingerprint == cell.fingerprint
    return done if whole and (cell.folder / str(done.results)).is_file() else None


def run_cell(cell: Cell) -> Done:
    """Run a cell unless it is finished; an error becomes its state."""
    begun = time.monotonic()
    try:
        done = finished(cell) or _ran(cell, begun)
    except LtmEvalError as error:
        done = Done(cell.axes, cell.fingerprint, FAILED, time.monotonic() - begun, line=error_line(error))
    except Exception as error:  # noqa: BLE001 - one cell must not end the others; its state says what it was
        line = error_line(LtmEvalError(f"{type(error).__name__}: {error}"))
        done = Done(cell.axes, cell.fingerprint, FAILED, time.monotonic() - begun, line=line)
    return done


def _ran(cell: Cell, begun: float) -> Done:
    """Run it; whoever works on it already is waited for."""
    while True:
        try:
            ended = runner.run(cell.config)
            break
        except RefusedError:
            if holder_of(cell.folder) is None:
                raise
        time.sleep(WAIT_SECONDS)
        found = finished(cell)
        if found is not None:
            return found
    if ended.failed:
        raise IncompleteError(ended.failed)
    (results,) = ended.results
    task = next(iter(read_run(results).tasks.values()))
    scores = tuple(
        {"metric": one.metric, "filter": one.filter, "value": one.value, "stderr": one.stderr} for one in task.scores
    )
    where = os.path.relpath(results, cell.folder)
    done = Done(cell.axes, cell.fingerprint, COMPLETE, time.monotonic() - begun, where, scores, program=program())
    write_json_atomic(cell.folder / STATE_FILE, {**asdict(done), "kept": False})
    return done


SUMMARY = "sweep.json"
LOCAL = "local"
# Times that Ray tries a cell again when the process that runs it dies; errors of the cell itself are not retried
RETRIES = 3
HEADLINES = ("exact_match", "ppl_per_token_bound", "ppl_per_token", "mauve", "acc", "pass@", "maj@")


@dataclass(frozen=True)
class Swept:
    """All cells of a sweep."""

    done: tuple[Done, ...]  # In the order of the options
    summary: Path  # JSON of all of them

    @property
    def failed(self) -> list[Done]:
        """Those without results."""
        return [one for one in self.done if one.state == FAILED]


def run_grid(config: GridConfig) -> Swept:
    """Run every cell that is not finished; the same command goes on after an end.

    Raises:
        UsageError: an option cannot be used.
        MachineError: the output folder cannot be written, or Ray is asked for and is not there.
        RefusedError: another command works in the output folder.
    """
    if read_launch().world > 1:
        raise UsageError(
            "a sweep places whole cells: start it in one process, with --ray_address to run cells side by side; "
            "torchrun and accelerate are for `run`"
        )
    if config.ray_address is not None and find_spec("ray") is None:
        raise MachineError("--ray_address needs Ray: pip install 'ltm-eval[ray]'")
    manager = task_manager(config.base)
    tasks = tuple(known_tasks(config.base.tasks, manager))
    refuse_unread(task_metadata(config.base.metadata), manager, tasks, elsewhere=ELSEWHERE)
    output = check_output(Path(config.base.output_path))
    config = replace(config, base=replace(config.base, tasks=tasks, output_path=str(output)))
    concerned = heeding(manager, tasks, config.base)
    cells = [
        replace(
            cell,
            config=replace(
                cell.config,
                metadata=metadata_for(config.base, cell.config.tasks[0], manager),
                gen_kwargs=cell.config.gen_kwargs if cell.config.tasks[0] in concerned else None,
            ),
        )
        for cell in cells_of(config)
    ]
    notes = _notes(config)
    show_notes(notes if config.ray_address is not None else [])  # otherwise each cell says its own
    with holding(output):
        show = Show(cells, quiet=config.base.quiet)
        done = {index: found for index, cell in enumerate(cells) if (found := finished(cell)) is not None}
        for index, one in done.items():
            show.ended(index, one)
        left = [index for index in range(len(cells)) if index not in done]
        _check_program([cells[index] for index in left], output, fresh=config.base.fresh)
        run_all = _one_by_one if config.ray_address is None else _on_ray
        try:
            for index, one in run_all([cells[index] for index in left], config):
                done[left[index]] = one
                show.ended(left[index], one)
                _write(output / SUMMARY, [done[i] for i in sorted(done)], len(cells), notes)
        finally:
            show.close()
        _write(output / SUMMARY, [done[i] for i in sorted(done)], len(cells), notes)
    return Swept(tuple(done[i] for i in range(len(cells))), output / SUMMARY)


def _check_program(left: Sequence[Cell], output: Path, *, fresh: bool) -> None:
    """Refuse to go on with a sweep that another version of the program left unfinished; say what is run again.

    Raises:
        RefusedError: cells of both versions would stand side by side, or one is unfinished.
    """
    others = [done for cell in left if (done := finished_by_any(cell)) is not None]
    told = ", ".join(dict.fromkeys(change for one in others for change in differing(one.program, program())))
    if others and len(others) < len(left) and not fresh:
        raise RefusedError(
            f"{output} holds an unfinished sweep of another program ({len(others)} cells are done): {told}; finish it "
            "with that one, name another --output_path, or run those cells again with --fresh"
        )
    check_program((path.parent for cell in left for path in sorted(cell.folder.rglob(MANIFEST))), fresh=fresh)
    if others:
        say_on_stderr(f"{len(others)} cells of another program are run again: {told}")


def check(swept: Swept) -> None:
    """A sweep is done when every cell is.

    Raises:
        IncompleteError: one is not.
    """
    if swept.failed:
        first = swept.failed[0].line.split(": ", 2)[-1]
        raise IncompleteError(
            f"{len(swept.failed)} of {len(swept.done)} cells failed, the first by {first[:140]}; the same command "
            "tries them again"
        )


def _notes(config: GridConfig) -> list[str]:
    """The sentences that every output of these cells must carry, each once."""
    found = [note for model in config.models for note in settle(replace(config.base, model=model))[1]]
    return list(dict.fromkeys(found))


def _write(path: Path, done: Sequence[Done], number: int, notes: Sequence[str]) -> None:
    write_json_atomic(path, {"notes": list(notes), "cells": [asdict(one) for one in done], "of": number})


# Where cells run ------------------------------------------------------------------------------------------------------


def _one_by_one(cells: Sequence[Cell], config: GridConfig) -> Iterator[tuple[int, Done]]:
    for index, cell in enumerate(cells):
        yield index, run_cell(cell)


def _on_ray(cells: Sequence[Cell], config: GridConfig) -> Iterator[tuple[int, Done]]:
    """Cells as they end, one to every slot of the cluster.

    Raises:
        MachineError: Ray is not installed, or the cluster cannot be reached.
    """
    if not cells:
        return
    ray = _started(str(config.ray_address))
    try:
        gpus = 1 if config.base.device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0
        task = ray.remote(run_cell).options(
            num_cpus=config.cell_cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False
        )
        quiet = [Cell(replace(cell.config, quiet=True)) for cell in cells]
        waiting = {task.remote(cell): index for index, cell in enumerate(quiet)}
        while waiting:
            (ended, *_), _ = ray.wait(list(waiting), num_returns=1)
            index = waiting.pop(ended)
            yield index, _fetched(ray, ended, cells[index])
    finally:
        ray.shutdown()


def _fetched(ray: Any, ended: Any, cell: Cell) -> Done:
    """What a cell's task returned, or that its worker died too often."""
    try:
        found: Done = ray.get(ended)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()
        line = error_line(MachineError(f"its worker died {RETRIES + 1} times ({cause[0] if cause else 'no reason'})"))
        return Done(cell.axes, cell.fingerprint, FAILED, 0.0, line=line)
    return found


def _started(address: str) -> Any:
    """Ray, connected; a cluster that is started here has no dashboard, whose port would run anybody's code."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    where: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except Exception as error:  # Ray raises many types; each means that there is no cluster to use
        cause = str(error).strip().splitlines()
        raise MachineError(
            f"Ray at {address} cannot be used ({type(error).__name__}: {cause[0] if cause else ''}); give the address "
            "of a running cluster, or `--ray_address local`"
        ) from error
    return ray


# What the user sees ---------------------------------------------------------------------------------------------------


class Show:
    """A live table on a terminal, else a line for every cell that ends."""

    def __init__(self, cells: Sequence[Cell], *, quiet: bool) -> None:
        self._cells, self._quiet = cells, quiet
        self._done: dict[int, Done] = {}
        self._live: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(stderr=True), auto_refresh=False)
            self._live.start(refresh=True)

    def ended(self, index: int, done: Done) -> None:
        """A cell has ended, or was finished before."""
        self._done[index] = done
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif not self._quiet and not done.kept:
            words = ", ".join(f"{name} {value}" for name, value in done.axes.items() if value is not None)
            print(
                f"ltm-eval: cell {len(self._done)} of {len(self._cells)}: {printable(words)}: {_outcome(done)}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """No more will come."""
        if self._live is not None:
            self._live.stop()

    def _table(self) -> Any:
        from rich.markup import escape
        from rich.table import Table

        table = Table(*AXES, "result", title=f"{len(self._done)} of {len(self._cells)} cells")
        for index in self._rows():
            done = self._done.get(index)
            shown = ["" if value is None else printable(str(value)) for value in self._cells[index].axes.values()]
            table.add_row(*map(escape, shown), escape(_outcome(done)) if done is not None else "…")
        return table

    def _rows(self) -> list[int]:
        """All cells, or as many of those that ended last as fit the screen."""
        room = max(4, shutil.get_terminal_size().lines - 6)
        return list(range(len(self._cells))) if len(self._cells) <= room else list(self._done)[-room:]


def table_grid(swept: Swept) -> str:
    """All cells as text."""
    rows = []
    for one in swept.done:
        shown = ["" if value is None else printable(str(value)) for value in one.axes.values()]
        rows.append((*shown, f"{one.seconds:.0f}", _outcome(one)))
    return aligned((*AXES, "seconds", "result"), rows)


def _outcome(done: Done) -> str:
    """Its first headline figure, or why there is none."""
    if done.state != COMPLETE:
        return printable(done.line.removeprefix("ltm-eval: "))
    for name in HEADLINES:
        for score in done.scores:
            if str(score["metric"]).startswith(name) and isinstance(score["value"], (int, float)):
                error = score["stderr"]
                spread = f" ± {error:.4g}" if isinstance(error, (int, float)) else ""
                return f"{score['metric']} {score['value']:.4g}{spread}"
    return "done"
