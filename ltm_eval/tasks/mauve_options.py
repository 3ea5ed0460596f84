"""Options of MAUVE (arXiv:2102.01454): two published protocols, and what lm-eval's `--metadata` changes in them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ltm_eval.data.sources import PLACE
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.system.errors import UsageError, check_choice, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


SAMPLINGS = ("multinomial", "nucleus", "greedy", "greedy_z")
PREFIX = "mauve_"  # of the task options
_ELSEWHERE = ("data", "split", "file", "tokenizer", "preset")  # task options that are no field of MauveConfig


@dataclass(frozen=True)
class MauveConfig:
    """Which texts are compared, how they are generated, featurised and compared."""

    texts: str = "auto"  # text set of the human texts; `auto` is `webtext`, with the bundled sample data `gsm8k`
    conditional: bool = True  # whether texts begin with the first tokens of human ones; otherwise z ~ prior, no prompt
    prompt_tokens: int = 50  # GPT-2 tokens of a human text that are the prompt
    continuation_tokens: int = 50  # at most, after the prompt: GPT-2's of the human text, the model's own of its texts
    shortest_tokens: int | None = None  # human texts need as many; None asks for prompt and continuation in full
    joined: bool = False  # whether examples are joined, with a blank line between, until a text is long enough
    samples: int = 1_000  # human texts: the first ones that are long enough
    generations: int = 5  # generated texts for each human one, all of them compared at once
    generation_seeds: int = 3  # how often that is repeated with other draws
    sampling: str = "multinomial"  # of SAMPLINGS; `greedy` takes z = mu, `greedy_z` draws z and takes likeliest tokens
    temperature: float = 1.0  # divides the logits when sampling
    top_p: float = 0.95  # mass of the nucleus
    include_prompt: bool = True  # whether the prompt is part of the texts that are compared
    feature_model: str = "gpt2-large"  # folder or hub id of the `transformers` model whose hidden states are compared
    max_text_length: int = 256  # tokens of a text, the feature model's own, that it reads
    feature_batch_size: int = 8
    feature_device: str = "auto"
    kmeans_seeds: int = 5  # seeds of the clustering, from FIRST_SEED on
    buckets: int | None = None  # clusters; None is mauve-text's rule, a tenth of the smaller side
    scaling: float = 5.0  # c of the divergence curve exp(-c KL)

    def __post_init__(self) -> None:
        check_choice("mauve_sampling", self.sampling, SAMPLINGS)
        for name in ("continuation_tokens", "generations", "generation_seeds", "feature_batch_size", "kmeans_seeds"):
            if getattr(self, name) < 1:
                raise UsageError(f"mauve_{name} must be at least 1, got {getattr(self, name)}")
        if self.samples < 2 or (self.buckets is not None and self.buckets < 2):
            raise UsageError("mauve_samples and mauve_buckets must be at least 2: MAUVE compares histograms")
        if self.max_text_length < 1 or not self.scaling > 0:
            raise UsageError("mauve_max_text_length must be at least 1 and mauve_scaling positive")
        if self.conditional != (self.prompt_tokens > 0):
            raise UsageError(
                f"mauve_prompt_tokens must be at least 1, got {self.prompt_tokens}; for texts without a prompt set "
                "mauve_conditional=false"
            )
        if self.sampling == "greedy" and (self.repeats > 1 or not self.conditional):
            raise UsageError(
                "greedy decoding gives one text per prompt: leave mauve_generations and mauve_generation_seeds at 1 "
                "and mauve_conditional true, or draw z with mauve_sampling=greedy_z"
            )
        self.generation()

    @property
    def repeats(self) -> int:
        """Number of generated texts for each human one, over all generation seeds."""
        return self.generations * self.generation_seeds

    @property
    def least_tokens(self) -> int:
        """Number of GPT-2 tokens that a human text must have."""
        full = self.prompt_tokens + self.continuation_tokens
        return full if self.shortest_tokens is None else max(self.shortest_tokens, self.prompt_tokens + 1)

    def generation(self) -> GenerationConfig:
        """Return the decoding options that `sampling` stands for."""
        sampled = self.sampling != "greedy"
        return GenerationConfig(
            max_new_tokens=self.continuation_tokens,
            do_sample=sampled,
            temperature=self.temperature,
            top_p=self.top_p if self.sampling == "nucleus" else 1.0,
            top_k=1 if self.sampling == "greedy_z" else 0,
        )


# `sedd`: SSD-LM's and SEDD's protocol (arXiv:2310.16834, appendix C.8); `mauve-paper`: arXiv:2102.01454, section 4.
MAUVE_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sedd": {},
    "mauve-paper": {
        "prompt_tokens": 35,
        "continuation_tokens": 988,  # 1,024 with the prompt and the end-of-text in front of it
        "shortest_tokens": 36,
        "samples": 5_000,
        "generations": 1,
        "generation_seeds": 5,
        "max_text_length": 1_024,
        "buckets": 500,
    },
}


def mauve_config(preset: str, **changes: Any) -> MauveConfig:
    """Return a preset with some options replaced.

    Without a prompt its tokens are generated too, so that texts are as long; greedy decoding makes one text per prompt
    unless told otherwise.

    Raises:
        UsageError: the preset is not known, or a value is out of range.
    """
    check_choice("mauve_preset", preset, tuple(MAUVE_PRESETS))
    alone = {"generations": 1, "generation_seeds": 1} if changes.get("sampling") == "greedy" else {}
    values = {**MAUVE_PRESETS[preset], **alone, **changes}
    if not values.get("conditional", MauveConfig.conditional):
        parts = ("prompt_tokens", "continuation_tokens")
        length = sum(values.get(part, getattr(MauveConfig, part)) for part in parts)
        values |= dict(zip(parts, (0, length), strict=True))
    return MauveConfig(**values)


def options_of(metadata: Mapping[str, Any]) -> MauveConfig:
    """Return the options in lm-eval's `--metadata`: fields of `MauveConfig` as `mauve_<field>`, and `mauve_preset`.

    Raises:
        UsageError: a key that begins with `mauve_` is unknown, or a value is of the wrong type or out of range.
    """
    kinds = {field.name: str(field.type) for field in fields(MauveConfig)}
    given = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    known = [*kinds, *_ELSEWHERE]
    for name in given:
        if name not in known:
            hint = nearest(PREFIX + name, [PREFIX + one for one in known])
            raise UsageError(
                f"MAUVE option {PREFIX + name!r} is not known.{hint} Known after {PREFIX!r}: {', '.join(known)}"
            )
    changes = {name: _value(name, value, kinds[name]) for name, value in given.items() if name in kinds}
    for name, sampling in (("top_p", ("nucleus",)), ("temperature", ("multinomial", "nucleus"))):
        if name in changes and (asked := changes.get("sampling", MauveConfig.sampling)) not in sampling:
            raise UsageError(f"{PREFIX}{name} has no effect on {PREFIX}sampling={asked}; leave it out")
    if changes.get("texts", MauveConfig.texts) == MauveConfig.texts:
        changes["texts"] = "gsm8k" if place_of(metadata)["data"] == "sample" else "webtext"
    if changes["texts"] == "gsm8k":
        changes.setdefault("joined", True)  # a problem is shorter than a prompt with its continuation
    return mauve_config(str(given.get("preset", "sedd")), **changes)


def _value(name: str, value: Any, kind: str) -> Any:
    """Return a JSON value, which a command line may have turned into text, as a field's type."""
    wanted = kind.partition(" ")[0]
    try:
        if value is None and kind.endswith("None"):
            return None
        if wanted == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if wanted in {"int", "float"} and not isinstance(value, bool):
            number = float(value)
            if wanted == "float" or number == int(number):
                return number if wanted == "float" else int(number)
        elif wanted == "str":
            return str(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    names = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    raise UsageError(f"{PREFIX}{name} must be {names[wanted]}, got {value!r}")


def place_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mauve_data`, `mauve_split` and `mauve_file`, else the keys without prefix."""
    found = {key: metadata.get(PREFIX + key, metadata.get(key)) for key in ("data", "split", "file")}
    found["data"] = found["data"] if found["data"] is not None else metadata.get("data_dir")
    return {key: value if value is None else str(value) for key, value in found.items()}


def read_by_mauve(metadata: Mapping[str, Any]) -> set[str]:
    """Return the task options that are read: all but those that a more special one overrides."""
    own = {PREFIX + name for name in (*(field.name for field in fields(MauveConfig)), *_ELSEWHERE)}
    parts = (*PLACE, "split", "file")
    return own | {key for key in parts if PREFIX + key.removesuffix("_dir") not in metadata}
