"""Documents of one padded length, ready for many evaluations of -log p(x|z) and its gradient under changing z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.elbo import IGNORED, kl_nats, projected_nll_nats
from ltm_eval.errors import UsageError
from ltm_eval.memory import uploaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.model import Hidden, LatentThoughtModel
    from ltm_eval.windows import Document

_TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Rows:
    """Padded windows that run in one pass."""

    prelude: Hidden
    targets: Tensor
    """(R, T)."""
    owner: Tensor
    """(R,): which document of the batch each row belongs to."""
    in_order: bool = False
    """Whether there is one row per document, in their order, so that `owner` need not be looked up."""


@dataclass(frozen=True)
class Batch:
    """Documents of one padded length, ready for many evaluations under changing z."""

    model: LatentThoughtModel
    passes: tuple[Rows, ...]
    """Rows, split so that a pass stays small; the split depends on one document's shape only."""
    size: int
    """Documents B."""

    @classmethod
    def of(cls, model: LatentThoughtModel, documents: Sequence[Document]) -> Batch:
        """Pad and place the documents' windows; they must share the number of windows and the padded length."""
        longest = max(len(window.tokens) for document in documents for window in document.windows)
        limit = model.config.max_seq_len
        if longest > limit:
            raise UsageError(
                f"a window of {longest} tokens exceeds the model's context of {limit}; cut the text into windows first"
            )
        length = min(limit, documents[0].padded_length)
        n_windows = len(documents[0].windows)
        per_pass = max(1, _TOKENS_PER_PASS // length)
        with torch.no_grad():
            passes = [
                _rows(model, documents, slice(first, first + per_pass), length)
                for first in range(0, n_windows, per_pass)
            ]
        return cls(model, tuple(passes), len(documents))

    def repeated(self, times: int) -> Batch:
        """Its one document `times` times over, to be evaluated under as many latents; the prelude is not made again."""
        assert self.size == 1
        passes = [
            Rows(
                rows.prelude.repeated(times),
                rows.targets.repeat(times, 1),
                torch.arange(times, device=rows.owner.device).repeat_interleave(len(rows.owner)),
                rows.in_order,
            )
            for rows in self.passes
        ]
        return Batch(self.model, tuple(passes), times)

    def descend(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradient of the summed -ELBO into mu.grad and log_var.grad; returns (nll, kl), (B,) each,
        detached.
        """
        with torch.no_grad():
            sigma = (0.5 * log_var).exp()
            mu.grad, log_var.grad = mu.detach().clone(), 0.5 * (log_var.exp() - 1)  # of the KL
            total = torch.zeros(self.size, device=mu.device)
        for draw in noise:
            for rows in self.passes:
                z = torch.addcmul(mu.detach(), draw, sigma).requires_grad_()
                nll = self._nll(rows, z) / len(noise)
                (slope,) = torch.autograd.grad(
                    nll.sum(), z
                )  # of z alone, also where a trainer's weights take gradients
                total += nll.detach()
                mu.grad += slope
                log_var.grad += slope * draw * (0.5 * sigma)
        return total, kl_nats(mu.detach(), log_var.detach())

    def expected_nll_nats(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        """Mean over draws of -log p(x | mu + draw * sigma): (B,), no gradient."""
        with torch.no_grad():
            draws = [self.nll_nats(mu + draw * (0.5 * log_var).exp()) for draw in noise]
        return torch.stack(draws).mean(0)

    def nll_nats(self, z: Tensor | None) -> Tensor:
        """-log p(x|z) per document: (B, L, N, D) to (B,); None skips cross-attention."""
        total = torch.zeros(self.size, device=self.model.device)
        for rows in self.passes:
            total = total + self._nll(rows, z)
        return total

    def _nll(self, rows: Rows, z: Tensor | None) -> Tensor:
        hidden = self.model.hidden(rows.prelude, z if z is None or rows.in_order else z[rows.owner])
        per_row = projected_nll_nats(hidden.states, self.model.output_weight, rows.targets)
        if rows.in_order:
            return per_row
        return torch.zeros(self.size, device=per_row.device).index_add(0, rows.owner, per_row)


def _rows(model: LatentThoughtModel, documents: Sequence[Document], part: slice, length: int) -> Rows:
    """Rows of the windows `part` of every document, padded to `length`."""
    windows = [(owner, window) for owner, document in enumerate(documents) for window in document.windows[part]]
    tokens = torch.zeros(len(windows), length, dtype=torch.long)
    targets = torch.full((len(windows), length), IGNORED, dtype=torch.long)
    for row, (_, window) in enumerate(windows):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        targets[row, : len(window.targets)] = torch.tensor(window.targets)
    owner = torch.tensor([owner for owner, _ in windows])
    device = model.device
    in_order = len(documents[0].windows) == 1
    return Rows(model.prelude(uploaded(tokens, device)), uploaded(targets, device), uploaded(owner, device), in_order)


def tokens_per_pass(document: Document) -> int:
    """Tokens that go through the decoder at once."""
    return min(_TOKENS_PER_PASS, len(document.windows) * document.padded_length)


def bytes_per_token(model: LatentThoughtModel) -> int:
    """Memory that a fast step keeps for its backward pass, per token: about 24 numbers of the width in each layer."""
    return 24 * 4 * model.config.dim * model.config.n_layers
