"""Generation with a key/value cache: a ring of one window per layer for self-attention, and fixed ones for z.

Prompts of different length decode side by side in lanes; a finished lane takes the next prompt. On a CPU there are
always 16 lanes, because the summation order of a matrix product depends on its number of rows; so a prompt's tokens do
not depend on what else is decoded. The tokens equal those of the released `generate` (github
mingluzhao/Latent-Thought-LM @498e39e, no cache) up to the context limit, where the released code slides the context and
this one stops.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.inference.batching import CPU_LANES, is_small
from ltm_eval.inference.windows import padded_length
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system import progress
from ltm_eval.system.device import give_back, ran_out
from ltm_eval.system.errors import UsageError
from ltm_eval.system.threads import in_pieces, one_thread, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np

    from ltm_eval.inference.options import GenerationConfig


_PROJECTED = 1024  # rows of the output projection per product on a CPU; they fit the cache and need no packing


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue."""

    tokens: tuple[int, ...]  # tokens to read, at least one
    z: Tensor  # (L, N, D)
    # Source of uniform draws, separate for every prompt and repeat; None decodes greedily.
    stream: np.random.Generator | None = None
    by_token: bool = False  # whether to keep the NLL of new tokens


StopReason = Literal["stop_string", "end_of_text", "length", "not_finite"]  # the last: the logits were no numbers


@dataclass(frozen=True)
class Continuation:
    """A generated continuation."""

    index: int  # index of its prompt
    tokens: tuple[int, ...]  # without the end-of-text token, but with the tokens of a stop string
    stop_reason: StopReason
    # Wall time of reading the prompt, plus its share of the decoding steps.
    seconds: float = field(default=0.0, compare=False)
    token_nats: tuple[float, ...] = ()  # -log p of each token under the model; empty if not kept


@dataclass
class _Lane:
    """A prompt on its way to a continuation."""

    index: int
    prompt: Prompt
    limit: int
    seconds: float
    tokens: list[int] = field(default_factory=list)
    token_nats: list[float] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)

    def take(
        self, token: int, eot_id: int | None, stops: Sequence[bytes], to_bytes: Callable[[Sequence[int]], bytes] | None
    ) -> StopReason | Literal[""]:
        """Add a token; return the reason to stop, or an empty string."""
        if token < 0:
            return "not_finite"
        if token == eot_id:
            return "end_of_text"
        self.tokens.append(token)
        if to_bytes is not None and stops:
            piece = to_bytes([token])
            self.text += piece
            tail = bytes(self.text[-(len(piece) + max(map(len, stops))) :])
            if any(stop in tail for stop in stops):
                return "stop_string"
        return "length" if len(self.tokens) >= self.limit else ""

    def ended(self, reason: StopReason) -> Continuation:
        nats = self.token_nats[: len(self.tokens)]  # an end-of-text is not part of the continuation
        return Continuation(self.index, tuple(self.tokens), reason, self.seconds, tuple(nats))


def generate(
    model: LatentThoughtModel,
    prompts: Iterable[Prompt],
    config: GenerationConfig,
    *,
    eot_id: int | None = None,
    to_bytes: Callable[[Sequence[int]], bytes] | None = None,
    batch_size: int = CPU_LANES,
) -> Iterator[Continuation]:
    """Continue every prompt; yield continuations as they finish.

    Args:
        prompts: each at most `max_seq_len` tokens; one that fills the context gets an empty continuation. Taken one by
            one as lanes become free, so a generator may produce them.
        config: sampling and stopping; prompts without a stream are greedy in any case.
        eot_id: id of the token that ends a continuation.
        to_bytes: converts ids to text, required if `config.until` is not empty.
        batch_size: maximum number of lanes.

    Raises:
        UsageError: a prompt is empty or too long, or stop strings are given without `to_bytes`.
    """
    if config.until and to_bytes is None:
        raise UsageError("stop strings need a tokenizer; pass to_bytes")
    stepper = _Stepper(model, batch_size)
    stops = [stop.encode() for stop in config.until]
    waiting = enumerate(prompts)
    lanes: list[_Lane | None] = [None] * stepper.lanes
    while True:
        for slot in range(min(batch_size, stepper.lanes)):
            while lanes[slot] is None and (following := next(waiting, None)) is not None:
                index, prompt = following
                begun = time.monotonic()
                stepper.run(partial(stepper.place, slot, prompt))
                limit = min(config.max_new_tokens, model.config.max_seq_len - len(prompt.tokens))
                lane = _Lane(index, prompt, limit, time.monotonic() - begun)
                if limit < 1:
                    yield lane.ended("length")
                else:
                    lanes[slot] = lane
        active = [(slot, lane) for slot, lane in enumerate(lanes) if lane is not None]
        if not active:
            return
        top = active[-1][0] + 1
        chosen = _choose(stepper.logits[:top], lanes[:top], config)
        _keep_costs(stepper.logits, active, chosen)
        for slot, lane in active:
            if reason := lane.take(chosen[slot], eot_id, stops, to_bytes):
                lanes[slot] = None
                yield lane.ended(reason)
        going = [lane for lane in lanes if lane is not None]
        if going:
            begun = time.monotonic()
            stepper.run(partial(stepper.step, [max(token, 0) for token in chosen]))
            progress.mark()
            for lane in going:
                lane.seconds += (time.monotonic() - begun) / len(going)


def _choose(logits: Tensor, lanes: Sequence[_Lane | None], config: GenerationConfig) -> list[int]:
    """Return the next token of every lane: (lanes, V) logits to ids; lanes without a stream are greedy.

    A lane with non-finite logits gets -1; the value of an idle lane is arbitrary.
    """
    top = logits.argmax(-1, keepdim=True)  # NaN if there is one
    likeliest = [int(i) for i in torch.where(logits.gather(1, top).isfinite(), top, -1).squeeze(1).tolist()]
    if not config.do_sample:
        return likeliest
    streams = [None if lane is None else lane.prompt.stream for lane in lanes]
    uniform = torch.tensor([0.0 if stream is None else stream.random() for stream in streams], dtype=torch.float64)
    drawn = sample_token(logits, uniform.to(logits.device), config).tolist()
    return [own if streams[i] is None or own < 0 else int(drawn[i]) for i, own in enumerate(likeliest)]


def _keep_costs(logits: Tensor, active: Sequence[tuple[int, _Lane]], chosen: Sequence[int]) -> None:
    """Record -log p of the chosen token in every lane that keeps it: (lanes, V) logits."""
    kept = [(slot, lane) for slot, lane in active if lane.prompt.by_token and chosen[slot] >= 0]
    if not kept:
        return
    slots = [slot for slot, _ in kept]
    log_p = logits[slots].float().log_softmax(-1)  # row by row, so that bits do not depend on other rows
    ids = torch.tensor([[chosen[slot]] for slot in slots], device=logits.device)
    for (_, lane), value in zip(kept, log_p.gather(1, ids).squeeze(1).tolist(), strict=True):
        lane.token_nats.append(-value)


def sample_token(logits: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """Sample tokens by inverting the cumulative distribution at `uniform`.

    Args:
        logits: (B, V).
        uniform: (B,), float64 in [0, 1).
        config: temperature, then top_k, then top_p, as nucleus sampling is defined (arXiv:1904.09751).

    Returns:
        (B,) ids.
    """
    scaled, order = (logits.double() / config.temperature).sort(dim=-1, descending=True, stable=True)
    probability = scaled.softmax(-1)
    if config.top_k:
        probability[:, config.top_k :] = 0
    before = probability.cumsum(-1) - probability
    probability = probability.masked_fill(before >= config.top_p * probability.sum(-1, keepdim=True), 0)
    cumulative = probability.cumsum(-1)
    place = torch.searchsorted(cumulative, (uniform * cumulative[:, -1]).unsqueeze(1), right=True)
    kept = (probability > 0).sum(-1, keepdim=True)
    return order.gather(1, place.clamp(max=kept - 1)).squeeze(1)


class _Stepper:
    """The model with its cache: one token at a time, for a fixed number of lanes."""

    def __init__(self, model: LatentThoughtModel, batch_size: int) -> None:
        config = model.config
        self.model = model
        self.on_cpu = model.device.type == "cpu"
        self.small = is_small(model)
        self.window = min(config.window_size, config.max_seq_len)
        self.lanes = self._allocated(CPU_LANES if self.on_cpu else max(1, batch_size))

    def _allocated(self, lanes: int) -> int:
        """Allocate `lanes`, or half as many if memory runs out, and so on; return the number allocated."""
        try:
            self._allocate(lanes)
        except RuntimeError as error:
            if lanes == 1 or not ran_out(error):
                raise
        else:
            return lanes
        give_back()
        return self._allocated(lanes // 2)

    def _allocate(self, lanes: int) -> None:
        config, device = self.model.config, self.model.device
        dtype = self.model.blocks[0].attention.wk.weight.dtype
        shape = (config.n_layers, lanes, config.n_kv_heads)
        self.keys = torch.zeros(*shape, self.window, config.head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.z_keys = torch.zeros(*shape, config.n_latents, config.head_dim, dtype=dtype, device=device)
        self.z_values = torch.zeros_like(self.z_keys)
        self.position = torch.zeros(lanes, dtype=torch.long, device=device)
        self.logits = torch.zeros(lanes, config.vocab_size, device=device)
        self.lane = torch.arange(lanes, device=device)

    @torch.no_grad()
    def place(self, slot: int, prompt: Prompt) -> None:
        """Read a prompt into a lane: set its ring, its latents and the logits of its first new token."""
        n, limit = len(prompt.tokens), self.model.config.max_seq_len
        if not 1 <= n <= limit:
            raise UsageError(f"a prompt must have 1 to {limit} tokens, got {n}")
        tokens = torch.zeros(1, min(limit, padded_length(n)), dtype=torch.long, device=self.model.device)
        tokens[0, :n] = torch.tensor(prompt.tokens)
        z = prompt.z.unsqueeze(0).to(self.model.device)
        hidden = self.model.hidden(self.model.prelude(tokens), z)
        held = torch.arange(max(0, n - self.window), n, device=self.model.device)
        for layer, (k, v) in enumerate(zip(hidden.keys, hidden.values, strict=True)):
            self.keys[layer, slot, :, held % self.window] = k[0, :, held]
            self.values[layer, slot, :, held % self.window] = v[0, :, held]
        for layer, (k, v) in enumerate(self.model.latent_keys_values(z)):
            self.z_keys[layer, slot], self.z_values[layer, slot] = k[0], v[0]
        self.position[slot] = n
        self.logits[slot] = self._project(hidden.states[:, n - 1].expand(self.lanes, -1))[0]

    def run(self, work: Callable[[], None]) -> None:
        """Place or step; on a CPU each part on one thread, so that bits do not depend on the number of threads."""
        if self.on_cpu and not self.small:
            side_by_side([work], lambda own: own())
            return
        with one_thread(when=self.small):
            work()

    def _project(self, states: Tensor) -> Tensor:
        """Return `model.logits`, computed in parts on a CPU: (lanes, D) to (lanes, V)."""
        if not self.on_cpu:
            return self.model.logits(states)
        weight = self.model.output_weight
        states = states.to(weight.dtype)
        logits = torch.empty(len(states), len(weight), dtype=weight.dtype)

        @torch.no_grad()
        def project(start: int) -> None:
            part = slice(start, start + _PROJECTED)
            torch.mm(states, weight[part].T, out=logits[:, part])

        in_pieces(range(0, len(weight), _PROJECTED), project)
        return logits.float()

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> None:
        """Read one token in each of the first lanes; `logits` then predict the next.

        Products have the rows of all lanes, attention only those of the given ones.
        """
        active = len(tokens)
        ids = torch.zeros(self.lanes, dtype=torch.long)
        ids[:active] = torch.tensor(tokens)
        ids = ids.to(self.model.device)
        self.position.clamp_(max=self.model.config.max_seq_len - 1)  # idle lanes compute values that are not used
        table = self.model.rope[:, self.position].unsqueeze(2).unsqueeze(2)  # (2, lanes, 1, 1, head_dim / 2)
        slot = self.position % self.window
        held = torch.arange(self.window, device=ids.device) <= self.position[:active].unsqueeze(1)  # (active, window)
        x = self.model.tok_embeddings(ids).unsqueeze(1)  # (lanes, 1, D)
        for layer, block in enumerate(self.model.blocks):
            attention, normed = block.attention, block.attention_norm(x)
            k, v = attention.keys_values(normed, table)
            self.keys[layer, self.lane, :, slot] = k[:, :, 0]
            self.values[layer, self.lane, :, slot] = v[:, :, 0]
            queries = attention.queries(normed, table)
            heads = torch.zeros_like(queries)
            heads[:active] = F.scaled_dot_product_attention(
                queries[:active],
                attention.expand(self.keys[layer, :active]),
                attention.expand(self.values[layer, :active]),
                attn_mask=held[:, None, None],
            )
            x = x + attention.merge(heads)
            x = block.transform(block.read_latents(x, table, (self.z_keys[layer], self.z_values[layer])))
        self.logits = self._project(self.model.norm(x)[:, 0])
        self.position += 1
