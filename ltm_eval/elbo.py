"""Terms of the evidence lower bound, in nats and summed per document.

Source: arXiv:2502.01567 section 2; github mingluzhao/Latent-Thought-LM @498e39e, `model.py:elbo`. Departure: the output
projection and the cross-entropy are one operation, so that the (T, V) logits never exist as a whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
"""Target value of a position that is not scored."""

_CHUNK_BYTES = 64 * 2**20


def kl_nats(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)) per document.

    Equals `(-0.5 * (1 + log_var - mu**2 - log_var.exp())).sum()` over a document's latents.

    Args:
        mu: (B, L, N, D).
        log_var: (B, L, N, D).

    Returns:
        (B,), nats.
    """
    return (-0.5 * (1 + log_var - mu.square() - log_var.exp())).flatten(1).sum(1)


def kl_per_layer_nats(mu: Tensor, log_var: Tensor) -> Tensor:
    """`kl_nats` before the sum over layers: (B, L, N, D) to (B, L)."""
    return (-0.5 * (1 + log_var - mu.square() - log_var.exp())).flatten(2).sum(2)


def token_nll_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) at every position, 0 where the target is `IGNORED`: (B, T, V), (B, T) to (B, T), nats in fp32."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return flat.view(targets.shape)


def projected_nll_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Output projection and cross-entropy in one, without the (T, V) logits.

    Equals `token_nll_nats(hidden @ weight.T, targets).sum(1)`; differentiable in `hidden` only. Log-sum-exp and sums
    are fp32.

    Args:
        hidden: (B, T, D), after the final norm.
        weight: (V, D), in the dtype of the matrix product; takes no gradient.
        targets: (B, T), `IGNORED` where a position is not scored.

    Returns:
        (B,), nats.
    """
    result: Tensor = _ProjectedNLL.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result


class _ProjectedNLL(torch.autograd.Function):
    """Works through positions in chunks; the gradient of `hidden` is made in the forward pass, while the chunk's
    logits exist.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        flat, wanted = hidden.reshape(-1, width), targets.reshape(-1)
        nll = torch.empty(batch * length, dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        rows = max(16, _CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, batch * length, rows):
            part = slice(start, start + rows)
            nll[part], part_grad = _chunk_nll(flat[part], weight, wanted[part], want_grad=grad is not None)
            if grad is not None and part_grad is not None:
                grad[part] = part_grad
        if grad is not None:
            ctx.save_for_backward(grad.view_as(hidden))
        return nll.view(batch, length).sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_outputs[0].view(-1, 1, 1).to(grad.dtype), None, None


def _chunk_nll(hidden: Tensor, weight: Tensor, targets: Tensor, *, want_grad: bool) -> tuple[Tensor, Tensor | None]:
    """(R, D), (V, D), (R,) to nll (R,) and its gradient in `hidden` (R, D), if wanted."""
    logits = (hidden.to(weight.dtype) @ weight.T).float()  # (R, V)
    scored = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    log_norm = logits.logsumexp(1, keepdim=True)
    nll = ((log_norm - logits.gather(1, index)).squeeze(1)) * scored
    if not want_grad:
        return nll, None
    slope = (logits - log_norm).exp_()
    slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=slope.dtype))
    slope.mul_(scored.unsqueeze(1))
    return nll, (slope.to(weight.dtype) @ weight).to(hidden.dtype)
