"""What the page says of latents beyond the table of requests, before layout: frozen records."""

from __future__ import annotations

from dataclasses import dataclass


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
