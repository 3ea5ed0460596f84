"""Which stretch of a text each token of a `transformers` tokenizer stands for."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that GPT-2's byte-level tokens write as the character of that number; the others follow from 256 on."""


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's characters to bytes (github openai/gpt-2, `src/encoder.py:bytes_to_unicode`)."""
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(others)}


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes] | None:
    """The bytes of every token of a byte-level vocabulary; None for another kind.

    Whether they are the text's own bytes is for the caller to see: other kinds of vocabulary can look the same.
    """
    known = _byte_of()
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    if any(token is None or not known.keys() >= set(token) for token in tokens):
        return None
    return [bytes(known[symbol] for symbol in token) for token in tokens]


def token_offsets(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """First character and end of every token in the text; None where the tokenizer cannot tell, or gives other ids."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    for special in (True, False):
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special)
        if list(encoded["input_ids"]) == list(ids):
            return [(int(begin), int(end)) for begin, end in encoded["offset_mapping"]]
    return None
