"""What a page holds, before layout: frozen records, computed by the modules above and only laid out by `report`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltm_eval.results.signature import Tokens


# The figures of a page: what a score, a fit or a set of documents looks like as a chart.


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    group: str
    """What is compared within: the filter."""
    label: str
    """What the bar stands for: the model."""
    series: int
    """Colour, from 1; 0 where no model ran."""
    value: float
    """Height, 0 to 1."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


@dataclass(frozen=True)
class Curve:
    """Median and 10-90 % band over fast steps."""

    label: str
    """What the curve stands for: the model."""
    median: tuple[float, ...]
    """Median per step."""
    low: tuple[float, ...]
    """10 % quantile per step."""
    high: tuple[float, ...]
    """90 % quantile per step."""
    worst: tuple[float, ...] = ()
    """The request that gained least, per step."""


@dataclass(frozen=True)
class Stack:
    """A bar made of parts."""

    label: str
    """What the bar stands for: the model."""
    parts: tuple[tuple[str, float], ...]
    """Name and size of each part, from the axis outwards."""


@dataclass(frozen=True)
class Spread:
    """How the documents of one model are distributed."""

    label: str
    """What the curve stands for: the model."""
    series: int
    """Colour, from 1."""
    values: tuple[float, ...]
    """One a document."""


@dataclass(frozen=True)
class Divergence:
    """MAUVE's curve between two collections of texts."""

    label: str
    """What the curve stands for: the model, or human texts."""
    series: int
    """Colour, from 1; 0 is human texts against human texts."""
    points: tuple[tuple[float, float], ...]
    """exp(-c KL(generated | mixture)) and exp(-c KL(human | mixture)), both 0 to 1."""


@dataclass(frozen=True)
class CurveOverSteps:
    """A figure over training steps."""

    label: str
    """What the curve stands for: the training run."""
    points: tuple[tuple[float, float, float | None, float | None], ...]
    """Step, value, and both ends of the 95 % interval or None."""


# Whether a bound has settled: against the fast steps that were made, and against the noise draws that were taken.
#
# Over steps the sidecar holds the fit's objective at each step. Where the preset draws fresh noise for every step, the
# posterior of a step has not seen that step's noise, so each figure is a one-draw estimate of a valid bound; where the
# noise is fixed it is no bound and is said to be none. Over draws it holds what each draw alone says of a text, so
# every point of the curve is measured.


@dataclass(frozen=True)
class StepCurve:
    """Nats per token over the fast steps of a set, all documents together."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    nats_per_token: tuple[float, ...]
    """One per step, the start first."""
    settled: float | None
    """The set's bound over fresh draws, nats per token."""
    is_bound: bool
    """Whether each step's figure estimates a valid bound: fresh noise at every step."""
    documents: int
    """Documents whose trajectories are summed."""


# What the figures of a page cost: time, speed, memory, and compute per token at equal size and at equal compute.
#
# Compute per token is that of `flops`: the papers' own count, in which a fast step is charged like a training step. For
# an autoregressive model it is the same formula without fast steps, so the two stand on one footing.


@dataclass(frozen=True)
class CostRow:
    """One model on one task; None where its results do not tell."""

    task: str
    """Task name."""
    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    documents: int | None
    """Documents."""
    seconds: float | None
    """Wall time of the task."""
    seconds_per_document: float | None
    """The same per document."""
    fit_share: float | None
    """Share of fitting in the time of fitting and decoding."""
    fitted_tokens_per_second: float | None
    """Fast steps times the tokens each went through, per second of fitting."""
    new_tokens_per_second: float | None
    """Generated tokens per second of decoding."""
    peak_memory_bytes: int | None
    """Most memory held at once; of several processes, their peaks summed."""
    memory_of: str
    """gpu or process; empty where the memory is not told."""
    t_fast: float | None
    """Mean fast steps; None for an autoregressive model."""
    flops_per_token: float | None
    """Compute per token, as the papers count it."""
    processes: int = 1
    """Processes that shared the task."""
    working_seconds: float | None = None
    """What they spent on answers, summed, where there were several."""
    starts: int = 1
    """Starts of the command that its answers come from."""


@dataclass(frozen=True)
class SizeRow:
    """One model's size and training; None where its results do not tell."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    parameters: int | None
    """Parameters."""
    size_ratio: float | None
    """Over those of the first model."""
    flops_per_token: float | None
    """At its largest mean number of fast steps on this page."""
    compute_ratio: float | None
    """Over that of the first model."""
    same_compute_parameters: float | None
    """Parameters of an autoregressive model that costs as much per token."""
    training_flops: float | None
    """Operations of its training, where a model card tells."""
    training_tokens: float | None
    """Tokens it was trained on."""
    training_source: str
    """Where that stands."""


# What the page says of latents beyond the table of requests, before layout: frozen records.


@dataclass(frozen=True)
class HeatRow:
    """One row of a heat map."""

    label: str
    """What it is of."""
    values: tuple[str, ...]
    """One a layer, as readers see it."""
    levels: tuple[int, ...]
    """Depth of each value's colour, 0 to `LEVELS`."""


LEVELS = 8


@dataclass(frozen=True)
class HeatMap:
    """A figure by layer, and by document or step."""

    title: str
    """What is shown, with its unit."""
    note: str
    """What a deep colour means."""
    rows: tuple[HeatRow, ...]
    """Documents, tenths of them, or steps of the fit."""
    head: str = "Document"
    """What the rows are."""


@dataclass(frozen=True)
class LayersView:
    """What the layers' latents hold, in one run and task."""

    label: str
    """Model."""
    fits: int
    """Fits; answers of one context share one."""
    worse: int
    """Of these, whose objective ended above the first fast step's; of those whose steps are known."""
    traced: int
    """Fits whose steps are known."""
    maps: tuple[HeatMap, ...]
    """KL and mean log variance; KL on the way, where the sidecar holds it."""


@dataclass(frozen=True)
class ComputePoint:
    """One run of a model, at its number of fast steps."""

    label: str
    """The run."""
    t_fast: float
    """Fast steps, a mean where they differ."""
    flops: float | None
    """FLOPs per token by the published formula; None where the run does not tell its sizes."""
    value: float
    """The figure."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Upper end."""


@dataclass(frozen=True)
class ComputeCurve:
    """One model's figure against test-time compute."""

    model: str
    """Model, with the settings that several curves differ in."""
    metric: str
    """The figure's name, with its filter."""
    share: bool
    """Whether it is a share of documents, shown in percent."""
    bound: bool
    """Whether it is an upper bound, shown with its sign."""
    higher_is_better: bool | None
    """Direction."""
    points: tuple[ComputePoint, ...]
    """By fast steps; at least two different ones."""


@dataclass(frozen=True)
class Estimate:
    """A mean over texts."""

    mean: float
    """The mean."""
    low: float | None
    """Lower end of the 95 % interval over texts; None for a single text."""
    high: float | None
    """Upper end."""


@dataclass(frozen=True)
class Ladder:
    """A measure against the number of active layers, in one direction."""

    name: str
    """upward or downward."""
    layers: tuple[str, ...]
    """Which layers are active, for l = 0 ... L."""
    points: tuple[Estimate, ...]
    """The measure there."""


@dataclass(frozen=True)
class Measure:
    """One measure of progressive reconstruction."""

    key: str
    """Short name, for ids."""
    title: str
    """What it is."""
    unit: str
    """percent, nats or tokens."""
    what: str
    """What is counted."""
    ladders: tuple[Ladder, ...]
    """Upward, downward."""
    no_z: Estimate
    """Without z."""


@dataclass(frozen=True)
class SetRow:
    """What the explorer shows for one set of layers."""

    key: str
    """The set, as the script finds it."""
    words: str
    """The set, as a reader says it."""
    kind: str
    """range, groups or both."""
    nll: float | None
    """NLL per token of the generated text under the z it was generated with; None where nothing was generated."""
    similarity: float
    """Token-level edit similarity to what all layers generate."""
    text_nll: float
    """NLL per token of the text itself under the same z."""
    top1: float
    """Share of the text's tokens that were the likeliest."""
    text: int
    """Index into the generated texts."""
    first: str
    """The row whose text this one repeats; empty where it is the first."""


@dataclass(frozen=True)
class ExplorerItem:
    """One prompt of the explorer."""

    name: str
    """Where the text came from."""
    prompt: str
    """What the decoder reads."""
    rest: str
    """How the text goes on."""
    texts: tuple[str, ...]
    """What was generated, each once."""
    rows: tuple[SetRow, ...]
    """All sets of layers."""


@dataclass(frozen=True)
class ProbeView:
    """One probe."""

    label: str
    """Model."""
    n_layers: int
    """Decoder layers."""
    groups: tuple[tuple[int, int], ...]
    """First and last layer of each group."""
    texts: int
    """Texts."""
    tokens: int
    """Their tokens."""
    cut: int
    """Texts of which tokens were left out."""
    demo: bool
    """Whether it is the bundled model."""
    warnings: tuple[str, ...]
    """What a reader must know."""
    facts: tuple[tuple[str, str], ...]
    """Settings that decide the figures: name and value."""
    measures: tuple[Measure, ...]
    """Progressive reconstruction."""
    layers: LayersView | None
    """What the fits put into each layer."""
    items: tuple[ExplorerItem, ...]
    """The explorer's prompts."""
    command: str
    """Command line."""
    path: str
    """The file."""
    settings: tuple[tuple[str, str], ...]
    """Settings, model and provenance, flattened."""


@dataclass(frozen=True)
class TaskLatents:
    """What a task's section says of latents, beside the table of requests."""

    layers: tuple[LayersView, ...] = ()
    """Per run that has fits."""
    compute: tuple[ComputeCurve, ...] = ()
    """Figures against test-time compute, where runs differ in fast steps."""


# The summary of a page: one row per task and headline metric, the models beside each other, and what was published.
#
# Figures are taken from the tables of the sections; nothing is computed here but which published figures are of the
# same quantity. Figures under other settings never share a row. Published figures were not re-run: they stand in a
# column of their own and no difference is taken from them.


@dataclass(frozen=True)
class SummaryCell:
    """One model's figure in a row."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    value: float | None
    """The figure; None where the run has none."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Upper end."""
    bound: bool
    """Whether it is an upper bound, shown with its sign."""
    best: bool = False
    """Whether it is better than every other model's by an interval that leaves out zero."""
    sd: float | None = None
    """Standard deviation over seeds, of a figure that is their mean."""
    signature: str = ""
    """The declared settings that make it."""
    n: int | None = None
    """Documents."""


@dataclass(frozen=True)
class SummaryGap:
    """The first model minus another, in one row."""

    label: str
    """The other model."""
    difference: Difference | None
    """The difference; None where nothing can be paired."""
    caveat: str
    """What the difference does not show."""


@dataclass(frozen=True)
class SummaryRow:
    """One task and metric."""

    task: str
    """Task name."""
    number: int
    """The task's number on the page, from 1."""
    metric: str
    """Metric, with its filter."""
    higher_is_better: bool | None
    """Direction."""
    share: bool
    """Whether figures are shares, shown in percent."""
    bits: bool
    """Whether differences are in bits per byte, shown to three decimals."""
    cells: tuple[SummaryCell, ...]
    """One per model of the page."""
    gaps: tuple[SummaryGap, ...]
    """One per model after the first."""
    published: tuple[Published, ...]
    """Published figures of the same quantity."""
    n: int | None
    """Documents of the first model that has the figure."""
    only: str = ""
    """Settings that set these figures apart from those of another row; empty for most."""


@dataclass(frozen=True)
class Summary:
    """The table."""

    labels: tuple[str, ...]
    """Models, the first one first."""
    rows: tuple[SummaryRow, ...]
    """In the order of the tasks."""

    @property
    def sources(self) -> tuple[Published, ...]:
        """One published figure for each distinct source, in order of appearance: the notes below the table."""
        found: dict[str, Published] = {}
        for row in self.rows:
            for one in row.published:
                found.setdefault(one.source, one)
        return tuple(found.values())


# Texts with their tokens marked by what they cost: what the sample browser shows, before layout.
#
# Of a text that two models scored, the first model's cost minus the second's, per span between common boundaries; of a
# text that one model scored, and of an answer, which only its own model wrote, the cost itself. Both are nats. A
# difference is comparable because the text is the same: a document of a perplexity set, or the data set's own answer to
# a question. Costs of two models' answers are not set against each other, since the answers differ.


@dataclass(frozen=True)
class TokenRun:
    """A stretch of text: a marked span, or all between two of them."""

    text: str
    """Its characters."""
    level: int
    """0 is not marked; 1 to 3 a cost, or a difference in favour of the second model; negative one in favour of the
    first.
    """
    nats: float | None
    """Difference or cost; None where nothing is marked."""


@dataclass(frozen=True)
class LargeSpan:
    """One of the spans with the largest difference, or cost."""

    text: str
    """Its characters."""
    nats: tuple[float, ...]
    """Cost under each model."""
    difference: float | None
    """First minus second; None where there is one model."""


@dataclass(frozen=True)
class TokenSum:
    """What a text cost under one model."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    nats: float
    """Sum over all tokens."""
    kl_nats: float | None
    """KL of the posterior, which is in no token; None without latents."""
    draws: int
    """Draws of z that were averaged."""


@dataclass(frozen=True)
class TokenView:
    """A text with its tokens marked."""

    runs: tuple[TokenRun, ...]
    """The text, as far as a page shows it."""
    rest: str
    """What is said of the part that is not shown; empty where all is."""
    spans: int
    """Spans in the whole text."""
    largest: tuple[LargeSpan, ...]
    """Largest first, of the whole text."""
    sums: tuple[TokenSum, ...]
    """Of one model or two."""

    @property
    def compares(self) -> bool:
        """Whether differences are marked."""
        return len(self.sums) > 1


@dataclass(frozen=True)
class Banner:
    """Something a reader must know before any number."""

    kind: str
    """alarm (the figures are not what they seem) or note."""
    text: str
    """One or two sentences."""


@dataclass(frozen=True)
class ModelCard:
    """What ran, for one run."""

    label: str
    """Model name, made unique within the page."""
    kind: str
    """lm-eval's model type."""
    digest: str
    """Checkpoint digest or revision, if the run tells it."""
    parameters: int | None
    """Parameter count, if the run tells it."""
    step: int | None
    """Training step of the checkpoint, if the run tells it."""
    sizes: str
    """Layers, width and latents in words, if the run tells them."""
    sources: tuple[str, ...]
    """Data set of every task, with its number of documents."""
    sample_data: bool
    """Whether these are the bundled samples."""
    date: str
    """Date in the results file's name."""
    seconds: float | None
    """Wall time of the evaluation."""
    paths: tuple[str, ...]
    """The results file, or those that were joined."""
    command: str
    """Command line; of joined runs one a line."""
    warnings: tuple[str, ...]
    """Warnings the run gave."""
    audit: str
    """The audit's verdict in one line; empty where none was made."""
    audit_passed: bool
    """Whether it was passed; true where none was made."""
    settings: tuple[tuple[str, str], ...]
    """lm-eval's configuration, flattened."""
    data: tuple[tuple[str, str], ...]
    """Data source and digests, flattened."""
    provenance: tuple[tuple[str, str], ...]
    """Commit, versions, machine, flattened."""


@dataclass(frozen=True)
class Difference:
    """Subject minus baseline, paired by document."""

    estimate: float
    """Mean difference."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    p_value: float
    """Two-sided p value of no difference."""
    n: int
    """Documents both runs scored."""
    discordant: int
    """Of these, how many the two scored differently."""
    other_prompts: int
    """Of these, how many had different prompts."""
    unpaired: int
    """Documents only one of the two scored."""
    verdict: str
    """better, worse, open (not distinguishable), unproven (by bounds), or empty where no direction is known."""
    p_holm: float | None = None
    """The p value after Holm's correction, which the verdict then follows; None unless it is the first figure of its
    task.
    """

    @property
    def known(self) -> bool:
        """Whether the interval is finite: a single document, or none that differs, tells none."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class ScoreRow:
    """One model's figure."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    value: float | None
    """The figure; None where the run has none."""
    interval: tuple[float, float] | None
    """95 % interval."""
    interval_kind: str
    """How the interval was made."""
    bound: bool
    """Whether this model's figure is an upper bound though the metric's name does not say so."""
    n: int | None
    """Documents."""
    n_shot: int | None
    """Demonstrations per prompt."""
    note: str
    """Why something is missing or doubtful."""
    signature: str
    """The declared settings that make the figure, for comparison between laboratories."""
    difference: Difference | None
    """Subject minus this model; None for the subject and where nothing can be paired."""


@dataclass(frozen=True)
class ScoreTable:
    """All models under one metric and filter."""

    metric: str
    """Metric."""
    filter: str
    """Filter; none is lm-eval's default."""
    higher_is_better: bool | None
    """Direction."""
    share: bool
    """Whether the figure is a share of documents, shown in percent."""
    bound: bool
    """Whether the figure is an upper bound, shown with its sign."""
    note: str
    """What the metric is not."""
    rows: tuple[ScoreRow, ...]
    """One per run that has the task."""


@dataclass(frozen=True)
class Value:
    """A corpus figure with its uncertainty over documents."""

    value: float
    """The figure; infinite where no float holds it."""
    low: float | None
    """Lower end of the 95 % interval; None where nothing tells it."""
    high: float | None
    """Upper end of the 95 % interval."""
    stderr: float | None
    """Standard error over documents."""
    kind: str
    """How the interval was made; empty where there is none."""
    mc_se: float | None = None
    """The part of the standard error that is noise of the draws."""


@dataclass(frozen=True)
class PerplexityLine:
    """One model under one row of the perplexity table; None where a figure is not defined or not told."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    bound: bool
    """Whether the figures are upper bounds, shown with their sign."""
    per_token: Value | None
    """Perplexity per token; nats per token for the two parts of the bound."""
    per_word: Value | None
    """Perplexity per word."""
    per_byte: Value | None
    """Perplexity per byte."""
    bits_per_byte: Value | None
    """Bits per byte."""
    documents: int | None
    """Documents."""
    note: str
    """Why something is missing or doubtful."""
    signature: str
    """The declared settings that make the figure."""
    tokens: Tokens | None = None
    """The tokens that figures per token count; None where they are not told."""
    own_tokens: str = ""
    """What these tokens are called, where the models of the page have different ones; else empty."""


@dataclass(frozen=True)
class PerplexityRow:
    """All models under one row of the table of what may be called a bound."""

    name: str
    """Name of the row, such as bound or as_released."""
    what: str
    """What the figure is, and is not."""
    nats: bool
    """Whether per token stand nats instead of a perplexity."""
    lines: tuple[PerplexityLine, ...]
    """One per run that has the figure."""


@dataclass(frozen=True)
class FloorLine:
    """A reference row: a model without content on the same documents, never one that was evaluated."""

    name: str
    """uniform or unigram, with its tokenizer."""
    what: str
    """What it is."""
    per_token: Value | None
    """Perplexity per token of that tokenizer."""
    per_word: Value | None
    """Perplexity per word."""
    per_byte: Value | None
    """Perplexity per byte."""
    bits_per_byte: Value | None
    """Bits per byte."""
    documents: int
    """Documents."""


@dataclass(frozen=True)
class BitsDifference:
    """The first model minus another, in bits per byte, paired by document; lower is better."""

    label: str
    """The other model."""
    series: int
    """Its colour, from 1."""
    ours: str
    """Row of the first model: bound, exact or causal."""
    theirs: str
    """Row of the other model."""
    difference: Difference
    """The difference."""
    caveat: str
    """What the comparison of a bound with an exact figure does not show; empty where both are exact."""


@dataclass(frozen=True)
class WorstDocument:
    """A document that cost most."""

    doc_id: int
    """Index in the split."""
    bits_per_byte: float
    """Of the first model's headline figure."""
    others: tuple[tuple[str, float, bool], ...]
    """The other models' figures, and whether they are upper bounds."""
    n_bytes: float
    """Bytes."""
    text: str
    """The text."""


@dataclass(frozen=True)
class PerplexitySection:
    """Everything about one perplexity set, beyond its published figures."""

    rows: tuple[PerplexityRow, ...]
    """The table."""
    floors: tuple[FloorLine, ...]
    """Reference rows below it."""
    differences: tuple[BitsDifference, ...]
    """Paired differences from every baseline."""
    stacks: tuple[Stack, ...]
    """Parts of the nats per token, per model."""
    spreads: tuple[Spread, ...]
    """Bits per byte of the documents, per model."""
    worst: tuple[WorstDocument, ...]
    """The first model's worst documents."""
    worst_of: str
    """Label of that model, with the row; empty without samples."""
    worst_is_bound: bool
    """Whether its figures are upper bounds."""
    protocol: tuple[tuple[str, tuple[str, ...], bool], ...]
    """What the task says of itself: key, one value per run (– where it does not), whether values differ."""


@dataclass(frozen=True)
class GenerationLine:
    """One model's texts, or human ones, in the table of generated texts; None where a run does not tell."""

    label: str
    """Model, or what the human texts are."""
    series: int
    """Colour, from 1; 0 is human texts."""
    mauve: float | None
    """Mean over seeds; of human texts that of one half against the other."""
    mauve_sd: float | None
    """Standard deviation over all seeds."""
    sd_kmeans: float | None
    """Standard deviation over k-means seeds alone."""
    sd_generation: float | None
    """Standard deviation over generation seeds alone."""
    seeds: str
    """Generation and k-means seeds, as 3 × 5."""
    texts: str
    """Texts that are compared at once, as 5,000 with 1,000."""
    buckets: int | None
    """Clusters."""
    words: float | None
    """Mean words of a continuation."""
    words_sd: float | None
    """Their standard deviation over texts."""
    distinct: tuple[float | None, ...]
    """distinct-1, -2, -3."""
    repeated: tuple[float | None, ...]
    """rep-2, -3, -4."""
    copies: float | None
    """Share of texts that equal an earlier one."""
    empty: int | None
    """Continuations without a word."""
    signature: str
    """The declared settings that make the figure."""


@dataclass(frozen=True)
class GenerationSection:
    """Generated against human texts."""

    lines: tuple[GenerationLine, ...]
    """Models, then human texts."""
    curves: tuple[Divergence, ...]
    """Divergence curves, where the runs tell them."""
    options: tuple[tuple[str, tuple[str, ...], bool], ...]
    """How texts were made and compared: key, one value per run (– where it does not tell), whether values differ."""
    n_human: int | None
    """Fewest human texts of a run."""


@dataclass(frozen=True)
class Verdict:
    """The one-sentence answer for a task and a baseline."""

    kind: str
    """better, worse or open."""
    text: str
    """The sentence, with interval."""
    caveat: str
    """Why the comparison is not like for like; empty if it is."""


@dataclass(frozen=True)
class Published:
    """A published figure, not re-run."""

    model: str
    """Model."""
    params: str
    """Parameters, as published."""
    dataset: str
    """Data set, as published."""
    metric: str
    """Metric, as published."""
    value: float
    """The figure."""
    bound: bool
    """Whether it is an upper bound."""
    shots: int | None
    """Demonstrations, if stated."""
    protocol: str
    """Protocol, kind of training and notes."""
    evidence: str
    """How directly the figure was seen."""
    source: str
    """Where it stands."""


@dataclass(frozen=True)
class Answer:
    """One model's answer to one document."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    responses: tuple[str, ...]
    """Model output, the first few repeats."""
    verdicts: tuple[str, ...]
    """right, wrong or empty for each of these."""
    more: int
    """Further repeats, not shown."""
    extracted: tuple[tuple[str, str, str], ...]
    """Filter, what it extracted, and right, wrong or empty where the metric is no yes or no."""
    other_prompt: bool
    """Whether this model saw another prompt than the one shown."""
    bits_per_byte: float | None
    """What the document cost, where it was scored and not answered."""
    bound: bool
    """Whether that is an upper bound."""
    facts: tuple[tuple[str, str], ...]
    """What latent inference did, named; empty for other models."""
    tokens: TokenView | None = None
    """The first answer with its tokens marked, where their costs are stored."""


@dataclass(frozen=True)
class SampleView:
    """One document in the sample browser."""

    doc_id: int
    """Index in the split."""
    place: str
    """The same, unique within the task."""
    question: str
    """The prompt's last piece."""
    demonstrations: tuple[str, ...]
    """The pieces before it."""
    gold: str
    """The answer to match."""
    worked: str
    """The worked answer it was taken from; empty if there is none."""
    answers: tuple[Answer, ...]
    """One per model that scored the document."""
    tags: tuple[str, ...]
    """ahead (first model right, another wrong), behind, wrong (all), failed (no answer was extracted)."""
    gap: float | None
    """Bits per byte of the first model minus the second's; None for tasks that are answered."""
    tokens: TokenView | None = None
    """The scored text, or the data set's answer, with its tokens marked, where their costs are stored."""


@dataclass(frozen=True)
class SampleBrowser:
    """Documents of one task to look through."""

    samples: tuple[SampleView, ...]
    """In the order of the samples file."""
    documents: int
    """Documents in that file."""
    counts: tuple[tuple[str, int], ...]
    """How many of them have each tag."""
    shared: tuple[str, ...]
    """Demonstrations that several documents have alike, shown once."""
    scored: bool
    """Whether texts were scored and not answered."""
    command: str
    """Scores one document again; DOCUMENT stands for its index. Empty where it is not known."""
    marks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What marked tokens show (difference, cost), and the nats that the levels stand for, in words."""
    marks_notes: tuple[str, ...] = ()
    """Of which documents and models nothing is stored, and how it would be."""


@dataclass(frozen=True)
class LatentSummary:
    """What latent inference did in one run and task."""

    label: str
    """Model."""
    condition: str
    """Conditions, with counts if several."""
    preset: str
    """Presets, with counts if several."""
    t_fast: str
    """Fast steps; mean and range if they differ."""
    requests: int
    """Records in the sidecar."""
    truncated: int
    """Requests whose prompt was cut."""
    demonstrations: float
    """Mean demonstrations per prompt."""
    demonstrations_read: float
    """Mean demonstrations the decoder read."""
    demonstrations_fitted: float
    """Mean demonstrations z was fitted on."""
    nll_nats: float | None
    """Median NLL given z, summed over the fitted tokens."""
    kl_nats: float | None
    """Median KL."""
    kl_nats_per_token: float | None
    """Sum of KL over sum of fitted tokens."""
    share_at_prior: float | None
    """Median share of dimensions at the prior."""
    kl_per_layer_nats: tuple[float, ...]
    """Median KL of each layer."""
    mean_log_var_per_layer: tuple[float, ...]
    """Median of the mean log variance of each layer."""
    stop_reasons: tuple[tuple[str, int], ...]
    """Why generation ended, most frequent first; empty where nothing was to be generated."""
    fit_seconds: float
    """Sum of fitting time."""
    decode_seconds: float
    """Sum of decoding time."""
    curve: Curve | None
    """Objective relative to the first step."""


@dataclass(frozen=True)
class EffectRow:
    """One condition with one number of demonstrations."""

    condition: str
    """What z was fitted on and what the decoder read."""
    shots: int
    """Demonstrations per prompt."""
    value: float
    """The figure, a share."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    n: int
    """Documents."""
    against: str
    """The combination it is compared with; empty for the reference itself."""
    difference: Difference | None
    """This minus that one."""


@dataclass(frozen=True)
class EffectTable:
    """A figure under every condition and number of demonstrations."""

    label: str
    """Model."""
    metric: str
    """Metric."""
    filter: str
    """Filter."""
    reference: str
    """Condition the others are compared with."""
    rows: tuple[EffectRow, ...]
    """In the order they were run."""


@dataclass(frozen=True)
class BudgetRow:
    """Compute of rethinking or of its control, in one run."""

    label: str
    """Model."""
    side: str
    """rethinking or independent draws."""
    fast_steps: int
    """Fast steps of all refits."""
    fitted_tokens: int
    """Tokens those went through."""
    new_tokens: int
    """Tokens generated."""


@dataclass(frozen=True)
class TaskSection:
    """Everything about one task."""

    name: str
    """Task name."""
    lead: str
    """The model that the others are subtracted from; empty if nothing is compared."""
    versions: str
    """Task versions in the runs."""
    tables: tuple[ScoreTable, ...]
    """Figures, one table per metric and filter."""
    bars: tuple[Bar, ...]
    """Shares for the figure."""
    effect: tuple[EffectTable, ...]
    """What the demonstrations do, where a sweep measured it."""
    budget: tuple[BudgetRow, ...]
    """Compute of rethinking, where it ran."""
    latents: tuple[LatentSummary, ...]
    """Latent inference, per run that has it."""
    inference: TaskLatents
    """Layers' latents and test-time compute."""
    published: tuple[Published, ...]
    """Published figures for the same data set."""
    definition: tuple[tuple[str, str], ...]
    """Task definition, flattened."""
    perplexity: PerplexitySection | None
    """Bounds and perplexities, where the task has them."""
    generation: GenerationSection | None
    """MAUVE and what belongs to it, where the task has it."""
    labels: tuple[str, ...]
    """Models that have the task."""
    answering: tuple[AnswerFacts, ...]
    """How questions were answered, per run; empty for scored tasks."""
    attempts: tuple[Line, ...]
    """pass@k over k."""
    shots: tuple[Line, ...]
    """Accuracy over the number of demonstrations."""
    shots_pass: tuple[int, tuple[Line, ...]]
    """The largest k of pass@k in a sweep, and that over the number of demonstrations; 0 and nothing without."""
    steps: tuple[StepCurve, ...]
    """Of perplexity sets: nats per token over the fast steps."""
    draws: tuple[Line, ...]
    """Of perplexity sets: the bound by its first draws, with their noise; from sidecars that hold the draws."""
    costs: tuple[CostRow, ...]
    """Time, speed and memory, per run."""
    browser: SampleBrowser | None
    """Documents to look through; None without samples."""


@dataclass(frozen=True)
class ReportData:
    """The page, before layout."""

    title: str
    """Page title."""
    subject: str
    """Label of the model the others are compared with."""
    banners: tuple[Banner, ...]
    """Warnings above everything else."""
    verdicts: tuple[Verdict, ...]
    """One per task and baseline."""
    summary: Summary
    """All headline figures in one table."""
    sizes: tuple[SizeRow, ...]
    """Sizes, compute and training of the models."""
    models: tuple[ModelCard, ...]
    """What ran."""
    tasks: tuple[TaskSection, ...]
    """One section per task."""
    probes: tuple[ProbeView, ...]
    """What the layers carry, where it was probed."""
    version: str
    """Version of this program."""


# How questions were answered: extraction failures, why generation ended, what fitted the context, pass@k over k.


@dataclass(frozen=True)
class Unanswered:
    """Answers of which a filter could make nothing."""

    filter: str
    """Filter."""
    count: int
    """How many."""
    answers: int
    """Of how many answers."""


@dataclass(frozen=True)
class AnswerFacts:
    """One model's answers to one task; None where its results do not tell."""

    label: str
    """Model."""
    series: int
    """Colour, from 1."""
    documents: int
    """Questions."""
    unanswered: tuple[Unanswered, ...]
    """Extraction failures, per filter."""
    characters: float
    """Median length of an answer."""
    empty: int
    """Answers without any text."""
    stops: tuple[tuple[str, int], ...]
    """Why generation ended, most frequent first; empty where the results do not tell."""
    new_tokens: float | None
    """Mean tokens of an answer."""
    demonstrations: float | None
    """Mean demonstrations in the prompt."""
    dropped: float | None
    """Mean demonstrations that the decoder did not read."""
    prompts_cut: tuple[int, int] | None
    """Requests of whose prompt not all was read that should have been, of how many."""
    prompt_tokens: float | None
    """Mean tokens of the whole prompt."""
    read_tokens: float | None
    """Mean tokens the decoder read."""
    fitted_tokens: float | None
    """Mean tokens z was fitted on."""
    windows: float | None
    """Mean windows that shared the one z."""


@dataclass(frozen=True)
class LinePoint:
    """A figure with its 95 % interval."""

    x: float
    """Where it stands."""
    value: float
    """The figure."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class Line:
    """A figure over something."""

    label: str
    """Model, or condition."""
    series: int
    """Colour, from 1."""
    points: tuple[LinePoint, ...]
    """Ascending in x."""
    dashed: bool = False
    """Whether no model ran."""
    dots: tuple[tuple[float, float], ...] = ()
    """Single values beside the line."""
