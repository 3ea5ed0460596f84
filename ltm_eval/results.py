"""Results on disk: lm-eval's own files and the sidecar of latents, as frozen records, JSON both ways.

Layout, as lm-eval 0.4.13 writes it (`lm_eval/loggers/evaluation_tracker.py`), plus our sidecar:

    DIR/<model>/results_<date>.json           one per run
    DIR/<model>/samples_<task>_<date>.jsonl   one line per document and filter
    DIR/<model>/latents_<task>_<date>.jsonl   one line per request and repeat (`LatentRecord`)

Results of any model are read, ours and others'. What is written is strict JSON: a value JSON cannot hold is replaced,
and the key `replaced` of the same object says where (JSON Pointer, RFC 6901) and what stood there.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval import failpoints
from ltm_eval.errors import MachineError, ResultsError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

DATE_ID = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)\.json$")
MODEL_KEYS = ("peft", "delta", "pretrained", "model", "path", "engine")
NO_METRICS = frozenset({"name", "alias", "sample_len", "sample_count"})
REPLACED = "replaced"
PROBE_PREFIX = "probe_"
"""A probe's file beside the runs; `probe_results` reads it."""
UNFINISHED = ("running", "incomplete")
STOP_REASONS = ("stop_string", "end_of_text", "length", "")


@dataclass(frozen=True)
class LatentRecord:
    """What latent inference did for one request and repeat; one line of the sidecar."""

    task: str
    """Task name."""
    doc_id: int
    """Index of the document in its split."""
    idx: int
    """Index of the request within the document."""
    repeat: int
    """Index of the repeat within the request."""
    prompt_hash: str
    """SHA-256 (hex) of the prompt text, as in lm-eval's samples."""
    condition: str
    """What z was fitted on and what the decoder read: prompt, demos, demos+prompt, shuffled, other or prior."""
    preset: str
    """Name of the fast loop's preset."""
    t_fast: int
    """Fast steps; of a text in several windows, those of the longest fit."""
    demonstrations: int
    """Demonstrations in the prompt."""
    demonstrations_read: int
    """Of these, how many the decoder read."""
    demonstrations_fitted: int
    """Of these, how many z was fitted on."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    read_tokens: int
    """Tokens the decoder read before its first own token."""
    fitted_tokens: int
    """Tokens z was fitted on, over all windows."""
    fitted_windows: int
    """Windows that shared the one z."""
    truncated: bool
    """Whether something of the prompt was dropped."""
    nll_nats: float | None
    """-log p(fitted tokens | z), summed; None without a fit."""
    kl_nats: float | None
    """KL(q || prior), summed over layers, latents and dimensions; None without a fit."""
    objective_nats: tuple[float, ...]
    """Objective (NLL + KL, summed) at every fast step; empty where it was not kept."""
    kl_per_layer_nats: tuple[float, ...]
    """KL(q || prior) of each layer's latents."""
    mean_log_var_per_layer: tuple[float, ...]
    """Mean log variance of each layer's latents."""
    share_at_prior: float | None
    """Share of latent dimensions whose posterior is back at the prior, 0 to 1."""
    new_tokens: int
    """Tokens the decoder generated."""
    stop_reason: str
    """stop_string, end_of_text or length; empty where nothing was generated."""
    fit_seconds: float
    """Wall time of the fit, shared out over its batch."""
    decode_seconds: float
    """Wall time of decoding, shared out over its batch."""

    def __post_init__(self) -> None:
        if self.stop_reason not in STOP_REASONS:
            expected = ", ".join(filter(None, STOP_REASONS))
            raise ResultsError(f"field stop_reason: expected one of {expected} or nothing, got {self.stop_reason!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> LatentRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        types = {field.name: str(field.type) for field in fields(cls)}
        for name in row:
            if name not in types and name != REPLACED:
                hint = nearest(name, types)
                raise ResultsError(f"{where}: unknown field {name!r}, written by another version?{hint}")
        values = {name: _checked(row, name, kind=kind, where=where) for name, kind in types.items()}
        try:
            return cls(**values)
        except ResultsError as error:
            raise ResultsError(f"{where}: {error}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number of at least 0")
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number")
    return float(value)


def _reals(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of numbers")
    return tuple(math.nan if item is None else _real(item) for item in value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "int": _whole,
    "float": _real,
    "float | None": lambda value: None if value is None else _real(value),
    "tuple[float, ...]": _reals,
    "str": _text,
    "bool": _flag,
}


def _checked(row: Mapping[str, Any], name: str, *, kind: str, where: str) -> Any:
    if name not in row:
        raise ResultsError(f"{where}: field {name} is missing; the file was not written by this program or was edited")
    try:
        return _CHECKS[kind](row[name])
    except (ValueError, OverflowError) as expected:
        raise ResultsError(f"{where}: field {name}: expected {expected}, got {str(row[name])[:80]!r}") from None


# Runs


@dataclass(frozen=True)
class Score:
    """One aggregated figure of a results file."""

    metric: str
    """Metric name, such as exact_match."""
    filter: str
    """Filter name; lm-eval calls the default one none."""
    value: float | None
    """The figure; None where the file holds no finite number."""
    stderr: float | None
    """Its standard error, where known."""
    higher_is_better: bool | None
    """Direction, where the file tells it."""
    note: str = ""
    """What stood in the file in place of a finite number."""


@dataclass(frozen=True)
class TaskResult:
    """Everything a results file says about one task."""

    name: str
    """Task name."""
    alias: str
    """Name to show."""
    version: str
    """Task version."""
    n_shot: int | None
    """Demonstrations per prompt."""
    n_original: int | None
    """Documents in the split."""
    n_effective: int | None
    """Documents evaluated."""
    task_hash: str
    """lm-eval's hash over documents, prompts and targets; empty without samples."""
    config: Mapping[str, Any]
    """Task definition as lm-eval dumped it."""
    scores: tuple[Score, ...]
    """Figures in the file's order."""
    samples_path: Path | None
    """Samples file beside the results, where it exists."""
    latents_path: Path | None
    """Sidecar of latents beside the results, where it exists."""
    generation: Mapping[str, Any]
    """Curves, seeds and lengths of a MAUVE task; empty where the file has none."""


@dataclass(frozen=True)
class AuditResult:
    """What a fit preset reports on uniformly random tokens."""

    preset: str
    """Name of the fit preset."""
    deficit_nats_per_block: float | None
    """T ln V minus the reported figure, mean over blocks; positive is impossible luck for a bound. None: no number."""
    stderr_nats: float | None
    """Standard error of that mean over blocks; None for a single block."""
    caught: bool
    """Whether the deficit exceeds 20 nats. A decoder whose latents carry little can leave a leak unnoticed."""
    is_bound: bool
    """Whether the preset takes its expectation over noise that the fit has not seen, and was not caught."""
    t_fast: int
    """Fast steps of the audit's fit."""
    figure: str
    """What was compared: `bound` (fresh draws) or `as_released` (the fit's own noise)."""
    blocks: int
    """Blocks of random tokens."""
    length: int
    """Scored tokens per block, T."""
    vocab: int
    """Vocabulary size, V."""
    seed: int
    """Of tokens and noise."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> AuditResult:
        """The verdict that `row` describes; fields of other versions are left alone.

        Raises:
            ResultsError: a field is absent or of the wrong type.
        """
        types = {field.name: str(field.type) for field in fields(cls)}
        return cls(**{name: _checked(row, name, kind=kind, where=where) for name, kind in types.items()})


@dataclass(frozen=True)
class Floor:
    """A model without content on the documents of a perplexity set: a reference row, not a model evaluated."""

    name: str
    """uniform or unigram."""
    what: str
    """What it is, in a few words."""
    tokenizer: str
    """Name of the tokenizer whose tokens are counted."""
    n_vocab: int
    """Its vocabulary size, V."""
    documents: int
    """Documents."""
    nats: float
    """Sum over the documents."""
    tokens: int
    """Tokens of that tokenizer."""
    words: int
    """Words."""
    bytes: int
    """UTF-8 bytes."""
    figures: Mapping[str, float | None]
    """`ppl_per_token`, `ppl_per_word`, `ppl_per_byte` and `bits_per_byte`, each with its `_stderr` over documents."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> Floor:
        """The row that `row` describes; fields of other versions are left alone.

        Raises:
            ResultsError: a field is absent or of the wrong type.
        """
        types = {field.name: str(field.type) for field in fields(cls)}
        del types["figures"]
        values = {name: _checked(row, name, kind=kind, where=where) for name, kind in types.items()}
        figures = {str(key): _finite(value) for key, value in _mapping(row.get("figures")).items()}
        return cls(**values, figures=figures)


@dataclass(frozen=True)
class RunExtra:
    """The block `ltm_eval` of a results file; empty for other models' results."""

    warnings: tuple[str, ...] = ()
    """Warnings the run gave."""
    demo_model: bool = False
    """Whether a bundled demo model ran."""
    sample_data: bool = False
    """Whether the bundled sample data were scored."""
    limit: float | None = None
    """Limit on documents: a count, or below 1 a share."""
    data: Mapping[str, Any] | None = None
    """Data source, row counts and digests."""
    command: str = ""
    """Command line of the run."""
    settings: Mapping[str, Any] | None = None
    """Every option of the run, defaults included."""
    provenance: Mapping[str, Any] | None = None
    """Commit, versions, machine."""
    audit: AuditResult | None = None
    """The random-token audit of the fit settings; None where none was made."""
    content_free: Mapping[str, Any] | None = None
    """Task to what always answering the commonest training answers scores."""
    effect: Mapping[str, Any] | None = None
    """Table of a sweep over conditions and numbers of demonstrations, as module `effect` makes it."""
    sweep_cell: str = ""
    """Name of the combination where the run is a further one of a sweep."""
    rethink_budget: Mapping[str, Any] | None = None
    """Task to the compute of rethinking and of its control."""
    floors: Mapping[str, tuple[Floor, ...]] | None = None
    """Reference rows of perplexity sets, by task; None where the run tells none."""
    cost: Mapping[str, Any] | None = None
    """Task to wall time and peak memory, as `telemetry.TaskCost`."""
    status: str = ""
    """running, incomplete or complete; empty where the file does not tell."""
    groups: Mapping[str, Any] | None = None
    """Task to figures by a field of its documents, where `rescore` made them."""


@dataclass(frozen=True)
class Run:
    """One results file."""

    path: Path
    """The results file, as found."""
    date_id: str
    """Date in the file's name; empty where it has none."""
    model_name: str
    """Model as lm-eval names it."""
    model_kind: str
    """lm-eval's model type, such as ltm or hf."""
    config: Mapping[str, Any]
    """lm-eval's `config` block: model arguments, get_model_info(), seeds, limit."""
    tasks: Mapping[str, TaskResult]
    """Results by task name, in the file's order."""
    software: Mapping[str, str]
    """Versions and commits the file names."""
    seconds: float | None
    """Wall time of the evaluation."""
    extra: RunExtra
    """What ltm_eval adds."""


@dataclass(frozen=True)
class Sample:
    """One document under one filter, from a samples file."""

    doc_id: int
    """Index of the document in its split."""
    filter: str
    """Filter name."""
    prompt: str
    """Text of the first request."""
    target: str
    """Gold answer."""
    responses: tuple[str, ...]
    """Model output per request and repeat."""
    filtered: tuple[str, ...]
    """The same after the filter."""
    metrics: Mapping[str, Any]
    """Per-document value of each metric: a number, or a list for corpus-level metrics."""
    doc_hash: str
    """SHA-256 (hex) of the document; pairs runs."""
    prompt_hash: str
    """SHA-256 (hex) of the prompt."""
    doc: Mapping[str, Any]
    """The document as loaded."""


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
    content = _parsed(_read_bytes(path), where=str(path))
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise ResultsError(f"{path}: expected an lm-eval results file, with the key 'results'; pass a results_*.json")
    config = _mapping(content.get("config"))
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
        seconds=_finite(content.get("total_evaluation_time_seconds")),
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
        return _mapping(content.get(key)).get(name)

    counts = _mapping(of_task("n-samples"))
    shots = of_task("n-shot")
    return TaskResult(
        name=name,
        alias=str(content["results"][name].get("alias", name)).strip(" -"),
        version=str(of_task("versions") if of_task("versions") is not None else ""),
        n_shot=shots if isinstance(shots, int) else None,
        n_original=_count(counts.get("original")),
        n_effective=_count(counts.get("effective")),
        task_hash=str(of_task("task_hashes") or ""),
        config=_mapping(of_task("configs")),
        scores=_scores(content["results"][name], directions=_mapping(of_task("higher_is_better"))),
        samples_path=_beside(path, f"samples_{name}_{date_id}.jsonl"),
        latents_path=_beside(path, f"latents_{name}_{date_id}.jsonl"),
        generation=_mapping(of_task("generation")),
    )


def _scores(values: Mapping[str, Any], *, directions: Mapping[str, Any]) -> tuple[Score, ...]:
    """Keys are `<metric>,<filter>`; the standard error is `<metric>_stderr,<filter>`."""
    scores = []
    for key, value in values.items():
        metric, _, name = key.partition(",")
        if key in NO_METRICS or metric.endswith("_stderr"):
            continue
        number = _finite(value)
        direction = directions.get(metric)
        scores.append(
            Score(
                metric=metric,
                filter=name or "none",
                value=number,
                stderr=_finite(values.get(f"{metric}_stderr,{name}" if name else f"{metric}_stderr")),
                higher_is_better=direction if isinstance(direction, bool) else None,
                note="" if number is not None else f"no finite number in the results file: {value!r}",
            )
        )
    return tuple(scores)


def _model_name(content: Mapping[str, Any], *, path: Path) -> str:
    """lm-eval's own name; results before 0.4.3 have none, so the model arguments tell it."""
    if isinstance(content.get("model_name"), str) and content["model_name"]:
        return str(content["model_name"])
    config = _mapping(content.get("config"))
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
    limit = _finite(_mapping(content.get("config")).get("limit"))
    if block is None:
        return RunExtra(limit=limit)
    if not isinstance(block, dict):
        raise ResultsError(f"{where}: field ltm_eval: expected an object, got {type(block).__name__}")
    warnings = block.get("warnings") or []
    if not isinstance(warnings, list):
        raise ResultsError(f"{where}: field ltm_eval.warnings: expected a list, got {type(warnings).__name__}")
    return RunExtra(
        warnings=tuple(str(warning) for warning in warnings),
        demo_model=block.get("demo_model") is True,
        sample_data=block.get("sample_data") is True,
        limit=_finite(block.get("limit")) if block.get("limit") is not None else limit,
        data=_mapping(block.get("data")),
        command=str(block.get("command") or ""),
        settings=_mapping(block.get("settings")),
        provenance=_mapping(block.get("provenance")),
        audit=_audit(block.get("audit"), where=f"{where}: field ltm_eval.audit"),
        content_free=_mapping(block.get("content_free")),
        effect=_mapping(block.get("effect")),
        sweep_cell=str(block.get("sweep_cell") or ""),
        rethink_budget=_mapping(block.get("rethink_budget")),
        floors=_floors(block.get("floors"), where=f"{where}: field ltm_eval.floors"),
        cost=_mapping(block.get("cost")),
        status=str(block.get("status") or ""),
        groups=_mapping(block.get("groups")),
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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _finite(value: Any) -> float | None:
    """`value` as a finite number; lm-eval writes some numbers as text and unknown ones as N/A."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# Samples and latents


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
        metrics={str(name): row[name] for name in names if name in row} if isinstance(names, list) else _numbers(row),
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


def digest(text: str) -> str:
    """SHA-256 (hex) of `text`, as lm-eval hashes documents and prompts; lone surrogates are hashed as they are."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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


# Writing


def strict_json(obj: Any) -> str:
    """`obj` as strict, indented JSON text; what JSON cannot hold is replaced as in every file."""
    return _strict(obj, indent=2) + "\n"


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write `obj` as strict, indented JSON: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    write_text_atomic(path, strict_json(obj))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8: complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), [text])


def write_jsonl_atomic(path: str | Path, rows: Iterable[Any]) -> None:
    """Write one strict JSON line per row (a mapping or a record with `to_json`): complete or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    _write_atomic(Path(path), (_strict(row, indent=None) + "\n" for row in rows))


def _write_atomic(path: Path, chunks: Iterable[str]) -> None:
    partial = path.with_name(f".{digest(path.name)[:8]}.{os.getpid()}.tmp")
    try:
        failpoints.hit("results.open")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            failpoints.hit("results.write")
            file.writelines(chunks)
            file.flush()
            failpoints.hit("results.sync")
            os.fsync(file.fileno())
        failpoints.hit("results.replace")
        partial.replace(path)
        failpoints.moment("results.replaced")
    except OSError as error:
        reason = error.strerror or error
        raise MachineError(f"cannot write {path}: {reason}; free some space or choose another --output_path") from error
    finally:
        _discard(partial)


def _discard(partial: Path) -> None:
    """Remove what an interrupted write left; after a good one there is nothing, and a lost disk cannot be helped."""
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        return


def _strict(obj: Any, *, indent: int | None) -> str:
    replaced: dict[str, str] = {}
    plain = _plain(obj, at="", replaced=replaced)
    if replaced and isinstance(plain, dict):
        plain[REPLACED] = {**_mapping(plain.get(REPLACED)), **replaced}
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    # Readers that split at Unicode line ends would tear a JSONL line; these characters occur inside strings only.
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(obj: Any, *, at: str, replaced: dict[str, str]) -> Any:
    """`obj` in JSON's own types.

    Non-finite numbers become null, lone surrogates U+FFFD, both noted in `replaced`; what JSON does not know
    becomes text.
    """
    if hasattr(obj, "to_json"):
        obj = obj.to_json()
    elif is_dataclass(obj) and not isinstance(obj, type):
        obj = asdict(obj)
    elif hasattr(obj, "tolist"):  # numpy and torch, without importing them
        obj = obj.tolist()
    elif isinstance(obj, (set, frozenset)):
        obj = sorted(obj, key=str)
    if isinstance(obj, dict):
        return _plain_mapping(obj, at=at, replaced=replaced)
    if isinstance(obj, (list, tuple)):
        return [_plain(value, at=f"{at}/{index}", replaced=replaced) for index, value in enumerate(obj)]
    if isinstance(obj, float):
        return _plain_float(obj, at=at, replaced=replaced)
    if obj is None or isinstance(obj, (bool, int)):
        return obj
    return _plain_text(str(obj), at=at, replaced=replaced)


def _plain_mapping(obj: Mapping[Any, Any], *, at: str, replaced: dict[str, str]) -> dict[str, Any]:
    plain = {}
    for key, value in obj.items():
        name = _plain_text(str(key), at=at, replaced=replaced)
        step = name.replace("~", "~0").replace("/", "~1")
        plain[name] = _plain(value, at=f"{at}/{step}", replaced=replaced)
    return plain


def _plain_float(value: float, *, at: str, replaced: dict[str, str]) -> float | None:
    if math.isfinite(value):
        return float(value)
    replaced[at] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return None


def _plain_text(value: str, *, at: str, replaced: dict[str, str]) -> str:
    clean = re.sub("[\ud800-\udfff]", "\ufffd", value)
    if clean != value:
        replaced[at] = "lone surrogate"
    return clean
