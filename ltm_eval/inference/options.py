"""Options of fitting and decoding, and the fit presets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, FiniteFloat

from ltm_eval.system.errors import UsageError, check_choice, nearest, shown, spelt
from ltm_eval.system.options import Many, Option, names_of, options

Preset = Literal["released", "published", "bound", "natural"]
Optimizer = Literal["adamw", "natural"]
Noise = Literal["fixed", "fresh", "antithetic"]
Dtype = Literal["auto", "float32", "bfloat16"]
NOISES: tuple[str, ...] = get_args(Noise)
DTYPES: tuple[str, ...] = get_args(Dtype)
AUTO = "auto"
EACH = "each"  # `fit_window=each`: a separate window for every few-shot example

MAX_FAST_STEPS = 100_000
MOST = 2**63  # above any count of documents or tokens
MAX_SEED = 2**32 - 1  # maximum of NumPy's global generator, which baselines and other tasks use
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
AtLeastOne = Annotated[int, Field(ge=1, lt=MOST)]
Steps = Annotated[int, Field(ge=0, le=MAX_FAST_STEPS)]  # 0 keeps the prior
StepsOrAuto = Literal["auto"] | Steps
Rate = Annotated[FiniteFloat, Field(gt=0)]


@options()
class FitConfig:
    """The fast loop: how q(z|x) = N(mu, exp(log_var)) is fitted to a text."""

    preset: str  # preset that these values come from
    t_fast: Steps
    lr: Rate  # learning rate of the first step
    lr_final: Rate  # rate that the cosine approaches after t_fast steps; constant if equal to `lr`
    log_var_start: FiniteFloat  # mean of log_var at the start
    log_var_spread: FiniteFloat  # standard deviation of log_var at the start, over dimensions
    mu_spread: FiniteFloat  # standard deviation of mu at the start, over dimensions; its mean is 0
    # `fixed`: one draw for all steps (released); `fresh`: a new draw every step; `antithetic`: new draws e every step,
    # each used with -e.
    noise: Noise
    draws: AtLeastOne = 1  # draws averaged in every step, one pass each; even with `antithetic`
    adaptive: bool = False  # whether each fit ends once it stops improving; `t_fast` is not used then
    beta1: FiniteFloat = 0.9  # AdamW's constants
    beta2: FiniteFloat = 0.999
    adam_eps: FiniteFloat = 1e-8
    weight_decay: FiniteFloat = 0.01  # decoupled weight decay, on mu and log_var
    # `natural`: diagonal natural-gradient steps on mean and precision; AdamW's constants are not used then.
    optimizer: Optimizer = "adamw"
    # Share of the precision that the first natural step replaces; it falls with the rate.
    precision_rate: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.1

    def __post_init__(self) -> None:
        if self.noise == "antithetic" and self.draws % 2:
            raise UsageError(f"antithetic noise comes in pairs, so draws must be even, got {self.draws!r}")

    @property
    def is_bound(self) -> bool:
        """Whether the objective at the fit's own noise estimates a bound; checked by `audit`."""
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
        # A constant rate reproduces the published 16-step figures.
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
        # Lowest valid bound per fast step among the settings of benchmarks/bound_preset.py; see reports/NOTES.md.
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
        # On the bundled model in 4 to 8 steps at the bound of 64 AdamW steps; see reports/NOTES.md for other decoders.
        "natural": FitConfig(
            "natural",
            t_fast=16,
            lr=0.5,
            lr_final=0.05,
            log_var_start=0.0,
            log_var_spread=0.0,
            mu_spread=0.0,
            noise="fresh",
            optimizer="natural",
        ),
    }
)


# What `--fit` may change.
FIT_OPTIONS = (
    *("lr", "lr_final", "log_var_start", "log_var_spread", "mu_spread", "noise", "draws"),
    *("weight_decay", "optimizer", "precision_rate"),
)
FIT_EXAMPLE = '{"noise": "antithetic", "draws": 2}'


def fit_changes(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Parse changes to a preset; `fit_config` checks their values.

    Args:
        given: a JSON object such as `FIT_EXAMPLE`, as text or a mapping; None changes nothing.

    Raises:
        UsageError: it is not an object, or names an option that cannot be changed.
    """
    try:
        found = json.loads(given, object_pairs_hook=_each_once) if isinstance(given, str) else (given or {})
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise UsageError(f"{spelt('fit')} must be a JSON object such as {FIT_EXAMPLE}, got {str(given)[:80]!r}")
    for name, value in found.items():
        check_choice(f"option of {spelt('fit')}", name, FIT_OPTIONS)
        if value is None:
            raise UsageError(f"{spelt('fit')}: {name} is null; give a value or remove it")
    return dict(found)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise UsageError(f"{spelt('fit')} names {shown(twice)} twice; give it once")
    return found


def fit_config(preset: str = "bound", **changes: Any) -> FitConfig:
    """Return a preset's options with `changes`; a change to `lr` alone keeps the preset's ratio of final to first rate.

    Raises:
        UsageError: the preset or an option is unknown, or a value is out of range.
    """
    check_choice(spelt("preset"), preset, tuple(PRESETS))
    base = PRESETS[preset]
    known = names_of(FitConfig)
    for name in changes:
        if name not in known:
            raise UsageError(f"unknown fit option {name!r}.{nearest(name, known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("t_fast") == AUTO:
        given = {**given, "t_fast": base.t_fast, "adaptive": True}
    if "lr" in given and "lr_final" not in given:
        given["lr_final"] = replace(base, lr=given["lr"]).lr * base.lr_final / base.lr
    return replace(base, **given)


@options()
class GenerationConfig:
    """Options of decoding."""

    max_new_tokens: Annotated[int, Field(ge=0), Option(name="max_gen_toks")] = 256
    until: Many[str] = ()  # stop strings; the answer ends before the first one
    do_sample: bool = False  # sample tokens and z; otherwise take the most likely token under z = mu
    temperature: Annotated[FiniteFloat, Field(ge=0)] = 1.0  # divides the logits when sampling
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0  # nucleus: the smallest set of tokens with this mass
    top_k: Annotated[int, Field(ge=0)] = 0  # keep the k most likely tokens; 0 keeps all
    rethink: Annotated[int, Field(ge=0)] = 0  # rounds of rethinking; 0 for none

    def __post_init__(self) -> None:
        if any(stop == "" for stop in self.until):
            raise UsageError("a stop string in `until` is empty; remove it")
        if self.do_sample and self.temperature == 0:
            raise UsageError(
                f"temperature must be positive when sampling, got {self.temperature}; for greedy decoding set "
                "do_sample=False"
            )
