"""Sets of decoder layers whose latents stay active: which a probe tries, and how they are written.

Layers count from 1. A set is written as its runs of neighbours, `1-3,7`; the empty one as `none`. This is also the key
under which a probe's file and the explorer of the page find it.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

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
from ltm_eval.system.errors import ResultsError, UsageError
from ltm_eval.system.files import DEMO_MODEL, write_json_atomic
from ltm_eval.system.options import Many, Option, options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


Layers = tuple[int, ...]
"""Layers from 1, ascending."""

NONE = "none"
GROUPS = 4
"""Groups of the stack that can be combined: its quarters, or single layers where there are fewer."""
MOST_LAYERS = 512
"""Of a model that a key is read for; keys come from files."""
_RUN = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


def key_of(layers: Layers) -> str:
    """`1-3,7` of (1, 2, 3, 7)."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or NONE


def layers_of(key: str) -> Layers:
    """The set that `key` writes.

    Raises:
        ValueError: it writes none, or not as `key_of` does.
    """
    found: list[int] = []
    for run in () if key == NONE else key.split(","):
        match = _RUN.fullmatch(run)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, MOST_LAYERS + 1)
        if last > MOST_LAYERS:
            raise ValueError(f"a set of layers such as 1-3,7 or {NONE}")
        found += range(first, last + 1)
    if key_of(tuple(found)) != key or found != sorted(set(found)):
        raise ValueError(f"a set of layers such as 1-3,7 or {NONE}")
    return tuple(found)


def words_of(key: str) -> str:
    """The set as a reader says it."""
    if key == NONE:
        return "no layer"
    return f"layer{'s' if '-' in key or ',' in key else ''} {key.replace('-', '–').replace(',', ', ')}"


def groups_of(n_layers: int) -> tuple[tuple[int, int], ...]:
    """First and last layer of each group; sizes differ by one at most."""
    count = min(GROUPS, n_layers)
    ends = [round(n_layers * place / count) for place in range(count + 1)]
    return tuple((low + 1, high) for low, high in zip(ends, ends[1:], strict=False))


def ranges_of(n_layers: int) -> list[Layers]:
    """Every contiguous range, L (L + 1) / 2 of them."""
    return [tuple(range(first, last + 1)) for first in range(1, n_layers + 1) for last in range(first, n_layers + 1)]


def group_sets(n_layers: int) -> list[Layers]:
    """Every combination of groups, none and all among them."""
    groups = groups_of(n_layers)
    return [
        tuple(layer for first, last in chosen for layer in range(first, last + 1))
        for size in range(len(groups) + 1)
        for chosen in combinations(groups, size)
    ]


def explored(n_layers: int) -> list[str]:
    """Keys of what the explorer can show: none, every range, every combination of groups; each once."""
    return list(dict.fromkeys(map(key_of, ((), *ranges_of(n_layers), *group_sets(n_layers)))))


def upward(n_layers: int) -> list[str]:
    """Keys of layers 1 ... l, for l = 0 ... L."""
    return [key_of(tuple(range(1, count + 1))) for count in range(n_layers + 1)]


def downward(n_layers: int) -> list[str]:
    """Keys of the last l layers, for l = 0 ... L."""
    return [key_of(tuple(range(n_layers - count + 1, n_layers + 1))) for count in range(n_layers + 1)]


# What a probe leaves on disk: `<output>/<model>/probe_<date>.json`, as frozen records, JSON both ways.
#
# Figures are kept per text, as sums and counts; the page forms means and intervals. A generated text that several sets
# of layers share is stored once.

FORMAT = "ltm_eval/probe/1"
RESTS = ("zero", "prior")
LATENTS = ("mean", "draw")
DIRECTIONS = ("up", "down", "both")
DEFAULT_TASK = "wikitext"


@options()
class ProbeConfig:
    """How a model is probed."""

    preset: Preset = "bound"
    t_fast: StepsOrAuto | None = None  # None takes the preset's
    rest: Annotated[
        Literal["zero", "prior"],
        Field(
            description="What stands for the other layers' latents: zeros, the prior's mean (the same as leaving their "
            "cross-attention out), or one draw of the prior per text."
        ),
        Option("--rest", metavar="|".join(RESTS), environment=False),
    ] = "zero"
    latents: Annotated[
        Literal["mean", "draw"],
        Field(description="What kept layers hold: the posterior's mean, or one draw of it per text."),
        Option("--latents", metavar="|".join(LATENTS), environment=False),
    ] = "mean"
    direction: Annotated[
        Literal["up", "down", "both"],
        Field(description="Which layers are kept: layers 1 to l, the last l, or both."),
        Option("--direction", metavar="|".join(DIRECTIONS), environment=False),
    ] = "both"
    max_tokens: Annotated[
        int,
        Field(ge=2, lt=MOST, description="Maximum tokens per text; longer texts are cut."),
        Option("--max_tokens", metavar="N", environment=False),
    ] = 128
    prompt_tokens: Annotated[
        int,
        Field(
            ge=0,
            lt=MOST,
            description="First tokens the decoder reads in the explorer; questions are read whole.",
        ),
        Option("--prompt_tokens", metavar="N", environment=False),
    ] = 16
    explore: Annotated[
        int,
        Field(ge=0, lt=MOST, description="Number of texts with generations in the explorer."),
        Option("--explore", metavar="N", environment=False),
    ] = 3
    seed: Seed = 1234
    fit: str | None = None

    @property
    def fitting(self) -> FitConfig:
        """The preset with all changes."""
        return fit_config(self.preset, t_fast=self.t_fast, **fit_changes(self.fit))

    def __post_init__(self) -> None:
        _ = self.fitting


@options()
class ProbeJob:
    """One `probe`: a model, texts, and where the results go; what `run` has too is described there."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    model: str | None = None
    texts: Annotated[
        Many[str],
        Field(description="A file of plain text, one text; repeatable."),
        Option("--text", metavar="FILE", repeatable=True, environment=False),
    ] = ()
    task: Annotated[
        str | None,
        Field(description="Probe a task's documents: whole texts, or questions with their gold answers."),
        Option(
            "--task",
            "-t",
            metavar="NAME",
            default=f"the bundled sample of {DEFAULT_TASK}",
            environment=False,
        ),
    ] = None
    limit: Annotated[
        int,
        Field(ge=1, lt=MOST, description="Only the first N documents of the task."),
        Option("--limit", "-L", metavar="N", environment=False),
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

    @property
    def is_demo(self) -> bool:
        """Whether the bundled model is probed."""
        return self.model in (None, DEMO_MODEL)


@dataclass(frozen=True)
class Cell:
    """One text under the latents of one set of layers."""

    nll_nats: float
    """-log p(text | z), summed over its tokens, each after the text's own earlier ones."""
    top1: int
    """Tokens that were the likeliest, each after the text's own earlier ones."""
    greedy: int | None
    """Positions at which the greedy continuation of end-of-text alone has the text's token; None where not run."""
    prefix: int | None
    """Tokens of that continuation before its first wrong one."""


@dataclass(frozen=True)
class ProbedText:
    """One text, fitted with all layers and reconstructed with some."""

    name: str
    """Where it came from."""
    sha256: str
    """Of the text as given, before it was cut."""
    tokens: int
    """Tokens fitted and scored."""
    cut: bool
    """Whether tokens were left out."""
    t_fast: int
    """Fast steps."""
    kl_nats: float
    """KL(q || prior), summed."""
    kl_per_layer_nats: tuple[float, ...]
    """The same of each layer."""
    mean_log_var_per_layer: tuple[float, ...]
    """Mean log variance of each layer."""
    cells: Mapping[str, Cell]
    """By set of layers; `none` has no active one, with `rest` zero the same as no z."""
    no_z: Cell
    """Without cross-attention."""


@dataclass(frozen=True)
class Generated:
    """What was generated under one set of layers."""

    text: int
    """Index into the texts."""
    tokens: int
    """Tokens generated."""
    nll_nats: float
    """-log p(generated | z, prompt) of this text under the z that it was generated with."""
    similarity: float
    """1 - Levenshtein distance / longer length, over tokens, to what all layers generate."""


@dataclass(frozen=True)
class Explored:
    """Greedy continuations of one prompt under every set of layers of the explorer."""

    index: int
    """Which of the texts z was fitted on."""
    prompt: str
    """What the decoder reads, after end-of-text."""
    rest: str
    """What follows it in the text."""
    texts: tuple[str, ...]
    """What was generated, each once."""
    cells: Mapping[str, Generated]
    """By set of layers."""


@dataclass(frozen=True)
class Probe:
    """One probe."""

    model_name: str
    """Model as given."""
    n_layers: int
    """Decoder layers."""
    model: Mapping[str, Any]
    """Sizes, digest, step, tokenizer."""
    settings: Mapping[str, Any]
    """`ProbeConfig`, and where the texts came from."""
    texts: tuple[ProbedText, ...]
    """In order."""
    explored: tuple[Explored, ...]
    """In order."""
    warnings: tuple[str, ...]
    """What a reader must know."""
    demo_model: bool
    """Whether the bundled model was probed."""
    command: str
    """Command line."""
    provenance: Mapping[str, Any]
    """Commit, versions, machine."""
    seconds: float
    """Wall time."""
    date_id: str = ""
    """Date in the file's name."""
    path: Path = Path()
    """The file."""

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `read_probe` reads it back."""
        content = asdict(self)
        del content["date_id"], content["path"]
        return {"format": FORMAT, "groups": groups_of(self.n_layers), **content}


def write_probe(path: Path, probe: Probe) -> None:
    """Write the file, complete or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    write_json_atomic(path, probe)


def is_probe(path: Path) -> bool:
    """Whether a file's name is that of a probe."""
    return path.name.startswith(PROBE_PREFIX) and path.name.endswith(".json")


def find_probes(paths: Sequence[str | Path]) -> list[Probe]:
    """The probes in `paths`, files or folders with all below them; of one folder the newest of each model and texts.

    Raises:
        ResultsError: a file is malformed.
    """
    found: dict[Path, Probe] = {}
    for path in map(Path, paths):
        if path.is_file():
            probes = [read_probe(path)] if is_probe(path) else []
        else:
            probes = _newest([read_probe(file) for file in _files_below(path)])
        for probe in probes:
            found.setdefault(probe.path.resolve(), probe)
    return list(found.values())


def _files_below(folder: Path) -> list[Path]:
    files = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return sorted(file for file in files if is_probe(file))


def _newest(probes: Sequence[Probe]) -> list[Probe]:
    newest: dict[tuple[Any, ...], Probe] = {}
    for probe in sorted(probes, key=lambda probe: probe.date_id):
        settings = sorted((key, str(value)) for key, value in probe.settings.items())
        newest[probe.path.parent, probe.model_name, tuple(settings)] = probe
    return sorted(newest.values(), key=lambda probe: probe.path)


# Reading


def read_probe(path: Path) -> Probe:
    """One file of `write_probe`.

    Raises:
        ResultsError: not JSON, another format, or a field is absent, of the wrong type or out of range.
        MachineError: the file cannot be read.
    """
    content = read_object(path)
    if content.get("format") != FORMAT:
        raise ResultsError(f"{path}: expected a probe of format {FORMAT!r}, got {str(content.get('format'))[:80]!r}")
    match = DATE_ID.search(path.name)
    try:
        return _probe(_Row(content, ""), date_id=match.group(1) if match else "", path=path)
    except _FieldError as wrong:
        raise ResultsError(f"{path}: {wrong}; the file was edited or written by another version") from None


class _FieldError(Exception):
    """A field is not what it must be; the message names it."""


class _Row:
    """A JSON object whose fields are taken by kind; a wrong one raises `_FieldError` with its place."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise _FieldError(f"{place or 'top'}: expected an object")
        self.values, self.place = values, place

    def _get(self, name: str, kinds: tuple[type, ...], words: str, accept: Callable[[Any], bool]) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or not accept(value):
            raise _FieldError(f"field {self.place}{name}: expected {words}, got {str(value)[:60]!r}")
        return value

    def text(self, name: str) -> str:
        return str(self._get(name, (str,), "text", lambda _: True))

    def flag(self, name: str) -> bool:
        return bool(self._get(name, (bool,), "true or false", lambda _: True))

    def whole(self, name: str, most: int = 2**53, *, least: int = 0) -> int:
        words = f"a whole number from {least} to {most}"
        return int(self._get(name, (int,), words, lambda value: least <= value <= most))

    def whole_or_none(self, name: str, most: int) -> int | None:
        return None if self.values.get(name, 0) is None else self.whole(name, most)

    def real(self, name: str) -> float:
        return float(self._get(name, (int, float), "a finite number", lambda value: abs(value) < 1e300))

    def mapping(self, name: str) -> dict[str, Any]:
        return dict(self._get(name, (dict,), "an object", lambda _: True))

    def items(self, name: str) -> list[Any]:
        return list(self._get(name, (list,), "a list", lambda _: True))

    def reals(self, name: str) -> tuple[float, ...]:
        items = self.items(name)
        return tuple(_Row({"": item}, f"{self.place}{name}[{at}]").real("") for at, item in enumerate(items))

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.items(name)
        return tuple(_Row({"": item}, f"{self.place}{name}[{at}]").text("") for at, item in enumerate(items))

    def rows(self, name: str) -> list[_Row]:
        return [_Row(item, f"{self.place}{name}[{at}].") for at, item in enumerate(self.items(name))]

    def by_layers(self, name: str, n_layers: int) -> dict[str, _Row]:
        found = {}
        for key, value in self.mapping(name).items():
            try:
                inside = all(layer <= n_layers for layer in layers_of(key))
            except ValueError:
                inside = False
            if not inside:
                raise _FieldError(f"field {self.place}{name}: expected sets of {n_layers} layers, got {key[:40]!r}")
            found[key] = _Row(value, f"{self.place}{name}.{key}.")
        return found


def _probe(row: _Row, *, date_id: str, path: Path) -> Probe:
    n_layers = row.whole("n_layers", MOST_LAYERS, least=1)
    texts = tuple(_text(one, n_layers) for one in row.rows("texts"))
    return Probe(
        model_name=row.text("model_name"),
        n_layers=n_layers,
        model=row.mapping("model"),
        settings=row.mapping("settings"),
        texts=texts,
        explored=tuple(_explored(one, n_layers, len(texts)) for one in row.rows("explored")),
        warnings=row.texts("warnings"),
        demo_model=row.flag("demo_model"),
        command=row.text("command"),
        provenance=row.mapping("provenance"),
        seconds=row.real("seconds"),
        date_id=date_id,
        path=path,
    )


def _text(row: _Row, n_layers: int) -> ProbedText:
    tokens = row.whole("tokens", least=1)
    return ProbedText(
        name=row.text("name"),
        sha256=row.text("sha256"),
        tokens=tokens,
        cut=row.flag("cut"),
        t_fast=row.whole("t_fast"),
        kl_nats=row.real("kl_nats"),
        kl_per_layer_nats=row.reals("kl_per_layer_nats"),
        mean_log_var_per_layer=row.reals("mean_log_var_per_layer"),
        cells={key: _cell(one, tokens) for key, one in row.by_layers("cells", n_layers).items()},
        no_z=_cell(_Row(row.mapping("no_z"), f"{row.place}no_z."), tokens),
    )


def _cell(row: _Row, tokens: int) -> Cell:
    return Cell(
        nll_nats=row.real("nll_nats"),
        top1=row.whole("top1", tokens),
        greedy=row.whole_or_none("greedy", tokens),
        prefix=row.whole_or_none("prefix", tokens),
    )


def _explored(row: _Row, n_layers: int, n_texts: int) -> Explored:
    texts = row.texts("texts")
    cells = {}
    for key, one in row.by_layers("cells", n_layers).items():
        cells[key] = Generated(
            text=one.whole("text", max(0, len(texts) - 1)),
            tokens=one.whole("tokens"),
            nll_nats=one.real("nll_nats"),
            similarity=one.real("similarity"),
        )
    if cells and not texts:
        raise _FieldError(f"field {row.place}texts: expected what was generated, got nothing")
    return Explored(
        index=row.whole("index", max(0, n_texts - 1)),
        prompt=row.text("prompt"),
        rest=row.text("rest"),
        texts=texts,
        cells=cells,
    )


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
    "write_probe",
]
