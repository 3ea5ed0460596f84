"""The fast loop: fitting q(z|x) = N(mu, exp(log_var)) to a text by gradient steps on the ELBO.

Source: arXiv:2502.01567 section 2.2; github mingluzhao/Latent-Thought-LM @498e39e, `optimizer.py`. Departures:
gradients of z only; the layer-0 self-attention, which z cannot change, is computed once; documents never share a
generator, a sum or a padded length, so what is fitted to a document does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from ltm_eval import pulse
from ltm_eval.config import FitConfig, fit_config
from ltm_eval.elbo import IGNORED, kl_nats, projected_nll_nats
from ltm_eval.errors import MachineError, UsageError
from ltm_eval.workers import side_by_side

if TYPE_CHECKING:
    from ltm_eval.model import Hidden, LatentThoughtModel

Noise = Callable[[int], Tensor]
"""Step to standard normal noise (draws, B, L, N, D)."""

_TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Window:
    """Input tokens and the targets scored after them; `IGNORED` targets are read but not scored."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.targets) or not self.tokens:
            raise UsageError(
                f"a window needs as many targets as tokens and at least one, got {len(self.tokens)} and "
                f"{len(self.targets)}"
            )


@dataclass(frozen=True)
class Document:
    """Windows that share one z: the objective is sum over windows of -log p(window|z), plus one KL."""

    windows: tuple[Window, ...]

    @property
    def key(self) -> bytes:
        """sha256 over tokens and targets; names the document wherever it stands."""
        content = hashlib.sha256()
        for window in self.windows:
            content.update(np.asarray([window.tokens, window.targets], dtype="<i8").tobytes() + b"|")
        return content.digest()


@dataclass(frozen=True)
class Trace:
    """The objective over the fast loop, at the noise of each step."""

    nll_nats: Tensor
    """(t_fast + 1, B): -log p(x|z); the last row is an evaluation after the last step."""
    kl_nats: Tensor
    """(t_fast + 1, B)."""

    @property
    def objective_nats(self) -> Tensor:
        """-ELBO at each step's own noise, (t_fast + 1, B). Not a bound where the noise is fixed."""
        return self.nll_nats + self.kl_nats


@dataclass(frozen=True)
class Posterior:
    """Fitted posteriors of B documents."""

    mu: Tensor
    """(B, L, N, D), fp32."""
    log_var: Tensor
    """(B, L, N, D), fp32."""
    trace: Trace
    """How the fit went."""

    def at(self, noise: Tensor) -> Tensor:
        """z = mu + noise * sigma, (B, L, N, D)."""
        return self.mu + noise * (0.5 * self.log_var).exp()

    def row(self, i: int) -> Posterior:
        """The posterior of document i alone."""
        part = slice(i, i + 1)
        trace = Trace(self.trace.nll_nats[:, part], self.trace.kl_nats[:, part])
        return Posterior(self.mu[part], self.log_var[part], trace)

    @staticmethod
    def joined(parts: Sequence[Posterior]) -> Posterior:
        """Several posteriors as one; the traces of shorter fits get rows of NaN before their last."""
        rows = max(len(part.trace.nll_nats) for part in parts)
        parts = [part if len(part.trace.nll_nats) == rows else _stretched(part, rows) for part in parts]
        nll = torch.cat([part.trace.nll_nats for part in parts], dim=1)
        kl = torch.cat([part.trace.kl_nats for part in parts], dim=1)
        return Posterior(
            torch.cat([part.mu for part in parts]), torch.cat([part.log_var for part in parts]), Trace(nll, kl)
        )

    @staticmethod
    def prior(model: LatentThoughtModel) -> Posterior:
        """N(0, I) as a posterior of one document, with an empty trace."""
        zeros = torch.zeros(1, *model.config.latent_shape, device=model.device)
        nothing = torch.zeros(0, 1, device=model.device)
        return Posterior(zeros, zeros.clone(), Trace(nothing, nothing))


@dataclass(frozen=True)
class Start:
    """Where the fast loop begins: both (B, L, N, D)."""

    mu: Tensor
    log_var: Tensor


def fit(
    model: LatentThoughtModel,
    tokens: Tensor,
    targets: Tensor,
    *,
    preset: str = "bound",
    t_fast: int | None = None,
    seed: int = 1234,
) -> Posterior:
    """Fit one posterior per row.

    Args:
        model: weights stay as they are.
        tokens: (B, T), long; rows may be padded at their end where `targets` is -1.
        targets: (B, T), long; -1 where a position is not scored.
        preset: `released`, `published` or `bound`.
        t_fast: fast steps; None takes the preset's, 0 returns the prior.
        seed: of the noise, together with each row's own content.

    Returns:
        Posterior of B documents, in the order of the rows.

    Raises:
        UsageError: an option is out of range, or a row has no scored position.
    """
    documents = [
        Document((_trimmed(row, wanted),)) for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True)
    ]
    return fit_documents(model, documents, fit_config(preset, t_fast=t_fast), seed=seed)


def _trimmed(tokens: list[int], targets: list[int]) -> Window:
    """A row without its padding."""
    scored = [i for i, target in enumerate(targets) if target != IGNORED]
    if not scored:
        raise UsageError("fit: a row has no scored position (all targets are -1); leave it out")
    return Window(tuple(tokens[: scored[-1] + 1]), tuple(targets[: scored[-1] + 1]))


def fit_documents(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    config: FitConfig,
    *,
    seed: int,
    starts: Sequence[Start] | None = None,
) -> Posterior:
    """Fit every document; those of equal shape run together on a GPU, each alone on a CPU.

    On a CPU the kernels' summation order depends on the batch, and a batch gains nothing there; alone, a document's
    bits are its own. Where a GPU's memory runs out, the batch is fitted in two halves, and so on.

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

    return Posterior.joined(in_groups(model, documents, together, alone=model.device.type == "cpu"))


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
    start = _start(model, documents, config, seed) if starts is None else _stacked(starts)
    return fast_loop(Batch.of(model, documents), start, document_noise(model, documents, config, seed), config)


_Item = TypeVar("_Item")
_Part = TypeVar("_Part")


def in_halves(items: Sequence[_Item], work: Callable[[Sequence[_Item]], list[_Part]]) -> list[_Part]:
    """`work` on all items at once; where a GPU's memory runs out, on each half by itself, and so on.

    Raises:
        MachineError: there is not enough for a single item.
    """
    try:
        return work(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise MachineError(
                "not enough memory for one document; use a smaller model, shorter context or another device"
            ) from error
    torch.cuda.empty_cache()  # after the error is gone, whose frames hold what was allocated
    middle = len(items) // 2
    return [*in_halves(items[:middle], work), *in_halves(items[middle:], work)]


def in_groups(
    model: LatentThoughtModel,
    documents: Sequence[Document],
    work: Callable[[Sequence[int]], list[_Part]],
    *,
    alone: bool,
) -> list[_Part]:
    """`work` on the indices of documents that are computed together: one part per document, in their order.

    Those of equal shape are, in as many batches as memory asks for; or each is `alone`, on a core of its own.
    """
    if alone:
        largest = max((_tokens_per_pass(document) for document in documents), default=0)
        groups = [[i] for i in range(len(documents))]
        found = side_by_side(groups, work, bytes_each=largest * _bytes_per_token(model))
    else:
        groups = _shapes(documents)
        found = [in_halves(members, work) for members in groups]
    parts = {i: part for members, own in zip(groups, found, strict=True) for i, part in zip(members, own, strict=True)}
    return [parts[i] for i in range(len(documents))]


def _shapes(documents: Sequence[Document]) -> list[list[int]]:
    """Indices of documents with equal numbers of windows and equal padded lengths."""
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, document in enumerate(documents):
        shapes[len(document.windows), _padded_length(document)].append(i)
    return list(shapes.values())


def _tokens_per_pass(document: Document) -> int:
    return min(_TOKENS_PER_PASS, len(document.windows) * _padded_length(document))


def _bytes_per_token(model: LatentThoughtModel) -> int:
    """Memory that a fast step keeps for its backward pass, per token: about 24 numbers of the width in each layer."""
    return 24 * 4 * model.config.dim * model.config.n_layers


def fast_loop(batch: Batch, start: Start, noise: Noise, config: FitConfig) -> Posterior:
    """AdamW on mu and log_var, `config.t_fast` steps, then one evaluation.

    The gradient is that of the sum over documents, so each document moves as if it were alone.

    Args:
        batch: the documents.
        start: (B, L, N, D) each; taken as it is, also when t_fast is 0.
        noise: called with the step 0 ... t_fast.
    """
    mu, log_var = start.mu.detach().clone(), start.log_var.detach().clone()
    nll, kl = [], []
    if config.t_fast:
        mu.requires_grad_()
        log_var.requires_grad_()
        optimiser = _adamw(mu, log_var, config)
        for step in range(config.t_fast):
            optimiser.param_groups[0]["lr"] = learning_rate(config, step)
            terms = batch.descend(mu, log_var, noise(step))
            nll.append(terms[0])
            kl.append(terms[1])
            optimiser.step()
            pulse.mark()
    with torch.no_grad():
        mu, log_var = mu.detach(), log_var.detach()
        nll.append(batch.expected_nll_nats(mu, log_var, noise(config.t_fast)))
        kl.append(kl_nats(mu, log_var))
    return Posterior(mu, log_var, Trace(torch.stack(nll), torch.stack(kl)))


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

    On a GPU, documents of equal shape share a batch until each is done; on a CPU each runs alone.
    """

    def together(members: Sequence[int]) -> list[tuple[Posterior, int]]:
        return adaptive_loop(model, [documents[i] for i in members], config, seed=seed, rule=rule)

    done = in_groups(model, documents, together, alone=model.device.type == "cpu")
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
        pulse.mark()
        for i, own in enumerate(active):
            own.move(_part(mu.grad, i), _part(log_var.grad, i), terms=(terms[0][i : i + 1], terms[1][i : i + 1]))
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
        start = _start(model, [document], self.config, seed)
        self.mu, self.log_var = start.mu.clone().requires_grad_(), start.log_var.clone().requires_grad_()
        self.optimiser = _adamw(self.mu, self.log_var, config)
        self.tolerance = rule.tolerance_nats * _scored(document)
        self.cooling_from: int | None = None
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
        self.optimiser.param_groups[0]["lr"] = self._rate()
        self.optimiser.step()
        self.nll.append(terms[0])
        self.kl.append(terms[1])
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
        objective = (torch.cat(self.nll[-2 * window :]) + torch.cat(self.kl[-2 * window :])).tolist()
        return (math.fsum(objective[:window]) - math.fsum(objective[window:])) / window < self.tolerance

    def posterior(self, model: LatentThoughtModel) -> Posterior:
        """The result, evaluated once more."""
        mu, log_var = self.mu.detach(), self.log_var.detach()
        last = Batch.of(model, [self.document]).expected_nll_nats(mu, log_var, self.noise(self.steps))
        return Posterior(
            mu, log_var, Trace(torch.stack([*self.nll, last]), torch.stack([*self.kl, kl_nats(mu, log_var)]))
        )


def _scored(document: Document) -> int:
    """Tokens that are scored."""
    return sum(target != IGNORED for window in document.windows for target in window.targets)


def _stretched(part: Posterior, rows: int) -> Posterior:
    """The same posterior with a trace of `rows` rows: NaN before its last row."""

    def longer(values: Tensor) -> Tensor:
        gap = values.new_full((rows - len(values), 1), math.nan)
        return torch.cat([values[:-1], gap, values[-1:]])

    return Posterior(part.mu, part.log_var, Trace(longer(part.trace.nll_nats), longer(part.trace.kl_nats)))


def _adamw(mu: Tensor, log_var: Tensor, config: FitConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [mu, log_var],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: FitConfig, step: int) -> float:
    """Cosine from `lr` towards `lr_final` over t_fast steps."""
    return config.lr_final + 0.5 * (1 + math.cos(math.pi * step / config.t_fast)) * (config.lr - config.lr_final)


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
        length = min(limit, _padded_length(documents[0]))
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
    return Rows(model.prelude(tokens.to(device)), targets.to(device), owner.to(device), in_order)


def padded_length(tokens: int) -> int:
    """Length a window of so many tokens is padded to: 16, 32, then multiples of 64."""
    for small in (16, 32):
        if tokens <= small:
            return small
    return -(-tokens // 64) * 64


def _padded_length(document: Document) -> int:
    return padded_length(max(len(window.tokens) for window in document.windows))


# Noise ---------------------------------------------------------------------------------------------------------------


def generator(seed: int, role: str, key: bytes, repeat: int = 0) -> np.random.Generator:
    """A counter-based stream of its own for a document, a role and a repeat.

    Keyed by 128 bits of sha256, so streams neither collide nor depend on order, batch or process; numpy's Philox,
    because
    torch's CPU generator keeps 32 bits of a seed.
    """
    digest = hashlib.sha256(f"{seed}|{role}|{repeat}|".encode() + key).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def standard_normal(stream: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Next standard normal numbers of a stream, fp32."""
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))


def document_noise(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, seed: int) -> Noise:
    """Noise of the fit: each document's stream in turn; more steps never change earlier ones."""
    streams = [generator(seed, "fit", document.key) for document in documents]
    paired = config.noise == "antithetic"
    shape = (config.draws // 2 if paired else config.draws, *model.config.latent_shape)

    def draw() -> Tensor:
        own = torch.stack([standard_normal(stream, shape) for stream in streams], dim=1).to(model.device)
        return torch.cat([own, -own]) if paired else own

    if config.noise == "fixed":
        fixed = draw()
        return lambda step: fixed
    return lambda step: draw()


def _start(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, seed: int) -> Start:
    """The preset's start; with t_fast 0, the prior."""
    shape = (len(documents), *model.config.latent_shape)
    if config.t_fast == 0:
        return Start(torch.zeros(shape, device=model.device), torch.zeros(shape, device=model.device))
    streams = [generator(seed, "start", document.key) for document in documents]
    spread_log_var = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    spread_mu = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    log_var = config.log_var_start + config.log_var_spread * spread_log_var
    return Start((config.mu_spread * spread_mu).to(model.device), log_var.to(model.device))


def _stacked(starts: Sequence[Start]) -> Start:
    return Start(torch.cat([start.mu for start in starts]), torch.cat([start.log_var for start in starts]))
