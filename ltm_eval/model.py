"""The Latent Thought Model's decoder: a Transformer whose every layer cross-attends to its own latent vectors.

Source: arXiv:2502.01567 section 2.1; github mingluzhao/Latent-Thought-LM @498e39e, `model.py`. Departures: z is (B,
L, N, D) instead of (B, L*N, D); the sliding window is computed in blocks, so no (T, T) mask exists beyond two
windows; the part of layer 0 that z cannot change is a method of its own (`prelude`), because a fit needs it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm_eval.config import ModelConfig

ROPE_THETA = 10_000.0


class Linear(nn.Linear):
    """Without bias; computes in the dtype of its weight, whatever comes in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(head_dim: int, length: int) -> Tensor:
    """Cosines and sines of rotary positions 0 ... length-1 (arXiv:2104.09864): (2, length, head_dim / 2)."""
    freqs = 1.0 / (ROPE_THETA ** (torch.arange(0, head_dim, 2)[: head_dim // 2].float() / head_dim))
    angles = torch.outer(torch.arange(length), freqs).float()
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved pairs of x (..., T, head_dim) by table (2, ..., T, head_dim / 2)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[0], table[1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Projections of one attention; heads of queries may share keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.wq = Linear(config.dim, config.n_heads * config.head_dim)
        self.wk = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wv = Linear(config.dim, config.n_kv_heads * config.head_dim)
        self.wo = Linear(config.n_heads * config.head_dim, config.dim)

    def queries(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, D) to rotated queries (B, H, T, head_dim)."""
        return rotate(self.wq(x).unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2), table)

    def keys_values(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, S, D) to keys and values (B, H_kv, S, head_dim); keys rotated unless `table` is None."""
        k = self.wk(x).unflatten(-1, (self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.wv(x).unflatten(-1, (self.n_kv_heads, self.head_dim)).transpose(1, 2)
        return (k if table is None else rotate(k, table)), v

    def expand(self, x: Tensor) -> Tensor:
        """Repeat key or value heads for grouped queries: (B, H_kv, S, hd) to (B, H, S, hd)."""
        repeats = self.n_heads // self.n_kv_heads
        return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)

    def merge(self, heads: Tensor) -> Tensor:
        """(B, H, T, head_dim) to the residual stream (B, T, D)."""
        return self.wo(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def over(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every query sees every key (cross-attention to z): (B, T, D)."""
        return self.merge(F.scaled_dot_product_attention(q, self.expand(k), self.expand(v)))

    def windowed(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Position i sees i-window+1 ... i: (B, T, D)."""
        return self.merge(windowed_attention(q, self.expand(k), self.expand(v), window))


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention in which position i sees positions i-window+1 ... i.

    Equals `scaled_dot_product_attention(q, k, v, attn_mask=mask)` with `mask[i, j] = 0 <= i - j < window`, in time
    O(T * window).

    Args:
        q, k, v: (B, H, T, head_dim).
        window: at least 1.

    Returns:
        (B, H, T, head_dim).
    """
    batch, heads, length, width = q.shape
    if length <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    blocks = -(-length // window)
    pad = blocks * window - length
    q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
    qb, kb, vb = (x.view(batch, heads, blocks, window, width).transpose(1, 2) for x in (q, k, v))  # (B, C, H, W, hd)
    keys = torch.cat(
        [F.pad(kb, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], kb], dim=3
    )  # previous block and own: (B, C, H, 2W, hd)
    values = torch.cat([F.pad(vb, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], vb], dim=3)
    mask = _block_mask(window, blocks, q.device)  # (C, 1, W, 2W)
    mask = mask.repeat(batch, 1, 1, 1)
    out = F.scaled_dot_product_attention(qb.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), attn_mask=mask)
    out = out.view(batch, blocks, heads, window, width).transpose(1, 2)
    return out.flatten(2, 3)[:, :, :length]


def _block_mask(window: int, blocks: int, device: torch.device) -> Tensor:
    """Which of the previous and the own block's keys each query of a block sees: (C, 1, W, 2W), bool."""
    query = torch.arange(window, device=device).view(-1, 1) + window
    key = torch.arange(2 * window, device=device).view(1, -1)
    seen = (key <= query) & (query - key < window)
    first = seen & (key >= window)
    return torch.stack([first] + [seen] * (blocks - 1)).unsqueeze(1)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.ffn_dim)
        self.w2 = Linear(config.ffn_dim, config.dim)
        self.w3 = Linear(config.dim, config.ffn_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention to this layer's z, SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window_size
        self.attention = Attention(config)
        self.cross_attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.cross_attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def attend(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention over whole sequences: the new residual stream, and the keys and values that a cache keeps."""
        normed = self.attention_norm(x)
        k, v = self.attention.keys_values(normed, table)
        return x + self.attention.windowed(self.attention.queries(normed, table), k, v, self.window), k, v

    def read_latents(self, x: Tensor, table: Tensor, latents: tuple[Tensor, Tensor] | None) -> Tensor:
        """Cross-attention to this layer's latents, given as keys and values; None skips it."""
        if latents is None:
            return x
        q = self.cross_attention.queries(self.cross_attention_norm(x), table)
        return x + self.cross_attention.over(q, *latents)

    def transform(self, x: Tensor) -> Tensor:
        """SwiGLU with its residual."""
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Hidden:
    """Final hidden states and, if asked for, every layer's keys and values."""

    states: Tensor
    """(B, T, D), after the final norm."""
    keys: list[Tensor]
    """L tensors (B, H_kv, T, head_dim)."""
    values: list[Tensor]
    """L tensors (B, H_kv, T, head_dim)."""


class LatentThoughtModel(nn.Module):
    """The decoder p(x|z). Weights take no gradient unless a trainer asks for it (`requires_grad_`)."""

    rope: Tensor
    rope_latents: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.info: Any = None
        self._output_cast: Tensor | None = None
        self.reset_tables()
        self.eval().requires_grad_(False)

    def reset_tables(self) -> None:
        """Make the position tables, which no checkpoint holds."""
        config = self.config
        table = rope_table(config.head_dim, config.max_seq_len)
        stride = max(1, config.max_seq_len // config.max_z_len)
        self.register_buffer("rope", table, persistent=False)
        self.register_buffer("rope_latents", table[:, ::stride][:, : config.n_latents].clone(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.tok_embeddings.weight.device

    @property
    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def output_weight(self) -> Tensor:
        """Output projection (V, D), tied to the embedding, in the dtype of matrix products."""
        return self.tok_embeddings.weight if self._output_cast is None else self._output_cast

    def set_matmul_dtype(self, dtype: torch.dtype) -> LatentThoughtModel:
        """Compute matrix products in `dtype`; norms, residual stream, softmax sums and everything reported stay
        fp32.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.to(dtype)
        self._output_cast = None if dtype == torch.float32 else self.tok_embeddings.weight.to(dtype)
        return self

    def init_weights(self, generator: torch.Generator) -> None:
        """Random weights as the released trainer starts from: N(0, 0.02), residual projections scaled by 1/sqrt(2L)."""
        small = 0.02 / (2 * self.config.n_layers) ** 0.5
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() < 2:
                    weight.fill_(1.0)
                else:
                    weight.normal_(
                        0.0, small if name.endswith(("w3.weight", "wo.weight")) else 0.02, generator=generator
                    )

    def latent_keys_values(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every layer's cross-attention keys and values of z (B, L, N, D)."""
        table = self.rope_latents if self.config.use_z_pos_emb else None
        return [block.cross_attention.keys_values(z[:, i], table) for i, block in enumerate(self.blocks)]

    def prelude(self, tokens: Tensor) -> Hidden:
        """Embedding and self-attention of layer 0, which no latent can change: (B, T) to (B, T, D)."""
        x, k, v = self.blocks[0].attend(self.tok_embeddings(tokens), self.rope[:, : tokens.shape[1]])
        return Hidden(x, [k], [v])

    def hidden(self, prelude: Hidden, z: Tensor | None) -> Hidden:
        """The rest of the stack, up to the final norm.

        Args:
            prelude: of the same tokens; its batch may be 1 where z's is larger only if the caller expands it.
            z: (B, L, N, D), or None to skip cross-attention.
        """
        x, keys, values = prelude.states, list(prelude.keys), list(prelude.values)
        table = self.rope[:, : x.shape[1]]
        latents = None if z is None else self.latent_keys_values(z)
        for i, block in enumerate(self.blocks):
            if i:
                x, k, v = block.attend(x, table)
                keys.append(k)
                values.append(v)
            x = block.transform(block.read_latents(x, table, None if latents is None else latents[i]))
        return Hidden(self.norm(x), keys, values)

    def forward(self, tokens: Tensor, z: Tensor | None = None) -> Tensor:
        """Logits of the next token at every position.

        Args:
            tokens: (B, T), T at most `max_seq_len`.
            z: (B, L, N, D); None skips cross-attention, which equals z = 0.

        Returns:
            (B, T, V).
        """
        return self.logits(self.hidden(self.prelude(tokens), z).states)

    def logits(self, states: Tensor) -> Tensor:
        """Output projection of final hidden states: (..., D) to (..., V), fp32."""
        return F.linear(states.to(self.output_weight.dtype), self.output_weight).float()
