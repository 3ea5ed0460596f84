"""Every option of the program, each default stated here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ltm_eval.errors import UsageError, nearest, shown

Condition = Literal["prompt", "demos", "demos+prompt", "shuffled", "other", "prior"]
Preset = Literal["released", "published", "bound"]
Noise = Literal["fixed", "fresh", "antithetic"]
CONDITIONS: tuple[str, ...] = get_args(Condition)
NOISES: tuple[str, ...] = get_args(Noise)
DTYPES: tuple[str, ...] = ("auto", "float32", "bfloat16")

MAX_SHOTS = 32
MAX_FAST_STEPS = 100_000
MAX_SEED = 2**32 - 1
"""What NumPy's own generator takes, which is seeded for baselines and tasks of others."""
DEMO_MODEL = "demo"
DEMO_BASELINE = "gpt2-demo"
AUTO = "auto"
DEFAULT_K = (1, 5, 10)
"""pass@k that n samples are counted for unless k is named, as far as n reaches."""
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""How tokens are sampled where neither task nor user names it: from all of the model's distribution. A baseline is told
too, since transformers would take the 50 likeliest.
"""
IDLE = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
"""Of these options, what may stand beside greedy decoding, which uses none of them."""
OTHER = "other"
"""The condition under which z is fitted on another question's demonstrations."""
ALL_CONDITIONS = "all"
EACH = "each"
"""`fit_window=each`: a window of its own for every demonstration."""


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `allowed`; a host may hand over what is no text."""
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}.{hint}")


@dataclass(frozen=True)
class FitConfig:
    """The fast loop: how q(z|x) = N(mu, exp(log_var)) is fitted to a text."""

    preset: str
    """Name of the preset these values came from."""
    t_fast: int
    """Fast steps; 0 leaves the prior."""
    lr: float
    """Learning rate of the first step."""
    lr_final: float
    """Learning rate that the cosine approaches after t_fast steps; equal to `lr` it is constant."""
    log_var_start: float
    """Mean of log_var at the start."""
    log_var_spread: float
    """Standard deviation of log_var at the start, over dimensions."""
    mu_spread: float
    """Standard deviation of mu at the start, over dimensions; its mean is 0."""
    noise: Noise
    """`fixed`: one draw serves all steps (released); `fresh`: every step draws anew; `antithetic`: every step draws
    anew and uses each draw e together with -e.
    """
    draws: int = 1
    """Noise draws averaged in every step; each costs a pass. With `antithetic` even, both of a pair counted."""
    adaptive: bool = False
    """Whether a document's steps end once it gains no more (`t_fast=auto`); `t_fast` is not used then."""
    beta1: float = 0.9
    """AdamW's first constant."""
    beta2: float = 0.999
    """AdamW's second constant."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, on mu and log_var."""

    def __post_init__(self) -> None:
        if isinstance(self.t_fast, bool) or not isinstance(self.t_fast, int) or not 0 <= self.t_fast <= MAX_FAST_STEPS:
            raise UsageError(
                f"t_fast must be a whole number from 0 (no fit, prior latents) to {MAX_FAST_STEPS}, got {self.t_fast!r}"
            )
        for name in ("lr", "lr_final"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"{name} must be a positive finite number, got {value!r}")
        check_choice("noise", self.noise, NOISES)
        if self.draws < 1:
            raise UsageError(f"draws must be at least 1, got {self.draws!r}")
        if self.noise == "antithetic" and self.draws % 2:
            raise UsageError(f"antithetic noise comes in pairs, so draws must be even, got {self.draws!r}")

    @property
    def is_bound(self) -> bool:
        """Whether the objective at the fit's own noise estimates a bound; see DESIGN's audit."""
        return self.noise != "fixed"


PRESETS: Mapping[str, FitConfig] = MappingProxyType(
    {
        # github mingluzhao/Latent-Thought-LM @498e39e, optimizer.py: one noise tensor, cosine from lr to lr/10.
        "released": FitConfig(
            "released",
            t_fast=16,
            lr=0.34,
            lr_final=0.034,
            log_var_start=-5.0,
            log_var_spread=0.1,
            mu_spread=0.0,
            noise="fixed",
        ),
        # The published 16-step figures fit a constant rate.
        "published": FitConfig(
            "published",
            t_fast=16,
            lr=0.34,
            lr_final=0.34,
            log_var_start=-5.0,
            log_var_spread=0.1,
            mu_spread=0.0,
            noise="fixed",
        ),
        # Lowest valid bound per fast step of the settings in benchmarks/bound_preset.py; see reports/NOTES.md.
        "bound": FitConfig(
            "bound",
            t_fast=64,
            lr=0.1,
            lr_final=0.01,
            log_var_start=0.0,
            log_var_spread=0.0,
            mu_spread=0.0,
            noise="fresh",
        ),
    }
)


FIT_OPTIONS = ("lr", "lr_final", "log_var_start", "log_var_spread", "mu_spread", "noise", "draws", "weight_decay")
"""Of `FitConfig`, what `--fit` may change."""
_LARGEST = 1e300
FIT_EXAMPLE = '{"noise": "antithetic", "draws": 2}'


def fit_changes(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes to a preset, as `fit_config` takes them.

    Args:
        given: a JSON object such as `FIT_EXAMPLE`, or what it stands for; None changes nothing.

    Raises:
        UsageError: it is something else, or an option is not known or of the wrong type.
    """
    try:
        found = json.loads(given, object_pairs_hook=_each_once) if isinstance(given, str) else (given or {})
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise UsageError(f"fit must be a JSON object such as {FIT_EXAMPLE}, got {str(given)[:80]!r}")
    for name, value in found.items():
        check_choice("option of fit", name, FIT_OPTIONS)
        kinds = {"noise": str, "draws": int}.get(name, (int, float))
        odd = isinstance(value, bool) or not isinstance(value, kinds)
        if odd or (name != "noise" and not -_LARGEST < value < _LARGEST):
            wanted = {"noise": "a name", "draws": "a whole number"}.get(name, "a finite number")
            raise UsageError(f"fit: {name} must be {wanted}, got {str(value)[:80]!r}")
    return dict(found)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise UsageError(f"fit names {shown(twice)} twice; give it once")
    return found


def fit_config(preset: str = "bound", **changes: Any) -> FitConfig:
    """The preset's options with `changes`; a change to `lr` alone keeps the preset's ratio of final to first rate.

    Raises:
        UsageError: the preset or an option is not known, or a value is out of range.
    """
    check_choice("preset", preset, tuple(PRESETS))
    base = PRESETS[preset]
    known = {f.name for f in fields(FitConfig)}
    for name in changes:
        if name not in known:
            raise UsageError(f"unknown fit option {name!r}.{nearest(name, known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("t_fast") == AUTO:
        given = {**given, "t_fast": base.t_fast, "adaptive": True}
    if "lr" in given and "lr_final" not in given:
        given["lr_final"] = given["lr"] * base.lr_final / base.lr
    return replace(base, **given)


@dataclass(frozen=True)
class GenerationConfig:
    """How a continuation is decoded."""

    max_new_tokens: int = 256
    """Most tokens generated."""
    until: tuple[str, ...] = ()
    """Stop strings; the answer ends before the first one."""
    do_sample: bool = False
    """Sample tokens and z; otherwise take the likeliest token under z = mu."""
    temperature: float = 1.0
    """Divides the logits when sampling."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this mass."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all."""
    rethink: int = 0
    """Rounds of rethinking; 0 answers at once."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise UsageError(f"max_gen_toks must be at least 0, got {self.max_new_tokens}")
        if any(stop == "" for stop in self.until):
            raise UsageError("a stop string in `until` is empty; remove it")
        if self.do_sample and not 0 < self.temperature < float("inf"):
            raise UsageError(
                f"temperature must be positive when sampling, got {self.temperature}; for greedy decoding set "
                "do_sample=False"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be at least 0, got {self.top_k}")


CONDITION_ORDER = ("demos", "shuffled", "other", "prior", "prompt", "demos+prompt")
"""Order of `--condition all`: what is compared with first, then its controls."""


ANSWERS, QUESTIONS, VERDICT, NOTHING = "answers", "questions", "verdict", "nothing"
"""What an option changes: what a model answers to the same request; what is asked of it and which figures are made of
that; whether the run counts as done; none of these.
"""


def _option(default: Any, *changes: str, told: tuple[str, ...] = ()) -> Any:
    """A field of `RunConfig`: its default, what it changes, and under which names `get_model_info` tells what it did.

    Answers are kept under what is told of the options that change them (`LTM.settings`), a run goes on under those that
    change the questions (`Manifest.asked`).
    """
    return field(default=default, metadata={"changes": changes, "told": told})


@dataclass(frozen=True)
class RunConfig:
    """One `run`: a model, baselines, tasks, and where results go."""

    model: str | None = _option(None, ANSWERS, told=("model_sha", "sizes"))
    """Checkpoint folder, released `ckpt_*.pt`, hub id or `demo`; None is the bundled demo model."""
    tasks: tuple[str, ...] = _option(("gsm8k",), QUESTIONS)
    """Task names; the prefix `ltm_` may be left out."""
    num_fewshot: int | None = _option(None, QUESTIONS)
    """Demonstrations per prompt; None takes the task's own number."""
    baselines: tuple[str, ...] = _option((), NOTHING)
    """Causal language models (folder or hub id) evaluated by lm-eval's `hf` model on the same documents."""
    data: str = _option("auto", QUESTIONS)
    """`auto`, `sample`, `hub` or a folder."""
    metadata: str | None = _option(None, QUESTIONS)
    """JSON object of task options, as lm-eval's `--metadata`, for example `{"protocol": "documents"}`."""
    limit: int | None = _option(None, QUESTIONS)
    """Only the first documents of each task."""
    documents: tuple[int, ...] = _option((), QUESTIONS)
    """Only these documents of each task, by their index; empty takes all."""
    output_path: str = _option("results", NOTHING)
    """Folder for results."""
    batch_size: int | Literal["auto"] = _option("auto", NOTHING)
    """Documents in a batch; `auto` on a GPU: as many tokens as a fit step was seen to bear."""
    device: str = _option("auto", ANSWERS, told=("device",))
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    dtype: str = _option("auto", ANSWERS, told=("model_dtype",))
    """Of matrix products: `float32`, `bfloat16`, or `auto` (float32 on CPU, bfloat16 on GPU)."""
    compile: bool = _option(False, ANSWERS, told=("compiled",))
    """Compile the layers; without a compiler they run as they are."""
    fit: str | None = _option(None, ANSWERS, told=("fit",))
    """Changes to the fit preset, a JSON object; see `fit_changes`."""
    condition: str = _option("prompt", ANSWERS, told=("condition",))
    """What z is fitted on and what the decoder reads; DESIGN section 5."""
    preset: str = _option("bound", ANSWERS, told=("fit",))
    """Fit preset."""
    t_fast: int | Literal["auto"] | None = _option(None, ANSWERS, told=("fit",))
    """Fast steps; `auto` ends each document's fit once it gains no more, None takes the preset's."""
    rows: str = _option("all", ANSWERS, told=("rows",))
    """Rows of a perplexity beside the bound and its parts: `all`, `bound`, or names joined by `+`."""
    causal_chunk: int = _option(64, ANSWERS, told=("rows",))
    """Tokens the causal row scores between two refits of z, at most the model's context."""
    causal_t_fast: int = _option(4, ANSWERS, told=("rows",))
    """Fast steps of each of its refits."""
    fit_window: int | str | None = _option(None, ANSWERS, told=("fit_window",))
    """Most tokens of one fitted window of demonstrations, or `each` for one each; None takes the model's context."""
    n: int = _option(1, QUESTIONS)
    """Sampled answers per question, beside the greedy one; 1 takes the greedy one alone."""
    k: tuple[int, ...] = _option((), QUESTIONS)
    """For which k pass@k is reported; empty takes those of `DEFAULT_K` up to n."""
    rethink: int = _option(0, QUESTIONS)
    """Rounds of rethinking, beside as many independent draws; 0 for none."""
    seed: int = _option(1234, ANSWERS, QUESTIONS, told=("latent_seed",))
    """Of latent noise, token draws and demonstrations."""
    tokenizer: str | None = _option(None, ANSWERS, told=("tokenizer",))
    """`gpt2` or a file of mergeable ranks; None takes the checkpoint's."""
    revision: str | None = _option(None, ANSWERS, told=("model_sha",))
    """Commit of a hub checkpoint."""
    gen_kwargs: str | None = _option(None, QUESTIONS)
    """Generation options that replace the task's, as lm-eval spells them."""
    token_nll: int = _option(20, QUESTIONS)
    """Of so many first documents of each task, what every token costs is stored; 0 stores none."""
    max_failed: str = _option("0", VERDICT)
    """Documents of a task that may fail, or a share such as `1%`; with more the run ends incomplete."""
    report: bool = _option(True, NOTHING)
    """Whether the HTML page is written at the end."""
    quiet: bool = _option(False, NOTHING)
    """No progress."""
    fresh: bool = _option(False, NOTHING)
    """Whether an unfinished run of other settings in the output folder is given up."""
    command: tuple[str, ...] = _option((), NOTHING)
    """The command line, for the report."""

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, CONDITIONS)
        check_choice("dtype", self.dtype, DTYPES)
        fit_config(self.preset, **fit_changes(self.fit))
        if not self.tasks:
            raise UsageError("no task named; give --task, for example --task gsm8k")
        if self.num_fewshot is not None and not 0 <= self.num_fewshot <= MAX_SHOTS:
            raise UsageError(f"shots must be a whole number from 0 to {MAX_SHOTS}, got {self.num_fewshot}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1 document, got {self.limit}; leave it out for all documents")
        if self.limit is not None and self.documents:
            raise UsageError("limit and documents exclude each other; give one of them")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"batch_size must be `auto` or at least 1, got {self.batch_size}")
        if self.n < 1 or any(k < 1 for k in self.k) or self.rethink < 0:
            raise UsageError(
                f"n and k must be at least 1 and rethink at least 0, got n = {self.n}, k = {self.k}, "
                f"rethink = {self.rethink}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed must be a whole number from 0 to {MAX_SEED}, got {shown(self.seed)}")
        if self.token_nll < 0:
            raise UsageError(f"token_nll must be at least 0 documents, got {self.token_nll}")
        fit_config(self.preset, t_fast=self.t_fast)


def changing(what: str) -> tuple[str, ...]:
    """The options of a run that change the answers, the questions, the verdict or nothing."""
    return tuple(option.name for option in fields(RunConfig) if what in option.metadata["changes"])


def told_of_answers() -> tuple[str, ...]:
    """The names under which a model tells all that changes its answers and is an option."""
    told = (name for option in fields(RunConfig) for name in option.metadata["told"])
    return tuple(dict.fromkeys(told))


_KINDS = {int: "a whole number", str: "text", bool: "True or False", NoneType: "None"}


def check_kind(field_name: str, value: Any, *, name: str, given: Any) -> None:
    """Raise UsageError unless `value` is of the kind that a field of `RunConfig` has.

    Args:
        name: what the caller calls it.
        given: what the caller gave for it.
    """
    kind = get_type_hints(RunConfig)[field_name]
    if not _is(value, kind):
        got = f"a {type(given).__name__}" if isinstance(given, (list, tuple, set, dict)) else shown(given)
        raise UsageError(f"{name} must be {_kind(kind)}, got {got}")


def _is(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(one, args[0]) for one in value)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if args:
        return any(_is(value, one) for one in args)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _kind(kind: Any) -> str:
    """A kind in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"a list, each of it {_kind(args[0])}"
    if origin is Literal:
        return " or ".join(map(repr, args))
    if isinstance(kind, UnionType) or args:
        return " or ".join(_kind(one) for one in args)
    return _KINDS.get(kind, f"a {kind.__name__}")


@dataclass(frozen=True)
class SweepConfig:
    """One model under several conditions and numbers of demonstrations."""

    base: RunConfig
    """Everything else; its own condition and num_fewshot are not used."""
    conditions: tuple[str, ...]
    """Conditions."""
    shots: tuple[int | None, ...] = (None,)
    """Numbers of demonstrations; None is the task's own."""

    def __post_init__(self) -> None:
        for condition in self.conditions:
            check_choice("condition", condition, (*CONDITIONS, ALL_CONDITIONS))
        for number in self.shots:
            replace(self.base, num_fewshot=number)

    @property
    def reference(self) -> str:
        """The condition that the others are compared with: `demos`, or else the first."""
        return "demos" if "demos" in self.conditions else self.conditions[0]


@dataclass(frozen=True)
class GridConfig:
    """Every combination of the values named, each a run of its own."""

    base: RunConfig
    """Everything else; its own values of what is varied are not used."""
    models: tuple[str | None, ...]
    """Checkpoints; None is the bundled one."""
    t_fast: tuple[int | Literal["auto"] | None, ...]
    """Fast steps; None is the preset's."""
    shots: tuple[int | None, ...]
    """Numbers of demonstrations; None is the task's own."""
    conditions: tuple[str, ...]
    """Conditions."""
    seeds: tuple[int, ...]
    """Seeds."""
    ray_address: str | None = None
    """`local`, `auto` or a cluster's address; None runs one cell after another in this process."""
    cell_cpus: int = 1
    """CPU cores that Ray gives a cell; beside a whole GPU where the cluster has GPUs and the device is not cpu."""

    def __post_init__(self) -> None:
        if self.cell_cpus < 1:
            raise UsageError(f"cell_cpus must be at least 1, got {self.cell_cpus}")
        if self.base.baselines:
            raise UsageError("a sweep runs no baselines; give --baseline to `run`, and both folders to `report`")


def conditions_of(text: str) -> tuple[str, ...]:
    """`demos`, `demos,other` or `all` as conditions, each once.

    Raises:
        UsageError: a name is not known.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if ALL_CONDITIONS in names:
        return CONDITION_ORDER
    for name in names or (text,):
        check_choice("condition", name, (*CONDITIONS, ALL_CONDITIONS))
    return names
