"""Fitting q(z|x) = N(mu, exp(log_var)) to texts by the fast loop.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures:
gradients of z only; layer 0's self-attention, which z cannot change, is computed once; documents never share a
generator, a sum or a padded length, so a document's fit does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import logging
import math
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ltm_eval.inference.batching import CPU_LANES, Batch, BatchLimit, alone, in_groups, tokens_per_pass
from ltm_eval.inference.options import MAX_SEED, FitConfig, fit_config
from ltm_eval.inference.windows import (
    Document,
    Posterior,
    Start,
    Trace,
    Window,
    document_noise,
    preset_start,
    stacked,
    trimmed,
)
from ltm_eval.model.elbo import IGNORED, kl_nats, kl_per_layer_nats
from ltm_eval.model.inputs import check_range, check_tokens
from ltm_eval.model.live import as_read, live_model, undisturbed
from ltm_eval.system import progress
from ltm_eval.system.device import give_back, on_gpu, ran_out, uploaded
from ltm_eval.system.errors import UsageError, naming_arguments, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_eval.inference.windows import Noise
    from ltm_eval.model.decoder import LatentThoughtModel

TORCH_IGNORED = -100  # default `ignore_index` of torch's cross_entropy; treated as `IGNORED`
MAX_BATCH = 64  # documents of full length that `auto` tries first
MAX_DOCUMENTS = 512  # maximum documents of a token-limited batch, since each has its own latents
DIVERGED_NATS = 1_000.0  # -ELBO per scored token above which a fit has diverged; a uniform model has 11

log = logging.getLogger(__name__)


@naming_arguments
def fit(
    model: LatentThoughtModel,
    tokens: Tensor,
    targets: Tensor,
    *,
    preset: str = "bound",
    t_fast: int | Literal["auto"] | None = None,
    seed: int = 1234,
) -> Posterior:
    """Fit one posterior per row.

    Model and process are left unchanged, and the caller's modes (`torch.no_grad`, `torch.inference_mode`,
    `torch.autocast`) have no effect: computation is in float32, with matrix products in the dtype of
    `set_matmul_dtype`. A model in half, bfloat16 or double is copied for the call.

    Args:
        model: as `ltm_eval.load` returns it, possibly in training.
        tokens: (B, T), whole numbers from 0 to V - 1; rows may be padded at the end with any token, if its target is
            ignored.
        targets: (B, T), whole numbers; -1 or -100 where a position is not scored.
        preset: `released`, `published`, `bound` or `natural`.
        t_fast: fast steps; None takes the preset's, 0 returns the prior, `auto` ends each row's fit once it stops
            improving.
        seed: seed of the noise, together with each row's content; from 0 to 2**32 - 1.

    Returns:
        Posterior of B documents, in the order of the rows.

    Raises:
        UsageError: an argument has the wrong type, shape or range, a weight is not finite, or a row has no scored
            position.
    """
    source = live_model(model)
    steps = t_fast if t_fast is None or isinstance(t_fast, str) else _whole("t_fast", t_fast)
    config = fit_config(preset, t_fast=steps)
    number = _whole("seed", seed)
    if not 0 <= number <= MAX_SEED:
        raise UsageError(f"seed must be a whole number from 0 to {MAX_SEED}, got {shown(seed)}")
    documents = documents_of(tokens, targets, vocab=source.config.vocab_size)
    with undisturbed():
        return fit_documents(as_read(source), documents, config, seed=number)


def _whole(name: str, value: Any) -> int:
    """Return a whole number of any integer type as an int."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} must be a whole number, got {shown(value)}")


def documents_of(tokens: Tensor, targets: Tensor, *, vocab: int) -> list[Document]:
    """Return a document of one window per row, without the padding at its end.

    Args:
        tokens: (B, T).
        targets: (B, T), `IGNORED` or `TORCH_IGNORED` where nothing is scored.

    Raises:
        UsageError: type, shape or a value is wrong, or a row has nothing to score.
    """
    for name, given in (("tokens", tokens), ("targets", targets)):
        check_tokens(name, given)
        if given.is_meta or given.layout != torch.strided:
            kind = "without data (device meta)" if given.is_meta else f"of layout {given.layout}"
            raise UsageError(
                f"{name} must be a dense tensor, got one {kind}; pass it dense, for example by .to_dense()"
            )
    if tokens.shape != targets.shape:
        raise UsageError(
            f"targets must have the shape of tokens, {tuple(tokens.shape)}, got {tuple(targets.shape)}: one target "
            "for each token, the one after it"
        )
    tokens, targets = tokens.detach().cpu().long(), targets.detach().cpu().long()
    scored = (targets != IGNORED) & (targets != TORCH_IGNORED)
    ignored = f", or {IGNORED} or {TORCH_IGNORED} where nothing is scored"
    check_range("targets", targets, vocab, where=scored, or_else=ignored)
    read = scored.flip(1).cumsum(1).flip(1) > 0  # up to the last scored position
    check_range("tokens", tokens, vocab, where=read)
    rows = zip(tokens.tolist(), targets.where(scored, IGNORED).tolist(), strict=True)
    return [Document((trimmed(row, wanted, where=f"fit: row {i}"),)) for i, (row, wanted) in enumerate(rows)]


def fit_documents(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
) -> Posterior:
    """Fit every document; on a GPU documents of equal shape run together (`batching`).

    On a CPU a document's bits do not depend on the others. If a GPU's memory runs out, a batch is fitted in halves.

    Args:
        documents: one row of the result each, in order.
        starts: a warm start per document instead of the preset's.

    Returns:
        Posterior of len(documents) rows.

    Raises:
        MachineError: there is not enough memory for one document.
    """
    if config.adaptive and starts is None:
        return fit_adaptive(model, documents, config, seed=seed, rule=Adaptive())[0]

    def together(members: Sequence[int]) -> list[Posterior]:
        own = None if starts is None else [starts[i] for i in members]
        fitted = fit_together(model, [documents[i] for i in members], config, seed=seed, starts=own)
        return [fitted.row(row) for row in range(len(members))]

    return Posterior.joined(in_groups(model, documents, together))


def fit_together(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
) -> Posterior:
    """Fit documents of one shape in one batch, for `config.t_fast` steps.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    start = preset_start(model, documents, config, seed) if starts is None else stacked(starts)
    return fast_loop(Batch.of(model, documents), start, document_noise(model, documents, config, seed), config)


# Fast loop ------------------------------------------------------------------------------------------------------------


def fast_loop(batch: Batch, start: Start, noise: Noise, config: FitConfig) -> Posterior:
    """Take `config.t_fast` steps of the optimizer on mu and log_var, then evaluate once.

    The gradient is that of the sum over documents, so each document is fitted as if it were alone.

    Args:
        batch: the documents.
        start: (B, L, N, D) each; the result if t_fast is 0.
        noise: called with the step 0 ... t_fast.
    """
    mu, log_var = start.mu.detach().clone(), start.log_var.detach().clone()
    nll, kl, layers = [], [], []
    if config.t_fast:
        mu.requires_grad_()
        log_var.requires_grad_()
        take = steps_of(batch, mu, log_var, config)
        for step in range(config.t_fast):
            layers.append(kl_per_layer_nats(mu.detach(), log_var.detach()))
            terms = take(step, noise(step))
            nll.append(terms[0])
            kl.append(terms[1])
            progress.mark()
    with torch.no_grad():
        mu, log_var = mu.detach(), log_var.detach()
        nll.append(batch.expected_nll_nats(mu, log_var, noise(config.t_fast)))
        kl.append(kl_nats(mu, log_var))
        layers.append(kl_per_layer_nats(mu, log_var))
    return Posterior(mu, log_var, Trace(torch.stack(nll), torch.stack(kl), torch.stack(layers)))


# A fast step computes gradients of z, then takes a step of AdamW (arXiv:1711.05101) or of the natural gradient on mu
# and log_var. On a GPU the step counts itself and looks its rate up in a table, so that the host never waits and the
# whole step can be captured as one CUDA graph.

Terms = tuple[Tensor, Tensor]  # -log p(x|z) and KL before a step, (B,) each


def steps_of(batch: Batch, mu: Tensor, log_var: Tensor, config: FitConfig) -> Callable[[int, Tensor], Terms]:
    """Return the function that takes step n with its noise, updates mu and log_var in place and returns the terms."""
    return (DeviceSteps if on_gpu(mu.device) else HostSteps)(batch, mu, log_var, config)


def learning_rate(config: FitConfig, step: int) -> float:
    """Return the rate of a step: a cosine from `lr` towards `lr_final` over t_fast steps."""
    return config.lr_final + 0.5 * (1 + math.cos(math.pi * step / config.t_fast)) * (config.lr - config.lr_final)


class AdamW:
    """`torch.optim.AdamW` bit for bit, but without importing torch's compiler, which takes a second."""

    def __init__(self, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.values, self.config, self.count = (mu, log_var), config, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (mu.detach(), log_var.detach())]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update mu and log_var by their `grad`."""
        config = self.config
        self.count += 1
        size = rate / (1 - config.beta1**self.count)
        correction: float = (1 - config.beta2**self.count) ** 0.5
        for value, (first, second) in zip(self.values, self.moments, strict=True):
            assert value.grad is not None
            value.mul_(1 - rate * config.weight_decay)
            first.lerp_(value.grad, 1 - config.beta1)
            second.mul_(config.beta2).addcmul_(value.grad, value.grad, value=1 - config.beta2)
            value.addcdiv_(first, (second.sqrt() / correction).add_(config.adam_eps), value=-size)


@torch.no_grad()
def natural_step(mu: Tensor, log_var: Tensor, rate: float | Tensor, share: float | Tensor) -> None:
    """Take a step along the natural gradient of a diagonal Gaussian, by mu's and log_var's `grad` (arXiv:1806.04854).

    With g the gradient of the NLL at z = mu + e * sigma, the precision moves to (1 - share) * precision + share * (1 +
    g * e / sigma) but not below the prior's 1, and mu by -rate * sigma**2 * (g + mu) under the new sigma. The gradient
    of log_var is (1 + g * e / sigma - precision) / (2 * precision).
    """
    assert mu.grad is not None and log_var.grad is not None
    precision = log_var.grad.mul(2 * share).add_(1).div_(log_var.exp()).clamp_(min=1)
    mu.sub_(mu.grad.mul(rate).div_(precision))
    log_var.copy_(precision.log_().neg_())


class Natural:
    """Natural-gradient steps; the share of the precision that a step replaces is in proportion to its rate."""

    def __init__(self, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.values, self.config = (mu, log_var), config

    def step(self, rate: float) -> None:
        """Update mu and log_var by their `grad`."""
        natural_step(*self.values, rate, self.config.precision_rate * rate / self.config.lr)


def optimizer_of(mu: Tensor, log_var: Tensor, config: FitConfig) -> AdamW | Natural:
    """Return the optimizer of mu and log_var that `config` names."""
    return (Natural if config.optimizer == "natural" else AdamW)(mu, log_var, config)


class HostSteps:
    """Steps with rates from the host."""

    def __init__(self, batch: Batch, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.batch, self.mu, self.log_var, self.config = batch, mu, log_var, config
        self.optimiser = optimizer_of(mu, log_var, config)

    def __call__(self, number: int, noise: Tensor) -> Terms:
        """Take a step."""
        terms = self.batch.descend(self.mu, self.log_var, noise)
        self.optimiser.step(learning_rate(self.config, number))
        return terms


class DeviceSteps:
    """Steps with number and rates on the device; they must be taken in order."""

    def __init__(self, batch: Batch, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.batch, self.mu, self.log_var, self.config = batch, mu, log_var, config
        self.table = uploaded(schedule(config), mu.device)
        self.count = torch.zeros(1, dtype=torch.long, device=mu.device)
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (mu.detach(), log_var.detach())]
        self.noise: Tensor | None = None
        self.replay: Callable[[], Terms] | None = None

    def __call__(self, number: int, noise: Tensor) -> Terms:
        """Take a step."""
        return self._replayed(number, noise) if self.batch.model.captures_steps else self._take(noise)

    def _take(self, noise: Tensor) -> Terms:
        terms = self.batch.descend(self.mu, self.log_var, noise)
        rate, shrink, correction = self.table.index_select(0, self.count).squeeze(0).unbind()
        if self.config.optimizer == "natural":  # whose table holds the share of the precision there
            natural_step(self.mu, self.log_var, rate, shrink)
            self.count.add_(1)
            return terms
        with torch.no_grad():
            for value, (first, second) in zip((self.mu, self.log_var), self.moments, strict=True):
                assert value.grad is not None
                first.lerp_(value.grad, 1 - self.config.beta1)
                second.mul_(self.config.beta2).addcmul_(value.grad, value.grad, value=1 - self.config.beta2)
                spread = second.sqrt().div_(correction).add_(self.config.adam_eps)
                value.mul_(shrink).sub_(first.mul(rate).div_(spread))
            self.count.add_(1)
        return terms

    def _replayed(self, number: int, noise: Tensor) -> Terms:
        """Take the first step uncaptured, since a capture must not allocate; replay the others as one graph."""
        if self.noise is None:
            self.noise = noise.clone()
            return aside(lambda: self._take(noise))
        self.noise.copy_(noise)
        if self.replay is None:
            try:
                self.replay = captured(lambda: self._take(self.noise))  # type: ignore[arg-type]
            except Exception as error:
                if ran_out(error):
                    raise
                self.batch.model.captures_steps = False
                log.warning("compile: steps could not be captured and are taken one by one (%s)", str(error)[:200])
                return self._take(noise)
        nll, kl = self.replay()
        return nll.clone(), kl.clone()


def schedule(config: FitConfig) -> Tensor:
    """Return for every step the corrected rate, the factor of weight decay and the root of the second moment's
    correction; of natural steps the rate and the share of the precision: (t_fast, 3), fp32.
    """
    if config.optimizer == "natural":
        rates = [learning_rate(config, step) for step in range(config.t_fast)]
        table = [(rate, config.precision_rate * rate / config.lr, 1.0) for rate in rates]
        return torch.tensor(table, dtype=torch.float64).float()
    rows = [
        (rate / (1 - config.beta1**n), 1 - rate * config.weight_decay, math.sqrt(1 - config.beta2**n))
        for n, rate in ((step + 1, learning_rate(config, step)) for step in range(config.t_fast))
    ]
    return torch.tensor(rows, dtype=torch.float64).float()


def aside(work: Callable[[], Terms]) -> Terms:
    """Run `work` on a side stream, as CUDA requires before a capture."""
    stream, own = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(own)
    with torch.cuda.stream(stream):
        found = work()
    own.wait_stream(stream)
    return found


def captured(work: Callable[[], Terms]) -> Callable[[], Terms]:
    """Capture `work` as a CUDA graph; return a function that replays it and returns the same tensors each time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()

    def replay() -> Terms:
        graph.replay()
        return found

    return replay


# Adaptive fits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adaptive:
    """When an adaptive fit (`t_fast=auto`) ends."""

    tolerance_nats: float = 0.005  # least improvement of the smoothed objective over a window, per scored token
    window: int = 16  # number of steps to average
    max_steps: int = 512

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_steps < self.window:
            raise UsageError(
                f"an adaptive fit needs a window of at least 1 step and at least as many steps in all, got window "
                f"{self.window} and max_steps {self.max_steps}"
            )
        if not self.tolerance_nats > 0:
            raise UsageError(f"tolerance_nats must be positive, got {self.tolerance_nats!r}")


def fit_adaptive(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, seed: int, rule: Adaptive
) -> tuple[Posterior, list[int]]:
    """Fit every document as long as it improves, then for as many steps at a falling rate.

    The rate stays at `config.lr` while the mean objective of the last `rule.window` steps is below that of the window
    before by at least the tolerance; then it follows a cosine to `config.lr_final` for the same number of steps. With
    no or a short fall the noise of the steps would remain in the bound. `config.t_fast` is not used. A document's noise
    is that of `fit_documents`.

    Returns:
        Posteriors and numbers of fast steps in document order. The trace has a row per step of the longest fit, NaN
        after a document's end, and the final evaluation as its last row.
    """

    def together(members: Sequence[int]) -> list[tuple[Posterior, int]]:
        return adaptive_loop(model, [documents[i] for i in members], config, seed=seed, rule=rule)

    done = in_groups(model, documents, together, shrinking=True)
    return Posterior.joined([posterior for posterior, _ in done]), [steps for _, steps in done]


def adaptive_loop(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, seed: int, rule: Adaptive
) -> list[tuple[Posterior, int]]:
    """Fit documents of one shape as `fit_adaptive` does, sharing passes; return each posterior and its fast steps."""
    config = replace(config, t_fast=rule.max_steps)
    noises = [document_noise(model, [one], config, seed) for one in documents]
    starts = [preset_start(model, [one], config, seed) for one in documents]
    latents = [(one.mu.clone().requires_grad_(), one.log_var.clone().requires_grad_()) for one in starts]
    optimisers = [optimizer_of(mu, log_var, config) for mu, log_var in latents]
    terms: list[list[Terms]] = [[] for _ in documents]
    objectives: list[list[float]] = [[] for _ in documents]
    turn: list[int | None] = [None] * len(documents)  # step from which the rate falls, by document
    found: dict[int, tuple[Posterior, int]] = {}
    active, batch, step = list(range(len(documents))), Batch.of(model, documents), 0
    while active:
        mu, log_var = (torch.cat([latents[i][k].detach() for i in active]).requires_grad_() for k in (0, 1))
        nll, kl = batch.descend(mu, log_var, torch.cat([noises[i](step) for i in active], dim=1))
        progress.mark()
        assert mu.grad is not None and log_var.grad is not None
        totals = (nll + kl).tolist()  # the only synchronisation of the step
        done = []
        for row, i in enumerate(active):
            part, cooling = slice(row, row + 1), turn[i]
            latents[i][0].grad, latents[i][1].grad = mu.grad[part], log_var.grad[part]
            falling = config if cooling is None else replace(config, t_fast=cooling)
            optimisers[i].step(config.lr if cooling is None else learning_rate(falling, step - cooling))
            terms[i].append((nll[part], kl[part]))
            objectives[i].append(totals[row])
            if cooling is None and (_flat(objectives[i], rule, documents[i]) or 2 * (step + 1) >= rule.max_steps):
                cooling = turn[i] = step + 1
            if cooling is not None and step + 1 >= min(2 * cooling, rule.max_steps):
                done.append(i)
        step += 1
        for i in done:
            own_mu, own_log_var = (one.detach() for one in latents[i])
            last = Batch.of(model, [documents[i]]).expected_nll_nats(own_mu, own_log_var, noises[i](step))
            nlls, kls = zip(*terms[i], (last, kl_nats(own_mu, own_log_var)), strict=True)
            found[i] = Posterior(own_mu, own_log_var, Trace(torch.stack(nlls), torch.stack(kls))), step
        if done:
            active = [i for i in active if i not in done]
            batch = Batch.of(model, [documents[i] for i in active]) if active else batch
    return [found[i] for i in range(len(documents))]


def _flat(objective: list[float], rule: Adaptive, document: Document) -> bool:
    """Return whether the last window's mean objective is not below the one before by the tolerance."""
    if len(objective) < 2 * rule.window:
        return False
    before, last = objective[-2 * rule.window : -rule.window], objective[-rule.window :]
    return (math.fsum(before) - math.fsum(last)) / rule.window < rule.tolerance_nats * document.scored


# Size of a batch ------------------------------------------------------------------------------------------------------


def batch_limit(model: LatentThoughtModel, config: FitConfig, *, asked: int | None, most: int | None) -> BatchLimit:
    """Return the limit for a model on its device.

    Args:
        asked: the user's number of documents; None measures on a GPU. On a CPU documents run alone, and a batch only
            sets how often the journal is flushed.
        most: maximum to measure, in documents.
    """
    if asked is not None:
        return BatchLimit(asked)
    if alone(model):
        return BatchLimit(CPU_LANES)
    return measured_limit(model, config, most=most)


def measured_limit(model: LatentThoughtModel, config: FitConfig, *, most: int | None = None) -> BatchLimit:
    """Return the largest limit that a fit step at full length holds, halving from `most` documents, or from 64."""
    length, size = model.config.max_seq_len, most or MAX_BATCH
    probe = replace(config, t_fast=1, adaptive=False)
    text = Document((Window((0,) * length, (0,) * length),))
    while size > 1:
        try:
            fit_together(model, [text] * size, probe, seed=0)
            break
        except RuntimeError as error:
            if not ran_out(error):
                raise
        give_back()
        size //= 2
    return BatchLimit(most or MAX_DOCUMENTS, size * tokens_per_pass(text), size)


def why_unusable(posterior: Posterior, *, tokens: int) -> str | None:
    """Return why the fit of one document cannot be used, or None.

    Args:
        posterior: of one row.
        tokens: number of tokens scored by the fit.
    """
    objective = posterior.trace.objective_nats[:, 0]
    if not len(objective):
        return None
    last = float(objective[-1])
    if not math.isfinite(last) or not bool(posterior.mu.isfinite().all() & posterior.log_var.isfinite().all()):
        odd = (~objective.isfinite()).nonzero()
        step = int(odd[0]) if len(odd) else len(objective) - 1
        return f"the fit is not finite from fast step {step} on (objective {float(objective[step]):g})"
    if last > DIVERGED_NATS * max(tokens, 1):
        return f"the fit diverged: {last:.3g} nats for {tokens} tokens"
    return None
