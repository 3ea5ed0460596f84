"""What single tokens of a text cost, in nats: the terms of sums that are made anyway.

Nothing here is a pass of its own. The row `nll_given_z` scores a document under several draws of z; what each position
costs there is kept, instead of its sum alone, for the few documents that a reader will look at token by token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.elbo import IGNORED, projected_token_nll_nats

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ltm_eval.batch import Batch
    from ltm_eval.windows import Document


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
