"""Baselines: lm-eval's `hf` models with a journal, exact tokens, and records that lm-eval does not keep.

lm-eval's `hf` answers all requests of a call before it returns any, so it is given chunks, longest first. A chunk
depends on the whole list of requests only, its draws are seeded by its content, and one process answers all of it: a
resumed or shared run has the same batches and random numbers as an uninterrupted one in a single process.

lm-eval 0.4.13 puts a prefix token in front of a text that it scores and keeps the tokens that the tokenizer adds: a
beginning-of-text token is then scored, and an end-of-text token stands between a context and its continuation. Here a
whole text is scored after exactly one prefix token, lm-eval's, with nothing behind it; a context keeps the tokens that
the tokenizer puts in front of it, and none behind it.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn import functional as F
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ltm_eval.harness.answering import named, token_record
from ltm_eval.harness.evaluation import seed_generators, value_for_lm_eval
from ltm_eval.model.checkpoint import weights_sha256
from ltm_eval.model.tokenizer import END_OF_TEXT
from ltm_eval.results.files import ANSWER, TARGET, TEXT, AnswerRecord, Ending, Part, TokenRecord
from ltm_eval.results.tokens import Pieces, pieces_of_bytes, pieces_of_offsets
from ltm_eval.runs.journal import digest
from ltm_eval.runs.worklist import Answer, Request, Worklist, first_documents, is_by_token, numbered
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


@cache
def _byte_of() -> dict[str, int]:
    """Return GPT-2's characters and the byte that each stands for."""
    return {character: byte for byte, character in bytes_to_unicode().items()}


def token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes] | None:
    """Return the bytes of every token of a byte-level vocabulary; None for another kind.

    Other kinds of vocabulary can look the same, so the caller compares the bytes with the text.
    """
    known = _byte_of()
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    if any(token is None or not known.keys() >= set(token) for token in tokens):
        return None
    return [bytes(known[symbol] for symbol in token) for token in tokens]


def token_offsets(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return the first character and the end of every token; None if the tokenizer cannot, or gives other ids."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    for special in (True, False):
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special)
        if list(encoded["input_ids"]) == list(ids):
            return [(int(begin), int(end)) for begin, end in encoded["offset_mapping"]]
    return None


def added_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a tokenizer puts in front of every text and behind it; none if no probe has tokens."""
    for probe in PROBES:
        whole, bare = tokenizer.encode(probe), tokenizer.encode(probe, add_special_tokens=False)
        places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare] if bare else []
        if places:
            return tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])
    return (), ()


def identity_name(tokenizer: Any) -> str:
    """Return the last part of the path or hub id that a tokenizer was loaded from, or its class."""
    return Path(str(getattr(tokenizer, "name_or_path", ""))).name or type(tokenizer).__name__


def identity_of(tokenizer: Any) -> dict[str, str]:
    """Return name and sha256 of what splits a text into tokens; special tokens put around a text have no part in it.

    A byte-level encoding that splits as GPT-2's does has the digest of the same ranks in tiktoken's form
    (`tokenizer.Tokenizer.digest`), so that a model of `transformers` and one of ours that read alike say so.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = identity_name(tokenizer)
    if backend is None:
        vocabulary = sorted(tokenizer.get_vocab().items())
        return {"name": name, "sha256": _sha256({"class": type(tokenizer).__name__, "vocabulary": vocabulary})}
    content = json.loads(backend.to_str())
    ranks = _ranks(content)
    parts = {key: content.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return {"name": name, "sha256": _sha256(parts) if ranks is None else _digest_of_ranks(ranks)}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_of_ranks(ranks: Sequence[bytes]) -> str:
    """Return the digest as `tokenizer.Tokenizer.digest` does, with GPT-2's splitting pattern."""
    from tiktoken_ext.openai_public import r50k_pat_str

    content = hashlib.sha256(r50k_pat_str.encode())
    for rank, token in enumerate(ranks):
        content.update(b"%d:%d:" % (rank, len(token)) + token)
    return content.hexdigest()


def _ranks(content: Mapping[str, Any]) -> list[bytes] | None:
    """Return the tokens' bytes by rank if a tokenizer merges as tiktoken does with GPT-2's pattern, else None."""
    model, before = content["model"], content.get("pre_tokenizer") or {}
    plain = all(model.get(key) in (value if isinstance(value, tuple) else (value,)) for key, value in PLAIN_BPE.items())
    split = all(before.get(key, value) == value for key, value in BYTE_LEVEL.items()) and "type" in before
    if not (plain and split) or content.get("normalizer") is not None:
        return None
    special = {one["content"] for one in content.get("added_tokens") or ()}
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


CHUNK = 32  # Minimum number of requests given to lm-eval's model at once; its batch size if that is more
AGREEMENT = 1e-4  # Relative difference from lm-eval's sum beyond which a text's per-token NLL is not kept
KEPT_DECODING = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
Window = tuple[tuple[int, ...], tuple[int, ...]]  # What is read, and the tokens that are scored at its last positions


@dataclass(frozen=True)
class Generated:
    """One continuation as it came out of the model."""

    text: str  # Cut as lm-eval cuts it
    stop_reason: Ending
    new_tokens: int  # Up to and with the stop string's
    prompt_tokens: int  # Of the whole prompt
    read_tokens: int  # Of these, how many the model read
    pieces: Pieces | None  # The text with its NLL; None if not asked for, or if its tokens do not spell the text


class JournaledHF(HFLM):  # type: ignore[misc]  # transformers has no types
    """lm-eval's `hf` with a journal; of a causal model it also records per-token NLL and how each answer ended.

    A seq2seq model is left as lm-eval has it but for the journal.
    """

    _model: Any
    _batch: list[tuple[str, int, int]]  # prompts encoded together: text, tokens, of these read

    def __init__(
        self,
        pretrained: str,
        *,
        seed: int,
        name: str = "",
        progress: Callable[[int, str], Progress] = pulse.silent,
        token_nll: int = 0,
        **options: Any,
    ) -> None:
        """Load a model.

        Args:
            pretrained: a transformers folder or hub id.
            seed: of what it draws.
            name: in errors; empty takes `pretrained`.
            progress: shows how far a call is.
            token_nll: number of first documents of each task whose per-token NLL is kept in `token_records`.
            options: of lm-eval's `hf`.

        Raises:
            CheckpointError: weights are missing from its files, or are not finite.
        """
        self.name = name or pretrained
        self.missing_weights: list[str] = []
        self.unused_weights: list[str] = []
        super().__init__(pretrained, **options)
        self._check_weights()
        self.seed, self.progress, self.token_nll = seed, progress, token_nll
        self.answer_records: list[AnswerRecord] = []
        self.token_records: list[TokenRecord] = []
        self.worklist = Worklist()
        self._whole_text = False  # whether a text is encoded that lm-eval puts its prefix token before
        self._watch()
        if self.backend == "causal":
            self._settle_tokens()
        self.own_tokens = identity_of(self.tokenizer) if self.backend == "causal" else None
        self.unused_decoding = plain_decoding(self.model)
        self.settings = self._settings()
        self.model.register_forward_pre_hook(lambda *_: pulse.mark())
        if self.batch_size == "auto":
            self.batch_size_per_gpu = self._detect_batch_size()  # which lm-eval would do again with every chunk

    def _create_model(self, pretrained: str, **options: Any) -> None:
        super()._create_model(pretrained, output_loading_info=True, **options)
        self._model, found = self._model
        self.missing_weights, self.unused_weights = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])

    def _check_weights(self) -> None:
        if self.missing_weights:
            raise CheckpointError(
                f"baseline {self.name}: {len(self.missing_weights)} weights that its config asks for are not in its "
                f"files ({self.missing_weights[0]} …), and transformers filled them with random numbers; complete the "
                "files"
            )
        for name, weight in self.model.named_parameters():
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                raise CheckpointError(f"baseline {self.name}: {name} holds NaN or infinite values; load other weights")

    def _settle_tokens(self) -> None:
        """Find what the tokenizer adds, and give lm-eval a prefix and a padding token that the model has."""
        front, self.back = added_tokens(self.tokenizer)
        self.front = () if self.add_bos_token is False else front
        if self.prefix_token_id is None and self.front:
            self.custom_prefix_token_id = self.front[-1]
        self.rows: int | None = getattr(self.model.get_input_embeddings(), "num_embeddings", None)
        if self.rows is not None and (self.tokenizer.pad_token_id or 0) >= self.rows:  # lm-eval adds one of its own
            marks = [i for i, one in self.tokenizer.added_tokens_decoder.items() if one.special and i < self.rows]
            if marks:
                self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(marks[0])

    def _settings(self) -> dict[str, Any]:
        """Return all that changes an answer and is not part of a request; the journal is keyed by it."""
        config, tokenizer = self.model.config, self.tokenizer
        commit = getattr(config, "_commit_hash", None)
        weights = commit or weights_sha256({name: one.detach().cpu() for name, one in self.model.named_parameters()})
        return {
            "model": "hf",
            "weights": weights,
            "architecture": digest({k: v for k, v in config.to_dict().items() if not k.startswith("_")}),
            "tokenizer": digest([identity_of(tokenizer)["sha256"], sorted(tokenizer.get_vocab().items())]),
            "added_tokens": [list(ids) for ids in added_tokens(tokenizer)],
            "prefix": self.prefix_token_id,
            "dtype": str(self.model.dtype),
            "max_length": self.max_length,
            "seed": self.seed,
            "device": torch.device(self.device).type,
            "versions": program("transformers"),
        }

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._journaled("generate_until", requests, super().generate_until, label="generating")

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._journaled("loglikelihood", requests, super().loglikelihood, label="scoring")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._journaled("loglikelihood_rolling", requests, self._score_texts, label="scoring")

    def _journaled(
        self, kind: str, requests: list[Instance], ask: Callable[..., list[Any]], *, label: str
    ) -> list[Any]:
        """Answer what the journal lacks, chunk by chunk, and return all answers."""
        by_text = self.backend == "causal" and kind != "loglikelihood"
        wanted = first_documents(requests, self.token_nll if by_text else 0)
        asked = [
            Request(instance=one, repeat=repeat, by_token=is_by_token(one, repeat, wanted))
            for one, repeat in numbered(requests)
        ]
        order = sorted(range(len(asked)), key=lambda place: (-asked[place].size, place))
        length = max(CHUNK, self.batch_size)
        chunks = [order[start : start + length] for start in range(0, len(order), length)]
        for number, chunk in enumerate(chunks):
            for place in chunk:
                asked[place] = replace(asked[place], batch=number)
        work = self.worklist.open(kind, asked)
        todo = set(work.todo)
        bar = self.progress(len(todo), f"{asked[0].task if asked else ''}: {label}")
        for chunk in chunks:
            own = [place for place in chunk if place in todo]
            if not own:
                continue
            texts = [requests[place].args[0] for place in own if asked[place].by_token]
            self._watch(texts if kind == "loglikelihood_rolling" else (), prompts=texts)
            seed_generators(int(digest([self.seed, asked[chunk[0]].asked])[:8], 16))
            with transformers_errors(CheckpointError, self.name, "failed to answer"):
                answers = dict(zip(chunk, ask([requests[place] for place in chunk], disable_tqdm=True), strict=True))
            for place in own:
                work.done(place, self._answer(asked[place], answers[place]), batch_ended=place == own[-1])
            bar.advance(len(own), 0)
        bar.close()
        found = work.close()
        for request, answer in zip(requests, found, strict=True):
            own_place = named(request)  # an equal request of another document may have been answered first
            self.answer_records.extend(
                replace(record, **own_place) for record in answer.records if isinstance(record, AnswerRecord)
            )
            self.token_records.extend(replace(record, **own_place) for record in answer.tokens)
        return [value_for_lm_eval(answer.value) for answer in found]

    def _score_texts(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        if self.backend != "causal":
            return list(super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))
        self._needed_prefix()
        self._whole_text = True
        try:
            found = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self._whole_text = False
        return [
            TextScore(nats, tokens=len(self.bare(request.args[0])))
            for nats, request in zip(found, requests, strict=True)
        ]

    def _answer(self, request: Request, answer: Any) -> Answer:
        """Return what lm-eval's method answered, with its records."""
        instance, text = request.instance, request.instance.args[0]
        records: tuple[AnswerRecord, ...] = ()
        tokens: list[TokenRecord | None] = []
        if instance.request_type == "generate_until":
            seen = self.generated(text, answer)
            records = (self.answer_record(instance, request.repeat or 0, seen),) if seen is not None else ()
            if seen is not None and request.by_token:
                target, reference = None, request.reference
                if reference:
                    target = self.target_pieces(text, reference, read_tokens=seen.read_tokens)
                if target is not None:
                    target = target.after(len(reference) - len(reference.lstrip()))
                tokens = [self._tokens(instance, seen.pieces, ANSWER), self._tokens(instance, target, TARGET)]
            value: Any = answer
        elif isinstance(answer, (tuple, list)):
            value = [float(answer[0]), bool(answer[1])]
        else:
            value = answer.to_json() if isinstance(answer, TextScore) else float(answer)
            pieces = self.text_pieces(text) if request.by_token else None
            if pieces is not None and math.isclose(math.fsum(pieces.nats), -float(answer), rel_tol=AGREEMENT):
                tokens = [self._tokens(instance, pieces, TEXT, nats=-float(answer))]
        return Answer(value, records, tokens=tuple(one for one in tokens if one is not None))

    def answer_record(self, request: Instance, repeat: int, seen: Generated) -> AnswerRecord:
        """Return how a continuation was generated, as a line of the sidecar."""
        prompt = split_prompt(request.args[0])
        shown, pieces = len(prompt.demonstrations), (*prompt.demonstrations, prompt.question)
        cut = seen.read_tokens < seen.prompt_tokens

        def fits(first: int) -> bool:
            return len(self.tok_encode("".join(pieces[first:]), add_special_tokens=False)) <= seen.read_tokens

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

    def _tokens(
        self, request: Instance, pieces: Pieces | None, part: Part, *, nats: float | None = None
    ) -> TokenRecord | None:
        if pieces is None:
            return None
        name = Path(str(getattr(self.tokenizer, "name_or_path", ""))).name
        return token_record(request, pieces, part, tokenizer=name, nats=nats)

    def bare(self, text: str) -> list[int]:
        """Return the tokens of a text by itself, without any that the tokenizer adds.

        Raises:
            TokenizerError: the model has no row for one of them.
        """
        return self._checked(super().tok_encode(text, add_special_tokens=False))

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        if self.backend != "causal":
            return list(super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs))
        if add_special_tokens is None:
            ids = self.bare(string)
            ids = ids if self._whole_text or self._begins(string) else self._checked([*self.front, *ids])
        else:
            ids = self._checked(super().tok_encode(string, add_special_tokens=add_special_tokens))
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if self.backend != "causal":
            encoded: tuple[Tensor, Tensor]
            encoded = super().tok_batch_encode(list(strings), padding_side, left_truncate_len, truncation)
            return encoded
        ids, mask = self._encode_batch(list(strings), padding_side, left_truncate_len, truncation)
        read = [int(count) for count in mask.sum(1).tolist()]
        whole = [
            int(self._encode_batch([text], padding_side, None, truncation)[1].sum())
            if count == left_truncate_len
            else count
            for text, count in zip(strings, read, strict=True)
        ]
        self._batch = list(zip(strings, whole, read, strict=True))
        return ids, mask

    def _encode_batch(self, strings: list[str], padding_side: str, limit: int | None, truncation: bool) -> Any:
        """Encode without what the tokenizer puts behind a prompt."""
        behind = len(self.back) if padding_side == "left" else 0
        length = limit + behind if limit else None
        ids, mask = super().tok_batch_encode(strings, padding_side, length, truncation)
        if behind and all(tuple(row[-behind:]) == self.back for row in ids.tolist()):
            ids, mask = ids[:, :-behind], mask[:, :-behind]
        elif behind and limit:  # the prompts begin with a beginning-of-text token, so nothing was added
            ids, mask = ids[:, -limit:], mask[:, -limit:]
        ids = ids.masked_fill(mask == 0, 0) if self.rows and (self.tokenizer.pad_token_id or 0) >= self.rows else ids
        self._checked([int(ids.max())] if ids.numel() else [])
        return ids, mask

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """Decode as lm-eval does; None for an end-of-text token that the tokenizer lacks, so that none is a stop."""
        return None if tokens is None else str(super().tok_decode(tokens, skip_special_tokens=skip_special_tokens))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode a context, which is the prefix token if it has none of its own, and what follows it.

        Raises:
            TokenizerError: the continuation has no tokens.
        """
        if self.backend != "causal":
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        blanks = len(context) - len(context.rstrip())
        context, continuation = context[: len(context) - blanks], context[len(context) - blanks :] + continuation
        before = self.tok_encode(context)
        after = self.tok_encode(context + continuation)[len(before) :] or self.bare(continuation)
        if not after:
            raise TokenizerError(
                f"tokenizer {identity_name(self.tokenizer)}: {continuation[:40]!r} has no tokens, so it cannot be "
                "scored after a context"
            )
        return before or self._needed_prefix(), after

    def _needed_prefix(self) -> list[int]:
        """Return the token before a text.

        Raises:
            TokenizerError: there is none.
        """
        if self.prefix_token_id is None:
            raise TokenizerError(
                f"tokenizer {identity_name(self.tokenizer)}: names neither a beginning- nor an end-of-text token, one "
                "of which stands before a text that is scored; set bos_token or eos_token in its tokenizer_config.json"
            )
        return self._checked([self.prefix_token_id])

    def _begins(self, text: str) -> bool:
        """Return whether a text has its prefix token written out."""
        written = "" if self.prefix_token_id is None else str(self.tokenizer.decode(self.prefix_token_id))
        return bool(written) and text.startswith(written)

    def _checked(self, ids: Sequence[int]) -> list[int]:
        highest = max(ids, default=0)
        if self.rows is not None and highest >= self.rows:
            raise TokenizerError(
                f"tokenizer {identity_name(self.tokenizer)}: gives token {highest:,}, the model has {self.rows:,} "
                "rows; pass the tokenizer that the model was trained with"
            )
        return list(ids)

    def text_caveats(self, texts: Sequence[str]) -> list[str]:
        """Return what a reader of figures of whole texts must know: texts that their tokens do not spell."""
        if self.backend != "causal":
            return []
        empty = odd = unspelt = marks = 0
        for text in dict.fromkeys(texts):
            ids = self.bare(text)
            each = token_bytes(self.tokenizer, ids)
            if each is None or b"".join(each).decode("utf-8", "replace") != text:
                none = self._of_no_character(text, ids)
                empty, odd = empty + none, odd + bool(none)
                spelt = str(self.tok_decode(ids, skip_special_tokens=False))
                unspelt += spelt.removeprefix(" ") != text.removeprefix(" ")
            marks += text.endswith(END_OF_TEXT) and len(self.bare(END_OF_TEXT)) > 1
        total = f"{len(set(texts)):,} documents"
        counted = {
            f"{empty:,} scored tokens of {odd:,} of {total} stand for no character of the text": empty,
            f"the tokens of {unspelt:,} of {total} do not spell the text, so other text is scored": unspelt,
            f"{END_OF_TEXT} at the end of {marks:,} of {total} is scored as plain text": marks,
        }
        return [f"tokenizer {identity_name(self.tokenizer)}: {words}" for words, count in counted.items() if count]

    def _of_no_character(self, text: str, ids: Sequence[int]) -> int:
        """Count tokens of no character: of no length, added, or a mark of a space where the text has none."""
        special = dict(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        found = 0
        for token, name, (begin, end) in zip(ids, names, token_offsets(self.tokenizer, text, ids) or (), strict=False):
            own = text[begin:end]
            mark = not str(name).strip(SPACE_MARK) and not own.isspace()
            found += not own or (token in special and special[token] != own) or mark
        return found

    # What lm-eval computes and does not return: per-token NLL, how an answer ended, how much of a prompt was read

    def _watch(self, texts: Iterable[str] = (), *, prompts: Collection[str] = ()) -> None:
        """Begin a call of the model.

        Args:
            texts: texts to score whose per-token NLL is kept.
            prompts: prompts to continue whose per-token NLL is kept.
        """
        self._by_token = set(prompts)
        # tokens and windows of each text; the NLL of each window's scored tokens, once it is known
        self._texts = {text: self._windows_of(text) for text in texts}
        self._windows: dict[Window, tuple[float, ...] | None] = {
            window: None for _, windows in self._texts.values() for window in windows
        }
        self._batch = []
        self._generated: dict[str, list[Generated]] = defaultdict(list)

    def _windows_of(self, text: str) -> tuple[list[int], list[Window]]:
        """Return a text's tokens, and its windows as lm-eval's `loglikelihood_rolling` cuts them."""
        ids = self.bare(text)
        found = []
        for context, wanted in map(
            make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
        ):
            read = (*context, *wanted)[-(self.max_length + 1) :][:-1]
            found.append((tuple(read), tuple(wanted)))
        return ids, found

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = super()._model_call(inps, attn_mask, labels)
        waiting = [window for window, nats in self._windows.items() if nats is None]
        rows = inps.tolist() if waiting else []
        for read, wanted in waiting:
            row = next((i for i, row in enumerate(rows) if tuple(row[: len(read)]) == read), None)
            if row is not None:
                end = len(read) + logits.shape[1] - inps.shape[1]  # a tuned prompt's virtual tokens stand in front
                scored = F.log_softmax(logits[row, end - len(wanted) : end], dim=-1, dtype=self.softmax_dtype)
                ids = torch.tensor(wanted, device=scored.device).unsqueeze(1)
                self._windows[read, wanted] = tuple((-scored.gather(1, ids).squeeze(1).double()).tolist())
        return logits

    def _loglikelihood_tokens(self, *args: Any, **named: Any) -> list[tuple[float, bool]]:
        # lm-eval's rolling method asks for a progress bar whatever its caller wants
        return list(super()._loglikelihood_tokens(*args, **{**named, "disable_tqdm": True}))

    def text_pieces(self, text: str) -> Pieces | None:
        """Return the pieces of a text that was scored; None if not all is known, or its tokens do not spell it."""
        ids, windows = self._texts.get(text, ([], []))
        found = [self._windows.get(window) for window in windows]
        nats = [value for own in found if own is not None for value in own]
        return self._pieces(text, ids, nats) if nats and None not in found else None

    def target_pieces(self, prompt: str, target: str, *, read_tokens: int) -> Pieces | None:
        """Score the data set's answer after a prompt, in a pass of its own; None if it does not fit or is not spelt.

        Args:
            prompt: the whole prompt.
            target: the answer.
            read_tokens: of the prompt, from its end: what was read to answer it.
        """
        ids, context = self.bare(target), self.tok_encode(prompt)[-read_tokens:]
        if not ids or not context or len(context) + len(ids) - 1 > self.max_length:
            return None
        window = ((*context, *ids[:-1]), tuple(ids))
        self._windows = {window: None}
        self._loglikelihood_tokens([(None, context, list(ids))], disable_tqdm=True, override_bs=1)
        nats = self._windows[window]
        return None if nats is None else self._pieces(target, ids, nats)

    def _pieces(self, text: str, ids: Sequence[int], nats: Sequence[float]) -> Pieces | None:
        each = token_bytes(self.tokenizer, ids)
        if each is not None and b"".join(each).decode("utf-8", "replace") == text:
            return pieces_of_bytes(each, nats)
        offsets = token_offsets(self.tokenizer, text, ids)
        return None if offsets is None else pieces_of_offsets(offsets, nats, length=len(text))

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        batch, self._batch = self._batch, []
        rows = [row for row, (prompt, _, _) in enumerate(batch) if prompt in self._by_token]
        chosen = _Chosen(rows, count=len(context), width=context.shape[1])
        if rows:
            kwargs["logits_processor"] = [chosen]
        made: Tensor = super()._model_generate(context, max_length, stop, **kwargs)
        nats = chosen.nats_of(made)
        for row, (prompt, whole, read) in enumerate(batch):
            ids = made[row, context.shape[1] :].tolist()
            seen = self._ended(ids, stop, nats.get(row), prompt_tokens=whole, read_tokens=read)
            self._generated[prompt].append(seen)
        return made

    def _ended(self, ids: list[int], stop: Sequence[str], nats: Sequence[float] | None, **counts: int) -> Generated:
        """Return how a continuation ended; with `nats`, -log p of its tokens, also its pieces."""
        stops = [one for one in stop if one]
        think = self.think_end_token if isinstance(self.think_end_token, str) else None
        text = str(postprocess_generated_text(self.tok_decode(ids), stops, think))
        config = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        ends = set(ends) if isinstance(ends, (list, tuple)) else {ends, self.eot_token_id}
        own = ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
        reason: Ending = "end_of_text" if len(own) < len(ids) else "length"
        count = len(own)

        def stopped(length: int) -> bool:
            decoded = str(self.tok_decode(own[:length]))
            return any(one in decoded for one in stops)

        if stopped(len(own)):
            reason = "stop_string"
            count = bisect_left(range(len(own)), True, key=lambda place: stopped(place + 1)) + 1
        each = token_bytes(self.tokenizer, own) if nats else None
        pieces = None
        if each is not None and nats is not None and b"".join(each).decode("utf-8", "replace").startswith(text):
            pieces = pieces_of_bytes(each, nats[: len(own)]).first(len(text))
        return Generated(text, reason, count, pieces=pieces, **counts)

    def generated(self, prompt: str, text: str) -> Generated | None:
        """Return how an answer to a prompt was generated, each of several once; None if that is not known."""
        found = self._generated.get(prompt, [])
        place = next((i for i, one in enumerate(found) if one.text == text), 0)
        return found.pop(place) if found else None


class _Chosen:
    """A logits processor that changes nothing and notes -log p of every token that is chosen in some rows."""

    def __init__(self, rows: Sequence[int], *, count: int, width: int) -> None:
        """Follow `rows` of `count` prompts of `width` tokens."""
        self.rows, self.count, self.width = list(rows), count, width
        self.nats: list[list[float]] = []
        self._log_p: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Take what `generate` passes before it chooses a token; several beams of a prompt are not followed."""
        if len(scores) != self.count:
            return scores
        if self._log_p is not None:
            self._take(self._log_p, input_ids[self.rows, -1])
        self._log_p = scores[self.rows].float().log_softmax(-1)
        return scores

    def _take(self, log_p: Tensor, chosen: Tensor) -> None:
        self.nats.append((-log_p.gather(1, chosen.unsqueeze(1))).squeeze(1).tolist())

    def nats_of(self, made: Tensor) -> dict[int, list[float]]:
        """Return -log p of the new tokens by row; empty if the processor was not called for each."""
        if self._log_p is None or made.shape[1] != self.width + len(self.nats) + 1:
            return {}
        self._take(self._log_p, made[self.rows, -1])
        return {row: [step[place] for step in self.nats] for place, row in enumerate(self.rows)}


def plain_decoding(model: Any) -> list[str]:
    """Make a model decode as it is asked to, and return the options of its own that would have changed that.

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


@contextmanager
def transformers_errors(kind: type[LtmEvalError], name: str, what: str) -> Iterator[None]:
    """Turn an error that transformers raises of a model it cannot use into one of ours, of this kind.

    Errors of ours, of memory or a file, and signals pass through; a panic of the tokenizers' Rust code, which is no
    `Exception`, does not.
    """
    try:
        yield
    except BaseException as error:
        passes = isinstance(error, (LtmEvalError, MemoryError)) or not isinstance(error, Exception)
        machine = ran_out(error) or "enough memory" in str(error) or (isinstance(error, OSError) and error.errno)
        if type(error).__name__ != "PanicException" and (passes or machine):
            raise
        cause = [*str(error).strip().splitlines(), ""][0]
        raise kind(
            f"baseline {name}: transformers {what} ({type(error).__name__}: {cause[:140]}); LTM_EVAL_DEBUG=1 shows "
            "where"
        ) from error
