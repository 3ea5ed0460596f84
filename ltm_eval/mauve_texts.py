"""Human texts that MAUVE compares with: cut at GPT-2 tokens into prompt and continuation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import DataError
from ltm_eval.texts import Texts, documents
from ltm_eval.tokenizer import END_OF_TEXT, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.mauve_config import MauveConfig


log = logging.getLogger(__name__)
_CHARACTERS_PER_TOKEN = 16  # encode no more of a long text than this times the tokens that are wanted


@dataclass(frozen=True)
class Reference:
    """A human text."""

    prompt: str
    """Its first tokens; empty without a prompt."""
    continuation: str
    """What follows."""


def cut(text: str, tokenizer: Tokenizer, config: MauveConfig) -> Reference | None:
    """Prompt and continuation of a text; nothing where it is too short. Cuts never fall inside a character."""
    most = config.prompt_tokens + config.continuation_tokens
    beginning = text[: _CHARACTERS_PER_TOKEN * most]
    ids = tokenizer.encode(beginning)
    if len(ids) <= most and len(beginning) < len(text):
        ids = tokenizer.encode(text)
    if len(ids) < config.least_tokens:
        return None
    prompt = _decoded(ids[: config.prompt_tokens], tokenizer)
    return Reference(prompt, _decoded(ids[:most], tokenizer)[len(prompt) :])


def _decoded(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The longest beginning of `ids` that is text."""
    return tokenizer.decode_bytes(ids).decode("utf-8", "ignore")


def joined(wholes: Sequence[str], tokenizer: Tokenizer, least_tokens: int) -> Iterator[str]:
    """Texts of at least `least_tokens` tokens: consecutive ones with a blank line between; a short rest is left out."""
    held = ""
    for whole in wholes:
        held = f"{held}\n\n{whole}" if held else whole
        if len(tokenizer.encode(held)) >= least_tokens:
            yield held
            held = ""


def references(texts: Texts, tokenizer: Tokenizer, config: MauveConfig) -> list[Reference]:
    """The first `config.samples` texts that are long enough.

    Raises:
        DataError: fewer than two are, or a text holds the end-of-text mark.
    """
    wholes: Any = ("".join(parts) for parts in documents(texts))
    if config.joined:
        wholes = joined(list(wholes), tokenizer, config.least_tokens)
    cuts = (reference for text in wholes if (reference := cut(_unmarked(text, texts), tokenizer, config)) is not None)
    found = list(islice(cuts, config.samples))
    if len(found) < 2:
        raise DataError(
            f"{texts.name} in {texts.source}: {len(found)} of {len(texts.examples):,} texts have the "
            f"{config.least_tokens} GPT-2 tokens that prompt and continuation take; lower mauve_prompt_tokens or "
            "mauve_continuation_tokens, set mauve_joined=true, or name another set by mauve_texts"
        )
    if len(found) < config.samples:
        log.warning(
            "%s: %s of the %s texts asked for are there and long enough", texts.name, len(found), config.samples
        )
    return found


def _unmarked(text: str, texts: Texts) -> str:
    if END_OF_TEXT in text:
        raise DataError(
            f"{texts.name} in {texts.source}: {END_OF_TEXT} stands in an example, and models read it as the end of a "
            "text; remove it"
        )
    return text
