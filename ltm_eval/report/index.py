"""A results folder at a glance: every run below it, its main figures, and links to its files and pages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ltm_eval.report.findings import audit_line
from ltm_eval.report.tables import (
    Cell,
    Column,
    Document,
    Part,
    Table,
    metric_text,
    value_cell,
)
from ltm_eval.results.columns import labels_of, told_digest
from ltm_eval.results.figures import apart_of, by_own_tokens, figures_of, groups_of
from ltm_eval.results.files import UNFINISHED, read_run, result_files
from ltm_eval.system.errors import InputError, MachineError, ResultsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltm_eval.results.files import Run
    from ltm_eval.results.views import Figure


UNTOLD = "–"
DIGEST_DIGITS = 12
HEADLINES = (
    "bound, bits per byte",
    "exact, bits per byte",
    "bound, perplexity per token",
    "exact, perplexity per token",
)
MOST_FIGURES = 4
"""Main figures of a task: the first ones of its results."""


@dataclass(frozen=True)
class Listed:
    """One run of the folder."""

    label: str
    run: Run
    figures: tuple[Figure, ...]
    pages: tuple[Path, ...]


@dataclass(frozen=True)
class Index:
    """What a folder holds."""

    folder: Path
    runs: tuple[Listed, ...]
    unreadable: tuple[tuple[Path, str], ...]


def index(folder: Path) -> Index:
    """Read every results file below `folder`, with its samples.

    Raises:
        ResultsError: no such folder, or nothing in it looks like results.
    """
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; give one that holds results_*.json files")
    files = result_files(folder)
    if not files:
        raise ResultsError(f"{folder}: no results_*.json below this folder; evaluate with --output_path {folder} first")
    runs: list[Run] = []
    unreadable: list[tuple[Path, str]] = []
    for file in files:
        try:
            runs.append(read_run(file))
        except (InputError, MachineError) as error:
            unreadable.append((file, str(error)))
    runs.sort(key=lambda run: (run.date_id, run.path.as_posix()), reverse=True)
    read: list[tuple[str, Run]] = []
    figures: list[Figure] = []
    for label, run in zip(labels_of(runs), runs, strict=True):
        try:
            figures += _main_figures(label, run)
            read.append((label, run))
        except (InputError, MachineError) as error:
            unreadable.append((run.path, str(error)))
    figures = by_own_tokens(figures)
    listed = [
        Listed(label, run, tuple(one for one in figures if one.model == label), tuple(_pages(run, folder)))
        for label, run in read
    ]
    return Index(folder, tuple(listed), tuple(unreadable))


def _main_figures(label: str, run: Run) -> list[Figure]:
    """Return each task's headline figures, or its first ones."""
    found = []
    for _, group in groupby(figures_of(label, run), key=lambda one: one.task):
        own = list(group)
        heads = [one for name in HEADLINES for one in own if one.metric.startswith(name)]
        found += heads or own[:MOST_FIGURES]
    return found


def _pages(run: Run, folder: Path) -> list[Path]:
    """Report pages in the run's folder and those above it, up to the index's own."""
    place, found = run.path.parent, []
    while place == folder or folder in place.parents:
        found += sorted(page for page in place.glob("report*.html") if page.is_file())
        if place == folder:
            break
        place = place.parent
    return found


# Document


def document(found: Index, *, base: Path) -> Document:
    """The index as a document.

    Args:
        found: what the folder holds.
        base: folder of the page, from which its links lead.
    """
    tasks = list(dict.fromkeys(task for one in found.runs for task in one.run.tasks))
    parts = [_runs_part(found, base)]
    parts += [_task_part(task, found) for task in tasks]
    parts += [_unreadable_part(found)] if found.unreadable else []
    name = found.folder.resolve().name or str(found.folder)
    return Document(
        kind="index",
        title=f"Results in {name}",
        lead=f"{len(found.runs):,} runs, {len(tasks):,} tasks, newest first. ≤ marks upper bounds.",
        banners=(),
        parts=tuple(parts),
        records=tuple(_record(one, figure, base) for one in found.runs for figure in one.figures),
        data=_data(found, base),
        filtered=True,
    )


def link(path: Path, base: Path) -> str:
    """The relative address of `path` from `base`; nothing in a file's name can make it another kind of address."""
    relative = os.path.relpath(path.resolve(), base.resolve()).replace(os.sep, "/")
    return quote(os.fsencode(relative), safe="/")


def _runs_part(found: Index, base: Path) -> Part:
    heads = ("model", "date", "digest or revision", "tasks", "settings", "warnings", "results", "page")
    rows = tuple(_run_cells(one, base) for one in found.runs)
    return Part("Runs", (), (Table("", tuple(Column(head) for head in heads), rows),))


def _run_cells(one: Listed, base: Path) -> tuple[Cell, ...]:
    page = Cell(one.pages[0].name, href=link(one.pages[0], base)) if one.pages else Cell(UNTOLD)
    return (
        Cell(one.label, note=one.run.model_kind),
        Cell(one.run.date_id.partition(".")[0].replace("T", " ") or UNTOLD),
        Cell(digest_of(one.run)[:DIGEST_DIGITS] or UNTOLD),
        Cell(", ".join(one.run.tasks)),
        Cell(settings_of(one.run) or UNTOLD),
        Cell("; ".join(warnings_of(one.run)) or "none"),
        Cell("results", href=link(one.run.path, base)),
        page,
    )


def digest_of(run: Run) -> str:
    """Checkpoint digest or revision, if the run tells it."""
    return told_digest(run.config)


def settings_of(run: Run) -> str:
    """Fit, condition and limit in a few words."""
    fit = run.config.get("fit")
    fit = fit if isinstance(fit, dict) else {}
    told = {
        "preset": fit.get("preset"),
        "t_fast": fit.get("t_fast"),
        "condition": run.config.get("condition"),
        "limit": None if run.extra.limit is None else f"{run.extra.limit:g}",
        "sweep": run.extra.sweep_cell or None,
    }
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


def warnings_of(run: Run) -> list[str]:
    """What the run warned of, that it is unfinished, and an audit that it failed."""
    line = audit_line(run) if run.extra.audit is not None and not run.extra.audit.is_bound else ""
    unfinished = ["unfinished: more tasks may be to come"] if run.extra.status in UNFINISHED else []
    return [*run.extra.warnings, *unfinished, *([line] if line else [])]


def _task_part(task: str, found: Index) -> Part:
    """One table per settings, so that no column holds figures that do not compare; a column per figure."""
    figures = [figure for one in found.runs for figure in one.figures if figure.task == task]
    groups = groups_of(figures)
    tables = []
    for group in groups:
        apart = apart_of(groups, group)
        names = list(dict.fromkeys(_column(figure) for figure in group.figures))
        by_label: dict[str, dict[str, Figure]] = {}
        for figure in group.figures:
            by_label.setdefault(figure.model, {})[_column(figure)] = figure
        rows = tuple(_figure_cells(label, own, names) for label, own in by_label.items())
        columns = (
            Column("model"),
            *(Column(name, numeric=True) for name in names),
            Column("n", numeric=True),
            Column("shots", numeric=True),
            Column("signature of the first figure"),
        )
        tables.append(Table(f"only {apart}" if apart else "", columns, rows))
    note = "Figures under other settings are not comparable and stand in tables of their own."
    return Part(task, (note,) if len(groups) > 1 else (), tuple(tables))


def _column(figure: Figure) -> str:
    """Bounds and exact figures of one unit share a column; the sign tells them apart."""
    row, _, unit = figure.metric.partition(", ")
    return f"{unit} ↓" if unit and row in {"bound", "exact"} else metric_text(figure)


def _figure_cells(label: str, own: dict[str, Figure], names: Sequence[str]) -> tuple[Cell, ...]:
    first = next(iter(own.values()))
    cells = [value_cell(own.get(name)) for name in names]
    counts = [Cell(UNTOLD if count is None else f"{count:,}") for count in (first.n, first.n_shot)]
    return (Cell(label), *cells, *counts, Cell(first.signature or UNTOLD))


def _unreadable_part(found: Index) -> Part:
    rows = tuple((Cell(path.as_posix()), Cell(why)) for path, why in found.unreadable)
    return Part("Unreadable", (), (Table("", (Column("file"), Column("why")), rows),))


# Data


def _record(one: Listed, figure: Figure, base: Path) -> dict[str, Any]:
    record = figure.record()
    kept = ("task", "metric", "filter", "relation", "value", "low", "high", "share", "documents", "shots", "signature")
    return {
        "model": one.label,
        "date": one.run.date_id,
        "digest": digest_of(one.run),
        **{key: record[key] for key in kept},
        "warnings": "; ".join(warnings_of(one.run)),
        "results": link(one.run.path, base),
    }


def _data(found: Index, base: Path) -> dict[str, Any]:
    return {
        "runs": [
            {
                "model": one.label,
                "kind": one.run.model_kind,
                "date": one.run.date_id,
                "digest": digest_of(one.run),
                "tasks": list(one.run.tasks),
                "settings": settings_of(one.run),
                "warnings": warnings_of(one.run),
                "results": link(one.run.path, base),
                "pages": [link(page, base) for page in one.pages],
                "figures": [figure.record() for figure in one.figures],
            }
            for one in found.runs
        ],
        "unreadable": [{"file": path.as_posix(), "why": why} for path, why in found.unreadable],
    }
