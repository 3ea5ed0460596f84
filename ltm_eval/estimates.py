"""Figures of a document that rest on random draws: a sum of nats, its standard error, and what they rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """One row of one document."""

    nats: float
    """Sum over the document."""
    stderr_nats: float | None
    """Monte-Carlo standard error; 0 where nothing is drawn, None where a single draw tells nothing."""
    draws: int
    """Noise draws."""
    effective_draws: float
    """1 / (sum of squared weight shares): near 1, a single draw carries an importance-weighted row."""
    per_draw_nats: tuple[float, ...] = ()
    """What each draw alone says, where the row is their mean; empty for other rows."""


@dataclass(frozen=True)
class Draws:
    """-log p(x|z) of every document at fresh draws z ~ q, and what a bound is made of."""

    nll_nats: Tensor
    """(S, B), float64, on the CPU: -log p(x|z_s)."""
    kl_nats: Tensor
    """(B,), float64, on the CPU: KL(q || p)."""

    @property
    def bound_nats(self) -> Tensor:
        """-ELBO, mean over draws: (B,), float64."""
        bound: Tensor = self.nll_nats.mean(0) + self.kl_nats  # fp32 numbers: their float64 sum is exact in any order
        return bound

    @property
    def bound_stderr_nats(self) -> Tensor:
        """Monte-Carlo standard error of `bound_nats`: (B,); KL is exact and adds nothing."""
        spread = torch.stack([column.clone().std() for column in self.nll_nats.unbind(1)])  # alone: same bits anywhere
        return spread / math.sqrt(len(self.nll_nats))


def minus_log_mean(log_weight: Tensor) -> Estimate:
    """-log of the mean weight, with a jackknife standard error: (K,) float64 to nats.

    The delta method would cap the error at 1 nat however few draws carry the mean; leaving each draw out in turn shows
    it.
    """
    draws = len(log_weight)
    total = log_weight.logsumexp(0)
    effective = float((2 * total - (2 * log_weight).logsumexp(0)).exp())
    return Estimate(math.log(draws) - float(total), _jackknife(log_weight), draws, effective)


def _jackknife(log_weight: Tensor) -> float | None:
    """Standard error of log sum exp from the K leave-one-out values."""
    draws = len(log_weight)
    if draws < 2:
        return None
    nothing = log_weight.new_full((1,), -math.inf)
    before = torch.cat([nothing, log_weight.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    left_out = torch.logaddexp(before, after)
    return math.sqrt((draws - 1) * float((left_out - left_out.mean()).square().mean()))
