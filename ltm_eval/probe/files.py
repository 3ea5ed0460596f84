"""Sets of layers, the options of a probe, and its file `<output>/<model>/probe_<date>.json`.

A probe keeps the latents of some decoder layers. Layers count from 1; a set is written as its runs of neighbours,
`1-3,7`, the empty one as `none`: its key in the file and on the page. The file holds sums and counts by text, of which
the page makes means and intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict

from ltm_eval.inference.options import (
    AUTO,
    MOST,
    Dtype,
    FitConfig,
    Preset,
    Seed,
    StepsOrAuto,
    fit_changes,
    fit_config,
)
from ltm_eval.results.files import DATE_ID, PROBE_PREFIX, read_object
from ltm_eval.system.errors import ResultsError, UsageError, shown
from ltm_eval.system.files import DEMO_MODEL
from ltm_eval.system.options import Many, Option, options
from ltm_eval.system.records import OpenRecord, mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

# Sets of layers -------------------------------------------------------------------------------------------------------

Layers = tuple[int, ...]  # from 1, ascending

NONE = "none"
GROUPS, MOST_GROUPS = 4, 8  # parts of the stack that are combined; 2 to their power combinations
MOST_LAYERS = 512  # of a model that a file may describe
_RUN = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


def key_of(layers: Iterable[int]) -> str:
    """Return the key of a set: `1-3,7` of (1, 2, 3, 7)."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or NONE


def layers_of(key: str) -> Layers:
    """Return the set of a key.

    Raises:
        ValueError: it is not written as `key_of` does.
    """
    found: list[int] = []
    for run in filter(None, map(_RUN.fullmatch, key.split(","))):
        found += range(int(run[1]), min(int(run[2] or run[1]), MOST_LAYERS) + 1)
    if key_of(sorted(set(found))) != key:
        raise ValueError(f"a set of layers such as 1-3,7 or {NONE}")
    return tuple(found)


def words_of(key: str) -> str:
    """Return a set in words."""
    if key == NONE:
        return "no layer"
    return f"layer{'s' if '-' in key or ',' in key else ''} {key.replace('-', '–').replace(',', ', ')}"


def groups_of(n_layers: int, count: int = GROUPS) -> tuple[tuple[int, int], ...]:
    """Return the first and last layer of each of `count` groups, single layers if there are fewer.

    Their sizes differ by one at most.
    """
    count = min(count, n_layers)
    ends = [round(n_layers * index / count) for index in range(count + 1)]
    return tuple((before + 1, last) for before, last in pairwise(ends))


def ranges_of(n_layers: int) -> list[Layers]:
    """Return every contiguous range, L (L + 1) / 2 of them."""
    return [tuple(range(first, last + 1)) for first in range(1, n_layers + 1) for last in range(first, n_layers + 1)]


def group_sets(n_layers: int, count: int = GROUPS) -> list[Layers]:
    """Return every combination of groups, none and all among them."""
    groups = groups_of(n_layers, count)
    return [
        tuple(layer for first, last in chosen for layer in range(first, last + 1))
        for size in range(len(groups) + 1)
        for chosen in combinations(groups, size)
    ]


def explored(n_layers: int, count: int = GROUPS) -> list[str]:
    """Return the keys of what the explorer shows: none, every range, every combination of groups; each once."""
    return list(dict.fromkeys(map(key_of, ((), *ranges_of(n_layers), *group_sets(n_layers, count)))))


def upward(n_layers: int) -> list[str]:
    """Return the keys of layers 1 ... l, for l = 0 ... L."""
    return [key_of(tuple(range(1, count + 1))) for count in range(n_layers + 1)]


def downward(n_layers: int) -> list[str]:
    """Return the keys of the last l layers, for l = 0 ... L."""
    return [key_of(tuple(range(n_layers - count + 1, n_layers + 1))) for count in range(n_layers + 1)]


# Options --------------------------------------------------------------------------------------------------------------

RESTS = ("zero", "prior")
LATENTS = ("mean", "draw")
DIRECTIONS = ("up", "down", "both")
DEFAULT_TASK = "wikitext"
PROMPTS, TEXTS, LAYERS = "Prompts to continue", "Texts to reconstruct", "Layers"  # panels of help
OF_PROMPTS, OF_TEXTS = ("n_tokens", "gen_kwargs"), ("direction", "max_tokens", "prompt_tokens", "explore")
"""Options that concern only one of the two."""


@options()
class ProbeConfig:
    """How a model is probed."""

    preset: Preset = "bound"
    t_fast: StepsOrAuto | None = None  # None takes the preset's
    n_tokens: Annotated[
        int,
        Field(ge=1, lt=MOST, description="Maximum tokens per continuation of a prompt."),
        Option("--n_tokens", metavar="N", panel=PROMPTS, environment=False),
    ] = 64
    gen_kwargs: str | None = None  # decoding options of continuations; None is greedy
    groups: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_GROUPS,
            description="Groups of layers, of which every combination is generated with; single layers if the model "
            "has fewer.",
        ),
        Option("--groups", metavar=f"1..{MOST_GROUPS}", panel=LAYERS, environment=False),
    ] = GROUPS
    rest: Annotated[
        Literal["zero", "prior"],
        Field(
            description="What stands for the other layers' latents: zeros, the prior's mean (the same as leaving their "
            "cross-attention out), or one draw of the prior per text."
        ),
        Option("--rest", metavar="|".join(RESTS), panel=LAYERS, environment=False),
    ] = "zero"
    latents: Annotated[
        Literal["mean", "draw"],
        Field(description="What kept layers hold: the posterior's mean, or one draw of it per text."),
        Option("--latents", metavar="|".join(LATENTS), panel=LAYERS, environment=False),
    ] = "mean"
    direction: Annotated[
        Literal["up", "down", "both"],
        Field(description="Which layers are kept: layers 1 to l, the last l, or both."),
        Option("--direction", metavar="|".join(DIRECTIONS), panel=TEXTS, environment=False),
    ] = "both"
    max_tokens: Annotated[
        int,
        Field(ge=2, lt=MOST, description="Maximum tokens per text; longer texts are cut."),
        Option("--max_tokens", metavar="N", panel=TEXTS, environment=False),
    ] = 128
    prompt_tokens: Annotated[
        int,
        Field(
            ge=0,
            lt=MOST,
            description="First tokens the decoder reads in the explorer; questions are read whole.",
        ),
        Option("--prompt_tokens", metavar="N", panel=TEXTS, environment=False),
    ] = 16
    explore: Annotated[
        int,
        Field(ge=0, lt=MOST, description="Number of texts with generations in the explorer."),
        Option("--explore", metavar="N", panel=TEXTS, environment=False),
    ] = 3
    seed: Seed = 1234
    fit: str | None = None

    @property
    def fitting(self) -> FitConfig:
        """Return the preset with all changes."""
        return fit_config(self.preset, t_fast=self.t_fast, **fit_changes(self.fit))

    def __post_init__(self) -> None:
        _ = self.fitting


@options()
class ProbeJob:
    """One `probe`: a model, prompts or texts, and where the results go; what `run` has too is described there."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    model: str | None = None
    prompts: Annotated[
        Many[str],
        Field(description="Fit z to this prompt and continue it with some of the layers; repeatable."),
        Option("--prompt", name="prompt", metavar="TEXT", panel=PROMPTS, repeatable=True, environment=False),
    ] = ()
    texts: Annotated[
        Many[str],
        Field(description="A file of plain text, one text; repeatable."),
        Option("--text", metavar="FILE", panel=TEXTS, repeatable=True, environment=False),
    ] = ()
    task: Annotated[
        str | None,
        Field(description="Probe a task's documents: whole texts, or questions with their gold answers."),
        Option(
            "--task",
            "-t",
            metavar="NAME",
            panel=TEXTS,
            default=f"the bundled sample of {DEFAULT_TASK}",
            environment=False,
        ),
    ] = None
    limit: Annotated[
        int,
        Field(ge=1, lt=MOST, description="Only the first N documents of the task."),
        Option("--limit", "-L", metavar="N", panel=TEXTS, environment=False),
    ] = 8
    data: str = AUTO
    output_path: str = "results"
    device: str = AUTO
    dtype: Dtype = "auto"
    tokenizer: str | None = None
    revision: str | None = None
    metadata: str | None = None
    compile: bool = False
    report: bool = True
    quiet: bool = False
    command: Many[str] = ()

    def __post_init__(self) -> None:
        if self.texts and self.task:
            raise UsageError("give either --text or --task: the texts are the ones of files or of a task")
        if self.prompts and (self.texts or self.task):
            raise UsageError("give either --prompt or texts: a prompt is continued, texts are reconstructed")
        if not all(prompt.strip() for prompt in self.prompts):
            raise UsageError("prompt is empty; give a text, or leave --prompt out")
        if self.metadata and (self.prompts or self.texts):
            raise UsageError("metadata applies to --task only; remove it for prompts and texts of your own")
        for name in OF_TEXTS if self.prompts else OF_PROMPTS:
            if getattr(self.probe, name) != getattr(ProbeConfig, name):
                what, other = ("texts", "remove --prompt") if self.prompts else ("prompts", "give --prompt")
                raise UsageError(f"{name} applies to {what} only; leave it out, or {other}")

    @property
    def is_demo(self) -> bool:
        """Return whether the bundled model is probed."""
        return self.model in (None, DEMO_MODEL)


# The file -------------------------------------------------------------------------------------------------------------

FORMAT = "ltm_eval/probe/1"
Size = Annotated[int, Field(ge=0, lt=2**53)]
Real = Annotated[float, Field(gt=-1e300, lt=1e300, allow_inf_nan=False)]  # sums and squares of it stay finite


def _check_most(place: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ValueError(f"{place}: expected a whole number from 0 to {most}, got {shown(value)}")


@dataclass(frozen=True)
class Cell(OpenRecord):
    """One text under the latents of one set of layers; each token comes after the text's own earlier ones."""

    nll_nats: Real  # -log p(text | z), summed over its tokens
    top1: Size  # tokens that were the likeliest
    greedy: Size | None  # positions where the greedy continuation of end-of-text has the text's token; None if not run
    prefix: Size | None  # tokens of that continuation before its first wrong one


@dataclass(frozen=True)
class ProbedText(OpenRecord):
    """One text, fitted with all layers and reconstructed with some."""

    name: str  # where it came from
    sha256: str  # of the text as given, before it was cut
    tokens: Annotated[int, Field(ge=1, lt=2**53)]  # fitted and scored
    cut: bool  # whether tokens were left out
    t_fast: Size  # fast steps
    kl_nats: Real  # KL(q || prior), summed
    kl_per_layer_nats: Many[Real]
    mean_log_var_per_layer: Many[Real]
    cells: Mapping[str, Cell]  # by set of layers; `none` has no active one, with `rest` zero the same as no z
    no_z: Cell  # without cross-attention

    def __post_init__(self) -> None:
        for place, cell in (*((f"cells.{key}", cell) for key, cell in self.cells.items()), ("no_z", self.no_z)):
            for name in ("top1", "greedy", "prefix"):
                _check_most(f"{place}.{name}", getattr(cell, name), self.tokens)


@dataclass(frozen=True)
class Generated(OpenRecord):
    """What was generated under one set of layers."""

    text: Size  # index into the texts
    tokens: Size  # generated
    nll_nats: Real  # -log p(generated | z, prompt) of this text under the z that it was generated with
    similarity: Real  # 1 - Levenshtein distance / longer length, over tokens, to what all layers generate
    stop_reason: str = ""  # `decode.StopReason`; empty in older files


@dataclass(frozen=True)
class Explored(OpenRecord):
    """Continuations of one prompt under every set of layers of the explorer."""

    index: Size  # of the text that z was fitted on
    prompt: str  # what the decoder reads, after end-of-text
    rest: str  # what follows it in the text; empty if z was fitted to the prompt alone
    texts: Many[str]  # what was generated, each once
    cells: Mapping[str, Generated]  # by set of layers

    def __post_init__(self) -> None:
        if self.cells and not self.texts:
            raise ValueError("texts: expected what was generated, got nothing")
        for key, cell in self.cells.items():
            _check_most(f"cells.{key}.text", cell.text, len(self.texts) - 1)


@dataclass(frozen=True)
class Probe(OpenRecord):
    """One probe."""

    model_name: str  # as given
    n_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    model: Mapping[str, Any]  # sizes, digest, step, tokenizer
    settings: Mapping[str, Any]  # `ProbeConfig`, and where the texts came from
    texts: Many[ProbedText]  # prompts are texts too
    explored: Many[Explored]
    warnings: Many[str]
    demo_model: bool  # whether the bundled model was probed
    command: str
    provenance: Mapping[str, Any]  # commit, versions, machine
    seconds: Real  # wall time
    groups: Many[Annotated[tuple[int, int], Strict(False)]] = ()  # first and last layer of each; empty: default's
    date_id: str = ""  # date in the file's name
    path: Path = Path()

    def __post_init__(self) -> None:
        keys = [(f"texts[{at}]", key) for at, one in enumerate(self.texts) for key in one.cells]
        keys += [(f"explored[{at}]", key) for at, one in enumerate(self.explored) for key in one.cells]
        for place, key in keys:
            try:
                inside = all(layer <= self.n_layers for layer in layers_of(key))
            except ValueError:
                inside = False
            if not inside:
                raise ValueError(f"{place}.cells: expected sets of {self.n_layers} layers, got {shown(key)}")
        for at, one in enumerate(self.explored):
            _check_most(f"explored[{at}].index", one.index, max(0, len(self.texts) - 1))
        count = len(self.groups)
        if count and (count > MOST_GROUPS or self.groups != groups_of(self.n_layers, count)):
            raise ValueError(
                f"groups: expected 1 to {MOST_GROUPS} groups of {self.n_layers} layers, got {shown(str(self.groups))}"
            )

    @property
    def of_prompts(self) -> bool:
        """Return whether prompts were continued, not texts reconstructed."""
        return "prompts" in mapping(self.settings.get("source"))

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping, which `read_probe` reads back."""
        content = super().to_json()
        del content["date_id"], content["path"]
        return {"format": FORMAT, **content}


def is_probe(path: Path) -> bool:
    """Return whether a file's name is that of a probe."""
    return path.name.startswith(PROBE_PREFIX) and path.name.endswith(".json")


def find_probes(paths: Sequence[str | Path]) -> list[Probe]:
    """Return the probes in files and folders with all below them; of one folder the newest of each model and texts.

    Raises:
        ResultsError: a file is malformed.
    """
    found: dict[Path, Probe] = {}
    for path in map(Path, paths):
        if path.is_file():
            probes = [read_probe(path)] if is_probe(path) else []
        else:
            files = sorted(file for file in path.rglob(f"{PROBE_PREFIX}*.json") if file.is_file())
            probes = _newest([read_probe(file) for file in files])
        for probe in probes:
            found.setdefault(probe.path.resolve(), probe)
    return list(found.values())


def _newest(probes: Sequence[Probe]) -> list[Probe]:
    newest: dict[tuple[Any, ...], Probe] = {}
    for probe in sorted(probes, key=lambda probe: probe.date_id):
        settings = sorted((key, str(value)) for key, value in probe.settings.items())
        newest[probe.path.parent, probe.model_name, tuple(settings)] = probe
    return sorted(newest.values(), key=lambda probe: probe.path)


def read_probe(path: Path) -> Probe:
    """Read a probe's file.

    Raises:
        ResultsError: not JSON, another format, or a field is absent, of the wrong type or out of range.
        MachineError: the file cannot be read.
    """
    content = read_object(path)
    if content.get("format") != FORMAT:
        raise ResultsError(f"{path}: expected a probe of format {FORMAT!r}, got {shown(content.get('format'))}")
    match = DATE_ID.search(path.name)
    place = {"path": path, "date_id": match.group(1) if match else ""}
    return Probe.from_json(content | place, where=str(path))


__all__ = [
    "NONE",
    "Cell",
    "Explored",
    "Generated",
    "Probe",
    "ProbeConfig",
    "ProbeJob",
    "ProbedText",
    "find_probes",
    "is_probe",
    "read_probe",
]
