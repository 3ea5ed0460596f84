"""Sweeps: one model under several conditions and numbers of few-shot examples, or a grid of runs.

`run` compares conditions and shots; its first combination is the model's results file, which also holds the table of
the effect (`ltm_eval.effect`). `run_grid` runs every combination of checkpoints, tasks, conditions, shots, fast steps
and seeds, one cell after another in this process, or as many at once as a Ray cluster has slots:

    <output>/cells/<name>/             a cell's own run: journal, results, lock
    <output>/cells/<name>/cell.json    its outcome; a cell that is `complete` is not run again
    <output>/sweep.json                all outcomes

Ray only schedules cells, and tries one again if its worker dies; completion is read from disk. A cell that fails does
not stop the others. A cell that another process works on is waited for, so it is run once.
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
from ltm_eval.harness.evaluation import show_notes
from ltm_eval.harness.loading import (
    ELSEWHERE,
    heeding,
    known_tasks,
    metadata_for,
    task_manager,
    task_metadata,
    training_metadata,
)
from ltm_eval.harness.options import NOTHING, GridConfig, RunConfig, SweepConfig, changing
from ltm_eval.harness.run import Combination, begun, settle
from ltm_eval.results.effect import effect, text_table
from ltm_eval.results.files import read_run
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
from ltm_eval.system.files import DEMO_MODEL, holder_of, write_json_atomic
from ltm_eval.system.launch import read_launch
from ltm_eval.system.machine import program
from ltm_eval.system.text import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lm_eval.tasks import TaskManager


def combinations(config: SweepConfig) -> list[Combination]:
    """Return what is run, each once, the reference with most few-shot examples first.

    Without examples all conditions that fit z on them are the prior, and `demos+prompt` is `prompt`. `shuffled` is left
    out with a single example, which has nothing to exchange answers with.
    """
    found = []
    for shots in config.shots:
        for condition in config.conditions:
            if shots == 0:
                condition = "prompt" if condition in ("prompt", "demos+prompt") else "prior"  # noqa: PLW2901
            if not (condition == "shuffled" and shots == 1):
                found.append(Combination(condition, shots))
    distinct = list(dict.fromkeys(found))
    return sorted(distinct, key=lambda one: (one.condition != config.reference, -(one.shots or 0)))


def run(config: SweepConfig) -> runner.Outcome:
    """Evaluate every combination, then the baselines; write results, table and page.

    Raises:
        LtmEvalError: something cannot be used; nothing that was finished is lost.
    """
    wanted = combinations(config)

    def store_table(written: Sequence[Path]) -> None:
        cells = [(one.condition, read_run(path)) for one, path in zip(wanted, written, strict=False)]
        content = json.loads(written[0].read_text("utf-8"))
        content["ltm_eval"]["effect"] = effect(cells, reference=config.reference)
        write_json_atomic(written[0], content)

    return runner.run(config.base, wanted, finished=store_table)


def table(results: Path) -> str:
    """Return the table of a sweep's results file as text."""
    return text_table(json.loads(results.read_text("utf-8"))["ltm_eval"]["effect"])


FOLDER, STATE_FILE = "cells", "cell.json"
COMPLETE, FAILED = "complete", "failed"
AXES = ("model", "task", "condition", "shots", "t_fast", "seed")
WAIT_SECONDS = 1.0  # between two looks at a cell that another process runs
NAME_LENGTH = 80
SUMMARY = "sweep.json"
LOCAL = "local"
RETRIES = 3  # of a cell whose Ray worker dies; errors of the cell itself are not retried
HEADLINES = ("exact_match", "ppl_per_token_bound", "ppl_per_token", "mauve", "acc", "pass@", "maj@")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: RunConfig  # Its options; results go to its own folder

    @property
    def axes(self) -> dict[str, Any]:
        """Return the values in which cells differ, by name."""
        own = self.config
        values = (own.model or DEMO_MODEL, own.tasks[0], own.condition, own.num_fewshot, own.t_fast, own.seed)
        return dict(zip(AXES, values, strict=True))

    @property
    def folder(self) -> Path:
        """Return the cell's folder."""
        return Path(self.config.output_path)

    @property
    def fingerprint(self) -> str:
        """Return a digest of the options and of names, sizes and times of the checkpoint's files."""
        unnamed, model, place = changing(NOTHING), self.config.model, Path(self.config.model or "")
        options = {name: value for name, value in asdict(self.config).items() if name not in unnamed}
        found = sorted(place.iterdir()) if model and place.is_dir() else [place] if model and place.is_file() else []
        files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]
        content = {"options": options, "files": files}
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """The outcome of a cell."""

    axes: Mapping[str, Any]  # The cell's
    fingerprint: str  # The cell's
    state: str  # `complete` or `failed`
    seconds: float  # of the last attempt
    results: str | None = None  # Its results file, seen from the cell's folder
    scores: tuple[Mapping[str, Any], ...] = ()  # Metric, filter, value, stderr
    line: str = ""  # the error of one that failed
    kept: bool = field(default=False, compare=False)  # Whether it was finished before
    # version of the program that finished it; what another one finished is not used
    program: Mapping[str, str | None] = field(default_factory=dict)


def cells_of(config: GridConfig) -> list[Cell]:
    """Return every distinct cell, in the order of the options."""
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
    """Return a readable name of a cell's folder, made distinct by a digest."""
    parts = [Path(str(axes["model"])).name, axes["task"], axes["condition"]]
    parts += [f"{axes[name]}-{name}" for name in AXES[3:] if axes[name] is not None]
    words = re.sub(r"[^A-Za-z0-9._+-]+", "_", "_".join(map(str, parts))).strip(".")[:NAME_LENGTH]
    return f"{words}-{sha256(json.dumps(axes).encode()).hexdigest()[:8]}"


def finished(cell: Cell) -> Done | None:
    """Return what an earlier command of the same version finished with these options; None if nothing."""
    done = finished_by_any(cell)
    return done if done is not None and done.program == program() else None


def finished_by_any(cell: Cell) -> Done | None:
    """Return what an earlier command of any version finished with these options; None if nothing."""
    try:
        row = json.loads((cell.folder / STATE_FILE).read_text("utf-8"))
        done = Done(**{**row, "scores": tuple(row["scores"]), "kept": True})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = done.state == COMPLETE and done.fingerprint == cell.fingerprint
    return done if whole and (cell.folder / str(done.results)).is_file() else None


def run_cell(cell: Cell) -> Done:
    """Run a cell unless it is finished; an error becomes its outcome."""
    begun = time.monotonic()
    try:
        done = finished(cell) or _ran(cell, begun)
    except Exception as error:  # noqa: BLE001 - one cell must not end the others; its outcome says what it was
        own = error if isinstance(error, LtmEvalError) else LtmEvalError(f"{type(error).__name__}: {error}")
        done = Done(cell.axes, cell.fingerprint, FAILED, time.monotonic() - begun, line=error_line(own))
    return done


def _ran(cell: Cell, begun: float) -> Done:
    """Run a cell, waiting for another process that works on it already."""
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


@dataclass(frozen=True)
class Swept:
    """All cells of a grid."""

    done: tuple[Done, ...]  # In the order of the options
    summary: Path  # JSON of all of them

    @property
    def failed(self) -> list[Done]:
        """Return the cells without results."""
        return [one for one in self.done if one.state == FAILED]


def run_grid(config: GridConfig) -> Swept:
    """Run every cell that is not finished; the same command resumes.

    Raises:
        UsageError: an option cannot be used.
        CheckpointError: a checkpoint does not exist.
        MachineError: the output folder cannot be written, or Ray is asked for and is not there.
        RefusedError: another command works in the output folder.
    """
    from ltm_eval.model.checkpoint import check_place

    if read_launch().world > 1:
        raise UsageError(
            "a sweep places whole cells: start it in one process, with --ray_address to run cells side by side; "
            "torchrun and accelerate are for `run`"
        )
    if config.ray_address is not None and find_spec("ray") is None:
        raise MachineError("--ray_address needs Ray: pip install 'ltm-eval[ray]'")

    def known(base: RunConfig) -> tuple[TaskManager, tuple[str, ...], list[str]]:
        for model in filter(None, config.models):
            check_place(model)
        manager = task_manager(base)
        tasks = tuple(known_tasks(base.tasks, manager))
        refuse_unread(task_metadata(base.metadata), manager, tasks, elsewhere=ELSEWHERE)
        if len(config.models) > 1 and training_metadata(base.metadata):
            raise UsageError(
                "metadata: training is of one model, this sweep has several; give each its training_compute.json"
            )
        return manager, tasks, heeding(manager, tasks, base)

    with begun(config.base, known) as (_, output, _, (manager, tasks, concerned)):
        base = replace(config.base, tasks=tasks, output_path=str(output))
        undecoded: dict[str, Any] = {"gen_kwargs": None, "n": 1, "k": (), "rethink": 0}
        cells = [
            Cell(
                replace(
                    cell.config,
                    metadata=metadata_for(base, cell.config.tasks[0], manager),
                    **({} if cell.config.tasks[0] in concerned else undecoded),
                )
            )
            for cell in cells_of(replace(config, base=base))
        ]
        settled = [note for model in config.models for note in settle(replace(base, model=model))[1]]
        notes = list(dict.fromkeys(settled))
        show_notes(notes if config.ray_address is not None else [])  # otherwise each cell says its own

        def write(done: Mapping[int, Done]) -> None:
            rows = [asdict(done[index]) for index in sorted(done)]
            write_json_atomic(output / SUMMARY, {"notes": notes, "cells": rows, "of": len(cells)})

        show = Show(cells, quiet=base.quiet)
        done = {index: found for index, cell in enumerate(cells) if (found := finished(cell)) is not None}
        for index, one in done.items():
            show.ended(index, one)
        left = [index for index in range(len(cells)) if index not in done]
        _check_program([cells[index] for index in left], output, fresh=base.fresh)
        todo = [cells[index] for index in left]
        try:
            ended = enumerate(map(run_cell, todo)) if config.ray_address is None else _on_ray(todo, config)
            for index, one in ended:
                done[left[index]] = one
                show.ended(left[index], one)
                write(done)
        finally:
            show.close()
        write(done)
    return Swept(tuple(done[i] for i in range(len(cells))), output / SUMMARY)


def _check_program(left: Sequence[Cell], output: Path, *, fresh: bool) -> None:
    """Refuse to resume a grid that another version of the program left unfinished; say what is run again.

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
    """Raise an error unless every cell is complete.

    Raises:
        IncompleteError: a cell failed.
    """
    if swept.failed:
        first = swept.failed[0].line.split(": ", 2)[-1]
        raise IncompleteError(
            f"{len(swept.failed)} of {len(swept.done)} cells failed, the first by {first[:140]}; the same command "
            "tries them again"
        )


def _on_ray(cells: Sequence[Cell], config: GridConfig) -> Iterator[tuple[int, Done]]:
    """Run cells on the slots of a cluster and yield each index with its outcome as it ends.

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
    """Return the outcome of a cell's Ray task, or that its worker died too often."""
    try:
        found: Done = ray.get(ended)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()
        line = error_line(MachineError(f"its worker died {RETRIES + 1} times ({cause[0] if cause else 'no reason'})"))
        return Done(cell.axes, cell.fingerprint, FAILED, 0.0, line=line)
    return found


def _started(address: str) -> Any:
    """Return Ray, connected; a cluster started here has no dashboard, whose port would run anybody's code."""
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


class Show:
    """Show progress: a live table on a terminal, else a line for every cell that ends."""

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
        """Show the outcome of a cell that has ended, or was finished before."""
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
        """Stop the live table."""
        if self._live is not None:
            self._live.stop()

    def _table(self) -> Any:
        from rich.markup import escape
        from rich.table import Table

        table = Table(*AXES, "result", title=f"{len(self._done)} of {len(self._cells)} cells")
        room, every = max(4, shutil.get_terminal_size().lines - 6), list(range(len(self._cells)))
        for index in every if len(every) <= room else list(self._done)[-room:]:
            done = self._done.get(index)
            shown = ["" if value is None else printable(str(value)) for value in self._cells[index].axes.values()]
            table.add_row(*map(escape, shown), escape(_outcome(done)) if done is not None else "…")
        return table


def table_grid(swept: Swept) -> str:
    """Return all cells as text."""
    rows = []
    for one in swept.done:
        shown = ["" if value is None else printable(str(value)) for value in one.axes.values()]
        rows.append((*shown, f"{one.seconds:.0f}", _outcome(one)))
    return aligned((*AXES, "seconds", "result"), rows)


def _outcome(done: Done) -> str:
    """Return the first headline figure of a cell, or why there is none."""
    if done.state != COMPLETE:
        return printable(done.line.removeprefix("ltm-eval: "))
    for name in HEADLINES:
        for score in done.scores:
            if str(score["metric"]).startswith(name) and isinstance(score["value"], (int, float)):
                error = score["stderr"]
                spread = f" ± {error:.4g}" if isinstance(error, (int, float)) else ""
                return f"{score['metric']} {score['value']:.4g}{spread}"
    return "done"
