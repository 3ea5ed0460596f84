"""Continuations of a model's requests scored under the fit of their context."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.noise import generator, standard_normal
from ltm_eval.windows import padded_length

if TYPE_CHECKING:
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
    tokens = torch.tensor([*job.context.read, *job.continuation[:-1]], device=model.device)
    wanted = torch.tensor(job.continuation, device=model.device)
    length = min(model.config.max_seq_len, padded_length(len(tokens)))
    padded = torch.zeros(1, length, dtype=torch.long, device=model.device)
    padded[0, : len(tokens)] = tokens
    with torch.no_grad():
        prelude = model.prelude(padded)

        def log_probs(z: Tensor) -> Tensor:
            states = model.hidden(prelude, z.unsqueeze(0)).states[0, len(tokens) - len(wanted) : len(tokens)]
            rows = torch.zeros(padded_length(len(wanted)), states.shape[1], device=states.device)
            rows[: len(wanted)] = states
            return model.logits(rows)[: len(wanted)].log_softmax(-1)

        greedy = bool((log_probs(fitted.z(None)).argmax(-1) == wanted).all())
        stream = generator(seed, "score", fitted.key)
        shape = (1, *model.config.latent_shape)
        draws = [log_probs(fitted.z(standard_normal(stream, shape))) for _ in range(SCORE_DRAWS)]
        totals = torch.stack([draw.gather(1, wanted.unsqueeze(1)).double().sum() for draw in draws])
    return float(totals.logsumexp(0)) - math.log(SCORE_DRAWS), greedy
