"""What a fast step costs, beside the published algorithm and beside what the machine can do.

Everything is timed with `torch.utils.benchmark`, the ways in turn, so that a busy moment of the machine falls on all of
them; a figure is the median over rounds. The yardstick is `naive`: full fp32 logits, gradients of all weights, dense
mask, in fp32 and under bf16 autocast.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from ltm_eval.inference.batching import Batch
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fast_loop, steps_of
from ltm_eval.inference.windows import Document, Start, Window
from ltm_eval.model.compiling import compile_layers
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system.errors import UsageError, nearest
from ltm_eval.system.files import write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ltm_eval.inference.options import FitConfig


# The yardstick, not the program: the published fast step, written plainly, against which `bench` measures speed.
#
# NOTHING ELSE MAY USE THIS MODULE. It follows the description of the algorithm (arXiv:2502.01567 section 2 and
# appendix: decoder, ELBO, AdamW on mu and log_var) and does what a plain implementation does: the whole (T, V) logits
# in fp32, a dense (T, T) window mask, and one backward pass through everything, which also makes the gradients of all
# weights that the fast step then does not use. It shares no code with `model`, `elbo` and `posterior`, so it is a
# second opinion on their mathematics too; in float64 it is the truth that tests compare with.

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


_LTM_S = ModelConfig(
    dim=512,
    n_layers=3,
    n_heads=8,
    n_kv_heads=8,
    vocab_size=50258,
    multiple_of=32,
    max_seq_len=1024,
    window_size=256,
    max_z_len=24,
)
SIZES = {
    "demo": replace(_LTM_S, dim=128, n_heads=4, n_kv_heads=4, vocab_size=1024, window_size=128, max_z_len=12),
    "S": _LTM_S,
    "M": replace(_LTM_S, n_layers=6),
    "L": replace(_LTM_S, n_layers=12, max_z_len=96),
}
"""Published sizes (arXiv:2502.01567), and the bundled demo's. Weights are random: they change no time."""
ATTENTION = ("scaled_dot_product", "bmm", "_softmax_backward_data")
"""In the names of attention's kernels; ours on a CPU and the fused ones."""


_STEPS = 10_000
"""More than are ever timed of one fit."""


@dataclass(frozen=True)
class BenchConfig:
    """What is measured."""

    size: str = "S"
    """Name in `SIZES`."""
    tokens: int = 1024
    """T of each row."""
    batch: int = 1
    """Rows B."""
    device: str = "cpu"
    """As torch names it."""
    rounds: int = 5
    """Timings of each way, in turn; their median counts."""
    cpu_time: bool = False
    """CPU seconds of one thread instead of wall-clock: for a machine that others use at the same time."""

    compile: bool = False
    """Time our step with compiled layers too."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise UsageError(f"size must be one of {', '.join(SIZES)}, got {self.size!r}.{nearest(self.size, SIZES)}")
        limit = SIZES[self.size].max_seq_len
        if not 1 <= self.tokens <= limit:
            raise UsageError(f"tokens must be a whole number from 1 to {limit}, got {self.tokens}")
        if self.batch < 1 or self.rounds < 1:
            raise UsageError(f"batch and rounds must be at least 1, got {self.batch} and {self.rounds}")


@dataclass(frozen=True)
class Row:
    """One way of making a fast step."""

    way: str
    """`naive` or `ours`."""
    dtype: str
    """Of matrix products."""
    seconds: float
    """Median of a step."""
    ratio: float
    """Seconds of the plain step in the same dtype (bf16: under autocast) / seconds of this."""
    ceiling_share: float
    """Arithmetic a step cannot do without, per second, over the machine's matrix products per second in this dtype."""


@dataclass(frozen=True)
class Shares:
    """Where a step's time goes."""

    products: float
    """Matrix products of projections and layers, 0 ... 1."""
    attention: float
    """Scores, their softmax in a fused kernel, weighted sums."""
    rest: float
    """Everything else: cross-entropy's softmax, norms, rotations, activations, casts, copies."""


def necessary_flops(config: ModelConfig, tokens: int) -> float:
    """Of a step on so many tokens: 4 per parameter and token (forward, and backward to activations only), without
    layer 0's self-attention, which a fit computes once, and without attention scores.
    """
    kv = config.n_kv_heads * config.head_dim
    attends = 2 * config.dim * config.dim + 2 * config.dim * kv
    per_layer = 2 * config.dim * config.dim + 3 * config.dim * config.ffn_dim  # queries and output of cross-attention
    body = config.n_layers * per_layer + (config.n_layers - 1) * attends
    return 4.0 * tokens * (body + config.vocab_size * config.dim)


class Bench:
    """Steps of one size on one device, ready to be timed."""

    def __init__(self, config: BenchConfig) -> None:
        self.config, self.sizes = config, SIZES[config.size]
        self.device = torch.device(config.device)
        self.document = _document(self.sizes.vocab_size, config.tokens)
        self.compile_seconds: dict[str, float] = {}
        """Wall-clock of the first step with compiled layers, by dtype."""

    def model(self, dtype: torch.dtype = torch.float32) -> LatentThoughtModel:
        """Random weights on the device."""
        return _model(self.sizes, self.device, dtype)

    def ours(self, dtype: torch.dtype, *, compiled: bool = False) -> Callable[[], object]:
        """Our fast step; where it is captured with compiled layers, its optimiser's too, which the graph holds."""
        model = compile_layers(self.model(dtype)) if compiled else self.model(dtype)
        batch = Batch.of(model, [self.document] * self.config.batch)
        mu, log_var, noise = self._latents()
        mu.requires_grad_(), log_var.requires_grad_()
        if not model.captures_steps:
            return lambda: batch.descend(mu, log_var, noise.unsqueeze(0))
        take, number = steps_of(batch, mu, log_var, fit_config("bound", t_fast=_STEPS)), count()
        return lambda: take(next(number), noise.unsqueeze(0))

    def compiled(self, dtype: torch.dtype) -> Callable[[], object]:
        """Our fast step with compiled layers; one is taken, during which they are."""
        step, begun = self.ours(dtype, compiled=True), time.monotonic()
        step(), step()  # the second one is captured, on a GPU
        self.compile_seconds[str(dtype).removeprefix("torch.")] = time.monotonic() - begun
        return step

    def naive(self, *, autocast: bool = False) -> Callable[[], object]:
        """The published one."""
        fit = NaiveFit(dict(self.model().named_parameters()), self.sizes)
        window = self.document.windows[0]
        rows = [
            torch.tensor([part] * self.config.batch, device=self.device) for part in (window.tokens, window.targets)
        ]
        latents = self._latents()

        def step() -> object:
            with torch.autocast(self.device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
                return fit.step((rows[0], rows[1]), *latents)

        return step

    def _latents(self) -> tuple[Tensor, Tensor, Tensor]:
        shape = (self.config.batch, *self.sizes.latent_shape)
        zeros = torch.zeros(shape, device=self.device)
        return zeros, zeros.clone(), torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def timed(self, ways: Sequence[Callable[[], object]]) -> list[float]:
        """Median seconds of each, timed in turn."""
        threads = 1 if self.config.cpu_time else torch.get_num_threads()
        timer_of = partial(Timer, timer=time.process_time) if self.config.cpu_time else Timer
        timers = [timer_of("step()", globals={"step": way}, num_threads=threads) for way in ways]
        seconds: list[list[float]] = [[] for _ in ways]
        for _ in range(self.config.rounds):
            for own, timer in zip(seconds, timers, strict=True):
                own.append(timer.timeit(1).median)
        return [median(own) for own in seconds]

    def ceiling(self, dtype: torch.dtype) -> float:
        """FLOP/s of a large square matrix product."""
        width = 2048 if self.device.type == "cpu" else 8192
        a, b = (torch.randn(width, width, device=self.device).to(dtype) for _ in range(2))
        return 2.0 * width**3 / self.timed([lambda: a @ b])[0]

    def table(self) -> list[Row]:
        """The plain step and ours, each in fp32 and in bf16; a ratio compares steps of the same dtype."""
        fp32, bf16 = torch.float32, torch.bfloat16
        ways = [
            ("naive", fp32, self.naive()),
            ("naive", bf16, self.naive(autocast=True)),
            ("ours", fp32, self.ours(fp32)),
            ("ours", bf16, self.ours(bf16)),
        ]
        if self.config.compile:
            ways += [("ours, compiled", kind, self.compiled(kind)) for kind in (fp32, bf16)]
        seconds = self.timed([step for _, _, step in ways])
        ceilings = {dtype: self.ceiling(dtype) for dtype in (fp32, bf16)}
        flops = necessary_flops(self.sizes, self.config.tokens * self.config.batch)
        plain = dict(zip((fp32, bf16), seconds, strict=False))
        return [
            Row(way, str(dtype).removeprefix("torch."), own, plain[dtype] / own, flops / own / ceilings[dtype])
            for (way, dtype, _), own in zip(ways, seconds, strict=True)
        ]

    def shares(self, step: Callable[[], object]) -> Shares:
        """Time of a step's kernels by kind."""
        step()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would report its own start and stop
        activity = ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as found:
            step()
        times = {event.key: _own_time(event, self.device) for event in found.key_averages()}
        total = sum(times.values()) or 1.0
        attention = sum(own for name, own in times.items() if any(part in name for part in ATTENTION))
        products = sum(own for name, own in times.items() if _is_product(name))
        return Shares(products / total, attention / total, 1 - (products + attention) / total)


def _own_time(event: object, device: torch.device) -> float:
    return float(getattr(event, "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"))


def _is_product(name: str) -> bool:
    return name in ("aten::mm", "aten::addmm") or "gemm" in name or "cutlass" in name or "nvjet" in name


def _document(vocab: int, tokens: int) -> Document:
    text = torch.randint(0, vocab, (tokens + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    return Document((Window(tuple(text[:-1]), tuple(text[1:])),))


def _model(sizes: ModelConfig, device: torch.device, dtype: torch.dtype) -> LatentThoughtModel:
    model = LatentThoughtModel(sizes)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(device).set_matmul_dtype(dtype)


# Memory ---------------------------------------------------------------------------------------------------------------


def peak_bytes(config: BenchConfig, t_fast: Sequence[int], *, dtype: torch.dtype = torch.float32) -> list[int] | None:
    """Most memory that fits of so many steps, one after the other, hold beyond what is held before the first begins.

    Weights are held before. All peaks count from that one moment: memory that an allocator keeps after a fit would
    hide in a later baseline. On a CPU from the kernel's own account of this process, on Linux only; None where nobody
    keeps one.
    """
    bench = Bench(config)
    model = bench.model(dtype)
    gc.collect()
    try:
        held, peaks = _held(bench.device), []
        for steps in t_fast:
            _forget_peak(bench.device)
            _fit(model, bench, steps)
            peaks.append(_peak(bench.device) - held)
    except OSError:
        return None
    return peaks


_STATUS = Path("/proc/self/status")


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kilobytes(_STATUS, "VmRSS") * 1024


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _kilobytes(_STATUS, "VmHWM") * 1024


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def _fit(model: LatentThoughtModel, bench: Bench, t_fast: int) -> None:
    batch = Batch.of(model, [bench.document] * bench.config.batch)
    mu, log_var, noise = bench._latents()
    fast_loop(batch, Start(mu, log_var), lambda step: noise.unsqueeze(0), fit_config("bound", t_fast=t_fast))


# Growth ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Seconds against one quantity, everything else as it is."""

    quantity: str
    """Name of it."""
    values: tuple[int, ...]
    """Where it was measured."""
    seconds: tuple[float, ...]
    """Of a fast step; of the whole fit where the quantity is t_fast."""

    @property
    def exponent(self) -> float:
        """Slope between first and last value on log scales: 1 is proportional."""
        steps = self.values[-1] / self.values[0], self.seconds[-1] / self.seconds[0]
        return math.log(steps[1]) / math.log(steps[0])


def growth(config: BenchConfig, dtype: torch.dtype = torch.float32) -> list[Curve]:
    """Time against t_fast, length, layers, batch and vocabulary, from a base of half the size's tokens."""
    base = SIZES[config.size]
    tokens, layers, vocab = max(16, config.tokens // 2), base.n_layers, base.vocab_size
    grid: dict[str, list[tuple[int, BenchConfig, ModelConfig]]] = {
        "length": [(n, replace(config, tokens=n), base) for n in (tokens // 4, tokens // 2, tokens, 2 * tokens)],
        "layers": [
            (n, replace(config, tokens=tokens), replace(base, n_layers=n, max_z_len=n * base.n_latents))
            for n in (layers, 2 * layers, 4 * layers)
        ],
        "batch": [(n, replace(config, tokens=tokens // 4, batch=n), base) for n in (1, 2, 4)],
        "vocabulary": [
            (n, replace(config, tokens=tokens), replace(base, vocab_size=n)) for n in (vocab // 16, vocab // 4, vocab)
        ],
    }
    curves = [
        Curve(name, tuple(n for n, _, _ in points), tuple(_step_seconds(own, sizes, dtype) for _, own, sizes in points))
        for name, points in grid.items()
    ]
    return [_fit_curve(replace(config, tokens=tokens // 4), dtype), *curves]


def _step_seconds(config: BenchConfig, sizes: ModelConfig, dtype: torch.dtype) -> float:
    bench = Bench(config)
    bench.sizes, bench.document = sizes, _document(sizes.vocab_size, config.tokens)
    return bench.timed([bench.ours(dtype)])[0]


def _fit_curve(config: BenchConfig, dtype: torch.dtype) -> Curve:
    bench, steps = Bench(config), (4, 8, 16)
    model = bench.model(dtype)
    return Curve("t_fast", steps, tuple(bench.timed([lambda n=n: _fit(model, bench, n) for n in steps])))  # type: ignore[misc]


def write_figure(curves: Iterable[Curve], path: Path) -> None:
    """One panel per quantity, both scales logarithmic, as SVG; a dashed line is what grows in proportion."""
    from io import StringIO

    from matplotlib.figure import Figure

    curves = list(curves)
    figure = Figure(figsize=(3 * len(curves), 3), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        axes.loglog(
            curve.values, [curve.seconds[0] * value / curve.values[0] for value in curve.values], "--", c="gray"
        )
        axes.loglog(curve.values, curve.seconds, "o-")
        axes.set(xlabel=curve.quantity, ylabel="seconds", title=f"exponent {curve.exponent:.2f}")
        axes.set_xticks(curve.values, [f"{value:,}" for value in curve.values])
        axes.set_yticks([curve.seconds[0], curve.seconds[-1]], [f"{curve.seconds[i]:.3f}" for i in (0, -1)])
        axes.minorticks_off()
    text = StringIO()
    figure.savefig(text, format="svg")
    write_text_atomic(path, text.getvalue())


# Words ----------------------------------------------------------------------------------------------------------------


def heading(config: BenchConfig) -> str:
    """What was measured where, in one line."""
    device = torch.device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = "1 thread, CPU time" if config.cpu_time else f"{torch.get_num_threads()} threads"
    return (
        f"LTM-{config.size}, {config.batch} x {config.tokens:,} tokens, {name}, {threads}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def table_text(rows: Iterable[Row]) -> str:
    """The core table."""
    cells = (
        [row.way, row.dtype, f"{row.seconds:.3f}", f"{row.ratio:.2f}", f"{100 * row.ceiling_share:.0f} %"]
        for row in rows
    )
    return markdown(
        ["step", "matrix products in", "seconds", "times faster than naive in the same dtype", "of the ceiling"], cells
    )


def shares_text(named: Iterable[tuple[str, Shares]]) -> str:
    """The profile."""
    cells = ([name, *(f"{100 * part:.0f} %" for part in (s.products, s.attention, s.rest))] for name, s in named)
    return markdown(["step", "matrix products", "attention", "rest"], cells)


def report(config: BenchConfig, *, folder: Path | None = None, memory: bool = False) -> Iterable[str]:
    """Everything asked for, part by part as it is measured."""
    if config.cpu_time:
        torch.set_num_threads(1)
    bench = Bench(config)
    yield heading(config)
    ceilings = (f"{name} {bench.ceiling(kind) / 1e9:,.0f}" for name, kind in _KINDS.items())
    yield f"ceiling, GFLOP/s of a large matrix product: {', '.join(ceilings)}"
    yield table_text(bench.table())
    if config.compile:
        known = (f"{name} {seconds:.0f} s" for name, seconds in bench.compile_seconds.items())
        yield f"compiling, wall-clock: {', '.join(known)}"
    named = [("naive float32", bench.naive()), *((f"ours {name}", bench.ours(kind)) for name, kind in _KINDS.items())]
    yield shares_text((name, bench.shares(step)) for name, step in named)
    if memory:
        steps = (1, 8)
        peaks = peak_bytes(config, steps)
        each = ["unknown"] * len(steps) if peaks is None else [f"{peak / 1e9:.2f} GB" for peak in peaks]
        known = (f"t_fast {n}: {peak}" for n, peak in zip(steps, each, strict=True))
        yield f"peak memory of a float32 fit beyond weights: {', '.join(known)}"
    if folder is not None:
        curves = growth(config)
        write_figure(curves, folder / "growth.svg")
        cells = (
            [c.quantity, _series(c.values, "{:,}"), _series(c.seconds, "{:.3f}"), f"{c.exponent:.2f}"] for c in curves
        )
        yield markdown(["quantity", "values", "seconds", "exponent"], cells)
        yield f"figure: {(folder / 'growth.svg').resolve()}"


_KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _series(values: Iterable[float], form: str) -> str:
    return ", ".join(form.format(value) for value in values)
