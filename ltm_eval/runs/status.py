"""Progress of a run, read from its folder while it works: nothing is locked, loaded or changed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ltm_eval.runs.journal import Contents, files_of, read
from ltm_eval.runs.session import COMPLETE, MANIFEST, Manifest, status_of
from ltm_eval.system.errors import ResultsError, printable
from ltm_eval.system.files import NAME, Holder, holder_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Line:
    """Progress of one task of one model."""

    model: str  # folder below the output folder
    task: str
    done: int  # answers that are on disk
    total: int  # answers that were asked for
    per_second: float | None  # answers per second since the last start; None before the first
    seconds_left: float | None  # at that rate; None if unknown or nothing is left
    written: float  # unix time of the last answer or plan


@dataclass(frozen=True)
class Model:
    """Progress of one model."""

    folder: Path
    status: str  # running, incomplete or complete, as its results file says; `begun` before there is one
    lines: tuple[Line, ...]
    damaged: int  # lines of the journal that a resume skips


@dataclass(frozen=True)
class Status:
    """Progress of everything below an output folder."""

    holder: Holder | None  # the command at work there
    models: tuple[Model, ...]


def status(output: Path) -> Status:
    """Return the progress of the runs in an output folder, or in one model's folder.

    Raises:
        ResultsError: there is no run.
        MachineError: a file cannot be read.
        RefusedError: answers of the journal contradict each other.
    """
    folders = sorted(path.parent for path in output.rglob(MANIFEST))
    if not folders:
        raise ResultsError(f"{output}: no run here (no {MANIFEST}); give the folder named by --output_path")
    root = next((folder for folder in (output, *output.resolve().parents) if (folder / NAME).exists()), output)
    holder = holder_of(root)
    models = []
    for folder in folders:
        manifest = Manifest.read(folder)
        assert manifest is not None  # its file was just found
        found = read(folder)
        said = status_of(manifest.results(folder)) or "begun"
        said = said if holder is not None or said == COMPLETE else "incomplete"
        name = folder.relative_to(output).as_posix()
        lines = tuple(_lines(name if name != "." else folder.name, folder, manifest, found))
        models.append(Model(folder, said, lines, found.damaged))
    return Status(holder, tuple(models))


def _lines(name: str, folder: Path, manifest: Manifest, found: Contents) -> Iterator[Line]:
    """Yield a line for each task, from its last plan and the answers added by the same start."""
    launches = {head.file: head.launch for head in found.heads}
    # files of the manifest's run, or of the same command begun under another name
    asked = (manifest.settings, manifest.asked)
    own = {head.file for head in found.heads if head.run and (head.run.get("settings"), head.run.get("asked")) == asked}
    plans = {plan.task: plan for plan in sorted(found.plans, key=lambda one: one.time) if plan.file in own}
    written = {path.name: path.stat().st_mtime for path in files_of(folder)}
    for task, plan in plans.items():
        files = [file for file, launch in launches.items() if launch == plan.launch]
        new = sum(found.counts[file, task] for file in files)
        last = max(written[file] for file in files)
        done = plan.total - plan.left + new
        rate = new / (last - plan.time) if new and last > plan.time else None
        left = plan.total - done
        yield Line(name, task, done, plan.total, rate, left / rate if rate and left else None, last)


def text(found: Status, *, now: float | None = None) -> list[str]:
    """Return the lines to print."""
    at = time.time() if now is None else now
    lines = [f"at work: {found.holder.words}" if found.holder else "nobody is at work here"]
    for model in found.models:
        is_open = model.damaged and model.status != COMPLETE
        hint = f"; {model.damaged} damaged lines, done again on resume" if is_open else ""
        lines.append(f"{model.folder.name}: {model.status}{hint}")
        lines += [f"  {_words(line, at, at_work=found.holder is not None)}" for line in model.lines]
    return [printable(line) for line in lines]


def _words(line: Line, now: float, *, at_work: bool) -> str:
    share = 100 * line.done / line.total if line.total else 100.0
    rate = f", {line.per_second:.3g} a second" if line.per_second else ""
    left = f", {_span(line.seconds_left)} left" if line.seconds_left and at_work else ""
    ago = _span(now - line.written)
    return f"{line.task}: {line.done}/{line.total} ({share:.0f} %){rate}{left}, last written {ago} ago"


def _span(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def to_json(found: Status) -> str:
    """Return the status as JSON, for other programs."""
    models = [
        {
            "folder": str(model.folder),
            "status": model.status,
            "damaged": model.damaged,
            "tasks": [asdict(line) for line in model.lines],
        }
        for model in found.models
    ]
    return json.dumps({"holder": found.holder and asdict(found.holder), "models": models}, indent=2)
