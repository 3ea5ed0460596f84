"""Options of MAUVE: which texts, how they are generated, featurised and compared."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ltm_eval.config import GenerationConfig, check_choice
from ltm_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class MauveConfig:
    """How MAUVE (arXiv:2102.01454) is measured: which texts, how they are generated, featurised and compared."""

    texts: str = "auto"
    """Text set that the human texts come from; `auto` is `webtext`, with the bundled sample data `gsm8k`."""
    conditional: bool = True
    """Whether texts begin with the first tokens of human ones; otherwise they are drawn from nothing (z ~ prior)."""
    prompt_tokens: int = 50
    """GPT-2 tokens of a human text that are the prompt."""
    continuation_tokens: int = 50
    """Most tokens after the prompt: GPT-2's of the human text, the model's own of what it generates."""
    shortest_tokens: int | None = None
    """Human texts with fewer GPT-2 tokens are left out; None asks for prompt and continuation in full."""
    joined: bool = False
    """Whether examples are joined, with a blank line between, until a text is long enough."""
    samples: int = 1_000
    """Human texts: the first ones that are long enough."""
    generations: int = 5
    """Generated texts for each human one, all of them compared at once."""
    generation_seeds: int = 3
    """How often that is repeated with other draws."""
    sampling: str = "multinomial"
    """`multinomial`, `nucleus`, `greedy` (z = mu) or `greedy_z` (likeliest tokens, z drawn)."""
    temperature: float = 1.0
    """Divides the logits when sampling."""
    top_p: float = 0.95
    """Mass of the nucleus."""
    include_prompt: bool = True
    """Whether the prompt is part of the texts that are compared."""
    feature_model: str = "gpt2-large"
    """Folder or hub id of the `transformers` model whose hidden states are compared."""
    max_text_length: int = 256
    """Most tokens of a text, the feature model's own, that it reads."""
    feature_batch_size: int = 8
    """Texts it reads at once."""
    feature_device: str = "auto"
    """Where it runs."""
    kmeans_seeds: int = 5
    """How many seeds of the clustering; the first is mauve-text's default, 25."""
    buckets: int | None = None
    """Clusters; None is mauve-text's rule, a tenth of the smaller side."""
    scaling: float = 5.0
    """c of the divergence curve exp(-c KL)."""

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
        """Generated texts for each human one, over all generation seeds."""
        return self.generations * self.generation_seeds

    @property
    def least_tokens(self) -> int:
        """GPT-2 tokens that a human text must have."""
        full = self.prompt_tokens + self.continuation_tokens
        return full if self.shortest_tokens is None else max(self.shortest_tokens, self.prompt_tokens + 1)

    def generation(self) -> GenerationConfig:
        """The options of decoding that `sampling` stands for."""
        sampled = self.sampling != "greedy"
        return GenerationConfig(
            max_new_tokens=self.continuation_tokens,
            do_sample=sampled,
            temperature=self.temperature,
            top_p=self.top_p if self.sampling == "nucleus" else 1.0,
            top_k=1 if self.sampling == "greedy_z" else 0,
        )


SAMPLINGS: tuple[str, ...] = ("multinomial", "nucleus", "greedy", "greedy_z")


MAUVE_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
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
)
"""`sedd`: SSD-LM's and SEDD's protocol (arXiv:2310.16834, appendix C.8); `mauve-paper`: arXiv:2102.01454, section 4."""


def mauve_config(preset: str, **changes: Any) -> MauveConfig:
    """A preset with some options replaced.

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
