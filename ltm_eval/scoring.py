"""Continuations of a model's requests scored under the fit of their context."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.noise import generator, standard_normal
from ltm_eval.windows import padded_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_eval.fits import Fitted
    from ltm_eval.jobs import ScoringJob
    from ltm_eval.model import LatentThoughtModel

SCORE_DRAWS = 8
"""Draws z ~ q averaged when a continuation is scored."""


def score(model: LatentThoughtModel, job: ScoringJob, fitted: Fitted, *, seed: int) -> tuple[float, bool]:
    """log-mean-exp over draws of log p(continuation | context, z), and whether it is greedy under mu."""
    if fitted.failure is not None:
        return math.nan, False
    if not job.continuation:
        return 0.0, True
    wanted = torch.tensor(job.continuation, device=model.device)
    with torch.no_grad():
        log_probs = _log_probs(model, job.context.read, job.continuation)
        greedy = bool((log_probs(fitted.z(None)).argmax(-1) == wanted).all())
        stream = generator(seed, "score", fitted.key)
        shape = (1, *model.config.latent_shape)
        draws = [log_probs(fitted.z(standard_normal(stream, shape))) for _ in range(SCORE_DRAWS)]
        totals = torch.stack([draw.gather(1, wanted.unsqueeze(1)).double().sum() for draw in draws])
    return float(totals.logsumexp(0)) - math.log(SCORE_DRAWS), greedy


def token_nats(
    model: LatentThoughtModel, read: Sequence[int], continuation: Sequence[int], z: Tensor
) -> tuple[float, ...]:
    """-log p of each token of a continuation after what is read, under one z (L, N, D); empty where it does not fit."""
    if not continuation or len(read) + len(continuation) - 1 > model.config.max_seq_len:
        return ()
    wanted = torch.tensor(continuation, device=model.device)
    with torch.no_grad():
        log_p = _log_probs(model, read, continuation)(z)
    return tuple((-log_p.gather(1, wanted.unsqueeze(1))).squeeze(1).double().tolist())


def _log_probs(
    model: LatentThoughtModel, read: Sequence[int], continuation: Sequence[int]
) -> Callable[[Tensor], Tensor]:
    """A function of z (L, N, D): log-probabilities of all tokens at every place of the continuation, (T, V)."""
    tokens = torch.tensor([*read, *continuation[:-1]], device=model.device)
    length = min(model.config.max_seq_len, padded_length(len(tokens)))
    padded = torch.zeros(1, length, dtype=torch.long, device=model.device)
    padded[0, : len(tokens)] = tokens
    prelude, count = model.prelude(padded), len(continuation)

    def log_probs(z: Tensor) -> Tensor:
        states = model.hidden(prelude, z.unsqueeze(0)).states[0, len(tokens) - count : len(tokens)]
        rows = torch.zeros(padded_length(count), states.shape[1], device=states.device)
        rows[:count] = states
        return model.logits(rows)[:count].log_softmax(-1)

    return log_probs
