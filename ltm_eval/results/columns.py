"""Runs as the columns of a table: one for each model and the settings on which its figures depend.

A model is a checkpoint (by its digest) or a baseline. A cell is what one run says about one task; its settings are
those that the signatures of that task's figures declare, with the documents, prompts and generation options behind
them. Of cells of the same model, task and settings the newest is shown. The first column of a model has a cell of each
of its tasks, whichever command made it; a further column holds what was made under other settings.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_eval.results.files import UNFINISHED, shots_words
from ltm_eval.results.official import read_facts
from ltm_eval.results.signature import PREPARATION, ROLLING, SAMPLED, Setting, tokens_of
from ltm_eval.system.records import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ltm_eval.results.files import Run, RunExtra, TaskResult

DIGEST_KEYS = ("checkpoint_sha256", "checkpoint_digest", "model_sha", "model_revision")
BRANCHES = ("main", "master")
"""Revisions that do not say which weights they are."""
DIGEST_DIGITS = 8
ROWS = ("_as_released_block_mean", "_as_released", "_causal", "_prior", "_iwae")
"""Endings of perplexity rows that have a fit or draws of their own."""
NO_SETTING = ("task", "filter", "limit", "v", "lm_eval")
"""Parts of a signature that set no cells apart: others say the same, or they name the program."""
OF_TASK = ("documents", "prompts", "rows", "version", "used", *PREPARATION)
"""Settings that say nothing about another task of the same column."""
COMPARABLE = ("documents", "shots", "version", "fewshot_seed", *PREPARATION)
"""Settings in which figures of two models should agree."""
HARMLESS = frozenset(
    ("pretrained", "model", "path", "peft", "delta", "engine", "revision", "batch_size", "max_batch_size", "device")
    + ("parallelize", "device_map", "cache_dir", "trust_remote_code", "base_url", "num_concurrent", "max_retries")
    + ("tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization")
)
"""Model arguments of other programs that name the model, or change no figure."""


@dataclass(frozen=True)
class Cell:
    """What one run says about one task."""

    task: str
    run: Run
    settings: Mapping[str, str]  # by name; those that the run does not tell are absent
    metrics: frozenset[tuple[str, str]]  # metric and filter


def columns_of(runs: Sequence[Run]) -> list[Run]:
    """Return one run for each column: models in the order of `runs`, each with its cells' tasks.

    `older` of a column counts, by task, the runs that a newer one of the same cell replaces. A run that was named as a
    file is replaced by none.
    """
    shown = [run for run in runs if not run.extra.sweep_cell or run.named] or list(runs)
    models: dict[tuple[str, ...], list[Run]] = {}
    for run in shown:
        models.setdefault(model_of(run), []).append(run)
    cells: dict[tuple[str, ...], list[Cell]] = {}
    older: dict[tuple[str, ...], dict[tuple[Path, str], int]] = {}
    for model, found in models.items():
        cells[model], older[model] = _newest(found)
    columns = []
    for model, own in cells.items():
        others = [cell for other, rest in cells.items() if other != model for cell in rest]
        columns += [
            joined([(cell.task, cell.run) for cell in column], older[model]) for column in _columns(own, others)
        ]
        columns += [run for run in models[model] if not run.tasks][: not own]
    return columns


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its model's, and in what runs of one model differ."""
    by_name: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        by_name.setdefault(run.model_name, []).append(index)
    labels = [run.model_name for run in runs]
    for name, indices in by_name.items():
        if len(indices) > 1:
            words = _apart([runs[index] for index in indices])
            for index, own in zip(indices, words, strict=True):
                labels[index] = " · ".join((name, *own))
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        labels[index] = label if seen[label] == 1 else f"{label} #{seen[label]}"
    return labels


def model_of(run: Run) -> tuple[str, ...]:
    """Return what tells the run's model from others: its digest and training step, else its name and revision."""
    told = told_of(run)
    digest = told_digest(told)
    step = str(mapping(run.config.get("checkpoint")).get("step") or "")
    if run.model_kind == "ltm" and digest:
        return ("ltm", digest, step)
    return (run.model_kind, run.model_name, digest or str(told.get("revision") or ""), step)


def told_of(run: Run) -> dict[str, Any]:
    """Return the arguments of the model and lm-eval's `config` as one mapping."""
    return {**_arguments(run), **run.config}


def told_digest(told: Mapping[str, Any]) -> str:
    """Return the checkpoint's digest; a revision only if it is no name of a branch."""
    found = (str(told[key]) for key in DIGEST_KEYS if told.get(key))
    return next((text for text in found if text not in BRANCHES), "")


def settings_of(run: Run, task: str) -> dict[str, str]:
    """Return the settings on which the figures of a task depend, by name, as far as the run tells them."""
    run = run.of(task)
    result = run.tasks[task]
    options = mapping(result.config.get("generation_kwargs"))
    found: dict[str, str] = {}
    for score in sorted(result.scores, key=lambda score: score.metric.endswith(ROWS)):
        row = next((row.strip("_").replace("_", " ") for row in ROWS if score.metric.endswith(row)), "")
        drawn = run.model_kind == "ltm" or score.metric.startswith(SAMPLED) or bool(options.get("do_sample"))
        for part in setting_of(run, task).signature(score.metric, score.filter).split("|")[1:]:
            name, _, value = part.partition(":")
            if name in NO_SETTING or (name == "seed" and not drawn) or (name == "fewshot_seed" and not result.n_shot):
                continue
            if not row or found.get(name) != value:
                found.setdefault(f"{row} {name}".strip(), value)
    tokens = tokens_of(run, task)
    rolling = all(score.metric.startswith(ROLLING) for score in result.scores)
    told = {
        "version": result.version,
        "documents": result.n_effective if result.n_effective is not None else run.extra.limit,
        "prompts": result.task_hash[:DIGEST_DIGITS],
        "rows": ", ".join(_rows(result)) if run.model_kind == "ltm" and rolling else "",
        "tokens": tokens.digest[:DIGEST_DIGITS] if tokens is not None else "",
        "sample": run.extra.sample_data or read_facts((run.extra.data or {}).get("sets"), task).get("sample") or None,
        **({} if rolling else {f"generation_{name}": value for name, value in options.items()}),
        "options": None if run.extra.settings else _options(run),
        "used": shots_words(mapping(run.extra.shots).get(task)),
    }
    return found | {name: _text(value) for name, value in told.items() if value not in (None, "")}


def _options(run: Run) -> str:
    """Return the arguments that another program gave the model; what is absent has its default there."""
    found = [f"{name}={_text(value)}" for name, value in _arguments(run).items() if name not in HARMLESS]
    return ", ".join(sorted(found)) or "default options"


def _rows(result: TaskResult) -> list[str]:
    """Return the names of a perplexity's rows."""
    metrics = [score.metric for score in result.scores]
    return ["bound", *(row.strip("_") for row in ROWS[1:] if any(metric.endswith(row) for metric in metrics))]


def setting_of(run: Run, task: str) -> Setting:
    """Return what the figures of one task depend on, as the results file declares it."""
    result = run.tasks[task]
    return Setting(
        task=result.name,
        version=result.version,
        n_shot=result.n_shot,
        config=run.config,
        definition=result.config,
        read=read_facts((run.extra.data or {}).get("sets"), result.name),
        lm_eval=run.software.get("lm_eval_version", ""),
    )


def word_of(name: str, value: str) -> str:
    """Return a setting in words: `16 steps`, `8 shots`, `demos`."""
    row, _, last = name.rpartition(" ")
    value = value.removeprefix("torch.")
    units = {"t_fast": "steps", "shots": "shots", "documents": "documents", "draws": "draws"}
    if last in units:
        said = f"{value} {units[last].removesuffix('s') if value == '1' else units[last]}"
    elif last in ("condition", "split", "protocol", "dtype", "rows", "options", "used"):
        said = value
    elif last == "sample":
        said = "sample data"
    else:
        said = f"{last.removeprefix('fit_').removeprefix('generation_').replace('_', ' ')} {value}"
    return f"{row} {said}" if row else said


def differing(told: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the settings that two of the mappings tell differently."""
    names = dict.fromkeys(name for one in told for name in one)
    return [name for name in names if len({one[name] for one in told if name in one}) > 1]


# Cells


def _cell(run: Run, task: str) -> Cell:
    metrics = frozenset((score.metric, score.filter) for score in run.tasks[task].scores)
    return Cell(task, run, settings_of(run, task), metrics)


def _newest(runs: Iterable[Run]) -> tuple[list[Cell], dict[tuple[Path, str], int]]:
    """Return the cells of one model, each the newest of its kind, and for each run and task how many it replaces.

    Finished runs come before those that were cut off, of which nothing is counted.
    """
    order = sorted(runs, key=lambda run: (run.extra.status not in UNFINISHED, run.date_id), reverse=True)
    cells: list[Cell] = []
    replaced: dict[tuple[Path, str], int] = {}
    for run in order:
        for task in run.tasks:
            own = _cell(run, task)
            newer = next((cell for cell in cells if not run.named and _replaces(cell, own)), None)
            if newer is None:
                cells.append(own)
            elif run.extra.status not in UNFINISHED:
                key = (newer.run.path, task)
                replaced[key] = replaced.get(key, 0) + 1
    return cells, replaced


def _replaces(newer: Cell, older: Cell) -> bool:
    return (
        newer.task == older.task
        and older.metrics <= newer.metrics
        and set(differing([newer.settings, older.settings])) <= {"rows"}
    )


def _columns(cells: Sequence[Cell], others: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells of one model by column; the first has one of each task."""
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task, []).append(cell)
    columns: list[list[Cell]] = [[]]
    for own in sorted(by_task.values(), key=len, reverse=True):  # the task with most settings decides
        ranked = sorted(own, key=lambda cell: _rank(cell, by_task.values(), others), reverse=True)
        first = next((cell for cell in ranked if _agrees(cell, columns[0])), ranked[0])
        columns[0].append(first)
        for cell in ranked:
            if cell is first:
                continue
            fitting = (c for c in columns[1:] if all(o.task != cell.task for o in c) and _agrees(cell, c))
            column = next(fitting, None)
            if column is None:
                columns.append([cell])
            else:
                column.append(cell)
    return [column for column in columns if column]


def _agrees(cell: Cell, column: Sequence[Cell]) -> bool:
    names = [name for one in column for name in differing([one.settings, cell.settings])]
    return all(name in OF_TASK for name in names)


def _rank(cell: Cell, own: Iterable[Sequence[Cell]], others: Sequence[Cell]) -> tuple[int, int, float]:
    """Return how many cells of other models and how many tasks of its own go with this cell, and its documents."""
    alike = 0
    for other in others:
        if other.task == cell.task and not set(differing([other.settings, cell.settings])) & set(COMPARABLE):
            alike += 1
    tasks = sum(any(_agrees(cell, [other]) for other in cells) for cells in own)
    return alike, tasks, float(cell.settings.get("documents", 0))


# Words


def _apart(runs: Sequence[Run]) -> list[list[str]]:
    """Return in what each of several runs of one name differs from the others, in words."""
    words: list[list[str]] = [[] for _ in runs]
    if len({model_of(run) for run in runs}) > 1:
        words = _models_apart(runs)
    told = [{task: settings_of(run, task) for task in run.tasks} for run in runs]
    names: dict[str, list[str]] = {}  # setting to the tasks in which it differs
    for task in dict.fromkeys(task for one in told for task in one):
        for name in differing([one[task] for one in told if task in one]):
            names.setdefault(name, []).append(task)
    if len(names) > 1:
        names.pop("prompts", None)  # the others say why
    if "shots" in names:
        names.pop("used", None)
    for name, tasks in names.items():
        for own, one in zip(words, told, strict=True):
            of = tasks if name in OF_TASK else one
            said = [one[task] for task in of if task in one and name in one[task]]
            short = "used" if name == "shots" and any("used" in settings for settings in said) else name
            if values := dict.fromkeys(settings.get(short, settings[name]) for settings in said):
                own.append(word_of(short, " / ".join(values)))
    if len({tuple(own) for own in words}) < len(runs):
        words = [own + place for own, place in zip(words, _places(runs), strict=True)]
    return words


def _models_apart(runs: Sequence[Run]) -> list[list[str]]:
    steps = [str(mapping(run.config.get("checkpoint")).get("step") or "") for run in runs]
    if len(set(steps)) == len({model_of(run) for run in runs}):
        return [[f"step {step}"] if step else [] for step in steps]
    found = []
    for run in runs:
        told = told_of(run)
        named = told_digest(told)[:DIGEST_DIGITS] or str(told.get("revision") or "")
        found.append([named] if named else [])
    return found


def _places(runs: Sequence[Run]) -> list[list[str]]:
    """Return the nearest folder in which the runs differ; nothing if they lie in one."""
    folders = [run.path.resolve().parent.parts[::-1] for run in runs]
    for names in zip(*folders, strict=False):
        if len(set(names)) == len(runs):
            return [[name] for name in names]
    return [[] for _ in runs]


# Columns as runs


def joined(cells: Iterable[tuple[str, Run]], older: Mapping[tuple[Path, str], int] | None = None) -> Run:
    """Return runs of one model as one run: the newest one's facts, and of each run the tasks named with it.

    Args:
        cells: a task and the run that it is taken from.
        older: by results file and task, how many older runs of the same settings are not shown.
    """
    by_run: dict[Path, tuple[Run, list[str]]] = {}
    for task, run in sorted(cells, key=lambda cell: (cell[1].date_id, list(cell[1].tasks).index(cell[0]))):
        by_run.setdefault(run.path, (run, []))[1].append(task)
    count = {task: (older or {}).get((run.path, task), 0) for run, tasks in by_run.values() for task in tasks}
    parts = [
        run if len(tasks) == len(run.tasks) else replace(run, tasks={t: run.tasks[t] for t in tasks}, seconds=None)
        for run, tasks in by_run.values()
    ]
    count = {task: times for task, times in count.items() if times}
    if len(parts) == 1:
        return replace(parts[0], older=count)
    seconds = [part.seconds for part in parts]
    return replace(
        parts[-1],
        config=_combined([part.config for part in parts]),
        tasks={name: result for part in parts for name, result in part.tasks.items()},
        seconds=math.fsum(filter(None, seconds)) if all(one is not None for one in seconds) else None,
        extra=_extra(parts[-1].extra, [part.extra for part in parts]),
        parts=tuple(parts),
        older=count,
    )


def _extra(newest: RunExtra, all_: Sequence[RunExtra]) -> RunExtra:
    sets = {**(newest.data or {}), "sets": _merged((one.data or {}).get("sets") for one in all_)}
    audits = [one.audit for one in all_ if one.audit is not None]
    unfinished = next((one.status for one in all_ if one.status in UNFINISHED), newest.status)
    return replace(
        newest,
        warnings=tuple(dict.fromkeys(warning for one in all_ for warning in one.warnings)),
        demo_model=any(one.demo_model for one in all_),
        sample_data=any(one.sample_data for one in all_),
        data=sets if newest.data else newest.data,
        settings=_combined([one.settings for one in all_ if one.settings]) or newest.settings,
        audit=next((audit for audit in audits if not audit.is_bound), audits[-1] if audits else None),
        content_free=_merged(one.content_free for one in all_),
        rethink_budget=_merged(one.rethink_budget for one in all_),
        floors=_merged(one.floors for one in all_),
        cost=_merged(one.cost for one in all_),
        groups=_merged(one.groups for one in all_),
        status=unfinished,
    )


def _merged(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def _combined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mappings as one; where they differ, a list of their values."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values: list[Any] = []
        for part in parts:
            if name in part and part[name] not in values:
                values.append(part[name])
        if len(values) == 1:
            found[name] = values[0]
        elif all(isinstance(value, dict) for value in values):
            found[name] = _combined(values)
        else:
            found[name] = values
    return found


def _arguments(run: Run) -> dict[str, Any]:
    arguments = run.config.get("model_args")
    if isinstance(arguments, str):
        return dict(part.partition("=")[::2] for part in arguments.split(",") if part)
    return mapping(arguments)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
