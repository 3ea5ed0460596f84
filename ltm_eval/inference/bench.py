"""Time a fast step against a plain implementation of the published algorithm, the released code and the machine's peak.

Implementations are timed in turn, so that a busy moment of the machine affects all of them; a figure is the median over
rounds. All take the same step on the same documents, tokens and threads; rows of one dtype can be compared. The
reference is the published fast step: full fp32 logits, gradients of all weights, a dense window mask, in fp32 and under
bf16 autocast. `benchmarks/growth.py` measures how time grows.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import os
import sys
import time
import timeit
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.inference.batching import Batch, in_groups
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.posterior import fast_loop, steps_of
from ltm_eval.inference.windows import Document, Start, Window
from ltm_eval.model.compiling import compile_layers
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system.device import finish
from ltm_eval.system.errors import InputError, UsageError, nearest
from ltm_eval.system.threads import one_thread, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ltm_eval.inference.options import FitConfig

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
# Published sizes (arXiv:2502.01567) and the bundled demo's. Weights are random, which does not affect time.
SIZES = {
    "demo": replace(_LTM_S, dim=128, n_heads=4, n_kv_heads=4, vocab_size=1024, window_size=128, max_z_len=12),
    "S": _LTM_S,
    "M": replace(_LTM_S, n_layers=6),
    "L": replace(_LTM_S, n_layers=12, max_z_len=96),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_STEPS = 10_000  # upper bound of the steps of one timed fit
_BUSY_CORES = 0.1  # cores taken by other processes above which timings are doubtful
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class BenchConfig:
    """Options of a benchmark."""

    size: str = "S"  # name in `SIZES`
    tokens: int = 1024  # T of each row
    batch: int = 1  # documents B, of one row each
    device: str = "cpu"  # torch device
    rounds: int = 5  # timings of each implementation, in turn
    cpu_time: bool = False  # CPU time of one thread instead of wall-clock time, for shared machines
    compile: bool = False  # whether to time compiled layers too
    released: str | None = None  # folder of the released code, to time it too
    dtype: str = "both"  # name in `DTYPES`, or `both`

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise UsageError(f"size must be one of {', '.join(SIZES)}, got {self.size!r}.{nearest(self.size, SIZES)}")
        limit = SIZES[self.size].max_seq_len
        if not 1 <= self.tokens <= limit:
            raise UsageError(f"tokens must be a whole number from 1 to {limit}, got {self.tokens}")
        if self.batch < 1 or self.rounds < 1:
            raise UsageError(f"batch and rounds must be at least 1, got {self.batch} and {self.rounds}")
        if self.dtype not in (*DTYPES, "both"):
            raise UsageError(
                f"dtype must be {', '.join(DTYPES)} or both, got {self.dtype!r}.{nearest(self.dtype, DTYPES)}"
            )

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtypes to time, by name."""
        return DTYPES if self.dtype == "both" else {self.dtype: DTYPES[self.dtype]}


@dataclass(frozen=True)
class Row:
    """Timing of one implementation."""

    way: str  # `naive`, `released`, `ours` or `ours, compiled`
    dtype: str  # of matrix products; in bf16 `naive` and `released` run under autocast
    seconds: float  # median per step of all documents
    ratio: float  # naive seconds in the same dtype / seconds
    released_ratio: float | None  # released seconds in the same dtype / seconds; None if not timed
    # Necessary FLOP/s of the step / FLOP/s of a large matrix product in this dtype.
    ceiling_share: float


def necessary_flops(config: ModelConfig, tokens: int) -> float:
    """Return the necessary FLOPs of a step on `tokens` tokens.

    They are 4 per parameter and token (forward, and backward to activations only), without layer 0's self-attention,
    which a fit computes once, and without attention scores.
    """
    kv = config.n_kv_heads * config.head_dim
    attends = 2 * config.dim * config.dim + 2 * config.dim * kv
    per_layer = 2 * config.dim * config.dim + 3 * config.dim * config.ffn_dim  # queries and output of cross-attention
    body = config.n_layers * per_layer + (config.n_layers - 1) * attends
    return 4.0 * tokens * (body + config.vocab_size * config.dim)


class Bench:
    """Steps of one size on one device."""

    def __init__(self, config: BenchConfig, sizes: ModelConfig | None = None) -> None:
        self.config, self.sizes = config, sizes or SIZES[config.size]
        self.device = torch.device(config.device)
        stream = torch.Generator().manual_seed(0)
        text = torch.randint(0, self.sizes.vocab_size, (config.tokens + 1,), generator=stream).tolist()
        self.document = Document((Window(tuple(text[:-1]), tuple(text[1:])),))
        self.compile_seconds: dict[
            str, float
        ] = {}  # wall-clock seconds of the first step with compiled layers, by dtype

    def model(self, dtype: torch.dtype = torch.float32) -> LatentThoughtModel:
        """Return a model with random weights on the device."""
        model = LatentThoughtModel(self.sizes)
        model.init_weights(torch.Generator().manual_seed(0))
        return model.to(self.device).set_matmul_dtype(dtype)

    def ours(self, dtype: torch.dtype, *, compiled: bool = False) -> Callable[[], object]:
        """Return our fast step as `posterior.fit_documents` takes it, optimiser included."""
        model = compile_layers(self.model(dtype)) if compiled else self.model(dtype)
        steps: list[Callable[[], object]] = []

        def prepare(members: Sequence[int]) -> list[int]:
            batch = Batch.of(model, [self.document] * len(members))
            mu, log_var, noise = self._latents(len(members))
            mu.requires_grad_(), log_var.requires_grad_()
            take, number = steps_of(batch, mu, log_var, fit_config("bound", t_fast=_STEPS)), count()
            steps.append(lambda: take(next(number), noise.unsqueeze(0)))
            return list(members)

        in_groups(model, [self.document] * self.config.batch, prepare)
        if self.device.type != "cpu":
            (step,) = steps
            return step
        return lambda: side_by_side(steps, lambda step: step())

    def compiled(self, dtype: torch.dtype) -> Callable[[], object]:
        """Return our fast step with compiled layers, after two steps to compile them."""
        step, begun = self.ours(dtype, compiled=True), time.monotonic()
        step(), step()  # on a GPU the second one is captured
        self.compile_seconds[str(dtype).removeprefix("torch.")] = time.monotonic() - begun
        return step

    def naive(self, *, autocast: bool = False) -> Callable[[], object]:
        """Return the published fast step."""
        fit = NaiveFit(dict(self.model().named_parameters()), self.sizes)
        rows, latents = self._rows(), self._latents(self.config.batch)

        def step() -> object:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                return fit.step(rows, *latents)

        return step

    def released(self, folder: Path, *, autocast: bool = False) -> Callable[[], object]:
        """Return the fast step of the released code in `folder`, with plain kernels and uncompiled."""
        return released_step(
            folder,
            self.model(),
            self._rows(),
            lambda: torch.autocast(self.device.type, torch.bfloat16, enabled=autocast),
        )

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Return tokens and targets, (B, T) each."""
        window = self.document.windows[0]
        tokens, targets = (
            torch.tensor([part] * self.config.batch, device=self.device) for part in (window.tokens, window.targets)
        )
        return tokens, targets

    def _latents(self, documents: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return mu, log_var and noise, (documents, L, N, D) each."""
        shape = (documents, *self.sizes.latent_shape)
        zeros = torch.zeros(shape, device=self.device)
        return zeros, zeros.clone(), torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def timed(self, ways: Sequence[Callable[[], object]]) -> list[float]:
        """Return the median seconds of each implementation, timed in turn after one untimed call of each."""
        clock = time.process_time if self.config.cpu_time else time.perf_counter
        seconds: list[list[float]] = [[] for _ in ways]
        with one_thread(when=self.config.cpu_time):
            for turn in range(self.config.rounds + 1):
                for own, way in zip(seconds, ways, strict=True):

                    def once(way: Callable[[], object] = way) -> None:
                        way()
                        finish(self.device)

                    spent = timeit.Timer(once, timer=clock).timeit(1)
                    if turn:
                        own.append(spent)
        return [median(own) for own in seconds]

    def ceiling(self, dtype: torch.dtype) -> float:
        """Return the FLOP/s of a large square matrix product."""
        width = 2048 if self.device.type == "cpu" else 8192
        a, b = (torch.randn(width, width, device=self.device).to(dtype) for _ in range(2))
        return 2.0 * width**3 / self.timed([lambda: a @ b])[0]

    def table(self) -> list[Row]:
        """Time the naive step, the released one if its folder is given, and ours in each dtype."""
        ways: list[tuple[str, str, Callable[[], object]]] = []
        for name, dtype in self.config.dtypes.items():
            ways.append(("naive", name, self.naive(autocast=name != "float32")))
            if self.config.released is not None:
                ways.append(("released", name, self.released(Path(self.config.released), autocast=name != "float32")))
            ways.append(("ours", name, self.ours(dtype)))
            if self.config.compile:
                ways.append(("ours, compiled", name, self.compiled(dtype)))
        seconds = self.timed([step for _, _, step in ways])
        ceilings = {name: self.ceiling(dtype) for name, dtype in self.config.dtypes.items()}
        flops = necessary_flops(self.sizes, self.config.tokens * self.config.batch)
        known = {(way, name): own for (way, name, _), own in zip(ways, seconds, strict=True)}
        return [
            Row(
                way,
                name,
                own,
                known["naive", name] / own,
                known["released", name] / own if ("released", name) in known else None,
                flops / own / ceilings[name],
            )
            for (way, name), own in known.items()
        ]

    def fit(self, model: LatentThoughtModel, t_fast: int) -> None:
        """Fit the batch for `t_fast` steps."""
        batch = Batch.of(model, [self.document] * self.config.batch)
        mu, log_var, noise = self._latents(self.config.batch)
        fast_loop(batch, Start(mu, log_var), lambda step: noise.unsqueeze(0), fit_config("bound", t_fast=t_fast))


# Memory ---------------------------------------------------------------------------------------------------------------


def peak_bytes(config: BenchConfig, t_fast: Sequence[int], *, dtype: torch.dtype = torch.float32) -> list[int] | None:
    """Return the peak memory of successive fits, one per number of steps, above that before the first.

    Weights are allocated before. All peaks share one starting point, since memory that an allocator keeps after a fit
    would be hidden in a later one. On a CPU the kernel's record of this process is used, on Linux only; None elsewhere.
    """
    bench = Bench(config)
    model = bench.model(dtype)
    gc.collect()
    try:
        held, peaks = _held(bench.device), []
        for steps in t_fast:
            _forget_peak(bench.device)
            bench.fit(model, steps)
            peaks.append(_peak(bench.device) - held)
    except OSError:
        return None
    return peaks


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


# Text -----------------------------------------------------------------------------------------------------------------


def heading(config: BenchConfig) -> str:
    """Describe the benchmark and the machine in one line."""
    device = torch.device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = "1 thread, CPU time" if config.cpu_time else f"{torch.get_num_threads()} threads"
    return (
        f"LTM-{config.size}, {config.batch} x {config.tokens:,} tokens, {name}, {threads}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def report(config: BenchConfig, *, memory: bool = False) -> Iterable[str]:
    """Yield the parts of the report as they are measured."""
    if config.cpu_time:
        torch.set_num_threads(1)
    bench = Bench(config)
    yield heading(config)
    ceilings = (f"{name} {bench.ceiling(kind) / 1e9:,.0f}" for name, kind in config.dtypes.items())
    yield f"ceiling, GFLOP/s of a large matrix product: {', '.join(ceilings)}"
    load = Load()
    rows = bench.table()
    others = load.others()
    head = ["step", "matrix products in", "seconds", "times faster than naive in the same dtype"]
    head += ["than released"] if config.released is not None else []
    cells = (
        [row.way, row.dtype, f"{row.seconds:.3f}", f"{row.ratio:.2f}"]
        + ([] if row.released_ratio is None else [f"{row.released_ratio:.2f}"])
        + [f"{100 * row.ceiling_share:.0f} %"]
        for row in rows
    )
    yield markdown([*head, "of the ceiling"], cells)
    if others is not None and others > _BUSY_CORES:
        yield (
            f"busy machine: other processes used {others:.1f} of {os.cpu_count()} cores during the timings; "
            "repeat them when it is quiet"
        )
    if config.compile:
        known = (f"{name} {seconds:.0f} s" for name, seconds in bench.compile_seconds.items())
        yield f"compiling, wall-clock: {', '.join(known)}"
    if memory:
        steps = (1, 8)
        peaks = peak_bytes(config, steps)
        each = ["unknown"] * len(steps) if peaks is None else [f"{peak / 1e9:.2f} GB" for peak in peaks]
        known = (f"t_fast {n}: {peak}" for n, peak in zip(steps, each, strict=True))
        yield f"peak memory of a float32 fit beyond weights: {', '.join(known)}"


class Load:
    """CPU time of other processes since this was made, by the kernel's record (Linux only)."""

    def __init__(self) -> None:
        self.begun, self.own, self.all = time.monotonic(), _own_seconds(), _all_seconds()

    def others(self) -> float | None:
        """Return the cores that other processes used on average; None if the system does not say."""
        now = _all_seconds()
        if self.all is None or now is None:
            return None
        used = (now - self.all) - (_own_seconds() - self.own)
        return max(0.0, used) / max(time.monotonic() - self.begun, 1e-3)


def _own_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def _all_seconds() -> float | None:
    """Return the CPU seconds of all processes since the machine started."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


# The released code ----------------------------------------------------------------------------------------------------
#
# github mingluzhao/Latent-Thought-LM @498e39e: `model.py` and `optimizer.py` of a checkout that the user names, run
# through their own interface. Its fused kernels need Triton; the plain ones, which are timed, do not use them.


def released_step(
    folder: Path,
    model: LatentThoughtModel,
    rows: tuple[Tensor, Tensor],
    mode: Callable[[], contextlib.AbstractContextManager[object]],
) -> Callable[[], object]:
    """Return one fast step of the released `PosteriorOptimizer` on a released model with the weights of `model`.

    Args:
        folder: the checkout.
        rows: tokens and targets, (B, T) each.
        mode: makes the context in which it computes its objective, such as autocast.

    Raises:
        InputError: the folder is not such a checkout, or its code does not run.
    """
    wanted = "expected a checkout of github mingluzhao/Latent-Thought-LM with model.py and optimizer.py"
    missing = [name for name in ("model.py", "optimizer.py") if not (folder / name).is_file()]
    if missing:
        raise InputError(f"released code {folder}: no {' and no '.join(missing)}; {wanted}")
    sizes = model.config
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code = _released_module(folder / "model.py")
            # Its cross-attention has the fused norm even with plain kernels.
            vars(code)["LigerRMSNorm"] = code.RMSNorm
            names = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "hidden_dim", "multiple_of", "norm_eps")
            limits = ("max_seq_len", "window_size", "max_z_len", "use_z_pos_emb")
            theirs = code.LatentThoughtModel(
                code.LTMConfig(**{name: getattr(sizes, name) for name in names + limits}, use_liger=False)
            ).to(model.device)
            theirs.load_state_dict({**model.state_dict(), "output.weight": model.tok_embeddings.weight})
            optimiser = _released_module(folder / "optimizer.py").PosteriorOptimizer(
                theirs, num_steps=_STEPS, max_z_len=sizes.max_z_len, z_dim=sizes.dim, lr=0.34, eval_mode=True
            )

        def step() -> None:
            with contextlib.suppress(_StepTaken):
                optimiser.step([*rows, None], _OneStep(mode), steps=2)

        step()
    except (Exception, SystemExit) as error:  # another project's code may raise anything
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"released code {folder} does not run ({cause[:160]}); {wanted}") from error
    return step


def _released_module(path: Path) -> types.ModuleType:
    """Import a file of the released code under a name of its own, with placeholders for its fused kernels."""
    spec = importlib.util.spec_from_file_location(f"released_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    kernels = types.ModuleType("liger_module")
    kernels.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.modules[spec.name], sys.modules[kernels.__name__] = module, kernels
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[kernels.__name__]
    return module


class _StepTaken(Exception):  # noqa: N818 - no error
    """The released code is about to take another step, or to evaluate."""


class _OneStep:
    """A context for the released optimizer, which enters it once before each step: the second time ends it."""

    def __init__(self, mode: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self.mode, self.entered = mode, False

    def __enter__(self) -> None:
        if self.entered:
            raise _StepTaken
        self.entered, self.context = True, self.mode()
        self.context.__enter__()

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)  # type: ignore[arg-type]


# The reference --------------------------------------------------------------------------------------------------------
#
# A plain implementation of arXiv:2502.01567 section 2 and appendix (decoder, ELBO, AdamW on mu and log_var): full (T,
# V) logits in fp32, a dense (T, T) window mask, and a backward pass that also computes the unused gradients of all
# weights. It shares no code with `model` and `posterior`, so that tests can compare with it, in float64, as an
# independent check.

Weights = Mapping[str, Tensor]  # by the names of `LatentThoughtModel`, all of one dtype


@dataclass(frozen=True)
class NaiveStep:
    """Results of one fast step."""

    nll_nats: Tensor  # (B,)
    kl_nats: Tensor  # (B,)
    mu_grad: Tensor  # (B, L, N, D), gradient of the sum of both over the batch
    log_var_grad: Tensor  # (B, L, N, D)


class NaiveFit:
    """The published fit of mu and log_var to one batch of rows."""

    def __init__(self, weights: Weights, config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self.weights = {name: weight.detach().to(dtype).requires_grad_() for name, weight in weights.items()}

    def step(self, rows: tuple[Tensor, Tensor], mu: Tensor, log_var: Tensor, noise: Tensor) -> NaiveStep:
        """Return objective and gradients at z = mu + noise * sigma.

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
        """Take `config.t_fast` steps of AdamW at constant rate and noise; return the objectives, (t_fast, B)."""
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
    """Return -log p(x | mu + noise * sigma) and KL(q || p), (B,) each."""
    (tokens, targets), (mu, log_var, noise) = rows, latents
    logits = decoder(weights, config, tokens, mu + noise * torch.exp(0.5 * log_var))
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    kl = -0.5 * (1 + log_var - mu**2 - torch.exp(log_var))
    return nll.view(targets.shape).sum(1), kl.sum((1, 2, 3))


def decoder(weights: Weights, config: ModelConfig, tokens: Tensor, z: Tensor) -> Tensor:
    """Return logits of every position, (B, T, V)."""
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
    """Return e^(i * position * frequency), (max_seq_len, head_dim / 2); angles in fp32 as published."""
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
    """Attend from the first stream to the second: (B, T, D)."""
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
