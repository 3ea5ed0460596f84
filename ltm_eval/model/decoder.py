"""The Latent Thought Model's decoder: a Transformer whose every layer cross-attends to its own latent vectors.

Source: arXiv:2502.01567 section 2.1; github mingluzhao/Latent-Thought-LM @498e39e, `model.py`. Departures: z is (B,
L, N, D) instead of (B, L*N, D); the sliding window is computed in blocks, so no (T, T) mask exists beyond two
windows; the part of layer 0 that z cannot change is a method of its own (`prelude`), because a fit needs it once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm_eval.model.inputs import check_inputs
from ltm_eval.system.threads import in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_eval.model.config import ModelConfig


ROPE_THETA = 10_000.0
_QUERIES = 64  # queries per block of self-attention on a CPU, by measurement
# On a CPU the layers of a model at least so wide are computed in pieces of so many positions.
_WIDE = 256
_PIECE = 256


class Linear(nn.Linear):
    """Linear layer without bias that computes in the dtype of its weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Initialise, except on the meta device, where that would import torch's compiler (one second)."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight)


class Embedding(nn.Embedding):
    """Embedding that is initialised as `Linear`."""

    def reset_parameters(self) -> None:
        """Initialise, except on the meta device."""
        if not self.weight.is_meta:
            super().reset_parameters()


class RMSNorm(nn.Module):
    """x / rms(x) * weight in fp32, returned in the dtype of the following matrix product."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps, self.dtype = eps, torch.float32
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = _Normed.apply(x.float(), self.weight, self.eps, self.dtype)  # type: ignore[no-untyped-call]
        return normed


class _Normed(torch.autograd.Function):
    """`x * rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight`, with a backward pass of four sweeps over x
    instead of autograd's ten.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = x * scale
        if dtype == torch.float32:
            normed.mul_(weight)
            return normed
        return torch.mul(normed, weight, out=torch.empty_like(normed, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        (grad,) = grad_outputs
        weight_grad = (grad * (x * scale)).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        inner = grad * weight  # fp32
        shared = torch.linalg.vecdot(inner, x).unsqueeze(-1).mul_(scale).mul_(scale).div_(-x.shape[-1])
        return inner.addcmul_(x, shared).mul_(scale), weight_grad, None, None


def rope_table(head_dim: int, length: int) -> Tensor:
    """Return cosines and sines of rotary positions 0 ... length-1 (arXiv:2104.09864): (2, length, head_dim / 2).

    Always computed on the CPU. Each cosine lies beside its sine in memory, so that `rotate` can view the table as
    complex numbers.
    """
    freqs = 1.0 / (ROPE_THETA ** (torch.arange(0, head_dim, 2, device="cpu")[: head_dim // 2].float() / head_dim))
    angles = torch.outer(torch.arange(length, device="cpu"), freqs).float()
    return torch.stack([angles.cos(), angles.sin()], dim=-1).movedim(-1, 0)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved pairs of x (..., T, head_dim) by table (2, ..., T, head_dim / 2), as complex numbers."""
    if (
        torch.compiler.is_compiling()
    ):  # torch's compiler does not support complex numbers, but fuses these four products
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = table
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)
    turns = torch.view_as_complex(table.movedim(0, -1).contiguous())
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)


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
        """Project (B, T, D) to rotated queries (B, H, T, head_dim)."""
        return rotate(self.wq(x).unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2), table)

    def keys_values(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Project (B, S, D) to keys and values (B, H_kv, S, head_dim); rotate keys unless `table` is None."""
        k = self.wk(x).unflatten(-1, (self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.wv(x).unflatten(-1, (self.n_kv_heads, self.head_dim)).transpose(1, 2)
        return (k if table is None else rotate(k, table)), v

    def expand(self, x: Tensor) -> Tensor:
        """Repeat key or value heads for grouped queries: (B, H_kv, S, hd) to (B, H, S, hd)."""
        repeats = self.n_heads // self.n_kv_heads
        return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)

    def merge(self, heads: Tensor) -> Tensor:
        """Project heads (B, H, T, head_dim) to the residual stream (B, T, D)."""
        return self.wo(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def over(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from every query to every key (cross-attention to z): (B, T, D)."""
        return self.merge(F.scaled_dot_product_attention(q, self.expand(k), self.expand(v)))


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention in which position i sees positions i-window+1 ... i.

    Equals `scaled_dot_product_attention(q, k, v, attn_mask=mask)` with `mask[i, j] = 0 <= i - j < window`, in time
    O(T * window).

    Args:
        q, k, v: (B, H, T, head_dim); on a CPU there may be more keys than queries, those of the positions before.
        window: at least 1.

    Returns:
        (B, H, T, head_dim).
    """
    if q.device.type == "cpu":
        attended: Tensor = _Windowed.apply(q, k, v, window)  # type: ignore[no-untyped-call]
        return attended
    return _windowed_in_blocks(q, k, v, window)


class _Windowed(torch.autograd.Function):
    """CPU version: one block of queries at a time against the keys it sees, so that scores stay in cache.

    It computes a third of the masked positions of `_windowed_in_blocks` and neither pads nor copies.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        ctx.shapes, ctx.window = (q.shape, k.shape), window
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q * q.shape[-1] ** -0.5, k, v))  # (B * H, T, hd)
        out, shares = torch.empty_like(q), []
        for queries, keys in _query_blocks(q.shape[1], k.shape[1], window):
            shares.append(_shares(q[:, queries], k[:, keys], window))
            torch.bmm(shares[-1], v[:, keys], out=out[:, queries])
        ctx.save_for_backward(q, k, v, *shares)
        return out.view(ctx.shapes[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *shares = ctx.saved_tensors
        grad = grad_outputs[0].reshape(q.shape)
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (queries, keys), share in zip(_query_blocks(q.shape[1], k.shape[1], ctx.window), shares, strict=True):
            above = torch.bmm(grad[:, queries], v[:, keys].mT)  # (B * H, R, S)
            slope = torch._softmax_backward_data(above, share, -1, share.dtype)  # (B * H, R, S)
            q_grad[:, queries] = torch.bmm(slope, k[:, keys])
            k_grad[:, keys] += torch.bmm(slope.mT, q[:, queries])
            v_grad[:, keys] += torch.bmm(share.mT, grad[:, queries])
        q_grad.mul_(q.shape[-1] ** -0.5)
        own, seen = ctx.shapes
        return q_grad.view(own), k_grad.view(seen), v_grad.view(seen), None


def _query_blocks(queries: int, keys: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of queries with the keys that any of them sees; the last query is at the last key's position."""
    before = keys - queries
    for start in range(0, queries, _QUERIES):
        end = min(start + _QUERIES, queries)
        yield slice(start, end), slice(max(0, before + start - window + 1), before + end)


def _shares(q: Tensor, k: Tensor, window: int) -> Tensor:
    """Return attention weights: (G, R, hd), (G, S, hd) to (G, R, S), in q's dtype.

    The last query is at the last key's position.
    """
    mask = _window_mask(q.shape[1], k.shape[1], window, q.device)
    if q.dtype != torch.bfloat16:
        scores = torch.baddbmm(mask.to(q.dtype), q, k.mT)
        return torch.softmax(scores, -1, out=scores)
    scores = torch.bmm(q, k.mT)
    wide = scores + mask  # fp32
    return scores.copy_(torch.softmax(wide, -1, out=wide))


@lru_cache(maxsize=64)
def _window_mask(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Return 0 where a query sees a key, else -inf: (R, S), fp32; the last query is at the last key's position."""
    gap = torch.arange(keys - queries, keys, device=device).unsqueeze(1) - torch.arange(keys, device=device)
    return torch.zeros(queries, keys, device=device).masked_fill_((gap < 0) | (gap >= window), -math.inf)


def _windowed_in_blocks(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Version for other devices: torch's fused kernels over blocks of `window` queries.

    The first block sees only itself; every other one also sees the block before it, through one shared mask.
    """
    batch, heads, length, width = q.shape
    first = F.scaled_dot_product_attention(
        q[:, :, :window], k[:, :, :window], v[:, :, :window], is_causal=True
    )  # (B, H, W, hd)
    if length <= window:
        return first
    blocks = -(-length // window)
    q, k, v = (F.pad(x, (0, 0, 0, blocks * window - length)) for x in (q, k, v))
    queries = q[:, :, window:].unflatten(2, (blocks - 1, window))  # (B, H, C, W, hd)
    keys, values = (_block_pairs(x.unflatten(2, (blocks, window))) for x in (k, v))
    mask = _block_mask(window, q.dtype, q.device)
    rest = F.scaled_dot_product_attention(
        queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), attn_mask=mask
    )
    return torch.cat([first, rest.view(batch, heads, -1, width)], dim=2)[:, :, :length]


def _block_pairs(x: Tensor) -> Tensor:
    """Join every block but the first to the one before it: (B, H, C + 1, W, hd) to (B, H, C, 2W, hd)."""
    return torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3)


@lru_cache(maxsize=16)
def _block_mask(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 0 where a query sees a key of its own block or the one before, else -inf: (W, 2W)."""
    gap = torch.arange(window, 2 * window, device=device).unsqueeze(1) - torch.arange(2 * window, device=device)
    return torch.zeros(window, 2 * window, dtype=dtype, device=device).masked_fill_(
        (gap < 0) | (gap >= window), -math.inf
    )


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
        """Attend over whole sequences; return the residual stream, and keys and values for a cache."""
        q, k, v = self.project(x, table)  # (B, H, T, hd), (B, H_kv, T, hd) twice
        expand = self.attention.expand
        return self.merge(x, windowed_attention(q, expand(k), expand(v), self.window)), k, v

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project queries, keys and values of self-attention, rotated."""
        normed = self.attention_norm(x)
        return self.attention.queries(normed, table), *self.attention.keys_values(normed, table)

    def merge(self, x: Tensor, heads: Tensor) -> Tensor:
        """Add the output of self-attention to the residual stream: (B, T, D)."""
        return x + self.attention.merge(heads)

    def latent_queries(self, x: Tensor, table: Tensor) -> Tensor:
        """Project queries of cross-attention: (B, T, D) to (B, H, T, head_dim)."""
        return self.cross_attention.queries(self.cross_attention_norm(x), table)

    def read_latents(
        self, x: Tensor, table: Tensor, latents: tuple[Tensor, Tensor] | None, queries: Tensor | None = None
    ) -> Tensor:
        """Cross-attend to this layer's latents, given as keys and values; None skips it.

        Args:
            queries: `latent_queries` of x, if already computed.
        """
        if latents is None:
            return x
        q = self.latent_queries(x, table) if queries is None else queries
        return x + self.cross_attention.over(q, *latents)

    def transform(self, x: Tensor) -> Tensor:
        """Add SwiGLU to the residual stream."""
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Hidden:
    """Final hidden states and, if requested, the keys and values of every layer."""

    states: Tensor  # (B, T, D), after the final norm
    keys: list[Tensor]  # L tensors (B, H_kv, T, head_dim)
    values: list[Tensor]  # L tensors (B, H_kv, T, head_dim)
    queries: Tensor | None = None  # of a prelude: layer 0's queries to its latents, (B, H, T, head_dim)

    def repeated(self, times: int) -> Hidden:
        """Repeat the rows `times` times; a single row is not copied."""

        def over(x: Tensor) -> Tensor:
            return x.expand(times, *x.shape).flatten(0, 1)

        queries = None if self.queries is None else over(self.queries)
        return Hidden(over(self.states), [over(k) for k in self.keys], [over(v) for v in self.values], queries)


class _InPieces(torch.autograd.Function):
    """Apply a function of positions to pieces of them, each on one thread (`system.threads`); a piece keeps a graph of
    its own for its backward pass. Gradients of what several pieces read are summed in the order of the pieces.
    """

    @staticmethod
    def forward(
        ctx: Any, work: Callable[..., tuple[Tensor, ...]], regions: Sequence[Sequence[slice]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs of `work`, joined.

        Args:
            work: from parts of `tensors` to outputs (..., positions of the piece, width).
            regions: for every piece the positions that it reads of every tensor.
            tensors: (..., positions, width).
        """
        wanted = ctx.needs_input_grad[2:]

        def compute(parts: Sequence[slice]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
            given = [x[..., part, :].detach() for x, part in zip(tensors, parts, strict=True)]
            for x, want in zip(given, wanted, strict=True):
                x.requires_grad_(want)
            with torch.set_grad_enabled(any(wanted)):
                return given, work(*given)

        ctx.done = in_pieces(regions, compute)
        ctx.regions, ctx.kinds = regions, [(x.shape, x.dtype) for x in tensors]
        return tuple(torch.cat(parts, dim=-2).detach() for parts in zip(*(out for _, out in ctx.done), strict=True))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        wanted, lengths = ctx.needs_input_grad[2:], [out[0].shape[-2] for _, out in ctx.done]
        slopes = zip(*(grad.split(lengths, dim=-2) for grad in grad_outputs), strict=True)

        def compute(piece: tuple[tuple[list[Tensor], tuple[Tensor, ...]], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            (given, out), slope = piece
            return torch.autograd.grad(out, [x for x in given if x.requires_grad], slope)

        found = in_pieces(list(zip(ctx.done, slopes, strict=True)), compute)
        ctx.done = None
        grads = [
            torch.zeros(shape, dtype=dtype) if want else None
            for (shape, dtype), want in zip(ctx.kinds, wanted, strict=True)
        ]
        for parts, own in zip(ctx.regions, found, strict=True):
            rest = iter(own)
            for grad, part in zip(grads, parts, strict=True):
                if grad is not None:
                    grad[..., part, :] += next(rest)
        return None, None, *grads


class LatentThoughtModel(nn.Module):
    """The decoder p(x|z). Weights take no gradient unless a trainer enables it (`requires_grad_`)."""

    rope: Tensor
    rope_latents: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.info: Any = None  # origin of the weights, a `checkpoint.CheckpointInfo`
        self.loaded_sha256 = ""  # digest of the weights as loaded, in float32
        self._tokenizer: Any = None
        self.compiled = False  # whether layers are compiled; set by `compiling`
        self.captures_steps = False  # whether fast steps are CUDA graphs on a GPU; set by `compiling`
        self._output_cast: Tensor | None = None
        self.reset_tables()
        self.eval().requires_grad_(False)

    def reset_tables(self) -> None:
        """Compute the position tables, which checkpoints do not contain."""
        config = self.config
        table = rope_table(config.head_dim, config.max_seq_len)
        stride = max(1, config.max_seq_len // config.max_z_len)
        self.register_buffer("rope", table, persistent=False)
        self.register_buffer("rope_latents", table[:, ::stride][:, : config.n_latents].clone(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.tok_embeddings.weight.device

    @property
    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def output_weight(self) -> Tensor:
        """Output projection (V, D), tied to the embedding, in the dtype of matrix products."""
        return self.tok_embeddings.weight if self._output_cast is None else self._output_cast

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's `tokenizer.Tokenizer`, or the one assigned; None if the checkpoint names none.

        GPT-2's is loaded on first use.

        Raises:
            LtmEvalError: the one that the checkpoint names is not available, or not the one it was saved with.
        """
        if callable(self._tokenizer):
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LatentThoughtModel:
        """Move or convert like any module, but keep positions in fp32: 16 bits cannot separate distant ones."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.rope.dtype != torch.float32:
            device = self.rope.device
            self.reset_tables()
            self.rope, self.rope_latents = self.rope.to(device), self.rope_latents.to(device)
        if self._output_cast is not None:
            self._output_cast = self.tok_embeddings.weight.detach().to(self._output_cast.dtype)
        return self

    def set_matmul_dtype(self, dtype: torch.dtype) -> LatentThoughtModel:
        """Compute matrix products in `dtype`; weights are rounded in place, so use it on a copy (`live.as_read`).

        Norms, residual stream, softmax sums and everything reported stay in fp32.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.to(dtype)
            elif isinstance(module, RMSNorm) and module is not self.norm:
                module.dtype = dtype
        self._output_cast = None if dtype == torch.float32 else self.tok_embeddings.weight.to(dtype)
        return self

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw weights as the released trainer does: N(0, 0.02), residual projections scaled by 1/sqrt(2L)."""
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
        """Return every layer's cross-attention keys and values of z (B, L, N, D): (B, H_kv, N, hd) each."""
        table = self.rope_latents if self.config.use_z_pos_emb else None
        return [block.cross_attention.keys_values(z[:, i], table) for i, block in enumerate(self.blocks)]

    def prelude(self, tokens: Tensor) -> Hidden:
        """Compute what z cannot change: embedding, layer 0's self-attention and its queries to the latents."""
        block, table = self.blocks[0], self.rope[:, : tokens.shape[1]]  # (2, T, hd / 2)
        x, k, v = block.attend(self.tok_embeddings(tokens).float(), table)  # (B, T, D), (B, H_kv, T, hd) twice
        return Hidden(x, [k], [v], block.latent_queries(x, table))

    def hidden(self, prelude: Hidden, z: Tensor | None) -> Hidden:
        """Compute the rest of the stack, up to the final norm.

        Args:
            prelude: of the same tokens, with the batch size of z.
            z: (B, L, N, D), or None to skip cross-attention.
        """
        x, keys, values = prelude.states, list(prelude.keys), list(prelude.values)  # x: (B, T, D)
        table = self.rope[:, : x.shape[1]]
        latents = None if z is None else self.latent_keys_values(z)
        if latents is not None and len(pieces := self._pieces(x)) > 1:
            return self._hidden_in_pieces(prelude, latents, pieces)
        for i, block in enumerate(self.blocks):
            if i:
                x, k, v = block.attend(x, table)
                keys.append(k)
                values.append(v)
            asked = prelude.queries if i == 0 else None
            x = block.transform(block.read_latents(x, table, None if latents is None else latents[i], asked))
        return Hidden(self.norm(x), keys, values)

    def _pieces(self, x: Tensor) -> list[slice]:
        """Return the positions of (B, T, D) to compute together; they depend on sizes only."""
        length = x.shape[1]
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
        if x.device.type != "cpu" or self.compiled or trained or self.config.dim < _WIDE:
            return [slice(0, length)]
        count = -(-length * len(x) // _PIECE)
        size = max(1, -(-length // (count * _QUERIES))) * _QUERIES
        return [slice(start, min(start + size, length)) for start in range(0, length, size)]

    def _hidden_in_pieces(
        self, prelude: Hidden, latents: list[tuple[Tensor, Tensor]], pieces: Sequence[slice]
    ) -> Hidden:
        """Compute `hidden`; a piece runs from a layer's attention to the projections of the next layer's."""
        assert prelude.queries is not None
        x, q, table = prelude.states, prelude.queries, self.rope[:, : prelude.states.shape[1]]
        keys, values, window = list(prelude.keys), list(prelude.values), self.config.window_size
        seen = [slice(max(0, piece.start - window + 1), piece.stop) for piece in pieces]
        whole = slice(None)
        for i, block in enumerate(self.blocks):

            def layer(
                x: Tensor, q: Tensor, table: Tensor, *context: Tensor, i: int = i, block: Block = block
            ) -> tuple[Tensor, ...]:
                latent_k, latent_v, *own = context
                if own:
                    k, v = (block.attention.expand(part) for part in own)
                    x = block.merge(x, windowed_attention(q, k, v, window))
                x = block.read_latents(x, table, (latent_k, latent_v), None if own else q)
                x = block.transform(x)
                return (self.norm(x),) if block is self.blocks[-1] else (x, *self.blocks[i + 1].project(x, table))

            context = (*latents[i], keys[i], values[i]) if i else latents[i]
            regions = [
                (piece,) * 3 + (whole,) * 2 + (near,) * (2 if i else 0)
                for piece, near in zip(pieces, seen, strict=True)
            ]
            x, *projected = _InPieces.apply(layer, regions, x, q, table, *context)  # type: ignore[no-untyped-call]
            if projected:
                q, k, v = projected
                keys.append(k)
                values.append(v)
        return Hidden(x, keys, values)

    def forward(self, tokens: Tensor, z: Tensor | None = None) -> Tensor:
        """Return logits of the next token at every position.

        Args:
            tokens: (B, T), whole numbers from 0 to V - 1, T at most `max_seq_len`.
            z: (B, L, N, D), floats; None skips cross-attention, which equals z = 0.

        Returns:
            (B, T, V), fp32.

        Raises:
            UsageError: shape, dtype or a value of `tokens` or `z` is wrong.
        """
        if not torch.compiler.is_compiling():
            check_inputs(tokens, z, self.config, self.device)
        tokens = tokens.long()
        return self.logits(self.hidden(self.prelude(tokens), z).states)

    def logits(self, states: Tensor) -> Tensor:
        """Project final hidden states to the vocabulary: (..., D) to (..., V), fp32."""
        return F.linear(states.to(self.output_weight.dtype), self.output_weight).float()
