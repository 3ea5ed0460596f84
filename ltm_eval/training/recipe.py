"""What a training run is made of: sizes, data, fast loop, slow steps. Read from YAML, every default stated here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from ltm_eval.inference.options import PRESETS, FitConfig, fit_config
from ltm_eval.system.errors import InputError, UsageError, check_choice, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


ARCHITECTURES = ("ltm", "gpt2")
KINDS = ("text", "problems", "rules")
SLOW_LATENTS = ("fresh", "fit", "mean")
_RECIPE_LIMIT = 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """One kind of training documents."""

    name: str
    """Names its file of tokens, and its part of the log."""
    kind: str
    """`text`: files cut into rows; `problems`: word problems packed as few-shot prompts; `rules`: episodes whose
    demonstrations stand in rows of their own.
    """
    weight: float
    """Share of the batches, relative to the other sources'."""
    length: int
    """Tokens of a row, T."""
    batch: int
    """Documents in a batch, over all processes."""
    files: tuple[str, ...] = ()
    """Patterns below the data folder; what a file must hold is in `packing`."""
    bytes_per_file: int | None = None
    """Only the first so many bytes of each file."""
    rows: int = 1
    """Rows that share one z: an episode's demonstrations and its question."""
    validation: int = 16
    """Documents held out."""
    from_step: int = 0
    """First slow step whose batch may be of this source."""

    def __post_init__(self) -> None:
        check_choice(f"source {self.name}: kind", self.kind, KINDS)
        least = {"weight": 0, "length": 8, "batch": 1, "rows": 1, "validation": 0, "from_step": 0}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise UsageError(f"source {self.name}: {key} must be at least {low}, got {getattr(self, key)}")
        if not self.files:
            raise UsageError(f"source {self.name}: `files` must name at least one file")


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    model: Mapping[str, int]
    """Sizes: of `ModelConfig` without the vocabulary for `ltm`; n_embd, n_layer, n_head, n_positions for `gpt2`."""
    sources: tuple[Source, ...]
    """Where batches come from."""
    steps: int
    """Slow steps."""
    architecture: str = "ltm"
    """`ltm`, or `gpt2` for the autoregressive baseline on the same batches."""
    ranks: int = 4_000
    """Tokens of the byte-pair encoding that is learnt from the sources."""
    seed: int = 2_026
    """Of weights, batches and noise."""
    lr: float = 2e-3
    """AdamW's rate after the warm-up."""
    lr_final: float = 2e-4
    """Where its cosine ends."""
    warm_up: int = 50
    """Steps over which the rate rises."""
    beta1: float = 0.9
    """AdamW's first constant."""
    beta2: float = 0.95
    """AdamW's second constant."""
    weight_decay: float = 0.1
    """On matrices; vectors have none."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    accumulate: int = 1
    """Batches whose gradients make one slow step."""
    coded_steps: int = 0
    """First steps in which z is not fitted but given: a fixed random code of the document's source and group, plus
    N(0, I). It teaches the decoder to read z before the fast loop must write it.
    """
    code_norm: float = 5.0
    """Length of a code at the last given step, where the noise around it has standard deviation 1."""
    code_norm_start: float = 25.0
    """Length of a code at the first step; it falls linearly."""
    code_noise_start: float = 0.3
    """Standard deviation of the noise at the first step; it rises linearly to 1."""
    preset: str = "bound"
    """Fast loop's preset."""
    t_fast: int = 4
    """Fast steps of a batch."""
    fast_lr: float | None = None
    """First rate of the fast loop; None takes the preset's."""
    fast_lr_final: float | None = None
    """Last rate of the fast loop; None keeps the preset's ratio."""
    log_var_start: float | None = None
    """None takes the preset's."""
    slow_latents: str = "fresh"
    """z of the slow step: `fresh` draws from q anew, so the step descends -ELBO, whose KL is constant in the weights;
    `fit` takes the fit's last noise, as the released code does; `mean` takes mu, so the step descends -log p(x|mu).
    """
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; `auto` is float32 on CPU and bfloat16 on GPU."""
    compile: bool = False
    """Whether torch.compile is tried on the slow step."""
    validate_every: int = 500
    """Steps between validations; 0 validates at the end only."""
    validation_t_fast: int = 16
    """Fast steps of the bound in a validation."""
    save_every: int = 100
    """Steps between saves."""

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, ARCHITECTURES)
        check_choice("preset", self.preset, tuple(PRESETS))
        check_choice("slow_latents", self.slow_latents, SLOW_LATENTS)
        check_choice("dtype", self.dtype, ("auto", "float32", "bfloat16"))
        least = {"steps": 1, "ranks": 256, "accumulate": 1, "save_every": 1, "validate_every": 0, "t_fast": 0}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise UsageError(f"recipe: {key} must be at least {low}, got {getattr(self, key)}")
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise UsageError("recipe: `sources` must name at least one source, each by a name of its own")
        if not any(source.weight and not source.from_step for source in self.sources):
            raise UsageError("recipe: no source takes part in step 0; give one a positive weight and no from_step")

    @property
    def fit(self) -> FitConfig:
        """The fast loop of a batch."""
        changes = {"lr": self.fast_lr, "lr_final": self.fast_lr_final, "log_var_start": self.log_var_start}
        return fit_config(self.preset, t_fast=self.t_fast, **changes)

    @property
    def digest(self) -> str:
        """sha256 over everything that changes the weights."""
        silent = {"validate_every", "validation_t_fast", "save_every", "compile"}
        values = {key: value for key, value in asdict(self).items() if key not in silent}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def data_digest(self) -> str:
        """sha256 over what decides the tokens and the encoding, whatever the model."""
        silent = ("weight", "batch", "from_step")
        sources = [{k: v for k, v in asdict(s).items() if k not in silent} for s in self.sources]
        return hashlib.sha256(json.dumps([sources, self.ranks, self.seed], sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path, *, steps: int | None = None) -> Recipe:
    """A recipe from a YAML file.

    Args:
        path: the file.
        steps: replaces the file's number of slow steps.

    Raises:
        InputError: the file cannot be read or is not YAML.
        UsageError: a key is not known, a value is out of range.
    """
    import yaml

    try:
        if path.stat().st_size > _RECIPE_LIMIT:
            raise InputError(f"{path}: {path.stat().st_size} bytes, a recipe has at most {_RECIPE_LIMIT}")
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"recipe {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"recipe {path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list):
        raise InputError(f"recipe {path}: expected a mapping with `model`, `steps` and a list of `sources`")
    sources = tuple(_made(Source, item, f"{path}: source") for item in content["sources"])
    recipe = _made(Recipe, {**content, "sources": sources}, str(path))
    return recipe if steps is None else replace(recipe, steps=steps)


def _made(kind: type[T], values: object, where: str) -> T:
    """A dataclass from a mapping whose keys and types are checked."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a mapping, got {type(values).__name__}")
    known = {field.name: field for field in fields(cast("Any", kind))}
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}.{nearest(str(key), known)}")
    checked = {key: _checked(value, str(known[key].type), f"{where}: {key}") for key, value in values.items()}
    try:
        return kind(**checked)
    except TypeError as error:
        raise UsageError(f"{where}: {str(error).split('__init__() ')[-1]}") from error


def _checked(value: Any, declared: str, where: str) -> Any:
    """`value` as the declared type; whole numbers are welcome as floats."""
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    optional = declared.endswith(" | None")
    base = declared.removesuffix(" | None")
    if value is None and optional:
        return None
    if base.startswith("tuple[str"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{where} must be a list of texts, got {value!r}")
        return tuple(value)
    wanted = kinds.get(base)
    if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
        raise UsageError(f"{where} must be of type {base}, got {value!r}")
    return float(value) if base == "float" else value
