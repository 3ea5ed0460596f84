"""Baselines: lm-eval's own models, whose answers go into the journal as an LTM's do.

A host model answers all requests of a call before it returns any, so it is given them in chunks, longest first. A chunk
is fixed by the whole list, never by what is left of it, its draws are seeded by its content, and one process of a job
answers all of it: a resumed or shared run gives the host the same batches and the same random numbers as one that was
not cut off and ran alone. What the host knows and does not tell is seen by `host_watch`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.harness.answering import named
from ltm_eval.model.checkpoint import weights_sha256
from ltm_eval.model.tokenizer import END_OF_TEXT
from ltm_eval.results.files import ANSWER, TARGET, TEXT, AnswerRecord, TokenRecord, rounded
from ltm_eval.results.tokens import Pieces, pieces_of_bytes, pieces_of_offsets
from ltm_eval.runs.journal import digest
from ltm_eval.runs.worklist import (
    Answer,
    Worklist,
    content_of,
    first_documents,
    is_by_token,
    item_of,
    numbered,
    reference_of,
)
from ltm_eval.system import progress as pulse
from ltm_eval.system.device import ran_out
from ltm_eval.system.errors import CheckpointError, LtmEvalError, TokenizerError
from ltm_eval.system.machine import program
from ltm_eval.tasks.perplexity import TextScore
from ltm_eval.tasks.prompts import split_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from lm_eval.api.instance import Instance

    from ltm_eval.system.progress import Progress


# What a `transformers` tokenizer makes of a text: its identity, the tokens it adds, what each token stands for.

# Texts that show which tokens a tokenizer adds; the first one that it has tokens for is taken
PROBES = ("a", "1", ".", "the", "\u8a9e")
SPACE_MARK = "\u2581"  # How SentencePiece's vocabularies write a space, and what they put before a text
# The pre-tokenizer that splits as GPT-2 does
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN_BPE = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}

# Bytes that GPT-2's byte-level tokens write as the character of that number; the others follow from 256 on
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


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
    special = {one["content"] for one in told.get("added_tokens") or ()}
    if special - {END_OF_TEXT}:  # each is cut out of a text before anything is merged
        return None
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


# What lm-eval's `hf` models compute and do not tell: tokens' costs, how an answer ended, what of its prompt was read.
#
# lm-eval 0.4.13 hands back sums and texts. The three places where the rest is known (`_model_call`, `tok_batch_encode`,
# `_model_generate` of `lm_eval/models/huggingface.py`) are wrapped on the model's own object: each calls the original
# with the same arguments and returns its result, so that answers stay what they are. No pass of the model is added.

METHODS = ("_model_call", "tok_batch_encode", "_model_generate")
# What is read, and the tokens that are scored after its last positions
Window = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Generated:
    """One continuation as it came out of the model."""

    text: str  # Cut as lm-eval cuts it
    stop_reason: str  # stop_string, end_of_text or length
    new_tokens: int  # Up to and with the stop string's
    prompt_tokens: int  # Of the whole prompt
    read_tokens: int  # Of these, how many the model read
    # The text's pieces with their costs; None where they were not asked for or its tokens are no text of its own
    pieces: Pieces | None


@dataclass
class _Batch:
    """Prompts that are generated from together."""

    prompts: list[str]
    read: list[int]
    whole: list[int]


@dataclass
class HostWatch:
    """Watches one model; `watch` makes it."""

    host: Any  # lm-eval's `hf`
    by_token: set[str] = field(default_factory=set)  # Prompts whose answers are wanted token by token
    # Windows that will be scored; what each scored token costs, once it is known
    windows: dict[Window, tuple[float, ...] | None] = field(default_factory=dict)
    _generated: dict[str, list[Generated]] = field(default_factory=lambda: defaultdict(list))
    _batch: _Batch | None = None
    # Tokens and windows of the texts that are waited for
    _cut: dict[str, tuple[list[int], list[Window]]] = field(default_factory=dict)

    def begin(self, texts: Iterable[str] = (), *, prompts: Collection[str] = ()) -> None:
        """Before a call of the model.

        Args:
            texts: whole texts that it will score and whose tokens' costs are wanted.
            prompts: prompts that it will continue, likewise.
        """
        self.by_token = set(prompts)
        self._cut = {text: self._windows(text) for text in texts}
        self.windows = dict.fromkeys(window for _, windows in self._cut.values() for window in windows)
        self._generated.clear()

    def _windows(self, text: str) -> tuple[list[int], list[Window]]:
        """A text's tokens, and its windows as `loglikelihood_rolling` cuts them."""
        host, ids = self.host, self.host.tok_encode(text, add_special_tokens=False)
        rolling = get_rolling_token_windows(ids, host.prefix_token_id, host.max_length, 1)
        found = []
        for context, wanted in map(make_disjoint_window, rolling):
            read = (*context, *wanted)[-(host.max_length + 1) :][:-1]
            found.append((tuple(read), tuple(wanted)))
        return ids, found

    def text_pieces(self, text: str) -> Pieces | None:
        """The pieces of a text that was scored; None where not all is known, or its tokens do not make up the text."""
        ids, windows = self._cut.get(text, ([], []))
        costs = [self.windows.get(window) for window in windows]
        nats = [value for own in costs if own is not None for value in own]
        if not nats or any(own is None for own in costs):
            return None
        return self._pieces(text, ids, nats)

    def _pieces(self, text: str, ids: Sequence[int], nats: Sequence[float]) -> Pieces | None:
        each = token_bytes(self.host.tokenizer, ids)
        if each is not None and b"".join(each).decode("utf-8", "replace") == text:
            return pieces_of_bytes(each, nats)
        offsets = token_offsets(self.host.tokenizer, text, ids)
        return None if offsets is None else pieces_of_offsets(offsets, nats, length=len(text))

    def target_pieces(self, prompt: str, target: str, *, read_tokens: int) -> Pieces | None:
        """The pieces of a text after a prompt, scored now; None where it does not fit, or its tokens are not its own.

        Args:
            read_tokens: of the prompt, from its end: what was read to answer it.
        """
        host = self.host
        ids = host.tok_encode(target, add_special_tokens=False)
        context = host.tok_encode(prompt)[-read_tokens:]
        if not ids or not context or len(context) + len(ids) - 1 > host.max_length:
            return None
        window = ((*context, *ids[:-1]), tuple(ids))
        self.windows = {window: None}
        host._loglikelihood_tokens([(None, context, list(ids))], disable_tqdm=True, override_bs=1)
        costs = self.windows[window]
        return None if costs is None else self._pieces(target, ids, costs)

    def answer(self, prompt: str, text: str) -> Generated | None:
        """How an answer to a prompt came about; each of several is told once. None where nothing is known."""
        found = self._generated.get(prompt, [])
        place = next((i for i, one in enumerate(found) if one.text == text), 0)
        return found.pop(place) if found else None

    # The wrapped methods

    def model_call(self, original: Any, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Logits, as ever; the costs of the windows that are waited for are taken from them."""
        logits = original(inps, *args, **kwargs)
        waiting = [window for window, costs in self.windows.items() if costs is None]
        rows = inps.tolist() if waiting else []
        for read, wanted in waiting:
            row = next((i for i, row in enumerate(rows) if tuple(row[: len(read)]) == read), None)
            if row is not None:
                end = len(read) + logits.shape[1] - inps.shape[1]  # a tuned prompt's virtual tokens stand in front
                scored = F.log_softmax(logits[row, end - len(wanted) : end], dim=-1, dtype=self.host.softmax_dtype)
                ids = torch.tensor(wanted, device=scored.device).unsqueeze(1)
                costs = -scored.gather(1, ids).squeeze(1).double()
                self.windows[read, wanted] = tuple(costs.tolist())
        return logits

    def batch_encode(self, original: Any, strings: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """Prompts as tokens, as ever; how many each has before and after it is cut is noted."""
        ids, mask = original(strings, *args, **kwargs)
        read = [int(count) for count in mask.sum(1).tolist()]
        limit = kwargs.get("left_truncate_len")
        whole = [
            int(original([text], **{**kwargs, "left_truncate_len": None})[1].sum()) if count == limit else count
            for text, count in zip(strings, read, strict=True)
        ]
        self._batch = _Batch(list(strings), read, whole)
        return ids, mask

    def model_generate(self, original: Any, context: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Continuations, as ever; how each ended is noted."""
        batch, self._batch = self._batch, None
        if batch is None or len(batch.prompts) != len(context):
            return original(context, *args, **kwargs)
        rows = [row for row, prompt in enumerate(batch.prompts) if prompt in self.by_token]
        costs = _Costs(rows, count=len(context), width=context.shape[1])
        if rows and "logits_processor" not in kwargs:
            kwargs = {**kwargs, "logits_processor": [costs]}
        made = original(context, *args, **kwargs)
        of_rows = costs.all(made)
        stops = [stop for stop in kwargs.get("stop") or () if stop]
        for row, prompt in enumerate(batch.prompts):
            ids = made[row, context.shape[1] :].tolist()
            told = self._ended(ids, stops, of_rows.get(row))
            self._generated[prompt].append(
                Generated(*told[:3], prompt_tokens=batch.whole[row], read_tokens=batch.read[row], pieces=told[3])
            )
        return made

    def _ended(
        self, ids: Sequence[int], stops: Sequence[str], nats: Sequence[float] | None
    ) -> tuple[str, str, int, Pieces | None]:
        """Text, stop reason, new tokens and pieces of a continuation."""
        host = self.host
        think = host.think_end_token if isinstance(getattr(host, "think_end_token", None), str) else None
        text = str(postprocess_generated_text(host.tok_decode(ids), list(stops), think))
        own = _before_end(ids, _end_ids(host))
        reason, count = "end_of_text" if len(own) < len(ids) else "length", len(own)

        def stopped(length: int) -> bool:
            decoded = host.tok_decode(own[:length])
            return any(stop in decoded for stop in stops)

        if stopped(len(own)):
            reason = "stop_string"
            count = bisect_left(range(len(own)), True, key=lambda place: stopped(place + 1)) + 1
        return text, reason, count, self._answer_pieces(text, own, nats)

    def _answer_pieces(self, text: str, own: Sequence[int], nats: Sequence[float] | None) -> Pieces | None:
        """None where the tokens' bytes do not begin with the text."""
        each = token_bytes(self.host.tokenizer, own) if nats else None
        if each is None or nats is None or not b"".join(each).decode("utf-8", "replace").startswith(text):
            return None
        return pieces_of_bytes(each, nats[: len(own)]).first(len(text))


def watch(host: Any) -> HostWatch | None:
    """Begin to watch a model; None where it is none that reads and continues text as `hf`'s causal models do."""
    if getattr(host, "backend", "") != "causal" or not all(hasattr(host, name) for name in METHODS):
        return None
    made = HostWatch(host)
    for name, wrapper in zip(METHODS, (made.model_call, made.batch_encode, made.model_generate), strict=True):
        setattr(host, name, _wrapped(wrapper, getattr(host, name)))
    return made


def _wrapped(wrapper: Any, original: Any) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        if "context" in kwargs:
            return wrapper(original, kwargs.pop("context"), *args, **kwargs)
        return wrapper(original, *args, **kwargs)

    return method


class _Costs:
    """A logits processor that changes nothing: of some rows it notes -log p of every token that is chosen."""

    def __init__(self, rows: Sequence[int], *, count: int, width: int) -> None:
        """Of `rows` of `count` prompts of `width` tokens."""
        self.rows, self.count, self.width = list(rows), count, width
        self.nats: list[list[float]] = []
        self._log_p: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """What `generate` calls before it chooses a token; several beams of a prompt are not followed."""
        if len(scores) != self.count:
            return scores
        if self._log_p is not None:
            self._take(input_ids[self.rows, -1])
        self._log_p = scores[self.rows].float().log_softmax(-1)
        return scores

    def _take(self, chosen: Tensor) -> None:
        assert self._log_p is not None
        self.nats.append((-self._log_p.gather(1, chosen.unsqueeze(1))).squeeze(1).tolist())

    def all(self, made: Tensor) -> dict[int, list[float]]:
        """By row, what its new tokens cost; empty where the processor was not asked."""
        if self._log_p is None or made.shape[1] != self.width + len(self.nats) + 1:
            return {}
        self._take(made[self.rows, -1])
        return {row: [step[place] for step in self.nats] for place, row in enumerate(self.rows)}


def _end_ids(host: Any) -> set[int]:
    """Ids that end a continuation."""
    told = getattr(getattr(host.model, "generation_config", None), "eos_token_id", None)
    return {int(i) for i in (told if isinstance(told, (list, tuple)) else [told, host.eot_token_id]) if i is not None}


def _before_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """The tokens before the first that ends a continuation; what follows it is padding."""
    end = next((place for place, own in enumerate(ids) if own in ends), len(ids))
    return list(ids[:end])


# Sidecar lines of a model without latents: how it answered, and what its tokens cost.

AGREEMENT = 1e-4  # Relative difference from the sum that lm-eval tells beyond which a text's tokens are not kept


def answer_record(request: Instance, repeat: int, seen: Generated, host: Any) -> AnswerRecord:
    """How a continuation was generated."""
    prompt = split_prompt(request.args[0])
    shown, pieces = len(prompt.demonstrations), (*prompt.demonstrations, prompt.question)
    cut = seen.read_tokens < seen.prompt_tokens

    def fits(first: int) -> bool:
        return len(host.tok_encode("".join(pieces[first:]), add_special_tokens=False)) <= seen.read_tokens

    return AnswerRecord(
        **named(request),
        repeat=repeat,
        demonstrations=shown,
        demonstrations_read=shown - bisect_left(range(shown), True, key=fits) if cut else shown,
        prompt_tokens=seen.prompt_tokens,
        read_tokens=seen.read_tokens,
        truncated=cut,
        new_tokens=seen.new_tokens,
        stop_reason=seen.stop_reason,
    )


def answer_tokens(request: Instance, seen: Generated, host: Any) -> TokenRecord | None:
    """What the tokens of an answer cost when they were generated; None where that was not kept."""
    if seen.pieces is None:
        return None
    return _tokens(request, seen.pieces, ANSWER, host=host, nats=math.fsum(seen.pieces.nats))


def text_tokens(request: Instance, pieces: Pieces | None, host: Any, *, nats: float) -> TokenRecord | None:
    """What the tokens of a text cost; None where that is not known, or does not add up to `nats`, lm-eval's sum."""
    if pieces is None or not math.isclose(math.fsum(pieces.nats), nats, rel_tol=AGREEMENT):
        return None
    return _tokens(request, pieces, TEXT, host=host, nats=nats)


def target_tokens(request: Instance, seen: Generated, watched: HostWatch) -> TokenRecord | None:
    """What the tokens of the data set's answer cost after the prompt; None where that cannot be told."""
    reference = reference_of(request)
    pieces = watched.target_pieces(request.args[0], reference, read_tokens=seen.read_tokens) if reference else None
    if pieces is None:
        return None
    own = pieces.after(len(reference) - len(reference.lstrip()))
    return _tokens(request, own, TARGET, host=watched.host, nats=math.fsum(pieces.nats))


def _tokens(request: Instance, pieces: Pieces, part: str, *, host: Any, nats: float) -> TokenRecord:
    return TokenRecord(
        **named(request),
        repeat=0,
        part=part,
        tokenizer=Path(str(getattr(host.tokenizer, "name_or_path", ""))).name,
        draws=0,
        nats=nats,
        kl_nats=None,
        piece_characters=pieces.characters,
        piece_nats=rounded(pieces.nats),
    )


CHUNK = 32  # Requests given to the host at once, at least; its batch size where that is more
METHODS_BASELINES = {"generate_until": "generating", "loglikelihood": "scoring", "loglikelihood_rolling": "scoring"}


def keep_answers(host: Any, *, seed: int, progress: Callable[[int, str], Progress], token_nll: int = 0) -> Any:
    """Let a host model's three methods look answers up and append what they find.

    A causal model scores a text after exactly one prefix token (`host_tokens.HostEncoding`) and answers with a
    `TextScore`; what must be known of texts that its tokenizer does not spell is told by `text_caveats`.

    Args:
        host: lm-eval's `hf`; gets `settings` and `worklist` as an LTM has them.
        seed: of what it draws.
        progress: shows how far a call is.
        token_nll: of so many first documents of a task, what each token costs is kept in `token_records`.

    Returns:
        The host.
    """
    causal = getattr(host, "backend", "") == "causal"
    encoding = encode_alike(host) if causal else None
    host.unused_decoding = plain_decoding(host.model)
    host.settings, host.worklist = settings_of(host, seed), Worklist()
    host.text_caveats = encoding.caveats if encoding is not None else lambda texts: []
    host.own_tokens = identity_of(host.tokenizer) if encoding is not None else None
    host.token_nll, host.token_records, host.answer_records = token_nll, [], []
    host.model.register_forward_pre_hook(lambda *_: pulse.mark())
    if getattr(host, "batch_size", None) == "auto":
        host.batch_size_per_gpu = host._detect_batch_size()  # which the host would do again with every chunk
    watched = watch(host)
    for name, label in METHODS_BASELINES.items():
        setattr(host, name, _kept(host, name, seed=seed, label=label, progress=progress, watched=watched))
    return host


KEPT_DECODING = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def plain_decoding(model: Any) -> list[str]:
    """Let a model decode as it is asked to, and return the options of its own that would have changed that.

    `generate` takes from a checkpoint's generation_config.json whatever a call does not name: beams, penalties, a time
    limit. Only the ids of special tokens are kept.
    """
    own = getattr(model, "generation_config", None)
    if own is None:
        return []
    kept = {name: getattr(own, name, None) for name in KEPT_DECODING}
    model.generation_config = type(own)(**kept)
    # named by every request, or without influence on an answer
    idle = {"do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens", "use_cache"}
    idle |= {"transformers_version", *KEPT_DECODING}
    at_one = {"num_beams", "num_beam_groups", "num_return_sequences", "repetition_penalty", "length_penalty"}
    at_one |= {"encoder_repetition_penalty", "typical_p", "guidance_scale"}  # of which 1 changes nothing
    return sorted(
        name
        for name, value in own.to_dict().items()
        if name not in idle and not name.startswith(("_", "output_", "return_"))
        if value and not (value == 1 and name in at_one)
    )


def settings_of(host: Any, seed: int) -> dict[str, Any]:
    """What changes a host's answers and is no part of a request."""
    model, tokenizer = host.model, host.tokenizer
    commit = getattr(model.config, "_commit_hash", None)
    weights = commit or weights_sha256({name: one.detach().cpu() for name, one in model.named_parameters()})
    return {
        "model": "hf",
        "weights": weights,
        "architecture": digest({k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}),
        "tokenizer": digest([identity_of(tokenizer)["sha256"], sorted(tokenizer.get_vocab().items())]),
        "added_tokens": [list(ids) for ids in added_tokens(tokenizer)],
        "prefix": host.prefix_token_id,
        "dtype": str(model.dtype),
        "max_length": host.max_length,
        "seed": seed,
        "device": torch.device(host.device).type,
        "versions": program("transformers"),
    }


def _kept(
    host: Any,
    name: str,
    *,
    seed: int,
    label: str,
    progress: Callable[[int, str], Progress],
    watched: HostWatch | None,
) -> Callable[..., list[Any]]:
    """The host's method of this name with the journal around it."""
    ask = getattr(host, name)

    def method(requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        placed = list(numbered(requests))
        by_token = _by_token(host, name, placed) if watched is not None else [False] * len(placed)
        items = [
            item_of(request, repeat=repeat, by_token=own)
            for (request, repeat), own in zip(placed, by_token, strict=True)
        ]
        size = getattr(host, "batch_size", 1)
        length = max(CHUNK, size) if isinstance(size, int) else CHUNK
        chunks = list(_chunks([item.size for item in items], length))
        for number, chunk in enumerate(chunks):
            for place in chunk:
                items[place] = replace(items[place], together=number)
        contents = [content_of(request, repeat=repeat) for request, repeat in placed]
        work = host.worklist.open(name, items)
        todo = set(work.todo)
        bar = progress(len(todo), label)
        for chunk in chunks:
            if not todo.isdisjoint(chunk):
                if watched is not None:
                    texts = [requests[place].args[0] for place in chunk if by_token[place] and place in todo]
                    watched.begin(texts if name == "loglikelihood_rolling" else (), prompts=texts)
                seed_host(int(digest([seed, contents[chunk[0]]])[:8], 16))  # whatever of it is kept token by token
                found = _asked(ask, [requests[place] for place in chunk], host)
                own = [(place, answer) for place, answer in zip(chunk, found, strict=True) if place in todo]
                for place, answer in own:
                    told = _told(watched, *placed[place], answer, by_token=by_token[place])
                    work.done(place, told, batch_ended=place == own[-1][0])
                bar.advance(len(own), 0)
        bar.close()
        answers = work.close()
        for request, answer in zip(requests, answers, strict=True):
            own_place = named(request)  # an equal request of another document may have been answered first
            host.answer_records.extend(replace(record, **own_place) for record in answer.records)
            host.token_records.extend(replace(record, **own_place) for record in answer.tokens)
        return [_read_back(answer.value) for answer in answers]

    return method


def _asked(ask: Callable[..., list[Any]], requests: list[Instance], host: Any) -> list[Any]:
    """What the host answers.

    Raises:
        CheckpointError: it fails in a way that is its own: a model that another wrote, on what a user pointed at.
    """
    try:
        return ask(requests, disable_tqdm=True)
    except BaseException as error:
        if not is_hosts(error):
            raise
        cause = [*str(error).strip().splitlines(), ""][0]
        raise CheckpointError(
            f"baseline {getattr(host.model, 'name_or_path', '')}: transformers failed to answer "
            f"({type(error).__name__}: {cause[:140]}); LTM_EVAL_DEBUG=1 shows where"
        ) from error


def is_hosts(error: BaseException) -> bool:
    """Whether an error is one of the many types that transformers raises of a model it cannot use: neither ours, nor of
    memory or a file, nor a wish to stop. A panic of its tokenizers' Rust code is no `Exception`.
    """
    if type(error).__name__ == "PanicException":
        return True
    if isinstance(error, (LtmEvalError, MemoryError)) or not isinstance(error, Exception):
        return False
    return not (ran_out(error) or "enough memory" in str(error) or (isinstance(error, OSError) and error.errno))


def _by_token(host: Any, name: str, placed: Sequence[tuple[Instance, int]]) -> list[bool]:
    """Of which requests each token's cost is kept: texts, and the first answers, of the first documents."""
    wanted = first_documents([request for request, _ in placed], host.token_nll if name != "loglikelihood" else 0)
    return [is_by_token(request, repeat, wanted) for request, repeat in placed]


def _told(watched: HostWatch | None, request: Instance, repeat: int, answer: Any, *, by_token: bool) -> Answer:
    """An answer with what was seen of it."""
    records: tuple[AnswerRecord, ...] = ()
    tokens: list[TokenRecord | None] = []
    if watched is not None and request.request_type == "generate_until":
        seen = watched.answer(request.args[0], answer)
        records = (answer_record(request, repeat, seen, watched.host),) if seen is not None else ()
        if seen is not None and by_token:
            tokens = [answer_tokens(request, seen, watched.host), target_tokens(request, seen, watched)]
    elif watched is not None and by_token:
        pieces = watched.text_pieces(request.args[0])
        tokens = [text_tokens(request, pieces, watched.host, nats=-float(answer))]
    return Answer(
        _plain(answer),
        records,
        tokens=tuple(one for one in tokens if one is not None),
    )


def _chunks(sizes: Sequence[int], length: int) -> Iterator[list[int]]:
    """Places in runs of `length`, longest first."""
    ordered = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    for start in range(0, len(ordered), length):
        yield ordered[start : start + length]


def _plain(answer: Any) -> Any:
    """Text, a number, a number with a flag, or a text's score with its tokens, as JSON holds them."""
    if isinstance(answer, TextScore):
        return answer.to_json()
    if isinstance(answer, (tuple, list)):
        return [float(answer[0]), bool(answer[1])]
    return answer if isinstance(answer, str) else float(answer)


def _read_back(value: Any) -> Any:
    if isinstance(value, dict):
        return TextScore.from_json(value)
    return tuple(value) if isinstance(value, list) else value


def seed_host(seed: int) -> None:
    """A baseline draws from the process's own generators, which only lm-eval's command seeds; an LTM has its own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what hosts draw from
    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        torch.default_generator.manual_seed(seed)  # the other way would wait for a GPU's first use, long afterwards
    else:
        torch.manual_seed(seed)
