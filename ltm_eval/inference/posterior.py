"""Fitting q(z|x) = N(mu, exp(log_var)) to texts by the fast loop.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures:
gradients of z only; the layer-0 self-attention, which z cannot change, is computed once; documents never share a
generator, a sum or a padded length, so what is fitted to a document does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import logging
import math
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ltm_eval.inference.batching import Batch, alone, in_groups, tokens_per_pass, undisturbed
from ltm_eval.inference.decode import CPU_LANES
from ltm_eval.inference.options import FitConfig, fit_config
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
from ltm_eval.model.decoder import check_range, check_tokens, live_model
from ltm_eval.model.elbo import IGNORED, kl_nats, kl_per_layer_nats
from ltm_eval.system import progress
from ltm_eval.system.device import give_back, on_gpu, ran_out, uploaded
from ltm_eval.system.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ltm_eval.inference.windows import Noise
    from ltm_eval.model.decoder import LatentThoughtModel


# One fast step: gradients of z, then AdamW on mu and log_var (arXiv:1711.05101).
#
# On a CPU the host keeps count. On a GPU a step is a function of what lies there: it counts itself, finds its
# rate in a table made beforehand, and needs nothing of the host but the noise. Nobody waits for anybody, and the whole
# step can be captured as one CUDA graph, which `compiling.compile_layers` asks for.

log = logging.getLogger(__name__)

Terms = tuple[Tensor, Tensor]
"""-log p(x|z) and KL of a step, (B,) each, before it is taken."""


def steps_of(batch: Batch, mu: Tensor, log_var: Tensor, config: FitConfig) -> Callable[[int, Tensor], Terms]:
    """What takes the steps of a fit: (n, noise of step n) to the step's terms; mu and log_var move where they lie."""
    return (DeviceSteps if on_gpu(mu.device) else HostSteps)(batch, mu, log_var, config)


def learning_rate(config: FitConfig, step: int) -> float:
    """Cosine from `lr` towards `lr_final` over t_fast steps."""
    return config.lr_final + 0.5 * (1 + math.cos(math.pi * step / config.t_fast)) * (config.lr - config.lr_final)


class AdamW:
    """What `torch.optim.AdamW` computes, bit for bit. Making torch's own imports its compiler, which takes a second."""

    def __init__(self, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.values, self.config, self.count = (mu, log_var), config, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (mu.detach(), log_var.detach())]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move along `grad` of both."""
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


class HostSteps:
    """Steps whose rates the host gives."""

    def __init__(self, batch: Batch, mu: Tensor, log_var: Tensor, config: FitConfig) -> None:
        self.batch, self.mu, self.log_var, self.config = batch, mu, log_var, config
        self.optimiser = AdamW(mu, log_var, config)

    def __call__(self, number: int, noise: Tensor) -> Terms:
        """Take a step."""
        terms = self.batch.descend(self.mu, self.log_var, noise)
        self.optimiser.step(learning_rate(self.config, number))
        return terms


class DeviceSteps:
    """Steps that know their number and rate, to be taken in order."""

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
        """The first step as it is, which leaves everything a capture must not make; the others as one graph."""
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
    """Of every step: rate over the first moment's correction, what weight decay leaves, root of the second's
    correction; (t_fast, 3), fp32.
    """
    rows = [
        (rate / (1 - config.beta1**n), 1 - rate * config.weight_decay, math.sqrt(1 - config.beta2**n))
        for n, rate in ((step + 1, learning_rate(config, step)) for step in range(config.t_fast))
    ]
    return torch.tensor(rows, dtype=torch.float64).float()


def aside(work: Callable[[], Terms]) -> Terms:
    """Work on a stream of its own, as what comes before a capture must run."""
    stream, own = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(own)
    with torch.cuda.stream(stream):
        found = work()
    own.wait_stream(stream)
    return found


def captured(work: Callable[[], Terms]) -> Callable[[], Terms]:
    """Work as a CUDA graph: nothing is computed now, and all of it in one launch whenever what is returned is called.

    The tensors it gives are the same ones each time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()

    def replay() -> Terms:
        graph.replay()
        return found

    return replay


# Fits of unset length (`t_fast=auto`): each document is fitted for as long as it gains.


@dataclass(frozen=True)
class Adaptive:
    """When a fit of unset length (`t_fast=auto`) ends."""

    tolerance_nats: float = 0.005
    """Least improvement of the smoothed objective over a window, per scored token."""
    window: int = 16
    """Steps that are averaged."""
    max_steps: int = 512
    """Most fast steps of a document."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_steps < self.window:
            raise UsageError(
                f"an adaptive fit needs a window of at least 1 step and at least as many steps in all, got window "
                f"{self.window} and max_steps {self.max_steps}"
            )
        if not self.tolerance_nats > 0:
            raise UsageError(f"tolerance_nats must be positive, got {self.tolerance_nats!r}")


@dataclass(frozen=True)
class AdaptiveFit:
    """Posteriors whose number of fast steps was chosen document by document."""

    posterior: Posterior
    """In the documents' order. Its trace has a row for every step of the longest fit, NaN where a document had left,
    and the evaluation after the last step as its last row.
    """
    steps: tuple[int, ...]
    """Fast steps of each document."""

    @property
    def mean_steps(self) -> float:
        """Mean number of fast steps."""
        return sum(self.steps) / len(self.steps)


def fit_adaptive(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, seed: int, rule: Adaptive
) -> AdaptiveFit:
    """Fit every document for as long as it gains, then let its rate fall for as many steps again, and stop.

    The rate stays at `config.lr` while the mean objective of the last `rule.window` steps is lower than that of the
    window before by at least the tolerance; then it follows a cosine to `config.lr_final`. A fit is thus half constant,
    half falling: stopped without the fall, or after a short one, the steps' own noise stays in the bound.
    `config.t_fast` is not used. A document's noise is that of `fit_documents`.

    Documents that share passes (`groups`) do until each is done.
    """

    def together(members: Sequence[int]) -> list[tuple[Posterior, int]]:
        return adaptive_loop(model, [documents[i] for i in members], config, seed=seed, rule=rule)

    done = in_groups(model, documents, together)
    posterior = Posterior.joined([part for part, _ in done])
    return AdaptiveFit(posterior, tuple(steps for _, steps in done))


def adaptive_loop(
    model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, *, seed: int, rule: Adaptive
) -> list[tuple[Posterior, int]]:
    """`fit_adaptive` for documents of one shape: each one's posterior, with its own trace, and its number of steps."""
    fits = [_AdaptiveDocument(model, document, config, seed=seed, rule=rule) for document in documents]
    active, batch = fits, Batch.of(model, documents)
    while active:
        mu = torch.cat([own.mu.detach() for own in active]).requires_grad_()
        log_var = torch.cat([own.log_var.detach() for own in active]).requires_grad_()
        terms = batch.descend(mu, log_var, torch.cat([own.noise(own.steps) for own in active], dim=1))
        progress.mark()
        for i, own in enumerate(active):
            own.move(_part(mu.grad, i), _part(log_var.grad, i), terms=(terms[0][i : i + 1], terms[1][i : i + 1]))
        for own, nats in zip(active, (terms[0] + terms[1]).tolist(), strict=True):  # the step's one look at the device
            own.judge(nats)
        going = [own for own in active if not own.done]
        if going and len(going) < len(active):
            batch = Batch.of(model, [own.document for own in going])
        active = going
    return [(own.posterior(model), own.steps) for own in fits]


def _part(gradient: Tensor | None, i: int) -> Tensor:
    assert gradient is not None
    return gradient[i : i + 1]


class _AdaptiveDocument:
    """One document of `adaptive_loop`: its posterior on the way, its optimiser, and whether it is done."""

    def __init__(
        self, model: LatentThoughtModel, document: Document, config: FitConfig, *, seed: int, rule: Adaptive
    ) -> None:
        self.document, self.rule = document, rule
        self.config = replace(config, t_fast=rule.max_steps)
        self.noise = document_noise(model, [document], self.config, seed)
        start = preset_start(model, [document], self.config, seed)
        self.mu, self.log_var = start.mu.clone().requires_grad_(), start.log_var.clone().requires_grad_()
        self.optimiser = AdamW(self.mu, self.log_var, config)
        self.tolerance = rule.tolerance_nats * document.scored
        self.cooling_from: int | None = None
        self.objective: list[float] = []
        self.nll: list[Tensor] = []
        self.kl: list[Tensor] = []

    @property
    def steps(self) -> int:
        """Fast steps so far."""
        return len(self.nll)

    @property
    def done(self) -> bool:
        """Whether the rate has come down."""
        return self.cooling_from is not None and self.steps >= min(2 * self.cooling_from, self.rule.max_steps)

    def move(self, mu_grad: Tensor, log_var_grad: Tensor, *, terms: tuple[Tensor, Tensor]) -> None:
        """One step along the gradients; `terms` are the -log p(x|z) and KL, (1,) each, that they belong to."""
        self.mu.grad, self.log_var.grad = mu_grad, log_var_grad
        self.optimiser.step(self._rate())
        self.nll.append(terms[0])
        self.kl.append(terms[1])

    def judge(self, objective_nats: float) -> None:
        """Let the rate fall from here on, if the step taken last shows that nothing is gained any more."""
        self.objective.append(objective_nats)
        if self.cooling_from is None and (self._flat() or 2 * self.steps >= self.rule.max_steps):
            self.cooling_from = self.steps

    def _rate(self) -> float:
        if self.cooling_from is None:
            return self.config.lr
        return learning_rate(replace(self.config, t_fast=self.cooling_from), self.steps - self.cooling_from)

    def _flat(self) -> bool:
        """Whether the last window's mean objective is not lower than the one before by the tolerance."""
        window = self.rule.window
        if self.steps < 2 * window:
            return False
        objective = self.objective[-2 * window :]
        return (math.fsum(objective[:window]) - math.fsum(objective[window:])) / window < self.tolerance

    def posterior(self, model: LatentThoughtModel) -> Posterior:
        """The result, evaluated once more."""
        mu, log_var = self.mu.detach(), self.log_var.detach()
        last = Batch.of(model, [self.document]).expected_nll_nats(mu, log_var, self.noise(self.steps))
        return Posterior(
            mu, log_var, Trace(torch.stack([*self.nll, last]), torch.stack([*self.kl, kl_nats(mu, log_var)]))
        )


# The fast loop: gradient steps on the ELBO that fit mu and log_var to a batch of documents.
#
# Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures: see
# `posterior`.


def fast_loop(batch: Batch, start: Start, noise: Noise, config: FitConfig) -> Posterior:
    """AdamW on mu and log_var, `config.t_fast` steps, then one evaluation.

    The gradient is that of the sum over documents, so each document moves as if it were alone.

    Args:
        batch: the documents.
        start: (B, L, N, D) each; taken as it is, also when t_fast is 0.
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


TORCH_IGNORED = -100
"""What `torch.nn.functional.cross_entropy` leaves out unless told otherwise; read as `IGNORED`."""


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

    The model and the process are left as they were, and modes that the caller is in (`torch.no_grad`,
    `torch.inference_mode`, `torch.autocast`) change nothing: computed is in float32, or with the matrix products of
    `set_matmul_dtype`. A model in half, bfloat16 or double is converted in a copy for the time of the call.

    Args:
        model: what `ltm_eval.load` returns, also in the middle of training.
        tokens: (B, T), whole numbers from 0 to V - 1; rows may be padded at their end, with anything, where `targets`
            says that nothing is scored.
        targets: (B, T), whole numbers; -1 or -100 where a position is read and not scored.
        preset: `released`, `published` or `bound`.
        t_fast: fast steps; None takes the preset's, 0 returns the prior, `auto` ends each row's fit once it gains no
            more.
        seed: of the noise, together with each row's own content.

    Returns:
        Posterior of B documents, in the order of the rows.

    Raises:
        UsageError: an argument is of another kind or shape or out of range, a weight is not finite, or a row has no
            scored position.
    """
    source = live_model(model)
    steps = t_fast if t_fast is None or isinstance(t_fast, str) else _whole("t_fast", t_fast)
    config = fit_config(preset, t_fast=steps)
    number = _whole("seed", seed)
    documents = documents_of(tokens, targets, vocab=source.config.vocab_size)
    with undisturbed():
        return fit_documents(source.as_read(), documents, config, seed=number)


def _whole(name: str, value: Any) -> int:
    """A whole number of any integer type."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} must be a whole number, got {shown(value)}")


def documents_of(tokens: Tensor, targets: Tensor, *, vocab: int) -> list[Document]:
    """A document of one window per row, without the padding at its end.

    Args:
        tokens: (B, T).
        targets: (B, T), `IGNORED` or `TORCH_IGNORED` where nothing is scored.

    Raises:
        UsageError: kind, shape or a value is another, or a row has nothing to score.
    """
    check_tokens("tokens", tokens)
    check_tokens("targets", targets)
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
    """Fit every document; those of equal shape run together on a GPU, each alone or a few short ones on a CPU.

    On a CPU a document's bits are its own: where kernels might sum otherwise for several documents, and where a batch
    gains nothing, it is alone (`lanes`). Where a GPU's memory runs out, the batch is fitted in two halves, and so on.

    Args:
        documents: each becomes one row of the result, in this order.
        starts: a warm start per document instead of the preset's.

    Returns:
        Posterior of len(documents) rows.

    Raises:
        MachineError: there is not enough memory for one document.
    """
    if config.adaptive and starts is None:
        return fit_adaptive(model, documents, config, seed=seed, rule=Adaptive()).posterior

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


# How much a batch of fits may hold: so many documents, or so many padded tokens as a device was seen to bear.

MAX_BATCH = 64
"""Most documents of full length that `auto` tries."""
MAX_DOCUMENTS = 512
"""Most documents of a batch that tokens limit, however short they are: each has latents of its own."""


@dataclass(frozen=True)
class BatchLimit:
    """What a batch may hold."""

    documents: int
    """Most documents."""
    tokens: int | None = None
    """Most padded tokens of a pass, over all documents; None does not count them."""
    full_length: int = 0
    """Documents of full length that a measured limit holds; 0 where nothing was measured."""

    @property
    def side_by_side(self) -> int:
        """Documents of any length that are worked on at once."""
        return self.full_length or self.documents

    def batches(self, documents: Iterable[Document | None]) -> Iterator[list[int]]:
        """Places of documents that are fitted together, in the order given; None stands for one without a fit.

        Where tokens count, a batch is of one shape, and holds count x padded length of them: documents of another
        shape would run by themselves anyway. One that is too large alone makes a batch, and is tried.
        """
        batch: list[int] = []
        first: Document | None = None
        for place, document in enumerate(documents):
            if batch and not self._joins(document, first, len(batch)):
                yield batch
                batch = []
            if not batch:
                first = document
            batch.append(place)
        if batch:
            yield batch

    def _joins(self, document: Document | None, first: Document | None, count: int) -> bool:
        if count >= self.documents:
            return False
        if self.tokens is None or document is None or first is None:
            return self.tokens is None or document is first
        return document.shape == first.shape and (count + 1) * tokens_per_pass(document) <= self.tokens


def batch_limit(model: LatentThoughtModel, config: FitConfig, *, asked: int | None, most: int | None) -> BatchLimit:
    """The limit for a model on its device.

    Args:
        asked: documents, as the user says; None measures on a GPU. On a CPU, where documents run alone, a batch is what
            a flush of the journal waits for.
        most: upper end of what is measured, in documents.
    """
    if asked is not None:
        return BatchLimit(asked)
    if alone(model):
        return BatchLimit(CPU_LANES)
    return measured_limit(model, config, most=most)


def measured_limit(model: LatentThoughtModel, config: FitConfig, *, most: int | None = None) -> BatchLimit:
    """What a fit step at the longest length was seen to bear, halving from `most` documents, or from 64."""
    length, size = model.config.max_seq_len, most or MAX_BATCH
    probe = replace(config, t_fast=1, adaptive=False)
    text = Document((Window((0,) * length, (0,) * length),))
    while size > 1 and not _bears(model, [text] * size, probe):
        give_back()
        size //= 2
    return BatchLimit(most or MAX_DOCUMENTS, size * tokens_per_pass(text), size)


def _bears(model: LatentThoughtModel, documents: list[Document], probe: FitConfig) -> bool:
    """Whether a step on all documents at once finds enough memory."""
    try:
        fit_together(model, documents, probe, seed=0)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return False
    return True


# Documents that could not be scored: why, how many a run allows, and its figures without them.
#
# A number that is not finite never reaches a mean or an argmax: the document is recorded as failed, its neighbours stay
# as they are, and the figures are aggregated over the others. A run with more failures than allowed ends incomplete.

DIVERGED_NATS = 1_000.0
"""-ELBO per scored token that no fit reaches which has not diverged; equally likely tokens cost 11."""


def why_unusable(posterior: Posterior, *, tokens: int) -> str | None:
    """Why the fit of one document cannot be used, or None.

    Args:
        posterior: of one row.
        tokens: scored by the fit.
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
