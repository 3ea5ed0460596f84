"""A sweep over checkpoints, tasks, conditions, demonstrations, fast steps and seeds: one cell after another in this
process, or as many at once as a Ray cluster has slots.

Ray is used for placing cells and for trying them again when a worker dies; what is finished, it is not asked. One cell
that fails does not stop the others.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.cells import AXES, COMPLETE, FAILED, FOLDER, Cell, Done, cells_of, finished, finished_by_any, run_cell
from ltm_eval.errors import IncompleteError, MachineError, RefusedError, UsageError, error_line, printable
from ltm_eval.evaluation import show_notes
from ltm_eval.launch import read_launch
from ltm_eval.lock import holding
from ltm_eval.plug import refuse_unread
from ltm_eval.preflight import check_output, settle
from ltm_eval.provenance import program
from ltm_eval.resume import MANIFEST, check_program, differing
from ltm_eval.strict_files import write_json_atomic
from ltm_eval.task_loading import ELSEWHERE, heeding, known_tasks, metadata_for, task_manager, task_metadata
from ltm_eval.worklist import say_on_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.config import GridConfig

SUMMARY = "sweep.json"
LOCAL = "local"
RETRIES = 3
"""Times that Ray tries a cell again when the process that runs it dies; errors of the cell itself are not retried."""
HEADLINES = ("exact_match", "ppl_per_token_bound", "ppl_per_token", "mauve", "acc", "pass@", "maj@")


@dataclass(frozen=True)
class Swept:
    """All cells of a sweep."""

    done: tuple[Done, ...]
    """In the order of the options."""
    summary: Path
    """JSON of all of them."""

    @property
    def failed(self) -> list[Done]:
        """Those without results."""
        return [one for one in self.done if one.state == FAILED]


def run(config: GridConfig) -> Swept:
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
            f"{output} holds an unfinished sweep of another program ({len(others)} cells are done); finish it with "
            f"that one, name another --output_path, or run those cells again with --fresh. {told}"
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


def table(swept: Swept) -> str:
    """All cells as text."""
    rows: list[tuple[str, ...]] = [(*AXES, "seconds", "result")]
    for one in swept.done:
        shown = ["" if value is None else printable(str(value)) for value in one.axes.values()]
        rows.append((*shown, f"{one.seconds:.0f}", _outcome(one)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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


__all__ = ["FOLDER", "Swept", "check", "run", "table"]
