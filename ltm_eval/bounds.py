"""Bounds on -log p(x) of fitted documents, in nats.

For any q, E_{z~q}[-log p(x|z)] + KL(q || p) >= -log p(x), if the expectation is over noise that the fit has not seen: the draws
here come from streams of their own. Source: arXiv:2502.01567 Eq. 2 for the ELBO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltm_eval.elbo import kl_nats
from ltm_eval.model import LatentThoughtModel
from ltm_eval.posterior import Batch, Document, Posterior, generator, standard_normal

DRAWS = 8
"""Fresh noise draws per document."""


@dataclass(frozen=True)
class Draws:
    """-log p(x|z) of every document at fresh draws z ~ q, and what a bound is made of."""

    nll_nats: Tensor
    """(S, B): -log p(x|z_s)."""
    kl_nats: Tensor
    """(B,): KL(q || p)."""

    @property
    def bound_nats(self) -> Tensor:
        """-ELBO, mean over draws: (B,), float64, in which a sum of a few fp32 numbers is exact in any order."""
        mean: Tensor = self.nll_nats.double().mean(0)
        return mean + self.kl_nats.double()

    @property
    def bound_stderr_nats(self) -> Tensor:
        """Monte-Carlo standard error of `bound_nats`: (B,)."""
        spread: Tensor = self.nll_nats.double().std(0)
        return spread / len(self.nll_nats) ** 0.5


def fresh_draws(
    model: LatentThoughtModel, documents: Sequence[Document], posterior: Posterior, *, seed: int, draws: int = DRAWS
) -> Draws:
    """Score each document under draws from its posterior that its fit has not seen.

    Args:
        posterior: of the same documents in the same order.
        seed: of the run; the draws depend on it and on the document's content.
        draws: S, at least 2 for a standard error.
    """
    columns = []
    with torch.no_grad():
        for i, document in enumerate(documents):
            stream = generator(seed, "bound", document.key)
            batch = Batch.of(model, [document])
            mu, sigma = posterior.mu[i : i + 1], (0.5 * posterior.log_var[i : i + 1]).exp()
            noise = (standard_normal(stream, mu.shape).to(mu.device) for _ in range(draws))
            columns.append(torch.cat([batch.nll_nats(mu + draw * sigma) for draw in noise]))
        # one document at a time: a sum over several rows at once may round otherwise
        divergence = torch.cat([kl_nats(posterior.row(i).mu, posterior.row(i).log_var) for i in range(len(documents))])
    return Draws(torch.stack(columns, dim=1), divergence)
