"""Results on disk: lm-eval's own files and the sidecars beside them, read into frozen records.

Layout, as lm-eval 0.4.13 writes it (`lm_eval/loggers/evaluation_tracker.py`), plus our sidecars:

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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ltm_eval.system.errors import MachineError, ResultsError, nearest, shown
from ltm_eval.system.files import digest, read_regular
from ltm_eval.system.options import Many
from ltm_eval.system.records import (
    AuditResult,
    OpenRecord,
    Reals,
    Record,
    Whole,
    Wholes,
    checked,
    count,
    finite,
    mapping,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Sidecars: what a model did for a request, one line each --------------------------------------------------------------


Ending = Literal["stop_string", "end_of_text", "length"]


@dataclass(frozen=True)
class SidecarLine(Record):
    """Which request and repeat a line is of."""

    task: str
    doc_id: Whole  # index of the document in its split
    idx: Whole  # index of the request within the document
    repeat: Whole  # index of the repeat within the request
    prompt_hash: str  # SHA-256 (hex) of the prompt text, as in lm-eval's samples


@dataclass(frozen=True)
class AnswerRecord(SidecarLine):
    """How a model without latents generated one continuation."""

    demonstrations: Whole  # in the prompt
    demonstrations_read: Whole  # of these, how many the model read whole
    prompt_tokens: Whole  # of the whole prompt
    read_tokens: Whole  # that the model read: lm-eval cuts what does not fit from the left, wherever that is
    truncated: bool  # whether something of the prompt was cut
    new_tokens: Whole  # up to and with those of the first stop string; what the batch went on to is not counted
    stop_reason: Ending


@dataclass(frozen=True)
class LatentRecord(SidecarLine):
    """What latent inference did for one request and repeat."""

    condition: str  # what z was fitted on and the decoder read: prompt, demos, demos+prompt, shuffled, other or prior
    preset: str  # of the fast loop
    t_fast: Whole  # fast steps; of a text in several windows, those of the longest fit
    demonstrations: Whole  # in the prompt
    demonstrations_read: Whole  # of these, how many the decoder read
    demonstrations_fitted: Whole  # of these, how many z was fitted on
    prompt_tokens: Whole  # of the whole prompt
    read_tokens: Whole  # that the decoder read before its first own token
    fitted_tokens: Whole  # over all windows, with those that a window reads before its first target
    fitted_windows: Whole  # that shared the one z; of a text scored as a whole, its windows, each with a z of its own
    truncated: bool  # whether something of the prompt was dropped
    nll_nats: float | None  # -log p(fitted tokens | z), summed; None without a fit
    kl_nats: float | None  # KL(q || prior), summed over layers, latents and dimensions; None without a fit
    objective_nats: Reals  # NLL + KL, summed, at every fast step; empty if it was not kept
    kl_per_layer_nats: Reals  # KL(q || prior) of each layer's latents
    mean_log_var_per_layer: Reals
    share_at_prior: float | None  # latent dimensions whose posterior is back at the prior, 0 to 1
    new_tokens: Whole  # that the decoder generated
    # not_finite if the logits were no numbers; empty if nothing was generated
    stop_reason: Literal["stop_string", "end_of_text", "length", "not_finite", ""]
    fit_seconds: float  # wall time, shared out over the batch
    decode_seconds: float  # likewise
    draws_nats: Reals = ()  # of a text scored as a whole: NLL + KL of each fresh draw; their mean is the bound
    # KL(q || prior) of each layer at every fast step, to four digits; of the first documents of a task only
    kl_steps_nats: Many[Reals] = ()
    # Names the fit: answers that share one have the same, and its cost counts once. Empty without a fit, and in 0.1.0
    fit: str = ""
    # Tokens times passes with a gradient, of the fit and of others made for this answer (of `as_released`, the refits
    # of `causal`, the prompt's in rethinking); the same in all answers that share a fit. 0 in earlier versions' files
    fit_token_steps: Whole = 0
    # Tokens times passes without a gradient that belong to these fits: the evaluation after each, draws that score
    fit_token_passes: Whole = 0
    # Tokens times passes of the answer itself: what is read, generated or scored as a continuation
    answer_token_passes: Whole = 0


def fits_of(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """Return the first record of each fit; if a file names none, equal fits of a document are one."""
    found: dict[str, LatentRecord] = {}
    for one in records:
        if one.kl_nats is not None:
            told = (one.doc_id, one.prompt_hash, one.t_fast, one.nll_nats, one.kl_nats, one.objective_nats)
            found.setdefault(one.fit or repr(told), one)
    return list(found.values())


def made_once(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """Return the records less copies: documents with the same prompt share an answer, whose time counts once."""
    copied = (replace(one, task="", doc_id=0) if one.fit else one for one in records)
    return list(dict.fromkeys(copied))


Part = Literal["text", "answer", "target"]
TEXT: Part = "text"  # the whole text of a rolling request: in the samples file, the prompt
ANSWER: Part = "answer"  # what the model generated, up to its stop string, each token under the model that generated it
TARGET: Part = "target"  # the answer of the data set, after the same prompt
DECIMALS = 3  # of the nats of a piece; no metric is made of them


@dataclass(frozen=True)
class TokenRecord(SidecarLine):
    """What the tokens of one text cost, of the first documents of a task (`--token_nll N`)."""

    part: Part
    tokenizer: str
    draws: Whole  # of z, whose mean the figures are; 0 if nothing is averaged (one z, or no latents)
    nats: float  # sum, not rounded: -log p(text | z) of an LTM, without its KL; -log p(text) of a model without latents
    # KL of the posterior fitted to a `text`: the price of z for the text as a whole, in no piece. None without latents,
    # and of other parts: there z was fitted to the prompt, and the text owes nothing for it
    kl_nats: float | None
    # Code points of each piece, in order. A piece is a token, or several that share a character; one of 0 characters
    # stands for a token without text, such as end-of-text in front
    piece_characters: Wholes
    piece_nats: Reals  # -log p of each piece, rounded

    def __post_init__(self) -> None:
        if len(self.piece_characters) != len(self.piece_nats):
            raise ValueError(
                f"piece_nats: expected a number for each of the piece_characters, got {len(self.piece_characters)} and "
                f"{len(self.piece_nats)}"
            )


def rounded(nats: Sequence[float]) -> tuple[float, ...]:
    """Round the nats of pieces as they are stored."""
    return tuple(round(value, DECIMALS) + 0.0 for value in nats)  # + 0.0: no minus before a zero


# Results and samples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One aggregated figure of a results file."""

    metric: str  # such as exact_match
    filter: str  # lm-eval calls the default one none
    value: float | None  # None if the file holds no finite number
    stderr: float | None
    higher_is_better: bool | None  # None if the file does not tell
    note: str = ""  # what stood in the file in place of a finite number


@dataclass(frozen=True)
class TaskResult:
    """Everything a results file says about one task."""

    name: str
    version: str
    n_shot: int | None  # demonstrations per prompt
    n_original: int | None  # documents in the split
    n_effective: int | None  # documents evaluated
    task_hash: str  # lm-eval's hash over documents, prompts and targets; empty without samples
    config: Mapping[str, Any]  # the task's definition as lm-eval dumped it
    scores: tuple[Score, ...]  # in the file's order
    samples_path: Path | None  # of files beside the results, where they exist
    latents_path: Path | None
    answers_path: Path | None
    tokens_path: Path | None
    generation: Mapping[str, Any]  # curves, seeds and lengths of a MAUVE task; empty if the file has none


@dataclass(frozen=True)
class Floor(OpenRecord):
    """A model without content on the documents of a perplexity set: a reference row, not a model evaluated."""

    name: str  # uniform or unigram
    what: str  # what it is, in a few words
    tokenizer: str  # whose tokens are counted
    n_vocab: Whole  # vocabulary size, V
    documents: Whole
    nats: float  # sum over the documents
    tokens: Whole
    words: Whole
    bytes: Whole  # of UTF-8
    # ppl_per_token, ppl_per_word, ppl_per_byte and bits_per_byte, each with its _stderr over documents
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RunExtra(OpenRecord):
    """The block `ltm_eval` of a results file; empty for other models' results."""

    warnings: Many[str] = ()
    demo_model: bool = False  # whether a bundled demo model ran
    sample_data: bool = False  # whether the bundled sample data were scored
    limit: float | None = None  # of documents: a count, or below 1 a share
    data: Mapping[str, Any] | None = None  # source, row counts and digests
    command: str = ""
    settings: Mapping[str, Any] | None = None  # every option of the run, defaults included
    provenance: Mapping[str, Any] | None = None  # commit, versions, machine
    audit: AuditResult | None = None  # of the fit settings on random tokens; None if none was made
    content_free: Mapping[str, Any] | None = None  # by task: what always giving the commonest training answers scores
    effect: Mapping[str, Any] | None = None  # table of a sweep over conditions and shots (`results.effect`)
    sweep_cell: str = ""  # name of the combination, if the run is a further one of a sweep
    rethink_budget: Mapping[str, Any] | None = None  # by task: compute of rethinking and of its control
    # by task: demonstrations in the prompt, and of these used, read or fitted on: means, and the fewest and most used
    shots: Mapping[str, Any] | None = None
    floors: Mapping[str, Many[Floor]] | None = None  # by task: reference rows of perplexity sets
    cost: Mapping[str, Any] | None = None  # by task: wall time and peak memory (`machine.TaskCost`)
    status: str = ""  # running, incomplete or complete; empty if the file does not tell
    groups: Mapping[str, Any] | None = None  # by task: figures by a field of its documents, if `rescore` made them

    @property
    def bounds_hold(self) -> bool:
        """Whether what the run calls a bound is one, as far as an audit of fresh noise draws tells."""
        return self.audit is None or self.audit.is_bound or self.audit.figure != "bound"


def shots_words(shots: Any) -> str:
    """Return what `RunExtra.shots` says of a task, if not all demonstrations were used: `9.1 of 32 shots fit`."""
    told = mapping(shots)
    used, in_prompt = finite(told.get("used")), finite(told.get("in_prompt"))
    if used is None or in_prompt is None or used >= in_prompt:
        return ""
    return f"{used:.3g} of {in_prompt:.3g} shots fit"


@dataclass(frozen=True)
class Run:
    """One results file."""

    path: Path
    date_id: str  # date in the file's name; empty if it has none
    model_name: str  # as lm-eval names it
    model_kind: str  # lm-eval's model type, such as ltm or hf
    config: Mapping[str, Any]  # lm-eval's block: model arguments, get_model_info(), seeds, limit
    tasks: Mapping[str, TaskResult]  # in the file's order
    software: Mapping[str, str]  # versions and commits that the file names
    seconds: float | None  # wall time of the evaluation
    extra: RunExtra
    # The runs whose tasks it holds, as a column of several (`columns.columns_of`); empty of one results file
    parts: tuple[Run, ...] = ()
    # Of a column, by task: the number of older runs of the same model and settings, which are not shown
    older: Mapping[str, int] = field(default_factory=dict)
    named: bool = False  # whether the file itself was named, not a folder that holds it

    def of(self, task: str) -> Run:
        """Return the run that scored a task: itself, or one of its parts."""
        return next((part for part in self.parts if task in part.tasks), self)


@dataclass(frozen=True)
class Sample:
    """One document under one filter, from a samples file."""

    doc_id: int  # index of the document in its split
    filter: str
    prompt: str  # of the first request
    target: str  # the gold answer
    responses: tuple[str, ...]  # per request and repeat
    filtered: tuple[str, ...]  # the same after the filter
    metrics: Mapping[str, Any]  # a number each, or a list for corpus-level metrics
    doc_hash: str  # SHA-256 (hex) of the document; pairs runs
    prompt_hash: str  # SHA-256 (hex) of the prompt
    doc: Mapping[str, Any]  # as loaded


# Reading --------------------------------------------------------------------------------------------------------------

Line = TypeVar("Line", bound=SidecarLine)
DATE_ID = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)\.json$")
# lm-eval's model arguments that name a model, the most telling first
MODEL_KEYS = ("peft", "delta", "pretrained", "model", "path", "engine")
PREDICTED = "bypass"  # lm-eval's stand-in for a metric with `--predict_only`; its 999 is no score
SOFTWARE = ("lm_eval_version", "transformers_version", "git_hash", "upper_git_hash")
NO_METRICS = frozenset({"name", "alias", "sample_len", "sample_count"})
SCHEMA = 1  # of the block `ltm_eval`; files without the number are of the first one
FILE_LIMIT = 2**28  # bytes of a results file; samples and sidecars may be larger
PROBE_PREFIX = "probe_"  # of a probe's file beside the runs, which `probe.files` reads
UNFINISHED = ("running", "incomplete")
SIDECARS = ("latents", "answers", "tokens")  # files beside a task's samples, `<kind>_<task>_<date>.jsonl`


def find_runs(paths: Sequence[str | Path], *, newest_only: bool = True) -> list[Run]:
    """Return the runs in `paths`, each a results file or a folder that is searched with all below it.

    A folder that holds several results of one model and the same tasks yields the newest, unless `newest_only` is
    false, and of a sweep the first combination, whose file holds the table of all; a file named outright is always
    taken.

    Raises:
        ResultsError: a path does not exist, holds no results, or a file is malformed.
    """
    runs: dict[Path, Run] = {}
    for path in map(Path, paths):
        found = [replace(read_run(path), named=True)] if path.is_file() else _runs_below(path, newest_only=newest_only)
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
    """Return the results files in a folder and below it, by name alone."""
    return sorted(
        Path(root) / name
        for root, _, names in os.walk(folder)
        for name in names
        if (name.startswith("results") and name.endswith(".json"))
        or (DATE_ID.search(name) and not name.startswith(PROBE_PREFIX))
    )


def _not_superseded(runs: Sequence[Run]) -> list[Run]:
    """Return the runs less those cut off and later done in full, by complete runs of the same folder and model."""
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
    """Read a results file of lm-eval 0.4.x, ours or another model's.

    Raises:
        ResultsError: not JSON, or not an lm-eval results file.
        MachineError: the file cannot be read.
    """
    if path.is_file() and path.stat().st_size > FILE_LIMIT:
        raise ResultsError(f"{path}: {path.stat().st_size:,} bytes, a results file has at most {FILE_LIMIT:,}")
    content = mapping(_parsed(_read_bytes(path), where=str(path)))
    if not isinstance(content.get("results"), dict):
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
        software={name: str(content[name]) for name in SOFTWARE if content.get(name)},
        seconds=finite(content.get("total_evaluation_time_seconds")),
        extra=_extra(content, where=str(path)),
    )


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        ResultsError: not JSON, or no object.
        MachineError: the file cannot be read.
    """
    return _object(_read_bytes(path), where=str(path))


def _task_result(name: str, content: Mapping[str, Any], *, path: Path, date_id: str) -> TaskResult:
    def of_task(key: str) -> Any:
        return mapping(content.get(key)).get(name)

    counts = mapping(of_task("n-samples"))
    shots = of_task("n-shot")
    return TaskResult(
        name=name,
        version=str(of_task("versions") if of_task("versions") is not None else ""),
        n_shot=shots if isinstance(shots, int) else None,
        n_original=count(counts.get("original")),
        # lm-eval counts documents by their metrics; those of --predict_only may have none, and are not known to be none
        n_effective=count(counts.get("effective")) or (0 if "ltm_eval" in content else None),
        task_hash=str(of_task("task_hashes") or ""),
        config=mapping(of_task("configs")),
        scores=_scores(content["results"][name], directions=mapping(of_task("higher_is_better"))),
        generation=mapping(of_task("generation")),
        **{f"{kind}_path": _beside(path, f"{kind}_{name}_{date_id}.jsonl") for kind in ("samples", *SIDECARS)},
    )


def _scores(values: Mapping[str, Any], *, directions: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return the figures under keys `<metric>,<filter>`, each with that under `<metric>_stderr,<filter>`."""
    scores = []
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if key in NO_METRICS or metric.endswith("_stderr"):
            continue
        number, stderr = finite(value), finite(values.get(f"{metric}_stderr{comma}{name}"))
        note = "" if number is not None else f"no finite number in the results file: {value!r}"
        if metric == PREDICTED:
            number, stderr, note = None, None, "answers only; no score (--predict_only)"
        direction = directions.get(metric)
        is_known = isinstance(direction, bool)
        scores.append(Score(metric, name or "none", number, stderr, direction if is_known else None, note))
    return tuple(scores)


def _model_name(content: Mapping[str, Any], *, path: Path) -> str:
    """Return lm-eval's name of the model; results before 0.4.3 have none, so the model arguments give it."""
    if isinstance(content.get("model_name"), str) and content["model_name"]:
        return str(content["model_name"])
    config = mapping(content.get("config"))
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    named = [str(arguments[key]) for key in MODEL_KEYS if key in arguments] if isinstance(arguments, dict) else []
    return named[0] if named else str(config.get("model") or path.parent.name or path.stem)


def _extra(content: Mapping[str, Any], *, where: str) -> RunExtra:
    block = content.get("ltm_eval")
    schema = mapping(block).get("schema", SCHEMA)
    if type(schema) is not int or schema > SCHEMA:
        raise ResultsError(
            f"{where}: schema {str(schema)[:40]} is not known, this version reads {SCHEMA}; update ltm-eval"
        )
    limit = finite(mapping(content.get("config")).get("limit"))
    if block is None:
        return RunExtra(limit=limit)
    if isinstance(block, dict):
        block = {"limit": limit} | {name: value for name, value in block.items() if value is not None}
    return RunExtra.from_json(block, where=where, at="ltm_eval")


def _beside(path: Path, name: str) -> Path | None:
    """Return the file `name` beside `path`, if there is one; a task's name is not trusted as a path."""
    if "/" in name or "\\" in name or "\0" in name:
        return None
    file = path.parent / name
    return file if os.path.isfile(file) else None  # Path.is_file raises for a name that is too long


def read_samples(run: Run, task: str) -> tuple[Sample, ...]:
    """Return the samples of a task, in the file's order; none if the run logged none.

    Raises:
        ResultsError: a line is malformed; the message names file and line.
    """
    path = _task_of(run, task).samples_path
    return () if path is None else tuple(_sample(row, where=where) for where, row in _rows(path))


def read_latents(run: Run, task: str) -> tuple[LatentRecord, ...]:
    """Return the sidecar of latents of a task; nothing if the run has none.

    Raises:
        ResultsError: a line is malformed; the message names file, line and field.
    """
    return _sidecar(LatentRecord, _task_of(run, task).latents_path)


def read_answers(run: Run, task: str) -> tuple[AnswerRecord, ...]:
    """Return the sidecar of answers of a task, like `read_latents`."""
    return _sidecar(AnswerRecord, _task_of(run, task).answers_path)


def read_tokens(run: Run, task: str) -> tuple[TokenRecord, ...]:
    """Return the sidecar of tokens of a task, like `read_latents`."""
    return _sidecar(TokenRecord, _task_of(run, task).tokens_path)


def _sidecar(kind: type[Line], path: Path | None) -> tuple[Line, ...]:
    return () if path is None else tuple(kind.from_json(row, where=where) for where, row in _rows(path))


def _task_of(run: Run, task: str) -> TaskResult:
    if task not in run.tasks:
        raise ResultsError(f"{run.path}: no task {task!r} in this run.{nearest(task, run.tasks)}")
    return run.tasks[task]


def _sample(row: Mapping[str, Any], *, where: str) -> Sample:
    prompt = _prompt(row.get("arguments"))
    doc = row.get("doc")
    names = row.get("metrics")
    return Sample(
        doc_id=checked(int, row.get("doc_id"), where=where, at="doc_id"),
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
        doc=mapping(doc),
    )


def _prompt(arguments: Any) -> str:
    """Return the first argument of the first request: in a mapping since lm-eval 0.4.3, in nested lists before."""
    if isinstance(arguments, dict):
        arguments = [list(request.values()) if isinstance(request, dict) else request for request in arguments.values()]
    first = arguments[0] if isinstance(arguments, list) and arguments else ""
    if isinstance(first, list):
        first = first[0] if first else ""
    return first if isinstance(first, str) else json.dumps(first, ensure_ascii=False)


def _leaves(value: Any, *, depth: int) -> tuple[str, ...]:
    """Return responses by request (depth 1) and repeat (depth 2) in one row; what lies deeper is parts of an answer."""
    if isinstance(value, list) and depth > 0:
        return tuple(leaf for item in value for leaf in _leaves(item, depth=depth - 1))
    if isinstance(value, list):
        return (", ".join(str(item) for item in value),)
    return () if value is None else (str(value),)


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of old samples files, which do not list their names."""
    return {key: value for key, value in row.items() if key != "doc_id" and isinstance(value, (int, float))}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place (file:line) and object. Lines end at LF alone: U+2028 may stand inside a text."""
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _object(line, where=where)


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, kind=ResultsError)
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error


def _object(data: bytes, *, where: str) -> dict[str, Any]:
    content = _parsed(data, where=where)
    if not isinstance(content, dict):
        raise ResultsError(f"{where}: expected a JSON object, got {shown(content)}")
    return content


def _parsed(data: bytes, *, where: str) -> Any:
    """Return JSON, in which lm-eval writes bare NaN and Infinity."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ResultsError(f"{where}: not UTF-8 at byte {error.start}; the file is damaged or no results") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ResultsError(f"{where}: not JSON: {error.msg} at {place}; the file was cut short or edited") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where}: unusable JSON: {error}") from None
