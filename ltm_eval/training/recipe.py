"""The recipe of a training run, read from YAML: sizes, data, fast loop, slow steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, FiniteFloat

from ltm_eval.inference.options import AtLeastOne, Dtype, FitConfig, Preset, Rate, Seed, Steps, fit_config
from ltm_eval.system.errors import InputError, UsageError
from ltm_eval.system.files import read_regular, recipes
from ltm_eval.system.options import Many, options

if TYPE_CHECKING:
    from pathlib import Path

RECIPE_LIMIT = 2**20  # bytes
T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]


@options()
class Source:
    """One kind of training documents."""

    name: str  # name of its file of tokens and of its rows in the log
    # `text`: files cut into rows; `problems`: word problems packed as few-shot prompts; `rules`: episodes with one
    # few-shot example per row.
    kind: Literal["text", "problems", "rules"]
    weight: Annotated[FiniteFloat, Field(ge=0)]  # share of the batches, relative to other sources
    length: Annotated[int, Field(ge=8)]  # tokens of a row, T
    batch: AtLeastOne  # documents per batch, over all processes
    files: Many[str] = ()  # patterns below the data folder; `packing` describes the format
    bytes_per_file: AtLeastOne | None = None  # limit of bytes read from each file
    rows: AtLeastOne = 1  # rows that share one z: an episode's few-shot examples and its question
    validation: Count = 16  # documents held out
    from_step: Count = 0  # first slow step that may use this source

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
    architecture: Literal["ltm", "gpt2"] = "ltm"  # `gpt2` is the autoregressive baseline
    ranks: Annotated[int, Field(ge=256)] = 4_000  # size of the byte-pair encoding learnt from the sources
    seed: Seed = 2_026  # of weights, batches and noise
    lr: FiniteFloat = 2e-3  # AdamW's learning rate after warm-up
    lr_final: FiniteFloat = 2e-4  # final learning rate of the cosine
    warm_up: int = 50  # steps of linear warm-up
    beta1: FiniteFloat = 0.9  # AdamW's constants
    beta2: FiniteFloat = 0.95
    weight_decay: FiniteFloat = 0.1  # of matrices only
    clip: FiniteFloat = 1.0  # maximum norm of the gradient
    accumulate: AtLeastOne = 1  # batches per slow step
    # Initial steps in which z is not fitted but given: a fixed random code of the document's source and group, plus
    # N(0, I). It teaches the decoder to use z before the fast loop has to find it.
    coded_steps: int = 0
    code_norm: FiniteFloat = 5.0  # length of a code at the last such step, when the noise has standard deviation 1
    code_norm_start: FiniteFloat = 25.0  # length of a code at the first step; it falls linearly
    code_noise_start: FiniteFloat = 0.3  # standard deviation of the noise at the first step; it rises linearly to 1
    preset: Preset = "bound"  # of the fast loop
    t_fast: Steps = 4  # fast steps per batch
    fast_lr: Rate | None = None  # initial rate of the fast loop; None takes the preset's
    fast_lr_final: Rate | None = None  # final rate of the fast loop; None keeps the preset's ratio
    log_var_start: FiniteFloat | None = None  # None takes the preset's
    # z of the slow step: `fresh` is a new draw from q, so the step descends -ELBO (whose KL is constant in the
    # weights); `fit` uses the fit's last noise, as the released code does; `mean` uses mu.
    slow_latents: Literal["fresh", "fit", "mean"] = "fresh"
    dtype: Dtype = "auto"  # of matrix products; `auto` is float32 on CPU and bfloat16 on GPU
    compile: bool = False  # whether to try torch.compile on the slow step
    validate_every: Count = 500  # steps between validations; 0 for only at the end
    validation_t_fast: Steps = 16  # fast steps of the validation's bound
    save_every: AtLeastOne = 100  # steps between saves of the state that a resumed run starts from
    # intermediate checkpoints to keep, at even distances; each takes 2 bytes a parameter, and the encoding
    checkpoints: Count = 3

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise UsageError("recipe: `sources` must contain at least one source, with distinct names")
        if not any(source.weight and not source.from_step for source in self.sources):
            raise UsageError("recipe: no source is active at step 0; give one a positive weight and no from_step")

    @property
    def fit(self) -> FitConfig:
        """Options of the fast loop."""
        changes = {"lr": self.fast_lr, "lr_final": self.fast_lr_final, "log_var_start": self.log_var_start}
        return fit_config(self.preset, t_fast=self.t_fast, **changes)

    @property
    def checkpoint_steps(self) -> frozenset[int]:
        """Slow steps after which an intermediate checkpoint is kept."""
        parts = self.checkpoints + 1
        return frozenset(self.steps * part // parts for part in range(1, parts)) - {0}

    @property
    def digest(self) -> str:
        """sha256 over everything that affects the weights."""
        silent = {"validate_every", "validation_t_fast", "save_every", "checkpoints", "compile"}
        values = {key: value for key, value in asdict(self).items() if key not in silent}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def data_digest(self) -> str:
        """sha256 over everything that affects the tokens and the encoding."""
        silent = ("weight", "batch", "from_step")
        sources = [{k: v for k, v in asdict(s).items() if k not in silent} for s in self.sources]
        return hashlib.sha256(json.dumps([sources, self.ranks, self.seed], sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path, *, steps: int | None = None) -> Recipe:
    """Return the recipe in a YAML file.

    Args:
        path: the file, or the name of a bundled one, `ltm-demo` or `gpt2-demo`, unless such a file exists.
        steps: replaces the file's number of slow steps.

    Raises:
        InputError: the file cannot be read or is not YAML.
        UsageError: a key is unknown, or a value is out of range.
    """
    import yaml

    bundled = recipes()
    try:
        path = path if path.exists() else bundled.get(str(path), path)
        if path.stat().st_size > RECIPE_LIMIT:
            raise InputError(f"{path}: {path.stat().st_size} bytes, a recipe has at most {RECIPE_LIMIT}")
        content = yaml.safe_load(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise InputError(
            f"recipe {path}: cannot be read ({error.strerror}); bundled recipes are {', '.join(bundled)}"
        ) from error
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
    """Return the options in a mapping; `where` begins an error message."""
    try:
        return kind(**{str(name): value for name, value in values.items()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
