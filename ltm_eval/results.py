"""Results on disk: lm-eval's own files and the sidecar of latents, read into frozen records.

Layout, as lm-eval 0.4.13 writes it (`lm_eval/loggers/evaluation_tracker.py`), plus our sidecar:

    DIR/<model>/results_<date>.json           one per run
    DIR/<model>/samples_<task>_<date>.jsonl   one line per document and filter
    DIR/<model>/latents_<task>_<date>.jsonl   one line per request and repeat (`LatentRecord`)
    DIR/<model>/answers_<task>_<date>.jsonl   the same of a baseline (`AnswerRecord`)
    DIR/<model>/tokens_<task>_<date>.jsonl    one line per text of the first documents (`TokenRecord`)

Results of any model are read, ours and others'.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.answer_record import AnswerRecord
from ltm_eval.errors import MachineError, ResultsError, nearest
from ltm_eval.latent_record import LatentRecord
from ltm_eval.result_records import AuditResult, Floor, Run, RunExtra, Sample, Score, TaskResult
from ltm_eval.row_checks import count, finite, mapping
from ltm_eval.strict_files import digest
from ltm_eval.token_record import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DATE_ID = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)\.json$")
MODEL_KEYS = ("peft", "delta", "pretrained", "model", "path", "engine")
PREDICTED = "bypass"
"""lm-eval's stand-in for a metric with `--predict_only`; its 999 is no score."""
NO_METRICS = frozenset({"name", "alias", "sample_len", "sample_count"})
SCHEMA = 1
"""Of the block `ltm_eval`; files without the number are of the first one."""
FILE_LIMIT = 2**28
"""Bytes of a results file; samples and latents, which lie beside it, may be larger."""
PROBE_PREFIX = "probe_"
"""A probe's file beside the runs; `probe_results` reads it."""
UNFINISHED = ("running", "incomplete")
SIDECARS = ("latents", "answers", "tokens")
"""Files beside a task's samples, `<kind>_<task>_<date>.jsonl`."""


def find_runs(paths: Sequence[str | Path], *, newest_only: bool = True) -> list[Run]:
    """The runs in `paths`, each a results file or a folder that is searched with all below it.

    A folder that holds several results of one model and the same tasks yields the newest, unless `newest_only` is
    false, and of a sweep the first combination, whose file holds the table of all; a file named outright is always
    taken.

    Raises:
        ResultsError: a path does not exist, holds no results, or a file is malformed.
    """
    runs: dict[Path, Run] = {}
    for path in map(Path, paths):
        found = [read_run(path)] if path.is_file() else _runs_below(path, newest_only=newest_only)
        for run in found:
            runs.setdefault(run.path.resolve(), run)
    return list(runs.values())


def _runs_below(folder: Path, *, newest_only: bool) -> list[Run]:
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such file or folder; give a results_*.json file or a folder that holds some")
    files = result_files(folder)
    if not files:
        raise ResultsError(f"{folder}: no results_*.json below this folder; evaluate with --output_path {folder} first")
    runs = [read_run(file) for file in files]
    if not newest_only:
        return runs
    newest: dict[tuple[Path, str, frozenset[str]], Run] = {}
    for run in _not_superseded([run for run in runs if not run.extra.sweep_cell] or runs):
        key = (run.path.parent, run.model_name, frozenset(run.tasks))
        if key not in newest or newest[key].date_id <= run.date_id:
            newest[key] = run
    return sorted(newest.values(), key=lambda run: run.path)


def result_files(folder: Path) -> list[Path]:
    """The results files in a folder and below it, by name alone."""
    return sorted(
        Path(root) / name
        for root, _, names in os.walk(folder)
        for name in names
        if (name.startswith("results") and name.endswith(".json"))
        or (DATE_ID.search(name) and not name.startswith(PROBE_PREFIX))
    )


def _not_superseded(runs: Sequence[Run]) -> list[Run]:
    """Without what was cut off and later done in full: all its tasks are in complete runs of the folder and model."""
    done: dict[tuple[Path, str], set[str]] = {}
    for run in runs:
        if run.extra.status not in UNFINISHED:
            done.setdefault((run.path.parent, run.model_name), set()).update(run.tasks)
    return [
        run
        for run in runs
        if run.extra.status not in UNFINISHED or set(run.tasks) - done.get((run.path.parent, run.model_name), set())
    ]


def read_run(path: Path) -> Run:
    """One results file of lm-eval 0.4.x, ours or another model's.

    Raises:
        ResultsError: not JSON, or not an lm-eval results file.
        MachineError: the file cannot be read.
    """
    if path.is_file() and path.stat().st_size > FILE_LIMIT:
        raise ResultsError(f"{path}: {path.stat().st_size:,} bytes, a results file has at most {FILE_LIMIT:,}")
    content = _parsed(_read_bytes(path), where=str(path))
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise ResultsError(f"{path}: expected an lm-eval results file, with the key 'results'; pass a results_*.json")
    config = mapping(content.get("config"))
    match = DATE_ID.search(path.name)
    date_id = match.group(1) if match else ""
    tasks = {
        str(name): _task_result(str(name), content, path=path, date_id=date_id)
        for name, values in content["results"].items()
        if isinstance(values, dict)
    }
    return Run(
        path=path,
        date_id=date_id,
        model_name=_model_name(content, path=path),
        model_kind=str(config.get("model", "")),
        config=config,
        tasks=tasks,
        software=_software(content),
        seconds=finite(content.get("total_evaluation_time_seconds")),
        extra=_extra(content, where=str(path)),
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ResultsError: not JSON, or no object.
        MachineError: the file cannot be read.
    """
    content = _parsed(_read_bytes(path), where=str(path))
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _task_result(name: str, content: Mapping[str, Any], *, path: Path, date_id: str) -> TaskResult:
    def of_task(key: str) -> Any:
        return mapping(content.get(key)).get(name)

    counts = mapping(of_task("n-samples"))
    shots = of_task("n-shot")
    return TaskResult(
        name=name,
        alias=str(content["results"][name].get("alias", name)).strip(" -"),
        version=str(of_task("versions") if of_task("versions") is not None else ""),
        n_shot=shots if isinstance(shots, int) else None,
        n_original=count(counts.get("original")),
        n_effective=count(counts.get("effective")),
        task_hash=str(of_task("task_hashes") or ""),
        config=mapping(of_task("configs")),
        scores=_scores(content["results"][name], directions=mapping(of_task("higher_is_better"))),
        samples_path=_beside(path, f"samples_{name}_{date_id}.jsonl"),
        latents_path=_beside(path, f"latents_{name}_{date_id}.jsonl"),
        answers_path=_beside(path, f"answers_{name}_{date_id}.jsonl"),
        tokens_path=_beside(path, f"tokens_{name}_{date_id}.jsonl"),
        generation=mapping(of_task("generation")),
    )


def _scores(values: Mapping[str, Any], *, directions: Mapping[str, Any]) -> tuple[Score, ...]:
    """Keys are `<metric>,<filter>`; the standard error is `<metric>_stderr,<filter>`."""
    scores = []
    for key, value in values.items():
        metric, _, name = key.partition(",")
        if key in NO_METRICS or metric.endswith("_stderr"):
            continue
        predicted = metric == PREDICTED
        number = None if predicted else finite(value)
        direction = directions.get(metric)
        scores.append(
            Score(
                metric=metric,
                filter=name or "none",
                value=number,
                stderr=None
                if predicted
                else finite(values.get(f"{metric}_stderr,{name}" if name else f"{metric}_stderr")),
                higher_is_better=direction if isinstance(direction, bool) else None,
                note="answers only; no score (--predict_only)"
                if predicted
                else ""
                if number is not None
                else f"no finite number in the results file: {value!r}",
            )
        )
    return tuple(scores)


def _model_name(content: Mapping[str, Any], *, path: Path) -> str:
    """lm-eval's own name; results before 0.4.3 have none, so the model arguments tell it."""
    if isinstance(content.get("model_name"), str) and content["model_name"]:
        return str(content["model_name"])
    config = mapping(content.get("config"))
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    named = [str(arguments[key]) for key in MODEL_KEYS if key in arguments] if isinstance(arguments, dict) else []
    return named[0] if named else str(config.get("model") or path.parent.name or path.stem)


def _software(content: Mapping[str, Any]) -> dict[str, str]:
    names = ("lm_eval_version", "transformers_version", "git_hash", "upper_git_hash")
    return {name: str(content[name]) for name in names if content.get(name)}


def _extra(content: Mapping[str, Any], *, where: str) -> RunExtra:
    block = content.get("ltm_eval")
    limit = finite(mapping(content.get("config")).get("limit"))
    if block is None:
        return RunExtra(limit=limit)
    if not isinstance(block, dict):
        raise ResultsError(f"{where}: field ltm_eval: expected an object, got {type(block).__name__}")
    schema = block.get("schema", SCHEMA)
    if type(schema) is not int or schema > SCHEMA:
        raise ResultsError(
            f"{where}: schema {str(schema)[:40]} is not known, this version reads {SCHEMA}; update ltm-eval"
        )
    warnings = block.get("warnings") or []
    if not isinstance(warnings, list):
        raise ResultsError(f"{where}: field ltm_eval.warnings: expected a list, got {type(warnings).__name__}")
    return RunExtra(
        warnings=tuple(str(warning) for warning in warnings),
        demo_model=block.get("demo_model") is True,
        sample_data=block.get("sample_data") is True,
        limit=finite(block.get("limit")) if block.get("limit") is not None else limit,
        data=mapping(block.get("data")),
        command=str(block.get("command") or ""),
        settings=mapping(block.get("settings")),
        provenance=mapping(block.get("provenance")),
        audit=_audit(block.get("audit"), where=f"{where}: field ltm_eval.audit"),
        content_free=mapping(block.get("content_free")),
        effect=mapping(block.get("effect")),
        sweep_cell=str(block.get("sweep_cell") or ""),
        rethink_budget=mapping(block.get("rethink_budget")),
        floors=_floors(block.get("floors"), where=f"{where}: field ltm_eval.floors"),
        cost=mapping(block.get("cost")),
        status=str(block.get("status") or ""),
        groups=mapping(block.get("groups")),
    )


def _audit(value: Any, *, where: str) -> AuditResult | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ResultsError(f"{where}: expected an object, got {type(value).__name__}")
    return AuditResult.from_json(value, where=where)


def _floors(value: Any, *, where: str) -> dict[str, tuple[Floor, ...]] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(rows, list) for rows in value.values()):
        raise ResultsError(f"{where}: expected an object of lists, one list per task")
    found = {}
    for task, rows in value.items():
        if not all(isinstance(row, dict) for row in rows):
            raise ResultsError(f"{where}.{task}: expected a list of objects")
        found[str(task)] = tuple(Floor.from_json(row, where=f"{where}.{task}") for row in rows)
    return found


def _beside(path: Path, name: str) -> Path | None:
    """`name` in the folder of `path`, if it is a plain name of a file there (a task name is not trusted as a path)."""
    if "/" in name or "\\" in name or "\0" in name:
        return None
    file = path.parent / name
    return file if os.path.isfile(file) else None  # Path.is_file raises for a name that is too long


def read_samples(run: Run, task: str) -> tuple[Sample, ...]:
    """The samples of `task`, in the file's order; empty where the run logged none.

    Raises:
        ResultsError: a line is malformed; the message names file and line.
    """
    path = _task_of(run, task).samples_path
    return () if path is None else tuple(_sample(row, where=where) for where, row in _rows(path))


def read_latents(run: Run, task: str) -> tuple[LatentRecord, ...]:
    """The sidecar of `task`; empty where the run has none.

    Raises:
        ResultsError: a line is malformed; the message names file, line and field.
    """
    path = _task_of(run, task).latents_path
    return () if path is None else tuple(LatentRecord.from_json(row, where=where) for where, row in _rows(path))


def read_answers(run: Run, task: str) -> tuple[AnswerRecord, ...]:
    """The sidecar of answers of `task`; empty where the run has none.

    Raises:
        ResultsError: a line is malformed; the message names file, line and field.
    """
    path = _task_of(run, task).answers_path
    return () if path is None else tuple(AnswerRecord.from_json(row, where=where) for where, row in _rows(path))


def read_tokens(run: Run, task: str) -> tuple[TokenRecord, ...]:
    """The sidecar of tokens of `task`; empty where the run has none.

    Raises:
        ResultsError: a line is malformed; the message names file, line and field.
    """
    path = _task_of(run, task).tokens_path
    return () if path is None else tuple(TokenRecord.from_json(row, where=where) for where, row in _rows(path))


def _task_of(run: Run, task: str) -> TaskResult:
    if task not in run.tasks:
        raise ResultsError(f"{run.path}: no task {task!r} in this run.{nearest(task, run.tasks)}")
    return run.tasks[task]


def _sample(row: Mapping[str, Any], *, where: str) -> Sample:
    doc_id = row.get("doc_id")
    if isinstance(doc_id, bool) or not isinstance(doc_id, int):
        raise ResultsError(f"{where}: field doc_id: expected a whole number, got {str(doc_id)[:80]!r}")
    prompt = _prompt(row.get("arguments"))
    doc = row.get("doc")
    names = row.get("metrics")
    return Sample(
        doc_id=doc_id,
        filter=str(row.get("filter", "none")),
        prompt=prompt,
        target=str(row.get("target", "")),
        responses=_leaves(row.get("resps"), depth=2),
        filtered=_leaves(row.get("filtered_resps"), depth=2),
        metrics={str(name): row[name] for name in names if name in row and name != PREDICTED}
        if isinstance(names, list)
        else _numbers(row),
        doc_hash=str(row.get("doc_hash") or digest(json.dumps(doc, indent=2, ensure_ascii=False))),
        prompt_hash=str(row.get("prompt_hash") or digest(prompt)),
        doc=doc if isinstance(doc, dict) else {},
    )


def _prompt(arguments: Any) -> str:
    """The first argument of the first request: a mapping in lm-eval >= 0.4.3, nested lists before."""
    if isinstance(arguments, dict):
        arguments = [list(request.values()) if isinstance(request, dict) else request for request in arguments.values()]
    first = arguments[0] if isinstance(arguments, list) and arguments else ""
    if isinstance(first, list):
        first = first[0] if first else ""
    return first if isinstance(first, str) else json.dumps(first, ensure_ascii=False)


def _leaves(value: Any, *, depth: int) -> tuple[str, ...]:
    """Responses per request (depth 1) and repeat (depth 2) in one row; what lies deeper is one answer's parts."""
    if isinstance(value, list) and depth > 0:
        return tuple(leaf for item in value for leaf in _leaves(item, depth=depth - 1))
    if isinstance(value, list):
        return (", ".join(str(item) for item in value),)
    return () if value is None else (str(value),)


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of old samples files, which do not list their names."""
    return {key: value for key, value in row.items() if key != "doc_id" and isinstance(value, (int, float))}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (file:line) and object. Lines end at LF alone: U+2028 may stand inside a text."""
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _parsed(line, where=where)
        if not isinstance(row, dict):
            raise ResultsError(f"{where}: expected a JSON object, got {type(row).__name__}")
        yield where, row


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error


def _parsed(data: bytes, *, where: str) -> Any:
    """JSON with lm-eval's bare NaN and Infinity."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ResultsError(f"{where}: not UTF-8 at byte {error.start}; the file is damaged or no results") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ResultsError(f"{where}: not JSON: {error.msg} at {place}; the file was cut short or edited") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where}: unusable JSON: {error}") from None
