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
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import MachineError, ResultsError, nearest
from ltm_eval.system.files import digest
from ltm_eval.system.records import AuditResult, checked, count, finite, mapping, record_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


# How a model without latents answered a request: one line of the sidecar of answers.
#
#     DIR/<model>/answers_<task>_<date>.jsonl   one line per request and repeat, of baselines that this program ran
#
# What an LTM does stands in its sidecar of latents, under the same names.

ENDINGS = ("stop_string", "end_of_text", "length")


@dataclass(frozen=True)
class AnswerRecord:
    """How one continuation was generated."""

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
    demonstrations: int
    """Demonstrations in the prompt."""
    demonstrations_read: int
    """Of these, how many the model read whole."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    read_tokens: int
    """Tokens the model read: lm-eval cuts what does not fit from the left, wherever that is."""
    truncated: bool
    """Whether something of the prompt was cut."""
    new_tokens: int
    """Tokens generated, up to and with those of the first stop string; what the batch went on to is not counted."""
    stop_reason: str
    """stop_string, end_of_text or length."""

    def __post_init__(self) -> None:
        if self.stop_reason not in ENDINGS:
            raise ResultsError(f"field stop_reason: expected one of {', '.join(ENDINGS)}, got {self.stop_reason!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> AnswerRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)


# What latent inference did for a request: one line of the sidecar of latents.

STOP_REASONS = ("stop_string", "end_of_text", "length", "not_finite", "")


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
    """Tokens z was fitted on, over all windows, with those that a window reads before its first target."""
    fitted_windows: int
    """Windows that shared the one z; of a text that is scored as a whole, its windows, each with a z of its own."""
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
    """stop_string, end_of_text or length; not_finite where the logits were no numbers; empty where nothing was
    generated.
    """
    fit_seconds: float
    """Wall time of the fit, shared out over its batch."""
    decode_seconds: float
    """Wall time of decoding, shared out over its batch."""
    draws_nats: tuple[float, ...] = ()
    """Of a text that is scored as a whole: what each fresh draw of the bound alone says, NLL + KL; their mean is the
    bound.
    """
    kl_steps_nats: tuple[tuple[float, ...], ...] = ()
    """KL(q || prior) of each layer at every fast step, to four digits; of the first documents of a task only."""
    fit: str = ""
    """Names the fit: answers that share one have the same, and its cost counts once. Empty without a fit, and in files
    of 0.1.0.
    """
    fit_token_steps: int = 0
    """Tokens times passes with a gradient, of the fit and of others made for this answer (`as_released`, the refits of
    `causal`, the prompt's of rethinking); answers that share a fit tell the same. 0 in files of earlier versions.
    """
    fit_token_passes: int = 0
    """Tokens times passes without a gradient that belong to these fits: the evaluation after each, and draws of z that
    score a text or rank a candidate.
    """
    answer_token_passes: int = 0
    """Tokens times passes of the answer itself: what is read, generated or scored as a continuation."""

    def __post_init__(self) -> None:
        if self.stop_reason not in STOP_REASONS:
            expected = ", ".join(filter(None, STOP_REASONS))
            raise ResultsError(f"field stop_reason: expected one of {expected} or nothing, got {self.stop_reason!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> LatentRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)


def fits_of(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """The first record of each fit; where a file names none, equal fits of a document are one."""
    found: dict[str, LatentRecord] = {}
    for one in records:
        if one.kl_nats is not None:
            told = (one.doc_id, one.prompt_hash, one.t_fast, one.nll_nats, one.kl_nats, one.objective_nats)
            found.setdefault(one.fit or repr(told), one)
    return list(found.values())


def made_once(records: Sequence[LatentRecord]) -> list[LatentRecord]:
    """The records less copies: documents with the same prompt are given one answer, which has cost its time once."""
    copied = (replace(one, task="", doc_id=0) if one.fit else one for one in records)
    return list(dict.fromkeys(copied))


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, tuple) else value


# What a results file and its samples hold, as frozen records.


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
    answers_path: Path | None
    """Sidecar of answers, where it exists: of baselines."""
    tokens_path: Path | None
    """Sidecar of tokens, where it exists."""
    generation: Mapping[str, Any]
    """Curves, seeds and lengths of a MAUVE task; empty where the file has none."""


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
        values = {name: checked(row, name, kind=kind, where=where) for name, kind in types.items()}
        figures = {str(key): finite(value) for key, value in mapping(row.get("figures")).items()}
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
    parts: tuple[Run, ...] = ()
    """The runs whose tasks it holds, as a column of several (`columns.columns_of`); empty of one results file."""
    older: Mapping[str, int] = field(default_factory=dict)
    """Of a column, task to the number of older runs of the same model and settings, which are not shown."""
    named: bool = False
    """Whether the file itself was named, not a folder that holds it."""

    def of(self, task: str) -> Run:
        """The run that scored a task: itself, or one of its parts."""
        return next((part for part in self.parts if task in part.tasks), self)


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


# What the tokens of one text cost under one model: one line of the sidecar of tokens.
#
#     DIR/<model>/tokens_<task>_<date>.jsonl   one line per text, of the first documents of a task (`--token_nll N`)
#
# The text itself stands in the samples file: for `text` it is the prompt, for `answer` the response of that request and
# repeat, for `target` the target. Figures are rounded; no metric is made of them.

TEXT, ANSWER, TARGET = "text", "answer", "target"
PARTS = (TEXT, ANSWER, TARGET)
DECIMALS = 3
"""Of the nats of a piece."""


@dataclass(frozen=True)
class TokenRecord:
    """What the tokens of one text cost."""

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
    part: str
    """`text`: the whole text of a rolling request; `answer`: what the model generated, up to its stop string, each
    token under the model that generated it; `target`: the answer of the data set, after the same prompt.
    """
    tokenizer: str
    """Whose tokens they are."""
    draws: int
    """Draws of z whose mean the figures are; 0 where nothing is averaged (one z, or no latents)."""
    nats: float
    """Sum over the tokens, not rounded: -log p(text | z) of an LTM, without its KL; -log p(text) of a model without
    latents.
    """
    kl_nats: float | None
    """KL of the posterior that was fitted to a `text`: the price of z for the text as a whole, in no piece. None
    without latents, and of other parts: there z was fitted to the prompt, and the text owes nothing for it.
    """
    piece_characters: tuple[int, ...]
    """Characters (code points) of each piece of the text, in order. A piece is a token, or several that share a
    character; one of 0 characters stands for a token without text, such as end-of-text in front.
    """
    piece_nats: tuple[float, ...]
    """-log p of each piece, to three decimals."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ResultsError(f"field part: expected one of {', '.join(PARTS)}, got {self.part!r}")
        if len(self.piece_characters) != len(self.piece_nats):
            raise ResultsError(
                f"fields piece_characters and piece_nats: expected as many of the one as of the other, got "
                f"{len(self.piece_characters)} and {len(self.piece_nats)}"
            )

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `from_json` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str) -> TokenRecord:
        """The record that `row` describes; `where` (file:line) opens every message.

        Raises:
            ResultsError: a field is absent, unknown or of the wrong type.
        """
        return record_of(cls, row, where=where)


def rounded(nats: Sequence[float]) -> tuple[float, ...]:
    """As they are stored."""
    return tuple(round(value, DECIMALS) + 0.0 for value in nats)  # + 0.0: no minus before a zero


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
