"""The fast loop: gradient steps on the ELBO that fit mu and log_var to a batch of documents.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures: see
`posterior`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ltm_eval import pulse
from ltm_eval.elbo import kl_nats, kl_per_layer_nats
from ltm_eval.gaussians import Posterior, Start, Trace
from ltm_eval.steps import steps_of

if TYPE_CHECKING:
    from ltm_eval.batch import Batch
    from ltm_eval.config import FitConfig
    from ltm_eval.noise import Noise


def fast_loop(batch: Batch, start: Start, noise: Noise, config: FitConfig) -> Posterior:
    """AdamW on mu and log_var, `config.t_fast` steps, then one evaluation.

    The gradient is that of the sum over documents, so each document moves as if it were alone.

    Args:
        batch: the documents.
        start: (B, L, N, D) each; taken as it is, also when t_fast is 0.
        noise: called with the step 0 ... t_fast.
    """
    mu, log_var = start.mu.detach().clone(), start.log_var.detach().clone()
    nll, kl, layers = [], [], []
    if config.t_fast:
        mu.requires_grad_()
        log_var.requires_grad_()
        take = steps_of(batch, mu, log_var, config)
        for step in range(config.t_fast):
            layers.append(kl_per_layer_nats(mu.detach(), log_var.detach()))
            terms = take(step, noise(step))
            nll.append(terms[0])
            kl.append(terms[1])
            pulse.mark()
    with torch.no_grad():
        mu, log_var = mu.detach(), log_var.detach()
        nll.append(batch.expected_nll_nats(mu, log_var, noise(config.t_fast)))
        kl.append(kl_nats(mu, log_var))
        layers.append(kl_per_layer_nats(mu, log_var))
    return Posterior(mu, log_var, Trace(torch.stack(nll), torch.stack(kl), torch.stack(layers)))
