"""What a training run is made of: sizes, data, fast loop, slow steps. Read from YAML, every default stated here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, FiniteFloat

from ltm_eval.inference.options import AtLeastOne, Dtype, FitConfig, Preset, Rate, Seed, Steps, fit_config
from ltm_eval.system.errors import InputError, UsageError
from ltm_eval.system.options import Many, options

if TYPE_CHECKING:
    from pathlib import Path

RECIPE_LIMIT = 2**20  # bytes
T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]


@options()
class Source:
    """One kind of training documents."""

    name: str  # names its file of tokens, and its part of the log
    # `text`: files cut into rows; `problems`: word problems packed as few-shot prompts; `rules`: episodes whose
    # few-shot examples stand in rows of their own.
    kind: Literal["text", "problems", "rules"]
    weight: Annotated[FiniteFloat, Field(ge=0)]  # share of the batches, relative to the other sources'
    length: Annotated[int, Field(ge=8)]  # tokens of a row, T
    batch: AtLeastOne  # documents in a batch, over all processes
    files: Many[str] = ()  # patterns below the data folder; what a file must hold is in `packing`
    bytes_per_file: AtLeastOne | None = None  # only the first bytes of each file
    rows: AtLeastOne = 1  # rows that share one z: an episode's few-shot examples and its question
    validation: Count = 16  # documents held out
    from_step: Count = 0  # first slow step whose batch may be of this source

    def __post_init__(self) -> None:
        if not self.files:
            raise UsageError("`files` must name at least one file")


@options()
class Recipe:
    """One training run."""

    # Of `ModelConfig` without the vocabulary for `ltm`; n_embd, n_layer, n_head, n_positions for `gpt2`.
    model: Mapping[str, Any]
    sources: Many[Source]
    steps: AtLeastOne  # slow steps
    architecture: Literal["ltm", "gpt2"] = "ltm"  # `gpt2` is the autoregressive baseline on the same batches
    ranks: Annotated[int, Field(ge=256)] = 4_000  # tokens of the byte-pair encoding that is learnt from the sources
    seed: Seed = 2_026  # of weights, batches and noise
    lr: FiniteFloat = 2e-3  # AdamW's rate after the warm-up
    lr_final: FiniteFloat = 2e-4  # where its cosine ends
    warm_up: int = 50  # steps over which the rate rises
    beta1: FiniteFloat = 0.9  # AdamW's constants
    beta2: FiniteFloat = 0.95
    weight_decay: FiniteFloat = 0.1  # on matrices; vectors have none
    clip: FiniteFloat = 1.0  # largest norm of the gradient
    accumulate: AtLeastOne = 1  # batches whose gradients make one slow step
    # First steps in which z is not fitted but given: a fixed random code of the document's source and group, plus
    # N(0, I). It teaches the decoder to read z before the fast loop must write it.
    coded_steps: int = 0
    code_norm: FiniteFloat = 5.0  # length of a code at the last given step, the noise having standard deviation 1
    code_norm_start: FiniteFloat = 25.0  # length of a code at the first step; it falls linearly
    code_noise_start: FiniteFloat = 0.3  # standard deviation of the noise at the first step; it rises linearly to 1
    preset: Preset = "bound"  # of the fast loop
    t_fast: Steps = 4  # fast steps of a batch
    fast_lr: Rate | None = None  # first rate of the fast loop; None takes the preset's
    fast_lr_final: Rate | None = None  # last rate of the fast loop; None keeps the preset's ratio
    log_var_start: FiniteFloat | None = None  # None takes the preset's
    # z of the slow step: `fresh` draws from q anew, so the step descends -ELBO, whose KL is constant in the weights;
    # `fit` takes the fit's last noise, as the released code does; `mean` takes mu, so the step descends -log p(x|mu).
    slow_latents: Literal["fresh", "fit", "mean"] = "fresh"
    dtype: Dtype = "auto"  # of matrix products; `auto` is float32 on CPU and bfloat16 on GPU
    compile: bool = False  # whether torch.compile is tried on the slow step
    validate_every: Count = 500  # steps between validations; 0 validates at the end only
    validation_t_fast: Steps = 16  # fast steps of the bound in a validation
    save_every: AtLeastOne = 100  # steps between saves

    def __post_init__(self) -> None:
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
    """Return the recipe in a YAML file.

    Args:
        path: the file.
        steps: replaces the file's number of slow steps.

    Raises:
        InputError: the file cannot be read or is not YAML.
        UsageError: a key is not known, a value is out of range.
    """
    import yaml

    try:
        if path.stat().st_size > RECIPE_LIMIT:
            raise InputError(f"{path}: {path.stat().st_size} bytes, a recipe has at most {RECIPE_LIMIT}")
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"recipe {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"recipe {path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list):
        raise InputError(f"recipe {path}: expected a mapping with `model`, `steps` and a list of `sources`")
    sources = []
    for item in content["sources"]:
        if not isinstance(item, dict):
            raise InputError(f"{path}: source: expected a mapping, got {type(item).__name__}")
        sources.append(_made(Source, item, f"{path}: source {item.get('name', '')}"))
    recipe = _made(Recipe, {**content, "sources": sources}, str(path))
    return recipe if steps is None else replace(recipe, steps=steps)


def _made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return the options that a mapping holds; `where` begins what is said of a wrong one."""
    try:
        return kind(**{str(name): value for name, value in values.items()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
