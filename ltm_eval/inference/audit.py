"""The random-token audit: whether a fit preset reports figures below any valid bound.

Uniformly random tokens cost T ln V nats under their true distribution, and no model does better except by chance: for
any normalised model P(-log p(x) <= T ln V - t) <= e^-t, and a bound on -log p(x) lies above it. A preset whose figure
is lower by more than 20 nats per block is therefore not a bound.

Source: Markov's inequality. The evaluator of github mingluzhao/Latent-Thought-LM @498e39e scores at the noise of the
fit, and its figure falls far below T ln V (reports/NOTES.md).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from ltm_eval.inference.bounds import as_released, fresh_draws
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window, generator
from ltm_eval.model.config import ModelConfig
from ltm_eval.model.decoder import LatentThoughtModel
from ltm_eval.system.errors import UsageError
from ltm_eval.system.records import AuditResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_eval.inference.options import FitConfig


# Mean deficit per block above which a preset is not a bound; a bound exceeds it with probability below e^-20.
LIMIT_NATS = 20.0
LEAST_STEPS = 64  # fast steps after which remaining KL does not hide a leak
# Small enough to be audited in seconds, with as many latent dimensions per token (12) as the published models.
UNTRAINED = ModelConfig(
    dim=64,
    n_layers=3,
    n_heads=4,
    n_kv_heads=4,
    vocab_size=512,
    max_seq_len=128,
    window_size=128,
    max_z_len=24,
    multiple_of=32,
)


def audit(
    model: LatentThoughtModel, config: FitConfig, *, blocks: int = 4, length: int | None = None, seed: int = 1234
) -> AuditResult:
    """Fit random tokens under `config` and compare what the preset reports with T ln V.

    A preset with fixed noise reports the released evaluator's figure, at the noise of the fit; one with fresh noise
    reports its bound at draws that the fit has not seen.

    Args:
        model: trained or not.
        config: options of the fit, with at least 64 fast steps.
        blocks: number of blocks of random tokens.
        length: tokens scored per block; None takes the model's context.

    Raises:
        UsageError: there is no block, or the length is outside 1 ... context.
    """
    limit = model.config.max_seq_len
    length = limit if length is None else length
    if blocks < 1 or not 1 <= length <= limit:
        raise UsageError(
            f"an audit needs at least 1 block of 1 to {limit} tokens (the model's context), got {blocks} of {length}"
        )
    config = replace(config, t_fast=max(config.t_fast, LEAST_STEPS))
    documents = [random_document(model.config.vocab_size, length, seed=seed, block=block) for block in range(blocks)]
    posterior = fit_documents(model, documents, config, seed=seed)
    if config.noise == "fixed":
        rows = as_released(model, documents, config, seed=seed, posterior=posterior)
        figures = [row.nats for row in rows]
    else:
        figures = [one.bound.nats for one in fresh_draws(model, documents, posterior, seed=seed)]
    deficits = [length * math.log(model.config.vocab_size) - nats for nats in figures]
    mean = math.fsum(deficits) / blocks
    caught = not mean <= LIMIT_NATS  # nan is not a bound either
    stderr = None
    if blocks > 1:
        stderr = math.sqrt(math.fsum((deficit - mean) ** 2 for deficit in deficits) / (blocks - 1) / blocks)
    return AuditResult(
        preset=config.preset,
        deficit_nats_per_block=mean if math.isfinite(mean) else None,
        stderr_nats=stderr if stderr is not None and math.isfinite(stderr) else None,
        caught=caught,
        is_bound=config.is_bound and not caught,
        t_fast=config.t_fast,
        figure="as_released" if config.noise == "fixed" else "bound",
        blocks=blocks,
        length=length,
        vocab=model.config.vocab_size,
        seed=seed,
    )


def random_document(vocab: int, length: int, *, seed: int, block: int = 0) -> Document:
    """Return a document of one window of uniformly random tokens, every position scored."""
    tokens = generator(seed, "audit", b"", block).integers(0, vocab, size=length + 1).tolist()
    return Document((Window(tuple(tokens[:-1]), tuple(tokens[1:])),))


def untrained_model(config: ModelConfig = UNTRAINED, *, seed: int = 0) -> LatentThoughtModel:
    """Return an untrained decoder with matrices drawn from N(0, 1/D).

    The released initialisation, N(0, 0.02), leaves logits nearly flat at widths far below 512, so that latents could
    not change them; the audit works with any normalised model.
    """
    model = LatentThoughtModel(config)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, config.dim**-0.5, generator=stream)
    return model


def to_json(results: Iterable[AuditResult]) -> str:
    """Return `[{preset, deficit_nats_per_block, is_bound, ...}]` as JSON, one object per preset."""
    return json.dumps([asdict(result) for result in results], indent=1) + "\n"
