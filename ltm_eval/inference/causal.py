"""Prequential scoring of texts: fit z on what precedes a chunk, score the chunk, and so on to the end.

A text of any length is scored as a whole: each token once, in chunks counted from its beginning. With a context of C
tokens, z is fitted on the last C tokens before the chunk, starting from the previous fit, and the decoder reads the
last C - chunk tokens before it (plus one, from which the chunk's first token is predicted). lm-eval's rolling windows
are not used: the rows of `bounds` are sums over windows with a z each, this row is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ltm_eval.inference.batching import each
from ltm_eval.inference.draws import DRAWS, Estimate, draw_noise, minus_log_mean, weigh
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Posterior, Start, Window
from ltm_eval.model.elbo import IGNORED
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.inference.options import FitConfig
    from ltm_eval.model.decoder import LatentThoughtModel


@dataclass(frozen=True)
class CausalConfig:
    """Options of the causal row."""

    chunk: int = 64  # tokens scored between refits of z
    t_fast: int = 16  # fast steps of each refit; 0 leaves the prior
    draws: int = DRAWS  # z ~ q in a chunk's mixture
    # The unit that is scored, for records and the keys of kept answers. Records without it come from versions that
    # scored each rolling window of a long text separately.
    scope: str = field(default="text", init=False)

    def __post_init__(self) -> None:
        for name in ("chunk", "draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"causal {name} must be a whole number of at least 1, got {value!r}")


@dataclass
class Causal:
    """A text scored chunk by chunk, each under a posterior of what precedes it."""

    text: tuple[int, ...]
    posterior: Posterior = field(compare=False)  # of the last refit
    draws: int  # per chunk
    # per chunk: -log of the mean over draws of p(chunk | z, preceding tokens)
    chunks: list[Estimate] = field(default_factory=list)
    fast_steps: int = 0  # of all refits
    fitted_tokens: int = 0  # tokens processed by those steps
    read_tokens: int = 0  # tokens processed to score, over all draws

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return len(self.text) - 1

    @property
    def chunk_nats(self) -> tuple[float, ...]:
        """Nats of each chunk."""
        return tuple(chunk.nats for chunk in self.chunks)

    @property
    def nats(self) -> float:
        """Sum over chunks."""
        return math.fsum(self.chunk_nats)

    @property
    def stderr_nats(self) -> float | None:
        """Monte-Carlo standard error of the sum; None for a single draw."""
        errors = [chunk.stderr_nats for chunk in self.chunks if chunk.stderr_nats is not None]
        return math.sqrt(math.fsum(error * error for error in errors)) if errors else None


def causal(
    model: LatentThoughtModel,
    texts: Sequence[Sequence[int]],
    config: FitConfig,
    *,
    options: CausalConfig,
    seed: int,
) -> list[Causal]:
    """Score texts prequentially, comparable with the log-likelihood of an autoregressive model.

    Before each chunk z is refitted on the tokens that precede it (as many as the context holds), starting from the
    previous posterior; the first chunk has the prior. The chunk is then scored given z and the preceding tokens, as
    -log (1/S) sum_s p(chunk | z_s, preceding). The draws depend on the preceding tokens only, so this is a probability
    distribution over chunks, and its sum over chunks is a code length of the text.

    All texts advance together; on a GPU their refits share a batch.

    Args:
        texts: token ids; the first of each is not scored.
        config: options of the refits; `t_fast` is taken from `options`.
        options: chunk, steps of each refit, draws.

    Raises:
        UsageError: the chunk is longer than the model's context, or a text has nothing to score.
    """
    limit = model.config.max_seq_len
    if options.chunk > limit:
        raise UsageError(f"causal chunk of {options.chunk} tokens exceeds the model's context of {limit}; lower it")
    short = next((i for i, text in enumerate(texts) if len(text) < 2), None)
    if short is not None:
        raise UsageError(
            f"causal: text {short} has {len(texts[short])} tokens; the first is not scored, so at least 2 are needed"
        )
    config = replace(config, t_fast=options.t_fast, adaptive=False)
    streams = [Causal(tuple(text), Posterior.prior(model), options.draws) for text in texts]
    for first in range(0, max(map(len, texts), default=1) - 1, options.chunk):
        active = [stream for stream in streams if len(stream.text) - 1 > first]
        if first and config.t_fast:
            _refit(model, active, config, first=first, seed=seed)
        each(model, active, lambda i: _score_chunk(model, active[i], options, first=first, seed=seed))  # noqa: B023 - called in this iteration
    return streams


def _refit(model: LatentThoughtModel, streams: Sequence[Causal], config: FitConfig, *, first: int, seed: int) -> None:
    """Fit each stream's z on the targets before position `first`, starting from its posterior."""
    start = max(0, first - model.config.max_seq_len)
    seen = [Document((Window(s.text[start:first], s.text[start + 1 : first + 1]),)) for s in streams]
    starts = [Start(s.posterior.mu, s.posterior.log_var) for s in streams]
    fitted = fit_documents(model, seen, config, seed=seed, starts=starts)
    for i, stream in enumerate(streams):
        stream.posterior = fitted.row(i)
        stream.fast_steps += config.t_fast
        stream.fitted_tokens += config.t_fast * (first - start)


def _score_chunk(model: LatentThoughtModel, stream: Causal, options: CausalConfig, *, first: int, seed: int) -> None:
    """Score targets `first` ... `first + chunk - 1` given z and the tokens before them."""
    end = min(first + options.chunk, len(stream.text) - 1)
    start = max(0, first + options.chunk - model.config.max_seq_len)  # must not depend on the end of the text
    targets = (IGNORED,) * (first - start) + stream.text[first + 1 : end + 1]
    past = stream.text[start : first + 1]
    noise = draw_noise(stream.posterior, Document((Window(past, past),)).key, "causal", seed=seed, draws=options.draws)
    nll, _ = weigh(model, Document((Window(stream.text[start:end], targets),)), stream.posterior, noise=noise)
    stream.chunks.append(minus_log_mean(-nll))
    stream.read_tokens += options.draws * (end - start)


def text_of(document: Document) -> tuple[int, ...]:
    """Return the text that a document's windows were cut from: its first token, then every scored target.

    Raises:
        UsageError: the windows do not form one text: targets are not the next tokens, or a window's context is not the
            end of the windows before.
    """
    text = list(document.windows[0].tokens[:1])
    for window in document.windows:
        first = next((i for i, target in enumerate(window.targets) if target != IGNORED), len(window.targets))
        scored = window.targets[first:]
        if scored and (IGNORED in scored or window.tokens != (*text[-first - 1 :], *scored[:-1])):
            raise UsageError(
                "causal needs windows that form one text, whose targets are their own next tokens and each scored "
                "once; leave the causal row out"
            )
        text += scored
    return tuple(text)


def causal_rows(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, options: CausalConfig, seed: int
) -> list[Estimate]:
    """Return the causal row of each document, whose windows must form one text."""
    found = causal(model, [text_of(document) for document in documents], config, options=options, seed=seed)
    return [Estimate(row.nats, row.stderr_nats, row.draws, row.draws) for row in found]
