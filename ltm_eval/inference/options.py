"""Every option of the program, each default stated here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from ltm_eval.system.errors import UsageError, check_choice, nearest, shown

Preset = Literal["released", "published", "bound"]
Noise = Literal["fixed", "fresh", "antithetic"]


NOISES: tuple[str, ...] = get_args(Noise)
DTYPES: tuple[str, ...] = ("auto", "float32", "bfloat16")


MAX_FAST_STEPS = 100_000


AUTO = "auto"


EACH = "each"
"""`fit_window=each`: a window of its own for every demonstration."""


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
