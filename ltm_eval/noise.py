"""Random numbers of a document: streams of its own, so that what is drawn for it depends on nothing around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ltm_eval.memory import uploaded

if TYPE_CHECKING:
    from ltm_eval.config import FitConfig
    from ltm_eval.model import LatentThoughtModel
    from ltm_eval.windows import Document

Noise = Callable[[int], Tensor]
"""Step to standard normal noise (draws, B, L, N, D)."""


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
        own = uploaded(torch.stack([standard_normal(stream, shape) for stream in streams], dim=1), model.device)
        return torch.cat([own, -own]) if paired else own

    if config.noise == "fixed":
        fixed = draw()
        return lambda step: fixed
    return lambda step: draw()
