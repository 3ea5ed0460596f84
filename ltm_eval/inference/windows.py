"""Windows, documents, random streams and posteriors: inputs and results of a fit.

A window is input tokens with their targets; a document is windows that share one z. Each document has its own random
streams, so that its draws do not depend on other documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.model.elbo import IGNORED
from ltm_eval.model.inputs import told
from ltm_eval.system.device import uploaded
from ltm_eval.system.errors import UsageError, shown

if TYPE_CHECKING:
    from ltm_eval.inference.options import FitConfig


@dataclass(frozen=True)
class Window:
    """Input tokens and their targets; `IGNORED` targets are not scored."""

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
    """Windows that share one z: the objective is the sum over windows of -log p(window|z), plus one KL."""

    windows: tuple[Window, ...]

    @property
    def key(self) -> bytes:
        """sha256 over tokens and targets, which identifies the document."""
        content = hashlib.sha256()
        for window in self.windows:
            content.update(np.asarray([window.tokens, window.targets], dtype="<i8").tobytes() + b"|")
        return content.digest()

    @property
    def padded_length(self) -> int:
        """Length to which each of its windows is padded."""
        return padded_length(max(len(window.tokens) for window in self.windows))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of windows and their padded length; documents of equal shape can share a batch."""
        return len(self.windows), self.padded_length

    @property
    def scored(self) -> int:
        """Number of scored tokens."""
        return sum(target != IGNORED for window in self.windows for target in window.targets)


def trimmed(tokens: list[int], targets: list[int], *, where: str) -> Window:
    """Return a row without its padding; `where` names it in an error."""
    scored = [i for i, target in enumerate(targets) if target != IGNORED]
    if not scored:
        raise UsageError(f"{where} has no scored position (all targets are ignored); remove it")
    return Window(tuple(tokens[: scored[-1] + 1]), tuple(targets[: scored[-1] + 1]))


def padded_length(tokens: int) -> int:
    """Return the length to which a window is padded: 16, 32, then multiples of 64."""
    for small in (16, 32):
        if tokens <= small:
            return small
    return -(-tokens // 64) * 64


# Random numbers -------------------------------------------------------------------------------------------------------

Noise = Callable[[int], Tensor]  # step to standard normal noise (draws, B, L, N, D)


def generator(seed: int, role: str, key: bytes, repeat: int = 0) -> np.random.Generator:
    """Return a counter-based stream for a document, a role and a repeat.

    It is keyed by 128 bits of sha256, so streams neither collide nor depend on order, batch or process. It is numpy's
    Philox because torch's CPU generator keeps only 32 bits of a seed.
    """
    digest = hashlib.sha256(f"{seed}|{role}|{repeat}|".encode() + key).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def standard_normal(stream: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Draw the next standard normal numbers of a stream, fp32."""
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))


def document_noise(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, seed: int) -> Noise:
    """Return the noise of the fit, from each document's stream; it does not depend on the number of steps."""
    streams = [generator(seed, "fit", document.key) for document in documents]
    paired = config.noise == "antithetic"
    shape = (config.draws // 2 if paired else config.draws, *model.config.latent_shape)

    def draw() -> Tensor:
        own = uploaded(torch.stack([standard_normal(stream, shape) for stream in streams], dim=1), model.device)
        return torch.cat([own, -own]) if paired else own

    if config.noise == "fixed":
        fixed = draw()
        return lambda step: fixed
    return lambda step: draw()


# Posteriors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """The objective over the fast loop, at the noise of each step."""

    nll_nats: Tensor  # (t_fast + 1, B): -log p(x|z); the last row is an evaluation after the last step
    kl_nats: Tensor  # (t_fast + 1, B)
    kl_layers_nats: Tensor | None = None  # (t_fast + 1, B, L): KL of each layer; None if not kept

    @property
    def objective_nats(self) -> Tensor:
        """-ELBO at each step's own noise, (t_fast + 1, B). Not a bound if the noise is fixed."""
        return self.nll_nats + self.kl_nats

    @property
    def steps(self) -> int:
        """Number of fast steps of the first document; a fit shorter than others of its batch has rows of NaN."""
        return max(0, int((~self.nll_nats[:, 0].isnan()).sum()) - 1)


@dataclass(frozen=True)
class Posterior:
    """Fitted posteriors of B documents."""

    mu: Tensor  # (B, L, N, D), fp32
    log_var: Tensor  # (B, L, N, D), fp32
    trace: Trace  # how the fit went

    def at(self, noise: Tensor) -> Tensor:
        """Return z = mu + noise * sigma, (B, L, N, D).

        Args:
            noise: standard normal draws, (B, L, N, D) or a shape that broadcasts to it.

        Raises:
            UsageError: type or shape is wrong.
        """
        shape = tuple(self.mu.shape)
        fits = isinstance(noise, Tensor) and noise.is_floating_point() and noise.shape[-3:] == self.mu.shape[-3:]
        if not fits or not (noise.dim() == 3 or (noise.dim() == 4 and (shape[0] == 1 or len(noise) in (1, shape[0])))):  # noqa: PLR2004
            raise UsageError(f"noise must be a tensor of floats of shape {shape}, (B, L, N, D), got {told(noise)}")
        return self.mu + noise * (0.5 * self.log_var).exp()

    def row(self, i: int) -> Posterior:
        """Return the posterior of document i; -1 is the last.

        Raises:
            UsageError: there is no such document.
        """
        if isinstance(i, bool) or not isinstance(i, int) or not -len(self.mu) <= i < len(self.mu):
            raise UsageError(f"row: expected a whole number from 0 to {len(self.mu) - 1} (documents), got {shown(i)}")
        i %= len(self.mu)
        part = slice(i, i + 1)
        layers = self.trace.kl_layers_nats
        kept = None if layers is None else layers[:, part]
        trace = Trace(self.trace.nll_nats[:, part], self.trace.kl_nats[:, part], kept)
        return Posterior(self.mu[part], self.log_var[part], trace)

    @staticmethod
    def joined(parts: Sequence[Posterior]) -> Posterior:
        """Join several posteriors; traces of shorter fits get rows of NaN before their last row.

        Raises:
            UsageError: the list is empty or contains anything else, or sizes of the models differ.
        """
        if not parts or not all(isinstance(part, Posterior) for part in parts):
            raise UsageError("joined: expected a list of posteriors, at least one")
        if len({part.mu.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(sorted({str(tuple(part.mu.shape[1:])) for part in parts}))
            raise UsageError(f"joined: expected posteriors of one shape (L, N, D), got {shapes}")
        rows = max(len(part.trace.nll_nats) for part in parts)
        parts = [part if len(part.trace.nll_nats) == rows else _stretched(part, rows) for part in parts]
        nll = torch.cat([part.trace.nll_nats for part in parts], dim=1)
        kl = torch.cat([part.trace.kl_nats for part in parts], dim=1)
        layers = [part.trace.kl_layers_nats for part in parts]
        kept = [one for one in layers if one is not None]
        trace = Trace(nll, kl, torch.cat(kept, dim=1) if len(kept) == len(parts) else None)
        return Posterior(torch.cat([part.mu for part in parts]), torch.cat([part.log_var for part in parts]), trace)

    @staticmethod
    def prior(model: LatentThoughtModel) -> Posterior:
        """Return N(0, I) as a posterior of one document, with an empty trace.

        Raises:
            UsageError: `model` has another type.
        """
        if not isinstance(model, LatentThoughtModel):
            raise UsageError(f"model must be a LatentThoughtModel, as ltm_eval.load returns it, got {told(model)}")
        zeros = torch.zeros(1, *model.config.latent_shape, device=model.device)
        nothing = torch.zeros(0, 1, device=model.device)
        return Posterior(zeros, zeros.clone(), Trace(nothing, nothing))


@dataclass(frozen=True)
class Start:
    """Initial values of the fast loop, (B, L, N, D) each."""

    mu: Tensor
    log_var: Tensor

    @staticmethod
    def spread(config: FitConfig, *, mu: Tensor, log_var: Tensor) -> Start:
        """Return the preset's start from standard normal draws, (B, L, N, D) each."""
        return Start(config.mu_spread * mu, config.log_var_start + config.log_var_spread * log_var)


def _stretched(part: Posterior, rows: int) -> Posterior:
    """Lengthen the trace to `rows` rows, with NaN before its last."""

    def longer(values: Tensor) -> Tensor:
        gap = values.new_full((rows - len(values), *values.shape[1:]), math.nan)
        return torch.cat([values[:-1], gap, values[-1:]])

    trace, layers = part.trace, part.trace.kl_layers_nats
    kept = None if layers is None else longer(layers)
    return Posterior(part.mu, part.log_var, Trace(longer(trace.nll_nats), longer(trace.kl_nats), kept))


def preset_start(model: LatentThoughtModel, documents: Sequence[Document], config: FitConfig, seed: int) -> Start:
    """Return the preset's start, or the prior if t_fast is 0."""
    shape = (len(documents), *model.config.latent_shape)
    if config.t_fast == 0:
        return Start(torch.zeros(shape, device=model.device), torch.zeros(shape, device=model.device))
    streams = [generator(seed, "start", document.key) for document in documents]
    log_var = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    mu = torch.stack([standard_normal(stream, shape[1:]) for stream in streams])
    start = Start.spread(config, mu=mu, log_var=log_var)
    return Start(uploaded(start.mu, model.device), uploaded(start.log_var, model.device))


def stacked(starts: Sequence[Start]) -> Start:
    """Join starts of single documents."""
    return Start(torch.cat([start.mu for start in starts]), torch.cat([start.log_var for start in starts]))
