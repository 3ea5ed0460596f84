"""Options of MAUVE (arXiv:2102.01454): two published protocols and their changes by lm-eval's `--metadata`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from ltm_eval.data.sources import PLACE
from ltm_eval.inference.options import AtLeastOne, GenerationConfig
from ltm_eval.system.errors import UsageError, check_choice, nearest
from ltm_eval.system.options import names_of, options, read

if TYPE_CHECKING:
    from collections.abc import Mapping


PREFIX = "mauve_"  # of the task options
_ELSEWHERE = ("data", "split", "file", "tokenizer", "preset")  # task options that are no field of MauveConfig


Count = Annotated[int, Field(ge=0)]
AtLeastTwo = Annotated[int, Field(ge=2)]


@options(where="mauve_")
class MauveConfig:
    """Choice of texts, and how they are generated, featurised and compared."""

    texts: str = "auto"  # set of human texts; `auto` is `webtext`, or `gsm8k` with the bundled sample data
    conditional: bool = True  # whether texts continue human ones; otherwise z ~ prior and there is no prompt
    prompt_tokens: Count = 50  # length of the prompt in GPT-2 tokens
    continuation_tokens: AtLeastOne = 50  # maximum after the prompt, in GPT-2 tokens (human texts) or the model's own
    shortest_tokens: int | None = None  # minimum GPT-2 tokens of a human text; None means full prompt and continuation
    joined: bool = False  # join examples by blank lines until a text is long enough
    samples: AtLeastTwo = 1_000  # number of human texts, the first that are long enough
    generations: AtLeastOne = 5  # generated texts per human text in one comparison
    generation_seeds: AtLeastOne = 3  # repetitions with new draws
    # `greedy` uses z = mu; `greedy_z` the most likely tokens under a drawn z.
    sampling: Literal["multinomial", "nucleus", "greedy", "greedy_z"] = "multinomial"
    temperature: Annotated[FiniteFloat, Field(ge=0)] = 1.0  # divides the logits when sampling
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.95  # nucleus mass
    include_prompt: bool = True  # whether the compared texts include the prompt
    feature_model: str = "gpt2-large"  # folder or hub id of the `transformers` model
    max_text_length: AtLeastOne = 256  # maximum tokens per text, of the feature model
    feature_batch_size: AtLeastOne = 8  # texts per batch of the feature model
    feature_device: str = "auto"  # device of the feature model
    kmeans_seeds: AtLeastOne = 5  # seeds of the clustering; the first is mauve-text's default, 25
    buckets: AtLeastTwo | None = None  # clusters; None is mauve-text's rule, a tenth of the smaller collection
    scaling: Annotated[FiniteFloat, Field(gt=0)] = 5.0  # c of the divergence curve exp(-c KL)

    def __post_init__(self) -> None:
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
        """Number of generated texts per human text, over all generation seeds."""
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

    Without a prompt its tokens are generated too, so that texts are equally long; greedy decoding generates one text
    per prompt by default.

    Raises:
        UsageError: the preset is unknown, or a value is out of range.
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
    given = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    known = [*names_of(MauveConfig), *_ELSEWHERE]
    for name in given:
        if name not in known:
            hint = nearest(PREFIX + name, [PREFIX + one for one in known])
            raise UsageError(
                f"MAUVE option {PREFIX + name!r} is not known.{hint} Known after {PREFIX!r}: {', '.join(known)}"
            )
    changes = {
        name: read(MauveConfig, name, value, spelled=PREFIX + name)
        for name, value in given.items()
        if name not in _ELSEWHERE
    }
    for name, sampling in (("top_p", ("nucleus",)), ("temperature", ("multinomial", "nucleus"))):
        if name in changes and (asked := changes.get("sampling", MauveConfig.sampling)) not in sampling:
            raise UsageError(f"{PREFIX}{name} has no effect on {PREFIX}sampling={asked}; leave it out")
    if changes.get("texts", MauveConfig.texts) == MauveConfig.texts:
        changes["texts"] = "gsm8k" if place_of(metadata)["data"] == "sample" else "webtext"
    if changes["texts"] == "gsm8k":
        changes.setdefault("joined", True)  # a problem is shorter than prompt and continuation together
    return mauve_config(str(given.get("preset", "sedd")), **changes)


def place_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mauve_data`, `mauve_split` and `mauve_file`, else the keys without prefix."""
    found = {key: metadata.get(PREFIX + key, metadata.get(key)) for key in ("data", "split", "file")}
    found["data"] = found["data"] if found["data"] is not None else metadata.get("data_dir")
    return {key: value if value is None else str(value) for key, value in found.items()}


def read_by_mauve(metadata: Mapping[str, Any]) -> set[str]:
    """Return the task options that are read: all except those that a more specific one overrides."""
    own = {PREFIX + name for name in (*names_of(MauveConfig), *_ELSEWHERE)}
    parts = (*PLACE, "split", "file")
    return own | {key for key in parts if PREFIX + key.removesuffix("_dir") not in metadata}
