"""A `Figure`, the tables of figures that a page holds, and its other records.

`series` is a model's colour, from 1, and 0 for what no model did; `low` and `high` are the ends of a 95 % interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm_eval.results.signature import Tokens

EVALUATED = "evaluated"
PUBLISHED = "published, not re-run"
REFERENCE = "reference, no model ran"

COLUMNS = (
    *("task", "metric", "filter", "model", "status", "relation", "value", "low", "high", "interval", "share"),
    *("higher_is_better", "documents", "shots", "first_minus_this", "first_minus_this_low", "first_minus_this_high"),
    *("p", "p_holm", "paired_documents", "first_is", "note", "signature", "source"),
)
"""Of the frame, of CSV and of a figure's record in JSON."""


@dataclass(frozen=True)
class Difference:
    """The first model's figure minus another's, paired by document."""

    estimate: float  # mean difference
    low: float
    high: float
    p_value: float
    n: int
    discordant: int  # documents on which the two differ
    verdict: str  # better, worse, open (not distinguishable), unproven (by bounds), or empty if no direction is known
    other_prompts: int = 0  # documents that the two saw under different prompts
    unpaired: int = 0  # documents that one of the two alone scored
    # the p value after Holm's correction, which the verdict then follows; None unless it is the first figure of its
    # task
    p_holm: float | None = None
    ours: str = ""  # of perplexities the row of the first model, and the other's
    theirs: str = ""
    caveat: str = ""  # what the comparison of a bound with an exact figure does not show; empty if both are exact

    @property
    def known(self) -> bool:
        """Whether the interval is finite: a single document, or none that differs, tells none."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Figure:
    """One number of one model under one metric."""

    task: str
    metric: str  # metric, or row of a perplexity table with its unit
    model: str
    value: float | None = None  # shares from 0 to 1; None if the run has none
    low: float | None = None
    high: float | None = None
    interval: str = ""  # how the interval was made
    filter: str = "none"
    series: int = 0
    status: str = EVALUATED
    bound: bool = False  # whether it is an upper bound, shown with its sign
    share: bool = False  # whether it is a share of documents, shown in percent
    higher_is_better: bool | None = None
    n: int | None = None  # documents
    n_shot: int | None = None
    note: str = ""
    signature: str = ""
    source: str = ""
    difference: Difference | None = None  # the first model minus this one
    stderr: float | None = None  # over documents
    mc_se: float | None = None  # the part of it that comes from the noise draws
    sd: float | None = None  # over seeds
    per_token: bool = False
    tokens: Tokens | None = None  # what a figure per token counts, if it is known

    def record(self) -> dict[str, Any]:
        """Return the figure with its numbers in full, under the names of `COLUMNS`; `relation` is ≤ of a bound."""
        found = self.difference
        ends = (found.low, found.high) if found is not None and found.known else (None, None)
        values = (
            *(self.task, self.metric, self.filter, self.model, self.status, "≤" if self.bound else ""),
            *(self.value, self.low, self.high, self.interval, self.share, self.higher_is_better, self.n, self.n_shot),
            *((found.estimate, *ends, found.p_value, found.p_holm, found.n) if found is not None else (None,) * 6),
            *(found.verdict if found is not None else "", self.note, self.signature, self.source),
        )
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class ScoreTable:
    """All models under one metric and filter."""

    metric: str
    filter: str
    higher_is_better: bool | None
    share: bool
    bound: bool
    note: str
    rows: tuple[Figure, ...]


@dataclass(frozen=True)
class PerplexityLine:
    """One model under one row of the perplexity table; None where a figure is not defined or not recorded."""

    label: str
    series: int
    bound: bool
    per_token: Figure | None  # perplexity per token; nats per token for the two parts of the bound
    per_word: Figure | None
    per_byte: Figure | None
    bits_per_byte: Figure | None
    documents: int | None
    note: str
    signature: str = ""
    tokens: Tokens | None = None  # what figures per token count, if it is known
    own_tokens: str = ""  # what these tokens are called, if the models of the page have different ones


@dataclass(frozen=True)
class PerplexityRow:
    """All models under one row of the table of what may be called a bound."""

    name: str
    what: str
    nats: bool  # whether per token stand nats instead of a perplexity
    lines: tuple[PerplexityLine, ...]


@dataclass(frozen=True)
class SummaryRow:
    """One task and metric: every model's figure, the first model's differences, and what was published."""

    task: str
    number: int  # of the task on the page, from 1
    metric: str
    higher_is_better: bool | None
    cells: tuple[Figure | None, ...]
    gaps: tuple[Difference | None, ...]  # of all models but the first
    published: tuple[Published, ...]
    n: int | None
    share: bool = False
    bits: bool = False  # whether differences are in bits per byte, shown to three decimals
    best: int | None = None  # position of the model that is better than every other one
    only: str = ""  # settings that set these figures apart from those of another row


@dataclass(frozen=True)
class Summary:
    """The table above all tasks."""

    labels: tuple[str, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def sources(self) -> tuple[Published, ...]:
        """One published figure for each distinct source, in order of appearance: the notes below the table."""
        found: dict[str, Published] = {}
        for row in self.rows:
            for one in row.published:
                found.setdefault(one.source, one)
        return tuple(found.values())


@dataclass(frozen=True)
class Curve:
    """Median and 10-90 % band over fast steps."""

    label: str
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    worst: tuple[float, ...] = ()


@dataclass(frozen=True)
class DocumentBits:
    """Bits per byte of every document, by a model's headline row."""

    label: str
    series: int
    bits: Mapping[tuple[str, int], float]  # by hash of the document and its occurrence
    bound: bool


@dataclass(frozen=True)
class Divergence:
    """MAUVE's curve between two collections of texts."""

    label: str  # what the curve stands for: the model, or human texts
    series: int  # colour, from 1; 0 is human texts against human texts
    # exp(-c KL(generated | mixture)) and exp(-c KL(human | mixture)), both 0 to 1
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StepCurve:
    """Nats per token over the fast steps of a set, all documents together."""

    label: str
    series: int
    nats_per_token: tuple[float, ...]
    settled: float | None  # the set's bound over fresh draws, nats per token
    is_bound: bool
    documents: int


LEVELS = 8  # depths of colour, beside none


@dataclass(frozen=True)
class HeatMap:
    """A figure by layer, and by document or step."""

    title: str  # what is shown, with its unit
    note: str
    # documents, tenths of them, or steps of the fit: name, and for each layer the number and its depth of colour
    rows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    head: str = "Document"


@dataclass(frozen=True)
class LayersView:
    """What the layers' latents hold, in one run and task."""

    label: str
    fits: int  # fits; answers of one context share one
    worse: int
    traced: int
    maps: tuple[HeatMap, ...]


@dataclass(frozen=True)
class ComputeCurve:
    """One model's figure against test-time compute."""

    model: str
    metric: str
    points: tuple[tuple[float, float | None, Figure], ...]  # fast steps, FLOPs per token if known, and the figure


@dataclass(frozen=True)
class Estimate:
    """A mean over texts."""

    mean: float
    low: float | None  # lower end of the 95 % interval over texts; None for a single text
    high: float | None


@dataclass(frozen=True)
class Ladder:
    """A measure against the number of active layers, in one direction."""

    name: str
    layers: tuple[str, ...]
    points: tuple[Estimate, ...]


@dataclass(frozen=True)
class Measure:
    """One measure of progressive reconstruction."""

    key: str
    title: str
    unit: str  # percent, nats or tokens
    what: str
    ladders: tuple[Ladder, ...]
    no_z: Estimate


@dataclass(frozen=True)
class SetRow:
    """What the explorer shows for one set of layers."""

    key: str
    words: str
    kind: str
    # NLL per token of the generated text under the z it was generated with; None if nothing was generated
    nll: float | None
    similarity: float
    text_nll: float
    top1: float
    tokens: int
    ended: str  # why the text ended, in words; empty if not recorded
    text: int
    first: str  # the row whose text this one repeats; empty if it is the first


@dataclass(frozen=True)
class ExplorerItem:
    """One prompt of the explorer."""

    name: str
    prompt: str
    rest: str
    # each in parts, alternately as in the text of all layers and changed, beginning with the former
    texts: tuple[tuple[str, ...], ...]
    rows: tuple[SetRow, ...]


@dataclass(frozen=True)
class ProbeView:
    """One probe."""

    label: str
    n_layers: int
    groups: tuple[tuple[int, int], ...]
    presets: tuple[tuple[str, str], ...]  # ranges of layers that a button chooses: its words, the range's key
    of_prompts: bool  # whether prompts were continued, not texts reconstructed
    texts: int
    tokens: int
    cut: int
    demo: bool
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    measures: tuple[Measure, ...]
    layers: LayersView | None
    items: tuple[ExplorerItem, ...]
    command: str
    path: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TokenRun:
    """A stretch of text: a marked span, or all between two of them."""

    text: str
    # 0 is not marked; 1 to 3 a cost, or a difference in favour of the second model; negative one in favour of the first
    level: int
    nats: float | None  # difference or cost; None if nothing is marked


@dataclass(frozen=True)
class LargeSpan:
    """One of the spans with the largest difference, or cost."""

    text: str
    nats: tuple[float, ...]
    difference: float | None  # first minus second; None if there is one model


@dataclass(frozen=True)
class TokenSum:
    """What a text cost under one model."""

    label: str
    series: int
    nats: float  # sum over all tokens
    kl_nats: float | None  # KL of the posterior, which is in no token; None without latents
    draws: int


@dataclass(frozen=True)
class TokenView:
    """A text with its tokens marked."""

    runs: tuple[TokenRun, ...]
    rest: str  # what is said of the part that is not shown; empty if all is
    spans: int
    largest: tuple[LargeSpan, ...]
    sums: tuple[TokenSum, ...]

    @property
    def compares(self) -> bool:
        """Whether differences are marked."""
        return len(self.sums) > 1


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before any number."""

    kind: str
    text: str


@dataclass(frozen=True)
class ModelCard:
    """What ran, for one run."""

    label: str
    kind: str
    digest: str
    parameters: int | None
    step: int | None
    sizes: str
    sources: tuple[str, ...]
    sample_data: bool
    date: str
    seconds: float | None
    paths: tuple[str, ...]  # the results file, or those that were joined
    command: str
    warnings: tuple[str, ...]
    audit: str  # the audit's verdict in one line; empty if none was made
    audit_passed: bool
    settings: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PerplexitySection:
    """Everything about one perplexity set, beyond its published figures."""

    rows: tuple[PerplexityRow, ...]
    floors: tuple[PerplexityLine, ...]  # models without content on the same documents, none that was evaluated
    differences: tuple[tuple[PerplexityLine, Difference], ...]  # from each other model, in bits per byte
    stacks: Mapping[str, Mapping[str, float]]  # by model the parts of its nats per token
    documents: tuple[DocumentBits, ...]  # of every model
    worst: tuple[dict[str, Any], ...]  # the documents with most bits per byte under the first model
    worst_of: str  # label of that model, with the row; empty without samples
    worst_is_bound: bool
    protocol: tuple[tuple[str, tuple[str, ...], bool], ...]


@dataclass(frozen=True)
class GenerationLine:
    """One model's texts, or human ones, in the table of generated texts; None if a run does not record it."""

    figure: Figure  # MAUVE, the mean over seeds; of human texts that of one half against the other
    sd_kmeans: float | None
    sd_generation: float | None
    seeds: str
    texts: str
    buckets: int | None
    words: float | None  # mean words of a continuation
    words_sd: float | None
    distinct: tuple[float | None, ...]
    repeated: tuple[float | None, ...]
    copies: float | None
    empty: int | None


@dataclass(frozen=True)
class GenerationSection:
    """Generated against human texts."""

    lines: tuple[GenerationLine, ...]
    curves: tuple[Divergence, ...]
    options: tuple[tuple[str, tuple[str, ...], bool], ...]
    n_human: int | None


@dataclass(frozen=True)
class Verdict:
    """The one-sentence answer for a task and a baseline."""

    kind: str
    text: str
    caveat: str  # why the comparison is not like for like; empty if it is


@dataclass(frozen=True)
class Published:
    """A published figure, not re-run."""

    model: str
    params: str
    dataset: str
    metric: str
    value: float
    bound: bool
    shots: int | None
    protocol: str
    evidence: str
    source: str


@dataclass(frozen=True)
class Answer:
    """One model's answer to one document."""

    label: str
    series: int
    responses: tuple[str, ...]
    verdicts: tuple[str, ...]  # right, wrong or empty for each of these
    more: int
    # filter, what it extracted, and right, wrong or empty if the metric is no yes or no
    extracted: tuple[tuple[str, str, str], ...]
    other_prompt: bool
    bits_per_byte: float | None
    bound: bool
    facts: tuple[tuple[str, str], ...]  # what latent inference did, named; empty for other models
    tokens: TokenView | None = None


@dataclass(frozen=True)
class SampleView:
    """One document in the sample browser."""

    doc_id: int
    place: str
    question: str
    demonstrations: tuple[str, ...]
    gold: str
    worked: str  # the worked answer it was taken from; empty if there is none
    answers: tuple[Answer, ...]
    tags: tuple[str, ...]
    gap: float | None  # bits per byte of the first model minus the second's; None for tasks that are answered
    # the scored text, or the data set's answer, with its tokens marked, where their costs are stored
    tokens: TokenView | None = None


@dataclass(frozen=True)
class SampleBrowser:
    """Documents of one task to look through."""

    samples: tuple[SampleView, ...]
    documents: int
    counts: tuple[tuple[str, int], ...]
    shared: tuple[str, ...]
    scored: bool
    command: str  # scores one document again; DOCUMENT stands for its index. Empty if it is not known
    # what marked tokens show (difference, cost), and the nats that the levels stand for, in words
    marks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    marks_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EffectTable:
    """A figure under every condition, which stands for the model, and number of demonstrations."""

    label: str
    metric: str
    filter: str
    rows: tuple[Figure, ...]  # with the difference from the cell that the note names


@dataclass(frozen=True)
class TaskSection:
    """Everything about one task."""

    name: str
    lead: str  # the model that the others are subtracted from; empty if nothing is compared
    versions: str
    tables: tuple[ScoreTable, ...]
    effect: tuple[EffectTable, ...]
    budget: tuple[dict[str, Any], ...]  # compute of rethinking and of its control, per run
    latents: tuple[dict[str, Any], ...]  # what latent inference did, per run
    layers: tuple[LayersView, ...]
    compute: tuple[ComputeCurve, ...]
    published: tuple[Published, ...]
    definition: tuple[tuple[str, str], ...]
    perplexity: PerplexitySection | None
    generation: GenerationSection | None
    labels: tuple[str, ...]
    answering: tuple[dict[str, Any], ...]  # how questions were answered, per run; empty for scored tasks
    attempts: tuple[Line, ...]
    shots: tuple[Line, ...]
    shots_pass: tuple[int, tuple[Line, ...]]
    steps: tuple[StepCurve, ...]  # of perplexity sets: nats per token over the fast steps
    draws: tuple[Line, ...]
    costs: tuple[dict[str, Any], ...]
    figures: tuple[Figure, ...]  # of all tables, and the published ones
    browser: SampleBrowser | None  # documents to look through; None without samples


@dataclass(frozen=True)
class ReportData:
    """The page, before layout."""

    title: str
    subject: str
    banners: tuple[Banner, ...]  # warnings above everything else
    verdicts: tuple[Verdict, ...]
    summary: Summary
    sizes: tuple[dict[str, Any], ...]
    models: tuple[ModelCard, ...]
    tasks: tuple[TaskSection, ...]
    probes: tuple[ProbeView, ...]
    version: str


@dataclass(frozen=True)
class LinePoint:
    """A figure with its 95 % interval."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A figure over something."""

    label: str  # model, or condition
    series: int
    points: tuple[LinePoint, ...]
    dashed: bool = False
    dots: tuple[tuple[float, float], ...] = ()
