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
class EffectTable:
    """A figure under every condition, which stands for the model, and number of demonstrations."""

    label: str
    metric: str
    filter: str
    rows: tuple[Figure, ...]  # with the difference from the cell that the note names


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
