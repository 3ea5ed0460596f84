"""A document scored under draws of z that its fit has not seen.

Models compute in fp32; sums over windows and draws are float64. Draws of one document share a pass, two documents never
do, so a document's bits do not depend on its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.inference.batching import Batch, in_halves
from ltm_eval.inference.windows import Document, generator, padded_length, standard_normal
from ltm_eval.model.elbo import IGNORED, projected_token_nll_nats
from ltm_eval.system import progress
from ltm_eval.system.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from ltm_eval.inference.windows import Posterior
    from ltm_eval.model.decoder import LatentThoughtModel


# What single tokens of a text cost, in nats: the terms of sums that are made anyway.
#
# Nothing here is a pass of its own. The row `nll_given_z` scores a document under several draws of z; what each
# position costs there is kept, instead of its sum alone, for the few documents that a reader will look at token by
# token.


@dataclass(frozen=True)
class TokenCosts:
    """Where the tokens' costs of some documents of a batch go."""

    wanted: Collection[int] = ()
    """Places of the documents whose tokens are kept; each is one window."""
    nats: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """By place: -log p(token | z, tokens before) of every scored token in order, mean over the draws; their sum is the
    row `nll_given_z`."""


def nll_by_position(batch: Batch, z: Tensor) -> Tensor:
    """`Batch.nll_nats` before the sum over positions, for documents of one window: (R, L, N, D) to (R, T), no gradient.

    `.sum(1)` of it has the bits of `Batch.nll_nats`.
    """
    (rows,) = batch.passes
    assert rows.in_order, "documents of several windows have no positions of their own"
    hidden = batch.model.hidden(rows.prelude, z)
    return projected_token_nll_nats(hidden.states, batch.model.output_weight, rows.targets)


def scored_means(document: Document, by_position: Sequence[Tensor]) -> tuple[float, ...]:
    """Mean over draws of what each scored position costs, in float64; `by_position` holds (S, T) in parts."""
    means = torch.cat(list(by_position)).double().mean(0).tolist()
    (window,) = document.windows
    return tuple(means[place] for place, target in enumerate(window.targets) if target != IGNORED)


DRAWS = 8
"""Fresh noise draws per document."""

_TOKENS_IN_FLIGHT = 65_536
"""Of all draws of a pass on a GPU."""
_CPU_TOKENS_IN_FLIGHT = 1024
"""On a CPU: where matrix products are as fast as they get."""
_CPU_LANES = 8
"""Most draws of a pass on a CPU; the usual numbers of draws are multiples of it."""


@dataclass(frozen=True)
class Weighed:
    """One document under S draws, (S,) each, float64 on the CPU."""

    nll: Tensor
    """-log p(x|z_s)."""
    log_ratio: Tensor
    """log p(z_s) - log q(z_s)."""

    @property
    def log_weight(self) -> Tensor:
        """log p(x|z_s) p(z_s) / q(z_s)."""
        return self.log_ratio - self.nll


def draw_noise(own: Posterior, key: bytes, role: str, *, seed: int, draws: int) -> Iterator[Tensor]:
    """Standard normal draws (1, L, N, D), one after the other from one stream."""
    stream = generator(seed, role, key)
    return (standard_normal(stream, own.mu.shape) for _ in range(draws))


def weigh(
    model: LatentThoughtModel,
    document: Document,
    own: Posterior,
    *,
    noise: Iterator[Tensor],
    keep: list[Tensor] | None = None,
) -> Weighed:
    """Score a document under z = mu + noise * sigma for every draw; `keep` gets (S, T), what each position costs."""
    mu, sigma, log_var = own.mu.cpu(), (0.5 * own.log_var).exp().cpu(), own.log_var.cpu().double()
    nll, ratio = [], []
    lanes = _lanes(model, document)
    with torch.no_grad():
        one = Batch.of(model, [document])
        for draws in _packed(noise, lanes):
            z = mu + draws * sigma  # (S, L, N, D)
            filled = _filled(z, lanes) if model.device.type == "cpu" else z
            kept: list[Tensor] | None = None if keep is None else []
            nll.append(_nll_of_draws(one, filled.to(model.device), keep=kept)[: len(z)])
            if keep is not None and kept:
                keep.append(torch.cat(kept)[: len(z)])
            progress.mark()
            wide, drawn = z.double(), draws.double()
            ratio.append((0.5 * (drawn.square() + log_var - wide.square())).flatten(1).sum(1))
    return Weighed(torch.cat(nll), torch.cat(ratio))


def _lanes(model: LatentThoughtModel, document: Document) -> int:
    """Draws that share a pass; they depend on the document alone, so that a draw's bits do not depend on how many there
    are.
    """
    if model.device.type == "cpu":
        return max(1, min(_CPU_LANES, _CPU_TOKENS_IN_FLIGHT // _tokens(document)))
    return max(1, _TOKENS_IN_FLIGHT // _tokens(document))


def _filled(z: Tensor, lanes: int) -> Tensor:
    """z with its last draw repeated up to `lanes`."""
    return torch.cat([z, z[-1:].expand(lanes - len(z), *z.shape[1:])])


def _packed(noise: Iterator[Tensor], lanes: int) -> Iterator[Tensor]:
    """Up to `lanes` draws at a time: (lanes, L, N, D)."""
    while held := list(islice(noise, lanes)):
        yield torch.cat(held)


def nll_of_latents(model: LatentThoughtModel, document: Document, z: Tensor) -> Tensor:
    """-log p(x|z_s) of one document under several latents in one pass: (S, L, N, D) to (S,), float64 on the CPU."""
    with torch.no_grad():
        return _nll_of_draws(Batch.of(model, [document]), z)


def _nll_of_draws(one: Batch, z: Tensor, *, keep: list[Tensor] | None = None) -> Tensor:
    """`nll_of_latents` of a batch of one document; in several passes where memory runs out. `keep`: see `weigh`."""

    def together(draws: Sequence[int]) -> list[Tensor]:
        batch, part = one.repeated(len(draws)), z[draws[0] : draws[-1] + 1]
        if keep is None:
            return [batch.nll_nats(part).cpu().double()]
        by_position = nll_by_position(batch, part)
        keep.append(by_position.cpu())
        return [by_position.sum(1).cpu().double()]

    return torch.cat(in_halves(range(len(z)), together))


def _tokens(document: Document) -> int:
    """Tokens of a pass over the document, padded."""
    return sum(padded_length(len(window.tokens)) for window in document.windows)


# Figures of a document that rest on random draws: a sum of nats, its standard error, and what they rest on.


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


# Perplexities from the sums of rolling log-likelihood tasks: per token, word and byte, with standard errors.
#
# lm-eval hands back one number a document. A Latent Thought Model answers with a `RollingScore`, a float that carries
# the parts of its bound, so that every figure is reported under its own name; any other model's float is its log-
# likelihood, and a baseline of `run` answers with a `TextScore`, which tells how many tokens of its own were scored.
# All sums are exactly rounded (`math.fsum`), so that no figure depends on the order of the documents.

ROWS = ("bound", "bound_stderr", "nll_given_z", "kl", "as_released", "prior", "iwae", "causal")


class RollingScore(float):
    """Minus the bound of a document, in nats, with the parts that make it up."""

    __slots__ = ("_rows", "_tokens")
    _rows: dict[str, float]
    _tokens: int

    def __new__(cls, rows: Mapping[str, float], *, tokens: int) -> RollingScore:
        """A score.

        Args:
            rows: some of `ROWS`, `bound` among them, each in nats summed over the document. `bound_stderr` is the
                Monte-Carlo standard error of `bound`.
            tokens: the model's own tokens that were scored.

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
        """The model's own tokens that were scored."""
        return self._tokens

    def __reduce__(self) -> tuple[Callable[..., RollingScore], tuple[dict[str, float], int]]:
        """So that copies and pickles keep the parts."""
        return _restored, (dict(self._rows), self._tokens)


def _restored(rows: dict[str, float], tokens: int) -> RollingScore:
    return RollingScore(rows, tokens=tokens)
