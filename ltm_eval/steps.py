"""One fast step: gradients of z, then AdamW on mu and log_var (arXiv:1711.05101).

On a CPU the host keeps count. On a GPU a step is a function of what lies there: it counts itself, finds its
rate in a table made beforehand, and needs nothing of the host but the noise. Nobody waits for anybody, and the whole
step can be captured as one CUDA graph, which `compiling.compile_layers` asks for.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm_eval.memory import on_gpu, ran_out, uploaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_eval.batch import Batch
    from ltm_eval.config import FitConfig

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
