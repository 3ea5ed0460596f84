"""What a results file and its samples hold, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ltm_eval.row_checks import checked, finite, mapping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
        return cls(**{name: checked(row, name, kind=kind, where=where) for name, kind in types.items()})


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
    """The runs it was joined from (`joined`); empty of one results file."""

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
