"""A document scored under draws of z that its fit has not seen.

Models compute in fp32; sums over windows and draws are float64. Draws of one document share a pass, two documents never
do, so a document's bits do not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval import pulse
from ltm_eval.batch import Batch
from ltm_eval.groups import in_halves
from ltm_eval.noise import generator, standard_normal
from ltm_eval.token_costs import nll_by_position
from ltm_eval.windows import Document, padded_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.gaussians import Posterior
    from ltm_eval.model import LatentThoughtModel

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
            pulse.mark()
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
