"""q(z|x) = N(mu, exp(log_var)) of documents: where a fit begins, what it ends in, and how it went."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.errors import UsageError, shown
from ltm_eval.memory import uploaded
from ltm_eval.model import LatentThoughtModel, told
from ltm_eval.noise import generator, standard_normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.config import FitConfig
    from ltm_eval.windows import Document


@dataclass(frozen=True)
class Trace:
    """The objective over the fast loop, at the noise of each step."""

    nll_nats: Tensor
    """(t_fast + 1, B): -log p(x|z); the last row is an evaluation after the last step."""
    kl_nats: Tensor
    """(t_fast + 1, B)."""
    kl_layers_nats: Tensor | None = None
    """(t_fast + 1, B, L): KL of each layer; None where it was not kept."""

    @property
    def objective_nats(self) -> Tensor:
        """-ELBO at each step's own noise, (t_fast + 1, B). Not a bound where the noise is fixed."""
        return self.nll_nats + self.kl_nats


@dataclass(frozen=True)
class Posterior:
    """Fitted posteriors of B documents."""

    mu: Tensor
    """(B, L, N, D), fp32."""
    log_var: Tensor
    """(B, L, N, D), fp32."""
    trace: Trace
    """How the fit went."""

    def at(self, noise: Tensor) -> Tensor:
        """z = mu + noise * sigma, (B, L, N, D).

        Args:
            noise: standard normal draws, (B, L, N, D) or what broadcasts to it, such as (L, N, D).

        Raises:
            UsageError: it is anything else.
        """
        shape = tuple(self.mu.shape)
        fits = isinstance(noise, Tensor) and noise.is_floating_point() and noise.shape[-3:] == self.mu.shape[-3:]
        if not fits or not (noise.dim() == 3 or (noise.dim() == 4 and (shape[0] == 1 or len(noise) in (1, shape[0])))):  # noqa: PLR2004
            raise UsageError(f"noise must be a tensor of floats of shape {shape}, (B, L, N, D), got {told(noise)}")
        return self.mu + noise * (0.5 * self.log_var).exp()

    def row(self, i: int) -> Posterior:
        """The posterior of document i alone; -1 is the last.

        Raises:
            UsageError: there is no such document.
        """
        if isinstance(i, bool) or not isinstance(i, int) or not -len(self.mu) <= i < len(self.mu):
            raise UsageError(f"row: expected a whole number from 0 to {len(self.mu) - 1} (documents), got {shown(i)}")
        i %= len(self.mu)
        part = slice(i, i + 1)
        layers = self.trace.kl_layers_nats
        kept = None if layers is None else layers[:, part]
        trace = Trace(self.trace.nll_nats[:, part], self.trace.kl_nats[:, part], kept)
        return Posterior(self.mu[part], self.log_var[part], trace)

    @staticmethod
    def joined(parts: Sequence[Posterior]) -> Posterior:
        """Several posteriors as one; the traces of shorter fits get rows of NaN before their last.

        Raises:
            UsageError: there is none, they are something else, or of models of different sizes.
        """
        if not parts or not all(isinstance(part, Posterior) for part in parts):
            raise UsageError("joined: expected a list of posteriors, at least one")
        if len({part.mu.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(sorted({str(tuple(part.mu.shape[1:])) for part in parts}))
            raise UsageError(f"joined: expected posteriors of one shape (L, N, D), got {shapes}")
        rows = max(len(part.trace.nll_nats) for part in parts)
        parts = [part if len(part.trace.nll_nats) == rows else _stretched(part, rows) for part in parts]
        nll = torch.cat([part.trace.nll_nats for part in parts], dim=1)
        kl = torch.cat([part.trace.kl_nats for part in parts], dim=1)
        layers = [part.trace.kl_layers_nats for part in parts]
        kept = [one for one in layers if one is not None]
        trace = Trace(nll, kl, torch.cat(kept, dim=1) if len(kept) == len(parts) else None)
        return Posterior(torch.cat([part.mu for part in parts]), torch.cat([part.log_var for part in parts]), trace)

    @staticmethod
    def prior(model: LatentThoughtModel) -> Posterior:
        """N(0, I) as a posterior of one document, with an empty trace.

        Raises:
            UsageError: `model` is something else.
        """
        if not isinstance(model, LatentThoughtModel):
            raise UsageError(f"model must be a LatentThoughtModel, as ltm_eval.load returns it, got {told(model)}")
        zeros = torch.zeros(1, *model.config.latent_shape, device=model.device)
        nothing = torch.zeros(0, 1, device=model.device)
        return Posterior(zeros, zeros.clone(), Trace(nothing, nothing))


@dataclass(frozen=True)
class Start:
    """Where the fast loop begins: both (B, L, N, D)."""

    mu: Tensor
    log_var: Tensor

    @staticmethod
    def spread(config: FitConfig, *, mu: Tensor, log_var: Tensor) -> Start:
        """The preset's start, spread by standard normal numbers, (B, L, N, D) each."""
        return Start(config.mu_spread * mu, config.log_var_start + config.log_var_spread * log_var)


def _stretched(part: Posterior, rows: int) -> Posterior:
    """The same posterior with a trace of `rows` rows: NaN before its last row."""

    def longer(values: Tensor) -> Tensor:
        gap = values.new_full((rows - len(values), *values.shape[1:]), math.nan)
        return torch.cat([values[:-1], gap, values[-1:]])

    trace, layers = part.trace, part.trace.kl_layers_nats
    kept = None if layers is None else longer(layers)
    return Posterior(part.mu, part.log_var, Trace(longer(trace.nll_nats), longer(trace.kl_nats), kept))


def preset_start(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, seed: int) -> Start:
    """The preset's start; with t_fast 0, the prior."""
    shape = (len(documents), *model.config.latent_shape)
    if config.t_fast == 0:
        return Start(torch.zeros(shape, device=model.device), torch.zeros(shape, device=model.device))
    streams = [generator(seed, "start", document.key) for document in documents]
    log_var = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    mu = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    start = Start.spread(config, mu=mu, log_var=log_var)
    return Start(uploaded(start.mu, model.device), uploaded(start.log_var, model.device))


def stacked(starts: Sequence[Start]) -> Start:
    """Starts of single documents as one of all."""
    return Start(torch.cat([start.mu for start in starts]), torch.cat([start.log_var for start in starts]))
