"""Recompute the metrics of a finished run from its answers, without its model: other filters, other k, by group.

The tasks are built as the run built them, and a stand-in for the model returns the journal's answer to every request.
The result is another results file of the same model; the run's own files are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.harness.evaluation import (
    evaluate_task,
    sample_row,
    sampled_figures,
    stop_reasons,
    task_hash,
    value_for_lm_eval,
)
from ltm_eval.harness.loading import tasks_of
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import quiet_libraries
from ltm_eval.results.files import SIDECARS, find_runs, read_answers, read_latents, read_run
from ltm_eval.results.statistics import interval_of
from ltm_eval.runs.journal import Contents, Journal, read
from ltm_eval.runs.session import COMPLETE, Manifest
from ltm_eval.runs.worklist import Answer, Request, Worklist, first_documents, is_by_token, numbered
from ltm_eval.system.errors import DataError, IncompleteError, ResultsError, UsageError, masked_all
from ltm_eval.system.files import holding, read_regular, unused_date, write_json_atomic, write_jsonl_atomic

if TYPE_CHECKING:
    from ltm_eval.results.files import Run


@dataclass(frozen=True)
class Changes:
    """What is changed against the run."""

    k: tuple[int, ...] = ()  # Values of k of pass@k; empty keeps the run's
    # Further extractions: name and regular expression, whose last match is the answer
    filters: tuple[tuple[str, str], ...] = ()
    group: str | None = None  # Field of the documents by which metrics are grouped


class Replay:
    """A model, to lm-eval's evaluator, that answers requests from the journal."""

    rank, world_size, device = 0, 1, "none"

    def __init__(self, journal: Journal, kind: str, *, token_nll: int = 0) -> None:
        """Return answers of a run.

        Args:
            journal: of the run's settings.
            kind: `ltm` or `hf`, whose answers differ in form.
            token_nll: number of first documents of each task whose per-token NLL the run kept.
        """
        self.worklist, self._kind, self._token_nll = Worklist(journal), kind, token_nll

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the continuations."""
        if self._kind != "ltm":
            return [answer.value for answer in self._answers("generate_until", requests, together=False)]
        answers = self._answers("generate_until", requests, together=True)
        texts = [answer.value["texts"] for answer in answers]
        places: dict[int, int] = {}
        found = []
        for request, own in zip(requests, texts, strict=True):
            place = places[id(request)] = places.get(id(request), -1) + 1
            found.append(own[place if len(own) > 1 else 0])
        return found

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return the scores."""
        answers = self._answers("loglikelihood", requests, together=False)
        return [value_for_lm_eval(answer.value) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return the bounds with their parts, or a baseline's scores."""
        answers = self._answers("loglikelihood_rolling", requests, together=False)
        return [value_for_lm_eval(answer.value) for answer in answers]

    def _answers(self, kind: str, requests: Sequence[Any], *, together: bool) -> list[Answer]:
        """Return the answer of every request and repeat; `together`: all repeats that rethink are one request."""
        wanted = first_documents(requests, self._token_nll if kind != "loglikelihood" else 0)
        asked = []
        for request, repeat in numbered(requests):
            options = request.args[1] if len(request.args) > 1 else {}
            rethinks = together and isinstance(options, Mapping) and bool(options.get("rethink"))
            by_token = not rethinks and is_by_token(request, repeat, wanted)
            asked.append(Request(instance=request, repeat=None if rethinks else repeat, by_token=by_token))
        work = self.worklist.open(kind, asked)
        if work.todo:
            raise IncompleteError(
                f"{len(work.todo)} of {len(asked)} answers to task {asked[0].task} are not in the journal; run the "
                "command of the run once more, then rescore"
            )
        return work.close()


def rescore(output: Path, changes: Changes) -> list[Path]:
    """Write a results file with new metrics for every model in an output folder.

    Args:
        output: as a run's `--output_path`, or one results file.
        changes: against the run.

    Returns:
        The new results files.

    Raises:
        ResultsError: a run has no journal or no settings.
        IncompleteError: answers are missing.
        UsageError: a change does not suit the run.
    """
    quiet_libraries()
    runs = [_original(run) for run in find_runs([output])]
    with holding(output if output.is_dir() else output.parent):
        return [_rescored(run, changes) for run in runs]


def _original(run: Run) -> Run:
    """Return the run itself if its newest file came from rescoring."""
    content = json.loads(run.path.read_text("utf-8"))
    told = (content.get("ltm_eval") or {}).get("rescored")
    return read_run(run.path.with_name(Path(str(told["of"])).name)) if told else run


def _rescored(run: Run, changes: Changes) -> Path:
    folder = run.path.parent
    config = _config_of(run, changes)
    tasks = tasks_of(config)
    for task in tasks:
        _extend(task, changes.filters)
    lm = Replay(Journal(folder, _settings_of(run, read(folder))), run.model_kind, token_nll=config.token_nll)
    content = json.loads(run.path.read_text("utf-8"))
    date_id = unused_date(folder)
    groups: dict[str, Any] = {}
    for task in tasks:
        rows = _evaluated(lm, task, config, content, changes)
        write_jsonl_atomic(folder / f"samples_{task.task_name}_{date_id}.jsonl", _with_stops(run, task, rows))
        _copy_sidecars(run, task.task_name, date_id)
        if changes.group is not None:
            groups[task.task_name] = grouped(rows, changes.group, where=f"task {task.task_name}")
    content["ltm_eval"] |= {
        "status": COMPLETE,
        "rescored": {"of": run.path.name, "k": changes.k, "filters": dict(changes.filters), "group": changes.group},
        **({"groups": groups} if groups else {}),
    }
    path = folder / f"results_{date_id}.json"
    write_json_atomic(path, content)
    return path


def _config_of(run: Run, changes: Changes) -> RunConfig:
    """Return the options of the run, with other k."""
    told = dict(run.extra.settings or {})
    if not told:
        raise ResultsError(f"{run.path}: tells no settings of a run of ltm_eval, so its tasks cannot be built again")
    known: dict[str, Any] = {
        name: tuple(value)
        if isinstance(value, list)
        else os.path.expanduser(value)
        if isinstance(value, str)
        else value
        for name, value in told.items()
        if name in RunConfig.__dataclass_fields__
    }
    config = RunConfig(**{"token_nll": 0, **known})  # runs before that option kept no tokens
    if not changes.k:
        return config
    if max(changes.k) > config.n:
        raise UsageError(
            f"k = {max(changes.k)} needs as many sampled answers, the run has n = {config.n}; ask for less"
        )
    return replace(config, k=changes.k)


def _settings_of(run: Run, found: Contents) -> Mapping[str, Any]:
    """Return the settings that the answers of the run are kept under."""
    for head in found.heads:
        if head.run is not None and head.run.get("date_id") == run.date_id:
            return dict(head.run["settings"])
    manifest = Manifest.read(run.path.parent)
    if manifest is None or manifest.date_id != run.date_id:
        raise ResultsError(f"{run.path}: no journal of this run beside it; its metrics cannot be made anew")
    return manifest.settings


def _extend(task: Any, filters: Sequence[tuple[str, str]]) -> None:
    """Add filters to a task that generates."""
    from lm_eval.filters import build_filter_ensemble

    if task.OUTPUT_TYPE != "generate_until":
        return
    keeps_all = getattr(task, "repeats", None) is not None or getattr(task, "rethinking", None) is not None
    for name, pattern in filters:
        steps: list[list[Any]] = [["regex", {"regex_pattern": pattern, "group_select": -1}]]
        task._filters.append(build_filter_ensemble(name, steps if keeps_all else [*steps, ["take_first", None]]))


def _evaluated(
    lm: Replay, task: Any, config: RunConfig, content: dict[str, Any], changes: Changes
) -> list[dict[str, Any]]:
    """Evaluate one task into the content of a results file.

    Returns:
        lm-eval's logged samples.
    """
    part = evaluate_task(lm, task, config)
    (rows,) = part["samples"].values()
    added = dict(changes.filters)
    hashed = task_hash([row for row in rows if row["filter"] not in added])
    if content.get("task_hashes", {}).get(task.task_name) != hashed:
        raise DataError(f"task {task.task_name}: its documents or prompts are not those of the run; name its --data")
    for key in ("results", "configs", "higher_is_better", "generation"):
        content.setdefault(key, {}).update(masked_all(part.get(key, {})))
    if sampled := sampled_figures(task, rows):
        content["ltm_eval"]["sampled"][task.task_name] = sampled
    return list(rows)


def _with_stops(run: Run, task: Any, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of the samples file, with why answers ended from the run's sidecar."""
    stops = stop_reasons([*read_latents(run, task.task_name), *read_answers(run, task.task_name)])
    return [sample_row(row, stops.get(row["doc_id"], [])) for row in rows]


def _copy_sidecars(run: Run, task: str, date_id: str) -> None:
    told = run.tasks[task]
    for kind, source in zip(SIDECARS, (told.latents_path, told.answers_path, told.tokens_path), strict=True):
        if source is not None:
            lines = map(json.loads, read_regular(source, kind=ResultsError).splitlines())
            write_jsonl_atomic(source.with_name(f"{kind}_{task}_{date_id}.jsonl"), lines)


def grouped(rows: Sequence[Mapping[str, Any]], field: str, *, where: str) -> dict[str, Any]:
    """Return every metric by the value of a field of the documents: mean, 95 % interval and count.

    Raises:
        UsageError: no document has the field.
    """
    if not any(field in row["doc"] for row in rows):
        known = ", ".join(sorted(rows[0]["doc"])) if rows else "none"
        raise UsageError(f"{where}: its documents have no field {field!r}; they have {known}")
    found: dict[str, Any] = {}
    for value in sorted({str(row["doc"].get(field)) for row in rows}):
        own = [row for row in rows if str(row["doc"].get(field)) == value]
        found[value] = {
            f"{metric},{name}": interval_of([float(row[metric]) for row in own if row["filter"] == name])
            for name in dict.fromkeys(str(row["filter"]) for row in own)
            for metric in own[0]["metrics"]
            if all(isinstance(row[metric], (int, float)) for row in own)
        }
    return found
