"""Fits of unset length (`t_fast=auto`): each document is fitted for as long as it gains."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval import pulse
from ltm_eval.batch import Batch
from ltm_eval.elbo import kl_nats
from ltm_eval.errors import UsageError
from ltm_eval.gaussians import Posterior, Trace, preset_start
from ltm_eval.groups import in_groups
from ltm_eval.noise import document_noise
from ltm_eval.steps import AdamW, learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_eval.config import FitConfig
    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.windows import Document


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
        pulse.mark()
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
