"""What lm-eval's `hf` models compute and do not tell: tokens' costs, how an answer ended, what of its prompt was read.

lm-eval 0.4.13 hands back sums and texts. The three places where the rest is known (`_model_call`, `tok_batch_encode`,
`_model_generate` of `lm_eval/models/huggingface.py`) are wrapped on the model's own object: each calls the original
with the same arguments and returns its result, so that answers stay what they are. No pass of the model is added.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.host_tokens import token_bytes, token_offsets
from ltm_eval.token_pieces import Pieces, pieces_of_bytes, pieces_of_offsets

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

METHODS = ("_model_call", "tok_batch_encode", "_model_generate")
Window = tuple[tuple[int, ...], tuple[int, ...]]
"""What is read, and the tokens that are scored after its last positions."""


@dataclass(frozen=True)
class Generated:
    """One continuation as it came out of the model."""

    text: str
    """Cut as lm-eval cuts it."""
    stop_reason: str
    """stop_string, end_of_text or length."""
    new_tokens: int
    """Up to and with the stop string's."""
    prompt_tokens: int
    """Of the whole prompt."""
    read_tokens: int
    """Of these, how many the model read."""
    pieces: Pieces | None
    """The text's pieces with their costs; None where they were not asked for or its tokens are no text of its own."""


@dataclass
class _Batch:
    """Prompts that are generated from together."""

    prompts: list[str]
    read: list[int]
    whole: list[int]


@dataclass
class HostWatch:
    """Watches one model; `watch` makes it."""

    host: Any
    """lm-eval's `hf`."""
    by_token: set[str] = field(default_factory=set)
    """Prompts whose answers are wanted token by token."""
    windows: dict[Window, tuple[float, ...] | None] = field(default_factory=dict)
    """Windows that will be scored; what each scored token costs, once it is known."""
    _generated: dict[str, list[Generated]] = field(default_factory=lambda: defaultdict(list))
    _batch: _Batch | None = None
    _cut: dict[str, tuple[list[int], list[Window]]] = field(default_factory=dict)
    """Tokens and windows of the texts that are waited for."""

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
