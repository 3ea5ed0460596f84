"""The yardstick, not the program: the published fast step, written plainly, against which `bench` measures speed.

NOTHING ELSE MAY USE THIS MODULE. It follows the description of the algorithm (arXiv:2502.01567 section 2 and appendix:
decoder, ELBO, AdamW on mu and log_var) and does what a plain implementation does: the whole (T, V) logits in fp32, a
dense (T, T) window mask, and one backward pass through everything, which also makes the gradients of all weights that
the fast step then does not use. It shares no code with `model`, `elbo` and `posterior`, so it is a second opinion on
their mathematics too; in float64 it is the truth that tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from ltm_eval.config import FitConfig
    from ltm_eval.model_config import ModelConfig

Weights = Mapping[str, Tensor]
"""Parameters under the names of `LatentThoughtModel`, all of one dtype."""


@dataclass(frozen=True)
class NaiveStep:
    """What one fast step computes."""

    nll_nats: Tensor
    """(B,)."""
    kl_nats: Tensor
    """(B,)."""
    mu_grad: Tensor
    """(B, L, N, D), of the sum of both over the batch."""
    log_var_grad: Tensor
    """(B, L, N, D)."""


class NaiveFit:
    """Published fitting of mu and log_var to one batch of rows."""

    def __init__(self, weights: Weights, config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self.weights = {name: weight.detach().to(dtype).requires_grad_() for name, weight in weights.items()}

    def step(self, rows: tuple[Tensor, Tensor], mu: Tensor, log_var: Tensor, noise: Tensor) -> NaiveStep:
        """Objective and gradients at z = mu + noise * sigma.

        Args:
            rows: tokens and targets, (B, T) each; -1 where a target is not scored.
            mu, log_var, noise: (B, L, N, D).
        """
        mu, log_var = mu.detach().requires_grad_(), log_var.detach().requires_grad_()
        for weight in self.weights.values():
            weight.grad = None
        nll, kl = objective(self.weights, self.config, rows, (mu, log_var, noise))
        (nll + kl).sum().backward()
        assert mu.grad is not None and log_var.grad is not None
        return NaiveStep(nll.detach(), kl.detach(), mu.grad, log_var.grad)

    def run(
        self, rows: tuple[Tensor, Tensor], start: tuple[Tensor, Tensor], noise: Tensor, config: FitConfig
    ) -> Tensor:
        """`config.t_fast` steps of AdamW at a constant rate and the same noise; the objective of each, (t_fast, B)."""
        mu, log_var = (part.detach().clone() for part in start)
        betas = (config.beta1, config.beta2)
        optimiser = torch.optim.AdamW([mu, log_var], config.lr, betas, config.adam_eps, config.weight_decay)
        objectives = []
        for _ in range(config.t_fast):
            found = self.step(rows, mu, log_var, noise)
            mu.grad, log_var.grad = found.mu_grad, found.log_var_grad
            optimiser.step()
            objectives.append(found.nll_nats + found.kl_nats)
        return torch.stack(objectives)


def objective(
    weights: Weights, config: ModelConfig, rows: tuple[Tensor, Tensor], latents: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """-log p(x | mu + noise * sigma) and KL(q || p), (B,) each."""
    (tokens, targets), (mu, log_var, noise) = rows, latents
    logits = decoder(weights, config, tokens, mu + noise * torch.exp(0.5 * log_var))
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    kl = -0.5 * (1 + log_var - mu**2 - torch.exp(log_var))
    return nll.view(targets.shape).sum(1), kl.sum((1, 2, 3))


def decoder(weights: Weights, config: ModelConfig, tokens: Tensor, z: Tensor) -> Tensor:
    """Logits of every position, (B, T, V)."""
    length = tokens.shape[1]
    gap = torch.arange(length).view(-1, 1) - torch.arange(length)
    seen = ((gap >= 0) & (gap < config.window_size)).to(tokens.device)  # (T, T)
    turns = _turns(config, z.device)
    stride = max(1, config.max_seq_len // config.max_z_len)
    latent_turns = turns[::stride][: config.n_latents] if config.use_z_pos_emb else None
    x = weights["tok_embeddings.weight"][tokens]
    for layer in range(config.n_layers):
        part = {name.removeprefix(f"layers.{layer}."): weight for name, weight in weights.items()}
        normed = _norm(x, part["attention_norm.weight"], config.norm_eps)
        x = x + _attention(part, "attention", (normed, normed), (turns[:length], turns[:length]), seen)
        normed = _norm(x, part["cross_attention_norm.weight"], config.norm_eps)
        x = x + _attention(part, "cross_attention", (normed, z[:, layer]), (turns[:length], latent_turns), None)
        normed = _norm(x, part["ffn_norm.weight"], config.norm_eps)
        gate, up = (F.linear(normed, part[f"feed_forward.{name}.weight"]) for name in ("w1", "w3"))
        x = x + F.linear(F.silu(gate) * up, part["feed_forward.w2.weight"])
    return F.linear(_norm(x, weights["norm.weight"], config.norm_eps), weights["tok_embeddings.weight"])


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _turns(config: ModelConfig, device: torch.device) -> Tensor:
    """e^(i * position * frequency), (max_seq_len, head_dim / 2), of rotary positions; angles in fp32 as published."""
    width = config.dim // config.n_heads
    frequency = 1.0 / 10_000.0 ** (torch.arange(0, width, 2, device=device).float() / width)
    angle = torch.outer(torch.arange(config.max_seq_len, device=device).float(), frequency)
    return torch.polar(torch.ones_like(angle), angle)


def _rotated(x: Tensor, turns: Tensor | None) -> Tensor:
    """Rotate (B, S, H, head_dim) by (S, head_dim / 2), interleaved pairs as complex numbers."""
    if turns is None:
        return x
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.unsqueeze(1)).flatten(-2).type_as(x)


def _attention(
    part: Weights, name: str, streams: tuple[Tensor, Tensor], turns: tuple[Tensor, Tensor | None], seen: Tensor | None
) -> Tensor:
    """Attention of the first stream to the second, (B, T, D)."""
    width = 2 * turns[0].shape[1]
    q, k, v = (
        F.linear(stream, part[f"{name}.{way}.weight"]).unflatten(-1, (-1, width))
        for way, stream in (("wq", streams[0]), ("wk", streams[1]), ("wv", streams[1]))
    )
    q, k = _rotated(q, turns[0]), _rotated(k, turns[1])
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return F.linear(out.transpose(1, 2).flatten(2), part[f"{name}.wo.weight"])
