"""Scores of a document under draws of z that its fit has not seen, and the score of a whole text.

Models compute in fp32; sums over windows and draws are float64. Draws of one document share a pass, those of different
documents never do, so that a document's bits do not depend on its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.inference.batching import Batch, in_halves
from ltm_eval.inference.windows import Document, generator, padded_length, standard_normal
from ltm_eval.model.elbo import projected_token_nll_nats
from ltm_eval.system import progress
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ltm_eval.inference.windows import Posterior
    from ltm_eval.model.decoder import LatentThoughtModel

DRAWS = 8  # fresh noise draws per document
# Tokens of a pass over all draws; on a CPU, where matrix products reach their full speed.
_TOKENS_IN_FLIGHT = 65_536
_CPU_TOKENS_IN_FLIGHT = 1024
_CPU_DRAWS = 8  # maximum draws per pass on a CPU; usual numbers of draws are multiples of it


@dataclass(frozen=True)
class Estimate:
    """One row of one document: a Monte-Carlo estimate in nats."""

    nats: float
    stderr_nats: float | None  # Monte-Carlo standard error; 0 if nothing is drawn, None for a single draw
    draws: int
    # Effective number of draws, 1 / sum of squared weights; near 1 a single draw dominates an importance-weighted row.
    effective_draws: float
    per_draw_nats: tuple[float, ...] = ()  # value of each draw, if the row is their mean


def draw_noise(own: Posterior, key: bytes, role: str, *, seed: int, draws: int) -> Iterator[Tensor]:
    """Yield standard normal draws (1, L, N, D) from one stream."""
    stream = generator(seed, role, key)
    return (standard_normal(stream, own.mu.shape) for _ in range(draws))


def weigh(
    model: LatentThoughtModel,
    document: Document,
    own: Posterior,
    *,
    noise: Iterator[Tensor],
    keep: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Score a document under z_s = mu + noise_s * sigma for every draw.

    Args:
        keep: collects -log p of every position, (S, T) in parts; the document must have one window.

    Returns:
        -log p(x|z_s) and the log weight log p(x|z_s) p(z_s) / q(z_s), (S,) each, float64 on the CPU.
    """
    mu, sigma, log_var = own.mu.cpu(), (0.5 * own.log_var).exp().cpu(), own.log_var.cpu().double()
    on_cpu = model.device.type == "cpu"
    # The split into passes depends on the document only, so that a draw's bits do not depend on their number.
    tokens = sum(padded_length(len(window.tokens)) for window in document.windows)
    together = max(1, min(_CPU_DRAWS, _CPU_TOKENS_IN_FLIGHT // tokens) if on_cpu else _TOKENS_IN_FLIGHT // tokens)
    nlls, ratios = [], []
    with torch.no_grad():
        one = Batch.of(model, [document])
        while held := list(islice(noise, together)):
            draws = torch.cat(held)
            z = mu + draws * sigma  # (S, L, N, D)
            spare = together - len(z) if on_cpu else 0
            filled = torch.cat([z, z[-1:].expand(spare, *z.shape[1:])])
            kept: list[Tensor] | None = None if keep is None else []
            nlls.append(nll_of_latents(one, filled.to(model.device), keep=kept)[: len(z)])
            if keep is not None and kept:
                keep.append(torch.cat(kept)[: len(z)])
            progress.mark()
            ratios.append((0.5 * (draws.double().square() + log_var - z.double().square())).flatten(1).sum(1))
    nll = torch.cat(nlls)
    return nll, torch.cat(ratios) - nll


def nll_of_latents(one: Batch, z: Tensor, *, keep: list[Tensor] | None = None) -> Tensor:
    """Return -log p(x|z_s) of a batch of one document: (S, L, N, D) to (S,), float64 on the CPU.

    Uses one pass, or several if memory runs out. `keep`: see `weigh`.
    """

    def together(draws: Sequence[int]) -> list[Tensor]:
        batch, part = one.repeated(len(draws)), z[draws[0] : draws[-1] + 1]
        if keep is None:
            return [batch.nll_nats(part).cpu().double()]
        (rows,) = batch.passes
        assert rows.in_order, "documents of several windows have no positions of their own"
        states = batch.model.hidden(rows.prelude, part).states
        by_position = projected_token_nll_nats(states, batch.model.output_weight, rows.targets)
        keep.append(by_position.cpu())
        return [by_position.sum(1).cpu().double()]  # the bits of `Batch.nll_nats`

    with torch.no_grad():
        return torch.cat(in_halves(range(len(z)), together))


def minus_log_mean(log_weight: Tensor) -> Estimate:
    """Return -log of the mean weight, with a jackknife standard error: (K,) float64 to nats.

    The delta method would cap the error at 1 nat, however few draws dominate the mean; the jackknife does not.
    """
    draws = len(log_weight)
    total = log_weight.logsumexp(0)
    effective = float((2 * total - (2 * log_weight).logsumexp(0)).exp())
    stderr = None
    if draws > 1:
        nothing = log_weight.new_full((1,), -math.inf)
        before = torch.cat([nothing, log_weight.logcumsumexp(0)[:-1]])
        after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
        left_out = torch.logaddexp(before, after)  # (K,), log sum exp without each draw
        stderr = math.sqrt((draws - 1) * float((left_out - left_out.mean()).square().mean()))
    return Estimate(math.log(draws) - float(total), stderr, draws, effective)


# What lm-eval gets for a rolling log-likelihood -----------------------------------------------------------------------

ROWS = ("bound", "bound_stderr", "nll_given_z", "kl", "as_released", "prior", "iwae", "causal")


class RollingScore(float):
    """Minus the bound of a document, in nats, with its parts.

    lm-eval passes one number per document to the metrics; this one carries the parts along.
    """

    __slots__ = ("_rows", "_tokens")
    _rows: dict[str, float]
    _tokens: int

    def __new__(cls, rows: Mapping[str, float], *, tokens: int) -> RollingScore:
        """Create a score.

        Args:
            rows: some of `ROWS`, `bound` among them, each in nats summed over the document. `bound_stderr` is the
                Monte-Carlo standard error of `bound`.
            tokens: number of scored tokens of the model.

        Raises:
            UsageError: `bound` is missing, a name is unknown, or `tokens` is below 1.
        """
        unknown = sorted(set(rows) - set(ROWS))
        if "bound" not in rows or unknown:
            raise UsageError(f"a rolling score needs bound and may have {', '.join(ROWS[1:])}; got {', '.join(rows)}")
        if tokens < 1:
            raise UsageError(f"a rolling score needs at least 1 scored token, got {tokens}")
        score = super().__new__(cls, -rows["bound"])
        score._rows = {name: float(value) for name, value in rows.items()}
        score._tokens = tokens
        return score

    @property
    def rows(self) -> Mapping[str, float]:
        """The parts in nats, read-only."""
        return MappingProxyType(self._rows)

    @property
    def tokens(self) -> int:
        """Number of scored tokens of the model."""
        return self._tokens

    def __reduce__(self) -> tuple[Callable[..., RollingScore], tuple[dict[str, float], int]]:
        """Let copies and pickles keep the parts."""
        return _restored, (dict(self._rows), self._tokens)


def _restored(rows: dict[str, float], tokens: int) -> RollingScore:
    return RollingScore(rows, tokens=tokens)
