"""What each layer's latents carry: fit z to a text with all layers, then keep the latents of some layers only.

Based on the project page of arXiv:2502.01567, which shows curves of "progressive reconstruction" without a definition,
and continuations of a prompt with groups or ranges of layers; the choices here are ours. A text of T tokens follows
end-of-text. z is fitted to it once; in layers that are not kept, the latents are zero (the prior's mean, equal to no
cross-attention) or a draw from the prior. The measures are

- teacher-forced: -log p and top-1 accuracy of every token given the text's earlier ones;
- free-running: the greedy continuation of end-of-text alone, T tokens, compared position by position with the text, and
  its number of tokens before the first wrong one;
- for the explorer: the continuation of the text's first tokens (greedy), or of a prompt that is the whole text, its
  likelihood under its own z, and its similarity to the continuation with all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import postprocess_generated_text
from torch import Tensor

from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window, generator, standard_normal
from ltm_eval.model.elbo import IGNORED, kl_per_layer_nats, token_nll_nats
from ltm_eval.probe.files import (
    Cell,
    Explored,
    Generated,
    ProbeConfig,
    ProbedText,
    downward,
    explored,
    layers_of,
    upward,
)
from ltm_eval.system.errors import DataError, UsageError
from ltm_eval.system.files import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ltm_eval.inference.decode import Continuation
    from ltm_eval.model.decoder import Hidden, LatentThoughtModel
    from ltm_eval.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class ProbeText:
    """A text to probe, or a prompt to continue."""

    name: str  # where it came from
    prompt: str  # what the explorer lets the decoder read; empty where the text names none
    rest: str  # what follows; the text is both
    to_continue: bool = False  # whether z is fitted to the prompt alone, which is then continued; `rest` is empty


@dataclass(frozen=True)
class Encoded:
    """The tokens that z is fitted to, and how far the explorer goes."""

    tokens: tuple[int, ...]  # T of them, without the end-of-text in front
    prompt: int  # how many of them the explorer's decoder reads
    new: int  # how many it may then generate
    cut: bool  # whether tokens of the text were left out


def encode(text: ProbeText, tokenizer: Tokenizer, config: ProbeConfig, *, context: int) -> Encoded:
    """Encode a text; the explorer reads its prompt, or its first tokens if there is none or it leaves no room.

    Raises:
        DataError: the text has no token.
        UsageError: a prompt to continue and its continuation do not fit the context.
    """
    prompt, rest = tokenizer.encode(text.prompt) if text.prompt else [], tokenizer.encode(text.rest)
    if text.to_continue:
        room = context - 1 - len(prompt)
        if room < config.n_tokens:
            remedy = f"set --n_tokens to at most {room:,}" if room > 0 else "shorten it"
            raise UsageError(
                f"{text.name} has {len(prompt):,} tokens; with end-of-text and n_tokens {config.n_tokens:,} that "
                f"exceeds the model's context of {context:,}; {remedy}"
            )
        return Encoded(tuple(prompt), len(prompt), config.n_tokens, cut=False)
    limit = min(config.max_tokens, context - 1)
    tokens = tuple([*prompt, *rest][:limit])
    if not tokens:
        raise DataError(f"{text.name}: the text is empty; remove it")
    wanted = min(len(prompt) if 0 < len(prompt) < len(tokens) else config.prompt_tokens, len(tokens) - 1)
    return Encoded(tokens, wanted, len(tokens) - wanted, cut=len(prompt) + len(rest) > limit)


class Subject:
    """A text with its fitted z, to reconstruct or continue under any set of layers."""

    def __init__(
        self,
        model: LatentThoughtModel,
        encoded: Encoded,
        tokenizer: Tokenizer,
        config: ProbeConfig,
        *,
        decoding: GenerationConfig | None = None,
    ) -> None:
        """Fit z.

        Args:
            decoding: of the explorer's continuations, whose length `encoded` says; None is greedy.
        """
        self.model, self.encoded, self.tokenizer, self.config = model, encoded, tokenizer, config
        self.decoding = replace(decoding or GenerationConfig(), max_new_tokens=encoded.new)
        self._window = Window((tokenizer.eot_id, *encoded.tokens[:-1]), encoded.tokens)
        document = Document((self._window,))
        self._key = document.key
        self.posterior = fit_documents(model, [document], config.fitting, seed=config.seed)
        shape = model.config.latent_shape
        self.kept = self.posterior.mu[0]  # (L, N, D)
        if config.latents == "draw":
            noise = standard_normal(generator(config.seed, "probe", self._key), shape)
            self.kept = self.posterior.at(noise.to(model.device))[0]
        self.rest = torch.zeros_like(self.kept)
        if config.rest == "prior":
            self.rest = standard_normal(generator(config.seed, "probe-rest", self._key), shape).to(model.device)

    def z(self, key: str) -> Tensor:
        """Return the fitted latents in the layers of `key` and the replacement in others: (L, N, D)."""
        active = torch.zeros(self.model.config.n_layers, 1, 1, dtype=torch.bool, device=self.kept.device)
        active[[layer - 1 for layer in layers_of(key)]] = True
        return torch.where(active, self.kept, self.rest)

    def teacher_forced(self, z: Tensor | None) -> tuple[float, int]:
        """Return -log p(text | z) in nats and the number of top-1 tokens; None skips cross-attention."""
        return scored(self.model, self._window, z)

    def free_running(self, latents: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """Return the greedy continuation of end-of-text alone, as long as the text, under each z (L, N, D)."""
        config = GenerationConfig(max_new_tokens=len(self.encoded.tokens))
        made = generate(self.model, [Prompt((self.tokenizer.eot_id,), z) for z in latents], config)
        return [one.tokens for one in sorted(made, key=lambda one: one.index)]

    def continued(self, keys: Sequence[str]) -> Iterator[tuple[str, Continuation]]:
        """Yield the explorer's continuation under each set of layers, as they end.

        Sampling uses the same random numbers under every set, so that continuations differ by z alone.
        """
        read = self._read
        streams = [
            generator(self.config.seed, "token", self._key + repr(read).encode()) if self.decoding.do_sample else None
            for _ in keys
        ]
        made = generate(
            self.model,
            [Prompt(read, self.z(key), stream) for key, stream in zip(keys, streams, strict=True)],
            self.decoding,
            eot_id=self.tokenizer.eot_id,
            to_bytes=self.tokenizer.decode_bytes,
        )
        for one in made:
            yield keys[one.index], one

    def continuation_nats(self, key: str, tokens: Sequence[int]) -> float:
        """Return -log p(continuation | z, what was read before it) in nats."""
        if not tokens:
            return 0.0
        read = self._read
        window = Window((*read, *tokens[:-1]), (*[IGNORED] * (len(read) - 1), *tokens))
        return scored(self.model, window, self.z(key))[0]

    @property
    def _read(self) -> tuple[int, ...]:
        return (self.tokenizer.eot_id, *self.encoded.tokens[: self.encoded.prompt])


@torch.no_grad()
def scored(model: LatentThoughtModel, window: Window, z: Tensor | None) -> tuple[float, int]:
    """Return -log p of a window's targets in nats and the number of top-1 tokens.

    Rows are computed one at a time, so that a figure does not depend on others.

    Raises:
        DataError: the likelihood is not finite.
    """
    tokens = torch.tensor([window.tokens], device=model.device)
    targets = torch.tensor([window.targets], device=model.device)
    hidden: Hidden = model.hidden(model.prelude(tokens), None if z is None else z.unsqueeze(0))
    logits = model.logits(hidden.states)  # (1, T, V)
    nll = float(token_nll_nats(logits, targets).double().sum())
    if not math.isfinite(nll):
        raise DataError(
            f"a window of {len(window.tokens)} tokens: the model gives no finite likelihood; its weights may be "
            "damaged, or the fit has diverged: try --preset bound or fewer fast steps"
        )
    hits = (logits.argmax(-1) == targets) & (targets != IGNORED)
    return nll, int(hits.sum())


def probed(subject: Subject, text: ProbeText, *, explore: bool) -> ProbedText:
    """Reconstruct a text under the sets of layers of its curves, and score it under those of the explorer.

    A prompt to continue has no curves.

    Args:
        explore: whether the text is in the explorer.
    """
    n_layers, config, posterior = subject.model.config.n_layers, subject.config, subject.posterior
    curves = [] if text.to_continue else curve_keys(n_layers, config.direction)
    runs = subject.free_running([*map(subject.z, curves), torch.zeros_like(subject.kept)]) if curves else [None]
    cells = {key: _cell(subject, subject.z(key), run) for key, run in zip(curves, runs, strict=False)}
    for key in explored(n_layers, config.groups) if explore else ():
        if key not in cells:
            cells[key] = _cell(subject, subject.z(key), None)
    return ProbedText(
        name=text.name,
        sha256=digest(text.prompt + text.rest),
        tokens=len(subject.encoded.tokens),
        cut=subject.encoded.cut,
        t_fast=len(posterior.trace.nll_nats) - 1,
        kl_nats=float(posterior.trace.kl_nats[-1, 0]),
        kl_per_layer_nats=tuple(kl_per_layer_nats(posterior.mu, posterior.log_var)[0].tolist()),
        mean_log_var_per_layer=tuple(posterior.log_var.flatten(2).mean(2)[0].tolist()),
        cells=cells,
        no_z=_cell(subject, None, runs[-1]),
    )


def curve_keys(n_layers: int, direction: str) -> list[str]:
    """Return the distinct sets of layers of the curves."""
    up = upward(n_layers) if direction != "down" else []
    down = downward(n_layers) if direction != "up" else []
    return list(dict.fromkeys([*up, *down]))


def _cell(subject: Subject, z: Tensor | None, greedy: tuple[int, ...] | None) -> Cell:
    nll, hits = subject.teacher_forced(z)
    if greedy is None:
        return Cell(nll, hits, None, None)
    right = [mine == own for mine, own in zip(greedy, subject.encoded.tokens, strict=True)]
    return Cell(nll, hits, sum(right), right.index(False) if False in right else len(right))


def explored_of(
    encoded: Encoded, tokenizer: Tokenizer, made: Mapping[str, Mapping[str, Any]], *, index: int, until: Sequence[str]
) -> Explored:
    """Return what the explorer shows of a text.

    Args:
        made: by set of layers, the continuation's `tokens`, `nll_nats` and `stop_reason`; all layers must be there.
        index: of the text.
        until: stop strings, the first of which ends the text that is shown.
    """
    whole = made[max(made, key=lambda key: len(layers_of(key)))]["tokens"]
    texts = {
        key: str(postprocess_generated_text(tokenizer.decode(one["tokens"]), list(until), None))
        for key, one in made.items()
    }
    distinct = list(dict.fromkeys(texts.values()))
    cells = {
        key: Generated(
            text=distinct.index(texts[key]),
            tokens=len(one["tokens"]),
            nll_nats=one["nll_nats"],
            similarity=similarity(one["tokens"], whole),
            stop_reason=one["stop_reason"],
        )
        for key, one in made.items()
    }
    prompt, rest = encoded.tokens[: encoded.prompt], encoded.tokens[encoded.prompt :]
    return Explored(index, tokenizer.decode(prompt), tokenizer.decode(rest), tuple(distinct), cells)


def similarity(a: Sequence[int], b: Sequence[int]) -> float:
    """Return 1 - Levenshtein distance / longer length, over tokens: 1 if equal (or both empty), 0 if nothing is in
    common.
    """
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    row = list(range(len(b) + 1))
    for at, mine in enumerate(a, 1):
        diagonal, row[0] = row[0], at
        for place, other in enumerate(b, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (mine != other))
    return 1 - row[-1] / longest
