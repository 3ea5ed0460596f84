"""Terms of the evidence lower bound, in nats and summed per document.

Source: arXiv:2502.01567 section 2; github mingluzhao/Latent-Thought-LM @498e39e, `model.py:elbo`. Departure: output
projection and cross-entropy are one operation, so that the (T, V) logits are never stored as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.system.threads import in_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator


IGNORED = -1  # target value of a position that is not scored

# Logits of a chunk on a CPU (a quarter in bf16), by measurement: more overflow the last cache, with fewer the fp32
# product reads its weight too often.
_CHUNK_BYTES = 64 * 2**20
_BLOCK_BYTES = 2**20  # logits of a block in fp32, to fit a core's own cache
_GPU_ROWS = 2048  # positions of a chunk on a GPU


def kl_nats(mu: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mu, exp(log_var)) || N(0, I)) per document.

    Equals `(-0.5 * (1 + log_var - mu**2 - log_var.exp())).sum()` over a document's latents.

    Args:
        mu: (B, L, N, D).
        log_var: (B, L, N, D).

    Returns:
        (B,), nats.
    """
    return (-0.5 * (1 + log_var - mu.square() - log_var.exp())).flatten(1).sum(1)


def kl_per_layer_nats(mu: Tensor, log_var: Tensor) -> Tensor:
    """Return `kl_nats` before the sum over layers: (B, L, N, D) to (B, L)."""
    return (-0.5 * (1 + log_var - mu.square() - log_var.exp())).flatten(2).sum(2)


def token_nll_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p(target), 0 where the target is `IGNORED`: (B, T, V), (B, T) to (B, T), nats in fp32."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return flat.view(targets.shape)


def projected_nll_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the NLL by output projection and cross-entropy in one, without storing the (T, V) logits.

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


def projected_token_nll_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return `projected_nll_nats` before the sum over positions, without a gradient: (B, T), 0 where not scored.

    Its `.sum(1)` has the bits of `projected_nll_nats`.
    """
    with torch.no_grad():
        return _by_position(*_rows_joined(hidden, targets), weight, None).view(targets.shape)


def _rows_joined(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Join all rows on a GPU, so that short ones share a chunk; leave them unchanged on a CPU."""
    if hidden.device.type == "cpu":
        return hidden, targets
    return hidden.reshape(1, -1, hidden.shape[-1]), targets.reshape(1, -1)


def _by_position(hidden: Tensor, targets: Tensor, weight: Tensor, grad: Tensor | None) -> Tensor:
    """Return -log p at every position (B, T); write the gradient of its sum into `grad` unless it is None."""
    nll = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    projection = _Projection(weight, targets)

    def score(place: tuple[int, Places]) -> None:
        row, chunk = place
        with torch.no_grad():
            part, wanted = hidden[row][chunk], targets[row][chunk]
            nll[row][chunk], part_grad = projection.nll_nats(part, wanted, want_grad=grad is not None)
            if grad is not None and part_grad is not None:
                grad[row][chunk] = part_grad

    in_pieces(list(_chunks(targets, projection.rows)), score)
    return nll


class _ProjectedNLL(torch.autograd.Function):
    """Process positions in chunks; the forward pass computes the gradient of `hidden` while a chunk's logits
    exist.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.shape = hidden.shape
        hidden, targets = _rows_joined(hidden, targets)
        grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        nll = _by_position(hidden, targets, weight, grad)
        if grad is not None:
            ctx.save_for_backward(grad)
        return nll.view(ctx.shape[:2]).sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad = ctx.saved_tensors[0].view(ctx.shape)
        return grad * grad_outputs[0].view(-1, 1, 1).to(grad.dtype), None, None


Places = slice | Tensor


def _chunks(targets: Tensor, rows: int) -> Iterator[tuple[int, Places]]:
    """Yield the positions of each chunk, chunks of a row evenly long.

    On a CPU only scored positions, and never of two rows, so that a row has the chunks that it would have alone. On a
    GPU all positions, so that targets need not be inspected.
    """
    for row, own in enumerate(targets):
        places = (own != IGNORED).nonzero().squeeze(1) if own.device.type == "cpu" else None
        count = len(own) if places is None else len(places)
        size = max(1, -(-count // max(1, -(-count // rows))))
        for start in range(0, count, size):
            chunk = slice(start, min(start + size, count))
            yield row, chunk if places is None or count == len(own) else places[chunk]


class _Projection:
    """Project and score chunks; on a CPU within reused buffers, a pair for each thread."""

    def __init__(self, weight: Tensor, targets: Tensor) -> None:
        vocab, on_cpu = weight.shape[0], weight.device.type == "cpu"
        self.weight = weight
        per_row = vocab * (4 if weight.dtype == torch.float32 else 8)
        self.rows = max(16, _CHUNK_BYTES // per_row) if on_cpu else _GPU_ROWS
        self.rows = min(self.rows, targets.shape[1])
        self.block = max(1, min(self.rows, _BLOCK_BYTES // (4 * vocab))) if on_cpu else self.rows
        self.spare: list[tuple[Tensor, Tensor | None]] = []  # buffers that no thread uses

    def nll_nats(self, hidden: Tensor, targets: Tensor, *, want_grad: bool) -> tuple[Tensor, Tensor | None]:
        """Return the NLL (R,) of hidden states (R, D) under targets (R,), and its gradient (R, D) if wanted."""
        buffers = self.spare.pop() if self.spare else self._allocated()
        try:
            return self._scored(hidden, targets, *buffers, want_grad=want_grad)
        finally:
            self.spare.append(buffers)

    def _allocated(self) -> tuple[Tensor, Tensor | None]:
        """Return a buffer for the logits of a chunk, and one for those of a block in fp32 unless they are fp32."""
        vocab, weight = self.weight.shape[0], self.weight
        wide = None if weight.dtype == torch.float32 else torch.empty(self.block, vocab, device=weight.device)
        return torch.empty(self.rows, vocab, dtype=weight.dtype, device=weight.device), wide

    def _scored(
        self, hidden: Tensor, targets: Tensor, buffer: Tensor, wide: Tensor | None, *, want_grad: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits = torch.mm(hidden.to(self.weight.dtype), self.weight.T, out=buffer[: len(hidden)])  # (R, V)
        scored = targets != IGNORED
        index = targets.clamp(min=0).unsqueeze(1)
        at_target = logits.gather(1, index).float()
        log_norm = torch.cat([_normalised(block, wide) for block in logits.split(self.block)])
        nll = log_norm - at_target
        if not want_grad:
            return nll.squeeze(1) * scored, None
        logits.scatter_(1, index, torch.expm1(-nll).to(logits.dtype))  # p - 1
        if logits.device.type != "cpu":
            logits.mul_(scored.unsqueeze(1))
        return nll.squeeze(1) * scored, torch.mm(logits, self.weight).to(hidden.dtype)


def _normalised(logits: Tensor, buffer: Tensor | None) -> Tensor:
    """Turn a block of logits into probabilities in place; return its log-sum-exp in fp32, (r, 1)."""
    wide = logits if buffer is None else buffer[: len(logits)].copy_(logits)
    largest = wide.amax(1, keepdim=True)
    shares = torch.softmax(wide, 1, out=wide if wide.device.type == "cpu" else None)
    log_norm: Tensor = largest - shares.amax(1, keepdim=True).log()  # the largest term is exp(0) / sum
    if shares is not logits:
        logits.copy_(shares)
    return log_norm
