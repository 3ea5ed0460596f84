"""A toy LTM with one latent dimension that matters, so that -log p(x) can be integrated numerically."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel

CONFIG = ModelConfig(
    dim=4,
    n_layers=1,
    n_heads=1,
    n_kv_heads=1,
    vocab_size=32,
    max_seq_len=48,
    window_size=48,
    max_z_len=1,
    multiple_of=8,
)
LENGTH = 32
_REACH = 9.0
_POINTS = 1801


class ToyModel(LatentThoughtModel):
    """Every layer reads the same single number, z[0, 0, 0], along a fixed direction.

    The other dimensions change nothing: their posterior is best left at the prior, their KL only loosens a bound, and
    integrating them out leaves the evidence as it is.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(CONFIG)
        stream = torch.Generator().manual_seed(seed)
        self.direction = torch.randn(CONFIG.dim, generator=stream)
        with torch.no_grad():
            for weight in self.parameters():
                if weight.dim() > 1:
                    weight.normal_(0.0, 0.7, generator=stream)

    def latent_keys_values(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        number = z[:, :1, :1, :1]  # (B, 1, 1, 1)
        return super().latent_keys_values(number * self.direction.expand_as(z))


def sampled_document(model: ToyModel, seed: int) -> tuple[Document, float]:
    """A text drawn from the model itself at z ~ N(0, 1), and that z."""
    random = np.random.default_rng(seed)
    truth = float(random.standard_normal())
    z = torch.full((1, *CONFIG.latent_shape), truth)
    tokens = [0]
    for _ in range(LENGTH):
        share = model(torch.tensor([tokens]), z)[0, -1].double().softmax(0).numpy()
        tokens.append(int(random.choice(CONFIG.vocab_size, p=share / share.sum())))
    return Document((Window(tuple(tokens[:-1]), tuple(tokens[1:])),)), truth


def evidence_nats(model: ToyModel, document: Document, *, points: int = _POINTS) -> float:
    """-log of the integral of p(x|z) N(z; 0, 1) dz by the trapezoidal rule, float64, over +-9.

    Computed with nothing but the model's own logits: neither the fast loop nor the fused cross-entropy takes part.
    """
    grid = torch.linspace(-_REACH, _REACH, points, dtype=torch.float64)
    window = document.windows[0]
    z = grid.float().view(-1, 1, 1, 1).expand(-1, *CONFIG.latent_shape)
    logits = model(torch.tensor([window.tokens]).expand(points, -1), z).double()
    targets = torch.tensor([window.targets]).expand(points, -1)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(points, -1).sum(1)
    log_prior = -0.5 * grid.square() - 0.5 * math.log(2 * math.pi)
    step = 2 * _REACH / (points - 1)
    return -float((log_prior - nll).logsumexp(0)) - math.log(step)
