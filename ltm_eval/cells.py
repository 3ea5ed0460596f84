"""The cells of a sweep: which there are, what of each is on disk, and how one is run.

    <output>/cells/<name>/             a cell's own run: journal, results, lock
    <output>/cells/<name>/cell.json    what became of it; `complete` is not run again

Whether a cell is finished is read from disk and nowhere else. A cell that is tried anew while an earlier attempt still
works on it waits for that one, so it is run once.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import run as runner
from ltm_eval.config import DEMO_MODEL, NOTHING, GridConfig, RunConfig, SweepConfig, changing
from ltm_eval.errors import IncompleteError, LtmEvalError, RefusedError, error_line
from ltm_eval.lock import holder_of
from ltm_eval.provenance import program
from ltm_eval.results import read_run
from ltm_eval.strict_files import write_json_atomic
from ltm_eval.sweep import combinations

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER, STATE_FILE = "cells", "cell.json"
COMPLETE, FAILED = "complete", "failed"
AXES = ("model", "task", "condition", "shots", "t_fast", "seed")
WAIT_SECONDS = 1.0
NAME_LENGTH = 80


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: RunConfig
    """Its options; results go to its own folder."""

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

    axes: Mapping[str, Any]
    """The cell's."""
    fingerprint: str
    """The cell's."""
    state: str
    """`complete` or `failed`."""
    seconds: float
    """It took, in the last attempt."""
    results: str | None = None
    """Its results file, seen from the cell's folder."""
    scores: tuple[Mapping[str, Any], ...] = ()
    """Metric, filter, value, stderr."""
    line: str = ""
    """Why it failed."""
    kept: bool = field(default=False, compare=False)
    """Whether it was finished before."""
    program: Mapping[str, str | None] = field(default_factory=dict)
    """`provenance.program` that finished it; what another one finished is not used."""


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
