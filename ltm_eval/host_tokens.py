"""What a `transformers` tokenizer makes of a text: its identity, the tokens it adds, what each token stands for."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_eval.errors import TokenizerError
from ltm_eval.perplexity import TextScore
from ltm_eval.tokenizer import END_OF_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PROBES = ("a", "1", ".", "the", "\u8a9e")
"""Texts that show which tokens a tokenizer adds; the first one that it has tokens for is taken."""
SPACE_MARK = "\u2581"
"""How SentencePiece's vocabularies write a space, and what they put before a text."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
"""The pre-tokenizer that splits as GPT-2 does."""
PLAIN_BPE = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}

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


def added_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts in front of every text and behind it; none where it cannot be seen."""
    for probe in PROBES:
        whole, bare = tokenizer.encode(probe), tokenizer.encode(probe, add_special_tokens=False)
        places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare] if bare else []
        if places:
            return tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])
    return (), ()


def identity_of(tokenizer: Any) -> dict[str, str]:
    """Name and sha256 of what splits a text into tokens; what is put in front or behind has no part in it.

    A byte-level encoding that splits as GPT-2's does has the digest of the same ranks in tiktoken's form
    (`tokenizer.Tokenizer.digest`), so that a model of `transformers` and one of ours that read alike say so.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = identity_name(tokenizer)
    if backend is None:
        vocabulary = sorted(tokenizer.get_vocab().items())
        return {"name": name, "sha256": _sha256({"class": type(tokenizer).__name__, "vocabulary": vocabulary})}
    told = json.loads(backend.to_str())
    ranks = _ranks(told)
    parts = {key: told.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return {"name": name, "sha256": _sha256(parts) if ranks is None else _digest_of_ranks(ranks)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_of_ranks(ranks: Sequence[bytes]) -> str:
    """As `tokenizer.Tokenizer.digest`, with GPT-2's splitting pattern."""
    from tiktoken_ext.openai_public import r50k_pat_str

    content = hashlib.sha256(r50k_pat_str.encode())
    for rank, token in enumerate(ranks):
        content.update(b"%d:%d:" % (rank, len(token)) + token)
    return content.hexdigest()


def _ranks(told: Mapping[str, Any]) -> list[bytes] | None:
    """The tokens' bytes by rank, where a tokenizer merges as tiktoken does with GPT-2's pattern; else None."""
    model, before = told["model"], told.get("pre_tokenizer") or {}
    plain = all(model.get(key) in (value if isinstance(value, tuple) else (value,)) for key, value in PLAIN_BPE.items())
    split = all(before.get(key, value) == value for key, value in BYTE_LEVEL.items()) and "type" in before
    if not (plain and split) or told.get("normalizer") is not None:
        return None
    special = {one["content"] for one in told.get("added_tokens") or () if one.get("special")}
    ids = {token: rank for token, rank in model["vocab"].items() if token not in special}
    known = _byte_of()
    if sorted(ids.values()) != list(range(len(ids))) or any(not known.keys() >= set(token) for token in ids):
        return None
    pairs = [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]
    made = [ids.get("".join(pair), -1) for pair in pairs]
    if made != sorted(set(made)) or (made and made[0] < 0) or len(made) + len(known) != len(ids):
        return None
    return [bytes(known[symbol] for symbol in token) for token in sorted(ids, key=ids.__getitem__)]


class HostEncoding:
    """How lm-eval's `hf` asks its tokenizer, made the same for every tokenizer; `encode_alike` puts it on a host.

    lm-eval 0.4.13 puts a prefix token in front of a text that it scores, and encodes the text with whatever the
    tokenizer adds on top: a beginning-of-text token is then paid for, and an end-of-text token stands between a context
    and its continuation. Here a whole text is scored after exactly one prefix token, lm-eval's, and nothing is put
    behind it; a context keeps what the tokenizer puts in front of it, and nothing stands behind it either.
    """

    def __init__(self, host: Any) -> None:
        """Of lm-eval's `hf`, whose own methods are kept."""
        self.host, self.tokenizer = host, host.tokenizer
        self.whole_text = False
        """Whether a text is encoded that lm-eval will put its prefix token before."""
        self._encode, self._batch, self._decode = host.tok_encode, host.tok_batch_encode, host.tok_decode
        front, self.back = added_tokens(self.tokenizer)
        self.front = () if getattr(host, "add_bos_token", None) is False else front
        if host.prefix_token_id is None and self.front:
            host.custom_prefix_token_id = self.front[-1]
        self.prefix: int | None = host.prefix_token_id
        embedding = host.model.get_input_embeddings()
        self.rows: int | None = getattr(embedding, "num_embeddings", None)
        if (
            self.rows is not None and (self.tokenizer.pad_token_id or 0) >= self.rows
        ):  # lm-eval adds one that no model has
            marks = [i for i, one in self.tokenizer.added_tokens_decoder.items() if one.special and i < self.rows]
            if marks:
                self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(marks[0])

    def bare(self, text: str) -> list[int]:
        """The tokens of a text by itself, without any that the tokenizer adds.

        Raises:
            TokenizerError: the model has no row for one of them.
        """
        return self._checked(self._encode(text, add_special_tokens=False))

    def encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """As lm-eval's `tok_encode`."""
        if add_special_tokens is None:
            ids = self.bare(string)
            ids = ids if self.whole_text or self._begins(string) else self._checked([*self.front, *ids])
        else:
            ids = self._checked(self._encode(string, add_special_tokens=add_special_tokens))
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As lm-eval's `tok_batch_encode`, without what the tokenizer puts behind a prompt."""
        strings, behind = list(strings), len(self.back)
        if not behind or padding_side != "left":
            ids, mask = self._batch(strings, padding_side, left_truncate_len, truncation)
        else:
            length = left_truncate_len + behind if left_truncate_len else None
            ids, mask = self._batch(strings, padding_side, length, truncation)
            if all(tuple(row[-behind:]) == self.back for row in ids.tolist()):
                ids, mask = ids[:, :-behind], mask[:, :-behind]
            elif left_truncate_len:  # the prompts begin with a beginning-of-text token, so nothing was added
                ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        ids = ids.masked_fill(mask == 0, 0) if self.rows and (self.tokenizer.pad_token_id or 0) >= self.rows else ids
        self._checked([int(ids.max())] if ids.numel() else [])
        return ids, mask

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """As lm-eval's `tok_decode`; None for an end-of-text token that the tokenizer lacks, so that none is a stop."""
        return None if tokens is None else str(self._decode(tokens, skip_special_tokens=skip_special_tokens))

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As lm-eval's `_encode_pair`: a context without tokens is the prefix token, no continuation is empty.

        Raises:
            TokenizerError: the continuation has no tokens.
        """
        blanks = len(context) - len(context.rstrip())
        context, continuation = context[: len(context) - blanks], context[len(context) - blanks :] + continuation
        before = self.encode(context)
        after = self.encode(context + continuation)[len(before) :] or self.bare(continuation)
        if not after:
            raise TokenizerError(
                f"tokenizer {self.name}: {continuation[:40]!r} has no tokens, so it cannot be scored after a context"
            )
        return before or [self.needed_prefix], after

    @property
    def needed_prefix(self) -> int:
        """The token before a text.

        Raises:
            TokenizerError: there is none.
        """
        if self.prefix is None:
            raise TokenizerError(
                f"tokenizer {self.name}: names neither a beginning- nor an end-of-text token, one of which stands "
                "before a text that is scored; set bos_token or eos_token in its tokenizer_config.json"
            )
        return self._checked([self.prefix])[0]

    @property
    def name(self) -> str:
        """Of the tokenizer."""
        return identity_name(self.tokenizer)

    def _begins(self, text: str) -> bool:
        """Whether a text has its prefix token written out."""
        written = "" if self.prefix is None else str(self.tokenizer.decode(self.prefix))
        return bool(written) and text.startswith(written)

    def _checked(self, ids: Sequence[int]) -> list[int]:
        highest = max(ids, default=0)
        if self.rows is not None and highest >= self.rows:
            raise TokenizerError(
                f"tokenizer {self.name}: gives token {highest:,}, the model has {self.rows:,} rows; pass the tokenizer "
                "that the model was trained with"
            )
        return list(ids)

    def caveats(self, texts: Sequence[str]) -> list[str]:
        """What a reader of figures of whole texts must know: tokens of no character, texts that tokens do not spell."""
        empty = odd = unspelt = marks = 0
        for text in dict.fromkeys(texts):
            ids = self.bare(text)
            each = token_bytes(self.tokenizer, ids)
            if each is None or b"".join(each).decode("utf-8", "replace") != text:
                none = self._of_no_character(text, ids)
                empty, odd = empty + none, odd + bool(none)
                spelt = self._decode(ids, skip_special_tokens=False)
                unspelt += spelt.removeprefix(" ") != text.removeprefix(" ")
            marks += text.endswith(END_OF_TEXT) and len(self.bare(END_OF_TEXT)) > 1
        total, told = f"{len(set(texts)):,}", f"tokenizer {self.name}: "
        found = []
        if empty:
            found.append(f"{empty:,} scored tokens of {odd:,} of {total} documents stand for no character of the text")
        if unspelt:
            found.append(
                f"the tokens of {unspelt:,} of {total} documents do not spell the text, so other text is scored"
            )
        if marks:
            found.append(f"{END_OF_TEXT} at the end of {marks:,} of {total} documents is scored as plain text")
        return [told + one for one in found]

    def _of_no_character(self, text: str, ids: Sequence[int]) -> int:
        """How many tokens stand for no character: of no length, added, or a mark of a space where the text has none."""
        special = dict(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))
        named = self.tokenizer.convert_ids_to_tokens(list(ids))
        found = 0
        for token, name, (begin, end) in zip(ids, named, token_offsets(self.tokenizer, text, ids) or (), strict=False):
            own = text[begin:end]
            mark = not str(name).strip(SPACE_MARK) and not own.isspace()
            found += not own or (token in special and special[token] != own) or mark
        return found


def identity_name(tokenizer: Any) -> str:
    """What a tokenizer is called: the last part of where it came from."""
    return Path(str(getattr(tokenizer, "name_or_path", ""))).name or type(tokenizer).__name__


def encode_alike(host: Any) -> HostEncoding:
    """Put a `HostEncoding` on lm-eval's `hf`: its methods stay what they are but for the tokens that are added, and the
    answer to a whole text is a `TextScore`.
    """
    made = HostEncoding(host)
    rolling = host.loglikelihood_rolling

    def loglikelihood_rolling(requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        made.needed_prefix  # noqa: B018 - raises where there is none
        made.whole_text = True
        try:
            found = rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            made.whole_text = False
        texts = [request.args[0] for request in requests]
        return [TextScore(nats, tokens=len(made.bare(text))) for nats, text in zip(found, texts, strict=True)]

    host.tok_encode, host.tok_batch_encode, host.tok_decode = made.encode, made.batch_encode, made.decode
    host._encode_pair, host.loglikelihood_rolling = made.pair, loglikelihood_rolling
    return made
